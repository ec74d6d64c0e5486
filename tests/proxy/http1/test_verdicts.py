"""The engine's verdicts on real bytes: what reaches the server is what the rules allow, in whatever form."""

import pytest

from racecar.policy.compile import compile_workload
from racecar.policy.engine import HttpMatcher
from racecar.policy.load import load_text
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1 import HttpConversation
from racecar.proxy.core.http1_context import HttpContext
from racecar.proxy.core.http1_types import FORWARD, HttpRecord, ToClient

POLICY = b"""
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: tweeting}
spec:
  endpointSelector: {matchLabels: {app: tweeting}}
  egress:
  - toCIDR: [192.0.2.1/32]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - {method: GET, path: /jobs}
        - {method: GET, path: "/jobs/[0-9]+"}
"""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture(scope="module")
def matcher() -> HttpMatcher:
    loaded = load_text(POLICY, "tweeting.yaml")
    assert loaded.ok
    workload = compile_workload(loaded.policies, namespace="default", cluster="default", labels={"app": "tweeting"})
    return HttpMatcher(next(ruleset for ruleset in workload.rulesets if ruleset.kind == "http"))


@pytest.mark.parametrize(
    ("request_line", "status", "reason"),
    [
        (b"GET /jobs", 200, Reason.NONE),
        (b"GET /jobs/42", 200, Reason.NONE),
        (b"POST /jobs", 403, Reason.HTTP_NO_RULE),
        (b"get /jobs", 403, Reason.HTTP_NO_RULE),
        (b"GET /jobs?x=1", 403, Reason.HTTP_NO_RULE),
        (b"GET /jobs/", 403, Reason.HTTP_NO_RULE),
        (b"GET /applicants", 403, Reason.HTTP_NO_RULE),
        (b"GET /jobs/../applicants", 403, Reason.HTTP_NO_RULE),
        (b"GET /applicants/../jobs", 403, Reason.HTTP_NO_RULE),
        (b"GET /%6aobs", 403, Reason.HTTP_NO_RULE),
        (b"GET //jobs", 403, Reason.HTTP_NO_RULE),
        (b"GET /jobs%2f42", 403, Reason.HTTP_PATH_ENCODING),
        (b"GET /jobs/..;/applicants", 403, Reason.HTTP_PATH_ENCODING),
        (b"GET /jobs%00", 400, Reason.HTTP_MALFORMED),
        (b"GET /jobs#x", 400, Reason.HTTP_MALFORMED),
        (b"GET /jobs\\x", 400, Reason.HTTP_MALFORMED),
        (b"GET http://jobs/jobs", 200, Reason.NONE),
        (b"GET http://jobs/jobs/42", 200, Reason.NONE),
        (b"GET http://JOBS/applicants", 403, Reason.HTTP_NO_RULE),
        (b"GET http://jobs/jobs/../applicants", 403, Reason.HTTP_NO_RULE),
        (b"GET http://jobs/jobs%2f42", 403, Reason.HTTP_PATH_ENCODING),
        (b"GET http://jobs", 403, Reason.HTTP_NO_RULE),
        (b"GET http://jobs#/jobs", 400, Reason.HTTP_SECOND_OPINION),
        (b"GET http://other/jobs", 400, Reason.HTTP_HOST),
        (b"GET https://jobs/jobs", 400, Reason.HTTP_TARGET_FORM),
        (b"OPTIONS *", 403, Reason.HTTP_NO_RULE),
        (b"GET *", 400, Reason.HTTP_TARGET_FORM),
        (b"CONNECT jobs:80", 403, Reason.HTTP_NO_RULE),
        (b"CONNECT /jobs", 400, Reason.HTTP_TARGET_FORM),
    ],
)
def test_only_what_a_rule_allows_is_forwarded(
    matcher: HttpMatcher, request_line: bytes, status: int, reason: Reason
) -> None:
    records: list[HttpRecord] = []
    context = HttpContext(matcher, lambda _, record: records.append(record))
    request = request_line + b" HTTP/1.1\r\nHost: jobs\r\n\r\n"
    for _ in range(2):  # the second time from the caches
        conversation = HttpConversation(context, 0.0)
        commands = conversation.client_bytes(request, 0.0)
        if status == 200:
            assert commands is FORWARD or len(commands) == 1
            conversation.server_bytes(OK, 0.0)
        else:
            assert isinstance(commands[0], ToClient)
            assert commands[0].data.startswith(b"HTTP/1.1 %d " % status)
    assert [(record.status, record.reason) for record in records] == [(status, reason)] * 2
    assert {record.rule > 0 for record in records} == {status == 200}


GRANTS = b"""
apiVersion: racecar.io/v1
kind: RacecarPolicy
metadata: {name: grants}
spec:
  endpointSelector: {matchLabels: {app: tweeting}}
  egress:
  - toCIDR: [192.0.2.1/32]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - {method: GET, path: /plain, host: jobs}
        - {method: DELETE, path: /body, allowBody: true}
        - {method: GET, path: /ws, websocket: true}
        - {method: GET, path: "/files/.*", allowEncoded: [slash]}
        - {method: POST, path: /token, headers: ["X-Token: t1"]}
        - {method: CONNECT, host: "open:443", connect: true}
        - {method: CONNECT, host: "closed:443"}
        - {method: OPTIONS, path: '\\*'}
"""
CHUNKED = b"\r\nTransfer-Encoding: chunked"
UPGRADE = b"\r\nUpgrade: websocket\r\nConnection: Upgrade"


@pytest.fixture(scope="module")
def granting() -> HttpMatcher:
    loaded = load_text(GRANTS, "grants.yaml")
    assert loaded.ok, loaded
    workload = compile_workload(loaded.policies, namespace="default", cluster="default", labels={"app": "tweeting"})
    return HttpMatcher(next(ruleset for ruleset in workload.rulesets if ruleset.kind == "http"))


@pytest.mark.parametrize(
    ("line", "fields", "body", "reason"),
    [
        (b"GET /plain", b"", b"", Reason.NONE),
        (b"GET http://jobs/plain", b"", b"", Reason.NONE),
        (b"GET /plain", b"\r\nContent-Length: 1", b"x", Reason.HTTP_BODY_NOT_ALLOWED),
        (b"GET /plain", CHUNKED, b"0\r\n\r\n", Reason.HTTP_BODY_NOT_ALLOWED),
        (b"GET /plain", UPGRADE, b"", Reason.HTTP_UPGRADE),
        (b"GET /plain", UPGRADE.replace(b"websocket", b"h2c"), b"", Reason.NONE),
        (b"DELETE /body", CHUNKED, b"1\r\nx\r\n0\r\n\r\n", Reason.NONE),
        (b"GET /ws", UPGRADE, b"", Reason.NONE),
        (b"GET /ws", b"", b"", Reason.NONE),
        (b"GET /files/a%2Fb", b"", b"", Reason.NONE),
        (b"GET /files/a%5Cb", b"", b"", Reason.HTTP_PATH_ENCODING),
        (b"POST /token", b"\r\nX-Token: t1", b"", Reason.NONE),
        (b"POST /token", b"\r\nx-token:\tt1 ", b"", Reason.NONE),
        (b"POST /token", b"\r\nX-Token: t2", b"", Reason.HTTP_NO_RULE),
        (b"POST /token", b"\r\nA: X-Token: t1", b"", Reason.HTTP_NO_RULE),
        (b"POST /token", b"", b"", Reason.HTTP_NO_RULE),
        (b"OPTIONS *", b"", b"", Reason.NONE),
    ],
)
def test_what_a_rule_grants_reaches_the_server_and_nothing_else(
    granting: HttpMatcher, line: bytes, fields: bytes, body: bytes, reason: Reason
) -> None:
    records: list[HttpRecord] = []
    context = HttpContext(granting, lambda _, record: records.append(record))
    raw = line + b" HTTP/1.1\r\nHost: jobs" + fields + b"\r\n\r\n" + body
    for _ in range(2):
        commands = HttpConversation(context, 0.0).client_bytes(raw, 0.0)
        if reason is Reason.NONE:
            assert commands is FORWARD
        else:
            assert isinstance(commands[0], ToClient)
            assert commands[0].data.startswith(b"HTTP/1.1 403 ")
    assert {record.reason for record in records} == {reason} - {Reason.NONE}


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (b"open:443", Reason.NONE),
        (b"Open:443", Reason.NONE),
        (b"closed:443", Reason.HTTP_CONNECT),
        (b"open:80", Reason.HTTP_NO_RULE),
        (b"other:443", Reason.HTTP_NO_RULE),
    ],
)
def test_a_tunnel_reaches_the_server_if_a_rule_grants_it(granting: HttpMatcher, target: bytes, reason: Reason) -> None:
    records: list[HttpRecord] = []
    context = HttpContext(granting, lambda _, record: records.append(record))
    commands = HttpConversation(context, 0.0).client_bytes(
        b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\n\r\n", 0.0
    )
    assert (commands is FORWARD) is (reason is Reason.NONE)
    assert {record.reason for record in records} == {reason} - {Reason.NONE}
