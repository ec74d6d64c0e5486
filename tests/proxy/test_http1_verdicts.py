"""The engine's verdicts on real bytes: what reaches the server is what the rules allow."""

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
        (b"GET http://jobs/jobs", 400, Reason.HTTP_TARGET_FORM),
        (b"OPTIONS *", 400, Reason.HTTP_TARGET_FORM),
        (b"CONNECT jobs:80", 501, Reason.HTTP_CONNECT),
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
