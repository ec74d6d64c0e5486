"""Nothing malformed or denied is forwarded, and what a caller is told about it."""

from collections.abc import Callable
from typing import Any

import pytest

from racecar.policy.engine import Near
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import Close, CloseServer, Command, EndClient, ToClient, Verdict

GET = b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n"
DENIED = b"GET /applicants?q=1 HTTP/1.1\r\nHost: jobs\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST_WORD: list[Command] = [CloseServer(), EndClient()]
SIZES = pytest.mark.parametrize("size", [1, 7, 100000])


def request(*lines: bytes, line: bytes = b"GET /jobs HTTP/1.1") -> bytes:
    return line + b"\r\nHost: jobs\r\n" + b"".join(text + b"\r\n" for text in lines) + b"\r\n"


def rule_name(rule: int) -> str:
    return f"demo/jobs http[{rule}]" if rule else "default deny (demo/jobs)"


# --- denied requests


@SIZES
def test_a_denied_request_is_answered_and_the_connection_stays(start: Callable[..., Any], size: int) -> None:
    talk = start(rule_name=rule_name).sends(DENIED, size).sends(GET, size)
    assert talk.to_server == GET
    body = b"denied by policy: default deny (demo/jobs)\nevent e-1\n"
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 53\r\n\r\n"
    assert (talk.to_client, talk.rest) == (head + body, [])
    talk.answers(OK).sends(DENIED + DENIED + GET, size)
    assert talk.to_server == GET + GET
    assert talk.statuses == [403, 200, 403, 403]
    record = talk.records[0]
    assert (record.verdict, record.reason, record.status) == (Verdict.DROPPED, Reason.HTTP_NO_RULE, 403)
    assert (record.path, record.event, record.request_bytes) == (b"/applicants", "e-1", len(DENIED))
    assert record.response_bytes == len(head + body)
    assert [record.event for record in talk.records] == ["e-1", "", "e-2", "e-3"]


def test_a_denied_http_1_0_client_is_not_left_guessing_whether_the_connection_stays(talk: Any) -> None:
    talk.sends(b"GET /applicants HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert (talk.statuses, talk.rest) == ([403], LAST_WORD)


def test_a_denial_names_the_rule_that_denies(start: Callable[..., Any]) -> None:
    talk = start(rule_name=rule_name).sends(request(line=b"GET /deny HTTP/1.1"))
    assert b"\r\n\r\ndenied by policy: demo/jobs http[9]\nevent e-1\n" in talk.to_client
    assert talk.records[0].rule == 9


def test_who_must_not_know_the_rules_is_told_an_event_alone(start: Callable[..., Any]) -> None:
    talk = start(rule_name=rule_name, tells_rules=False)
    talk.sends(DENIED + request(line=b"GET /deny HTTP/1.1") + request(b"Content-Length: 1") + b"x")
    bodies = [part.partition(b"\r\n\r\n")[2] for part in talk.to_client.split(b"HTTP/1.1 ")[1:]]
    assert bodies == [b"denied by policy\nevent e-%d\n" % number for number in (1, 2, 3)]
    assert [record.rule for record in talk.records] == [0, 9, 7]


def test_a_denial_quotes_nothing_of_the_request(talk: Any) -> None:
    talk.sends(request(b"X-Secret: hush", line=b"GET /<script>?token=hush HTTP/1.1"))
    talk.sends(b"GET /hush HTTP/1.1\r\nHost: script\r\nX-hush : script\r\n\r\n")
    assert talk.statuses == [403, 400]
    assert b"hush" not in talk.to_client
    assert b"script" not in talk.to_client
    assert not [record for record in talk.records if "hush" in record.detail]


def test_a_denied_head_request_is_answered_without_a_body(talk: Any) -> None:
    talk.sends(request(line=b"HEAD /applicants HTTP/1.1")).sends(GET)
    assert talk.to_client.endswith(b"\r\nContent-Length: 41\r\n\r\n")
    assert talk.to_server == GET


@SIZES
def test_the_body_of_a_denied_request_is_dropped_and_the_connection_stays(talk: Any, size: int) -> None:
    body = b"GET /jobs HTTP/1.1\r\nHost: smuggled\r\n\r\n"
    denied = request(b"Content-Length: %d" % len(body), line=b"POST /applicants HTTP/1.1") + body
    talk.sends(denied + GET, size)
    assert (talk.to_server, talk.statuses, talk.rest) == (GET, [403], [])


def test_a_body_is_dropped_up_to_the_limit(start: Callable[..., Any]) -> None:
    for length, rest in ((100, []), (101, LAST_WORD)):
        talk = start(max_drain_bytes=100).sends(request(b"Content-Length: %d" % length, line=b"POST /x HTTP/1.1"))
        assert talk.rest == rest
        talk.sends(b"x" * length + GET)
        assert talk.to_server == (b"" if rest else GET)


@SIZES
@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 65537",),
        (b"Content-Length: 5", b"Expect: 100-continue"),
        (b"Connection: close",),
        (b"Transfer-Encoding: chunked",),
    ],
)
def test_a_denial_is_the_last_word_where_what_follows_is_long_or_unclear(
    talk: Any, lines: tuple[bytes, ...], size: int
) -> None:
    talk.sends(request(*lines, line=b"POST /applicants HTTP/1.1") + GET, size)
    assert (talk.to_server, talk.statuses, talk.rest) == (b"", [403], LAST_WORD)
    assert b"\r\nConnection: close\r\n" in talk.to_client
    talk.sends(GET * 500)
    talk.sends(b"x" * (1 << 20))
    assert (talk.to_server, talk.rest, talk.conversation.held) == (b"", LAST_WORD, 0)
    assert len(talk.records) == 1


@pytest.mark.parametrize(
    ("raw", "reason", "text"),
    [
        (request(line=b"GET /%2f HTTP/1.1"), Reason.HTTP_PATH_ENCODING, b"default deny: an encoding in the path"),
        (request(b"Content-Length: 5") + b"hello", Reason.HTTP_BODY_NOT_ALLOWED, b"rule 7: a body on GET, HEAD or"),
        (request(b"Upgrade: websocket", b"Connection: Upgrade"), Reason.HTTP_UPGRADE, b"rule 7: WebSocket is not"),
        (b"CONNECT closed:443 HTTP/1.1\r\nHost: closed\r\n\r\n", Reason.HTTP_CONNECT, b"rule 7: CONNECT is not"),
    ],
)
@SIZES
def test_what_a_rule_does_not_grant_is_denied_and_leaves_the_connection(
    talk: Any, raw: bytes, reason: Reason, text: bytes, size: int
) -> None:
    talk.sends(raw + GET, size)
    assert (talk.to_server, talk.statuses, talk.rest) == (GET, [403], [])
    assert b"\r\n\r\ndenied by policy: " + text in talk.to_client
    assert (talk.records[0].reason, talk.records[0].opaque) == (reason, "")
    assert talk.records[0].detail in talk.to_client.decode()


def test_the_nearest_rules_are_for_the_log_alone(start: Callable[..., Any]) -> None:
    talk = start(rule_name=rule_name).sends(request(line=b"GET /near HTTP/1.1"))
    assert talk.records[0].nearest == (Near(7, ("path",)),)
    assert b"http[7]" not in talk.to_client


# --- audit


@SIZES
def test_audit_forwards_what_rules_deny_and_says_so(start: Callable[..., Any], size: int) -> None:
    talk = start(audit=True)
    raws = [DENIED, DENIED, request(b"Content-Length: 5") + b"hello", request(line=b"GET /%2f HTTP/1.1")]
    for raw in raws:
        talk.sends(raw, size).answers(OK, size)
    assert talk.to_server == b"".join(raws)
    assert talk.to_client == OK * 4
    assert [(r.verdict, r.status) for r in talk.records] == [(Verdict.AUDIT, 200)] * 4
    no_rule, body, encoding = Reason.HTTP_NO_RULE, Reason.HTTP_BODY_NOT_ALLOWED, Reason.HTTP_PATH_ENCODING
    assert talk.reasons == [no_rule, no_rule, body, encoding]
    assert talk.records[2].rule == 7


@pytest.mark.parametrize("ends", ["server_eof", "server_resets", "lost"])
def test_audit_says_why_a_call_is_denied_that_ends_badly(start: Callable[..., Any], ends: str) -> None:
    talk = start(audit=True).sends(b"GET /applicants HTTP/1.1\r\nHost: jobs\r\n\r\n")
    if ends == "lost":
        talk.conversation.lost(Reason.DOWNSTREAM_RESET, talk.now)
    else:
        getattr(talk, ends)()
    (record,) = talk.records
    assert (record.verdict, record.detail.rpartition("; ")[2]) == (Verdict.AUDIT, "denied for HTTP_NO_RULE")
    assert record.reason is not Reason.HTTP_NO_RULE


# --- requests outside the grammar

REFUSED = [
    (request(line=b"GET /%00 HTTP/1.1"), 400, Reason.HTTP_MALFORMED),
    (request(line=b"GET /jobs HTTP/1.2"), 400, Reason.HTTP_MALFORMED),
    (request(b" folded: x"), 400, Reason.HTTP_MALFORMED),
    (request(b"X: a\nB: c"), 400, Reason.HTTP_MALFORMED),
    (request(b"Connection: authorization"), 400, Reason.HTTP_MALFORMED),
    (request(b"Host: other"), 400, Reason.HTTP_HOST),
    (b"GET /jobs HTTP/1.1\r\n\r\n", 400, Reason.HTTP_HOST),
    (request(line=b"GET http://other/jobs HTTP/1.1"), 400, Reason.HTTP_HOST),
    (request(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400, Reason.HTTP_FRAMING),
    (request(b"Content-Length: 5", b"Content-Length: 6"), 400, Reason.HTTP_FRAMING),
    (request(b"Transfer-Encoding: gzip, chunked"), 400, Reason.HTTP_FRAMING),
    (b"POST /jobs HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, Reason.HTTP_FRAMING),
    (request(b"X: " + b"a" * 65536), 431, Reason.HTTP_HEAD_TOO_LARGE),
    (request(*[b"X: a"] * 100), 431, Reason.HTTP_TOO_MANY_HEADERS),
    (request(line=b"GET /" + b"a" * 9000 + b" HTTP/1.1"), 414, Reason.HTTP_TARGET_TOO_LONG),
    (request(b"Expect: 200-ok"), 417, Reason.HTTP_EXPECT),
    (request(line=b"GET https://jobs/jobs HTTP/1.1"), 400, Reason.HTTP_TARGET_FORM),
    (request(line=b"GET * HTTP/1.1"), 400, Reason.HTTP_TARGET_FORM),
    (request(line=b"GET jobs HTTP/1.1"), 400, Reason.HTTP_TARGET_FORM),
    (request(line=b"GET jobs:80 HTTP/1.1"), 400, Reason.HTTP_TARGET_FORM),
    (request(line=b"CONNECT /jobs HTTP/1.1"), 400, Reason.HTTP_TARGET_FORM),
    (request(b"Content-Length: 5", line=b"CONNECT jobs:80 HTTP/1.1"), 400, Reason.HTTP_FRAMING),
    (b"SSH-2.0-OpenSSH_9.2\r\n", 400, Reason.HTTP_NOT_HTTP),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0, Reason.HTTP_TLS),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, Reason.HTTP_HTTP2),
]


@pytest.mark.parametrize("audit", [False, True])
@SIZES
@pytest.mark.parametrize(("raw", "status", "reason"), REFUSED)
def test_what_is_not_vouched_for_is_answered_and_never_forwarded(
    start: Callable[..., Any], raw: bytes, status: int, reason: Reason, size: int, audit: bool
) -> None:
    talk = start(audit=audit).sends(raw, max(size, len(raw) // 2000)).sends(b"tail?", size)
    assert talk.to_server == b""
    first = talk.records[0]
    assert (first.verdict, first.reason, first.status) == (Verdict.DROPPED, reason, status)
    assert talk.rest == LAST_WORD
    assert talk.statuses == [status] * bool(status)
    assert talk.sends(GET).to_server == b""
    assert len(talk.records) == 1
    assert talk.client_eof() == [Close()]


@SIZES
@pytest.mark.parametrize(("raw", "status", "reason"), REFUSED)
def test_the_same_behind_a_request_that_was_answered(
    talk: Any, raw: bytes, status: int, reason: Reason, size: int
) -> None:
    talk.sends(GET).answers(OK).sends(raw, max(size, len(raw) // 2000))
    assert talk.to_server == GET
    assert talk.to_client.startswith(OK)
    assert talk.statuses == [200, status][: 1 + bool(status)]
    assert talk.reasons == [Reason.NONE, reason]


@SIZES
@pytest.mark.parametrize(("raw", "status", "reason"), REFUSED)
def test_the_same_behind_a_request_that_is_outstanding(
    talk: Any, raw: bytes, status: int, reason: Reason, size: int
) -> None:
    talk.sends(GET + raw, max(size, len(raw) // 2000))
    assert (talk.to_server, talk.to_client, talk.rest) == (GET, b"", [])
    talk.answers(OK, size)
    assert (talk.to_server, talk.rest) == (GET, LAST_WORD)
    assert talk.to_client.startswith(OK)
    assert talk.reasons == [Reason.NONE, reason]


@pytest.mark.parametrize(
    "raw", [request(b"bad line"), request(b"Host: other"), request(b"Content-Length: x"), request(b"Expect: x")]
)
@SIZES
def test_cuts_do_not_change_how_many_bytes_a_refused_head_had(talk: Any, raw: bytes, size: int) -> None:
    talk.sends(raw, size)
    assert talk.records[0].request_bytes == len(raw)


def test_another_protocol_is_refused_in_its_own_words(start: Callable[..., Any]) -> None:
    assert start().client(b"\x16") == [ToClient(b"\x15\x03\x01\x00\x02\x02\x31"), *LAST_WORD]
    frames = start().sends(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").to_client
    assert frames == bytes.fromhex("000000040000000000 000008070000000000 00000000 0000000d")


# --- limits


@SIZES
@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request(line=b"GET /" + b"a" * 64 + b" HTTP/1.1"), 414),
        (request(b"X: " + b"a" * 512), 431),
        (request(*[b"X: a"] * 4), 431),
    ],
)
def test_the_limits_of_heads_are_configured(start: Callable[..., Any], raw: bytes, status: int, size: int) -> None:
    talk = start(max_head_bytes=512, max_target_bytes=64, max_headers=4).sends(GET, size).answers(OK, size)
    assert talk.sends(raw, size).statuses == [200, status]
    assert talk.to_server == GET
    assert start().sends(raw).statuses in ([], [403])


@SIZES
@pytest.mark.parametrize("line", [b"X: " + b"a" * 512, b"\r\n".join([b"X: a"] * 5)])
def test_they_hold_for_answers_too(start: Callable[..., Any], line: bytes, size: int) -> None:
    answer = b"HTTP/1.1 204 No Content\r\n" + line + b"\r\n\r\n"
    assert start().sends(GET).answers(answer, size).statuses == [204]
    assert start(max_head_bytes=512, max_target_bytes=64, max_headers=4).sends(GET).answers(answer, size).statuses == [
        502
    ]


def test_caches_are_bounded(start: Callable[..., Any]) -> None:
    context = start(max_cached_heads=4).context
    for number in range(100):
        context.call(request(b"X: %d" % number))
        context.answer(b"HTTP/1.1 200 OK\r\nX: %d\r\n\r\n" % number)
    assert len(context.calls.new) + len(context.calls.old) <= 8
    assert len(context.answers.new) + len(context.answers.old) <= 8
    context.call(request(b"X: " + b"a" * 3000))
    assert request(b"X: " + b"a" * 3000) not in context.calls.new
