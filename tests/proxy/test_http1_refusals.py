"""Conversations that go wrong: nothing malformed or denied is forwarded, and no refusal tears another answer."""

import pytest

from racecar.policy.engine import HttpCall, HttpVerdict
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1 import HttpConversation
from racecar.proxy.core.http1_context import HttpContext
from racecar.proxy.core.http1_types import (
    FORWARD,
    NOTHING,
    Abort,
    Close,
    CloseServer,
    Command,
    EndClient,
    EndServer,
    HttpConfig,
    HttpRecord,
    ResetServer,
    ToClient,
    ToServer,
    Verdict,
)

GET = b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n"
DENIED = b"GET /applicants?q=1 HTTP/1.1\r\nHost: jobs\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST_WORD: list[Command] = [CloseServer(), EndClient()]
SIZES = pytest.mark.parametrize("size", [1, 7, 100000])


class Judge:
    """Allows /jobs; other paths name the reason that they are denied for."""

    def judge(self, call: HttpCall) -> HttpVerdict:
        path = call.target.partition(b"?")[0]
        if path == b"/jobs":
            return HttpVerdict(True, 7, Reason.NONE)
        reasons = {b"/deny": Reason.HTTP_DENY_RULE, b"/%2f": Reason.HTTP_PATH_ENCODING, b"/%00": Reason.HTTP_MALFORMED}
        return HttpVerdict(False, 9 if path == b"/deny" else 0, reasons.get(path, Reason.HTTP_NO_RULE))


class Talk:
    """One conversation; what it says is collected."""

    def __init__(self, *, audit: bool = False) -> None:
        self.records: list[HttpRecord] = []
        context = HttpContext(
            Judge(),
            lambda _, record: self.records.append(record),
            rule_name=lambda rule: f"demo/jobs httpDeny[{rule}]" if rule else "default deny",
            audit=audit,
            event_prefix="e",
        )
        self.conversation = HttpConversation(context, 0.0)
        self.to_server = b""
        self.to_client = b""
        self.rest: list[Command] = []

    def client(self, data: bytes, size: int = 1 << 20) -> "Talk":
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            self.take(self.conversation.client_bytes(piece, 0.0), ToServer(piece))
        return self

    def server(self, data: bytes, size: int = 1 << 20) -> "Talk":
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            self.take(self.conversation.server_bytes(piece, 0.0), ToClient(piece))
        return self

    def take(self, commands: tuple[Command, ...], whole: Command) -> None:
        for command in [whole] if commands is FORWARD else commands:
            if isinstance(command, ToServer):
                self.to_server += command.data
            elif isinstance(command, ToClient):
                self.to_client += command.data
            else:
                self.rest.append(command)

    @property
    def statuses(self) -> list[int]:
        """Of the answers to the client, by their start lines."""
        return [int(part[:3]) for part in self.to_client.split(b"HTTP/1.1 ")[1:]]


def request(*lines: bytes, line: bytes = b"GET /jobs HTTP/1.1") -> bytes:
    return line + b"\r\nHost: jobs\r\n" + b"".join(text + b"\r\n" for text in lines) + b"\r\n"


# --- denied requests


@SIZES
def test_a_denied_request_is_answered_and_the_connection_stays(size: int) -> None:
    talk = Talk().client(DENIED, size).client(GET, size)
    assert talk.to_server == GET
    body = b"denied by policy: default deny\nevent e-1\n"
    head = b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 41\r\n\r\n"
    assert (talk.to_client, talk.rest) == (head + body, [])
    talk.server(OK).client(DENIED + DENIED + GET, size)
    assert talk.to_server == GET + GET
    assert talk.statuses == [403, 200, 403, 403]
    record = talk.records[0]
    assert (record.verdict, record.reason, record.status) == (Verdict.DROPPED, Reason.HTTP_NO_RULE, 403)
    assert (record.path, record.event, record.request_bytes) == (b"/applicants", "e-1", len(DENIED))


def test_a_denied_http_1_0_client_is_not_left_guessing_whether_the_connection_stays() -> None:
    talk = Talk().client(b"GET /applicants HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert (talk.statuses, talk.rest) == ([403], LAST_WORD)


def test_a_denial_names_the_rule_that_denies() -> None:
    talk = Talk().client(request(line=b"GET /deny HTTP/1.1"))
    assert b"\r\n\r\ndenied by policy: demo/jobs httpDeny[9]\nevent e-1\n" in talk.to_client
    assert talk.records[0].rule == 9


def test_a_denial_quotes_nothing_of_the_request() -> None:
    talk = Talk().client(request(b"X-Secret: hush", line=b"GET /<script>?token=hush HTTP/1.1"))
    assert b"hush" not in talk.to_client
    assert b"script" not in talk.to_client


def test_a_denied_head_request_is_answered_without_a_body() -> None:
    talk = Talk().client(request(line=b"HEAD /applicants HTTP/1.1")).client(GET)
    assert talk.to_client.endswith(b"Content-Length: 41\r\n\r\n")
    assert talk.to_server == GET


@SIZES
def test_the_body_of_a_denied_request_is_dropped_and_the_connection_stays(size: int) -> None:
    body = b"GET /jobs HTTP/1.1\r\nHost: smuggled\r\n\r\n"
    denied = request(b"Content-Length: %d" % len(body), line=b"POST /applicants HTTP/1.1") + body
    talk = Talk().client(denied + GET, size)
    assert (talk.to_server, talk.statuses, talk.rest) == (GET, [403], [])


@pytest.mark.parametrize(
    "lines", [(b"Content-Length: 65537",), (b"Content-Length: 5", b"Expect: 100-continue"), (b"Connection: close",)]
)
def test_a_denial_is_the_last_word_where_what_follows_is_long_or_unclear(lines: tuple[bytes, ...]) -> None:
    talk = Talk().client(request(*lines, line=b"POST /applicants HTTP/1.1") + GET)
    assert (talk.to_server, talk.statuses, talk.rest) == (b"", [403], LAST_WORD)
    assert b"\r\nConnection: close\r\n" in talk.to_client
    talk.client(GET * 500)
    assert (talk.to_server, talk.rest) == (b"", LAST_WORD)
    talk.client(b"x" * (1 << 20))
    assert (talk.to_server, talk.rest) == (b"", [*LAST_WORD, Close()])
    assert talk.client(GET).to_server == b""


def test_an_encoding_that_is_refused_leaves_the_connection() -> None:
    talk = Talk().client(request(line=b"GET /%2f HTTP/1.1")).client(GET)
    assert (talk.to_server, talk.statuses) == (GET, [403])
    assert b"denied: http-path-encoding\n" in talk.to_client


def test_audit_forwards_what_rules_deny_and_says_so() -> None:
    talk = Talk(audit=True)
    for _ in range(2):
        talk.client(DENIED).server(OK)
    assert talk.to_server == DENIED * 2
    assert [(r.verdict, r.reason, r.status) for r in talk.records] == [(Verdict.AUDIT, Reason.HTTP_NO_RULE, 200)] * 2


def test_audit_forwards_no_body_that_a_server_may_take_for_a_request() -> None:
    talk = Talk(audit=True).client(request(b"Content-Length: 5", line=b"GET /applicants HTTP/1.1") + b"hello" + GET)
    assert talk.to_server == GET
    assert talk.records[0].reason is Reason.HTTP_BODY_NOT_ALLOWED


# --- requests outside the grammar, or outside what is supported

REFUSED = [
    (request(line=b"GET /%2f HTTP/1.1"), 403, Reason.HTTP_PATH_ENCODING),
    (request(line=b"GET /%00 HTTP/1.1"), 400, Reason.HTTP_MALFORMED),
    (request(line=b"GET /jobs HTTP/1.2"), 400, Reason.HTTP_MALFORMED),
    (request(b" folded: x"), 400, Reason.HTTP_MALFORMED),
    (request(b"X: a\nB: c"), 400, Reason.HTTP_MALFORMED),
    (request(b"Host: other"), 400, Reason.HTTP_HOST),
    (b"GET /jobs HTTP/1.1\r\n\r\n", 400, Reason.HTTP_HOST),
    (request(b"Content-Length: 5", b"Transfer-Encoding: chunked"), 400, Reason.HTTP_FRAMING),
    (request(b"Content-Length: 5", b"Content-Length: 6"), 400, Reason.HTTP_FRAMING),
    (request(b"X: " + b"a" * 65536), 431, Reason.HTTP_HEAD_TOO_LARGE),
    (request(*[b"X: a"] * 100), 431, Reason.HTTP_TOO_MANY_HEADERS),
    (request(line=b"GET /" + b"a" * 9000 + b" HTTP/1.1"), 414, Reason.HTTP_TARGET_TOO_LONG),
    (request(b"Expect: 200-ok"), 417, Reason.HTTP_EXPECT),
    (request(b"Transfer-Encoding: chunked", line=b"POST /jobs HTTP/1.1"), 411, Reason.HTTP_CHUNKED_REQUEST),
    (request(b"Transfer-Encoding: chunked"), 411, Reason.HTTP_CHUNKED_REQUEST),
    (request(b"Upgrade: websocket", b"Connection: Upgrade"), 501, Reason.HTTP_UPGRADE),
    (request(b"Upgrade: h2c", b"Connection: Upgrade, HTTP2-Settings", b"HTTP2-Settings: A"), 501, Reason.HTTP_UPGRADE),
    (b"CONNECT jobs:80 HTTP/1.1\r\nHost: jobs:80\r\n\r\n", 501, Reason.HTTP_CONNECT),
    (request(line=b"GET http://jobs/jobs HTTP/1.1"), 400, Reason.HTTP_TARGET_FORM),
    (request(line=b"OPTIONS * HTTP/1.1"), 400, Reason.HTTP_TARGET_FORM),
    (request(line=b"GET jobs HTTP/1.1"), 400, Reason.HTTP_TARGET_FORM),
    (request(b"Content-Length: 5"), 403, Reason.HTTP_BODY_NOT_ALLOWED),
    (request(b"Content-Length: 5", line=b"HEAD /jobs HTTP/1.1"), 403, Reason.HTTP_BODY_NOT_ALLOWED),
    (request(b"Content-Length: 5", line=b"DELETE /jobs HTTP/1.1"), 403, Reason.HTTP_BODY_NOT_ALLOWED),
    (b"SSH-2.0-OpenSSH_9.2\r\n", 400, Reason.HTTP_NOT_HTTP),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0, Reason.HTTP_TLS),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 0, Reason.HTTP_HTTP2),
]


@pytest.mark.parametrize("audit", [False, True])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(("raw", "status", "reason"), REFUSED)
def test_what_is_not_vouched_for_is_answered_and_never_forwarded(
    raw: bytes, status: int, reason: Reason, size: int, audit: bool
) -> None:
    talk = (
        Talk(audit=audit).client(raw, max(size, len(raw) // 2000)).client(b"tail?", size)
    )  # 5 bytes of a body, or of nothing
    assert talk.to_server == b""
    first = talk.records[0]
    assert (first.verdict, first.reason, first.status) == (Verdict.DROPPED, reason, status)
    if status == 403:
        assert talk.statuses[0] == 403
    else:
        assert talk.rest == LAST_WORD
        assert talk.statuses == [status] * bool(status)
        assert talk.client(GET).to_server == b""
        assert len(talk.records) == 1


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(("raw", "status", "reason"), REFUSED)
def test_the_same_behind_a_request_that_was_answered(raw: bytes, status: int, reason: Reason, size: int) -> None:
    talk = Talk().client(GET).server(OK).client(raw, max(size, len(raw) // 2000))
    assert talk.to_server == GET
    assert talk.to_client.startswith(OK)
    assert talk.records[1].reason is reason


def test_another_protocol_is_refused_in_its_own_words() -> None:
    assert Talk().client(b"\x16").to_client == b"\x15\x03\x01\x00\x02\x02\x31"
    frames = Talk().client(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").to_client
    assert frames == bytes.fromhex("000000040000000000 000008070000000000 00000000 0000000d")


# --- pipelining


@SIZES
@pytest.mark.parametrize("surplus", [GET, DENIED, b"x", b"\x16\x03", b"\r\n"])
def test_a_request_behind_an_outstanding_one_is_never_forwarded_nor_answered_early(surplus: bytes, size: int) -> None:
    for together in (True, False):
        talk = Talk()
        if together:
            talk.client(GET + surplus, size)
        else:
            talk.client(GET).client(surplus, size)
        assert (talk.to_server, talk.to_client, talk.rest) == (GET, b"", [])
        talk.server(OK[:-1], size)
        assert talk.to_client == OK[:-1]
        talk.server(OK[-1:])
        assert talk.to_client.startswith(OK + b"HTTP/1.1 501 ")
        assert (talk.to_server, talk.rest) == (GET, LAST_WORD)
        assert [record.reason for record in talk.records] == [Reason.NONE, Reason.HTTP_PIPELINED]
        assert talk.records[1].request_bytes == len(surplus)


def test_nothing_is_said_behind_an_answer_that_is_the_last() -> None:
    talk = Talk().client(request(b"Connection: close") + GET).server(OK)
    assert (talk.to_client, talk.rest) == (OK, LAST_WORD)
    assert [record.reason for record in talk.records] == [Reason.NONE, Reason.HTTP_PIPELINED]
    talk = Talk().client(GET + GET).server(b"HTTP/1.1 200 OK\r\n\r\nstream")
    talk.take(talk.conversation.server_eof(0.0), EndClient())
    assert talk.to_client == b"HTTP/1.1 200 OK\r\n\r\nstream"


def test_surplus_without_end_aborts() -> None:
    talk = Talk().client(GET).client(b"x" * 65536)
    assert talk.rest == []
    assert talk.client(b"x").rest == [Abort(Reason.HTTP_PIPELINED)]
    assert talk.to_server == GET


def test_a_pipelining_client_that_ended_its_half_is_answered_and_closed() -> None:
    talk = Talk().client(GET + GET)
    talk.take(talk.conversation.client_eof(0.0), EndClient())
    talk.server(OK)
    assert talk.statuses == [200, 501]
    assert talk.rest == [EndServer(), Close()]


# --- servers that do what they must not


@pytest.mark.parametrize("before", [b"", GET[:20], DENIED])
def test_an_upstream_byte_with_nothing_outstanding_aborts(before: bytes) -> None:
    talk = Talk().client(before).server(b"H")
    assert talk.rest == [Abort(Reason.UNEXPECTED_UPSTREAM_BYTES)]
    assert OK not in talk.client(GET).server(OK).to_client
    assert talk.to_server == b""


@pytest.mark.parametrize("surplus", [b"H", OK, b"\r\n"])
def test_bytes_behind_an_answer_abort(surplus: bytes) -> None:
    assert Talk().client(GET).server(OK + surplus).rest == [Abort(Reason.UNEXPECTED_UPSTREAM_BYTES)]
    talk = Talk().client(GET).server(OK).server(surplus)
    assert talk.rest == [Abort(Reason.UNEXPECTED_UPSTREAM_BYTES)]


def test_bytes_behind_the_last_answer_are_dropped_with_its_leg() -> None:
    talk = Talk().client(request(b"Connection: close")).server(OK + OK)
    assert (talk.to_client, talk.rest) == (OK, LAST_WORD)
    assert talk.server(OK).to_client == OK


BAD_ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
]


@SIZES
@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_nothing_of_a_malformed_answer_reaches_the_client(answer: bytes, size: int) -> None:
    talk = Talk().client(GET).server(answer, size)
    assert (talk.to_client, talk.rest) == (b"", [Abort(Reason.HTTP_RESPONSE_MALFORMED)])
    assert talk.records[0].reason is Reason.HTTP_RESPONSE_MALFORMED
    assert talk.conversation.is_over


@SIZES
def test_a_malformed_chunk_aborts(size: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    talk = Talk().client(GET).server(head + b"2\r\nok\r\n-1\r\n", size)
    assert talk.rest == [Abort(Reason.HTTP_RESPONSE_MALFORMED)]
    assert b"-1" not in talk.to_client


def test_switching_protocols_aborts() -> None:
    talk = Talk().client(GET).server(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n")
    assert (talk.to_client, talk.rest) == (b"", [Abort(Reason.HTTP_UPGRADE)])


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
def test_an_answer_that_http_1_0_cannot_read_aborts(answer: bytes) -> None:
    talk = Talk().client(b"GET /jobs HTTP/1.0\r\n\r\n").server(answer)
    assert talk.rest == [Abort(Reason.HTTP_RESPONSE_MALFORMED)]


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 ", OK[:-1], b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_a_server_that_ends_inside_an_answer_aborts(answer: bytes) -> None:
    talk = Talk().client(GET)
    if answer:
        talk.server(answer)
    assert talk.conversation.server_eof(0.0) == (Abort(Reason.UPSTREAM_CLOSED),)
    assert talk.records[0].reason is Reason.UPSTREAM_CLOSED


# --- answers that come early, and clients that leave


def post(length: int, *lines: bytes) -> bytes:
    return request(b"Content-Length: %d" % length, *lines, line=b"POST /jobs HTTP/1.1")


@SIZES
@pytest.mark.parametrize("behind", [b"", DENIED, GET, b"G"])
def test_a_body_goes_on_to_its_end_behind_its_answer_and_nothing_follows_it(behind: bytes, size: int) -> None:
    talk = Talk().client(post(9) + b"abc").server(OK)
    assert (talk.to_client, talk.rest, talk.conversation.client_unread) == (OK, [], 5)
    talk.client(b"defghi" + behind, size)
    assert talk.to_server == post(9) + b"abcdefghi"
    assert (talk.to_client, talk.rest) == (OK, LAST_WORD)
    talk.client(GET * 10)
    assert talk.to_server == post(9) + b"abcdefghi"
    assert (talk.records[0].status, talk.records[0].detail) == (200, "answered before the body was complete")
    assert talk.records[0].request_bytes == len(talk.to_server)
    surplus = behind and size > 1  # in the read that ended the body
    assert [record.reason for record in talk.records[1:]] == ([Reason.HTTP_PIPELINED] if surplus else [])


@pytest.mark.parametrize("together", [True, False])
def test_a_server_that_says_more_than_its_early_answer_gets_no_more_of_the_body(together: bool) -> None:
    talk = Talk().client(post(100) + b"abc")  # a server that took the body for a request would answer that
    forwarded = talk.to_server
    if together:
        talk.server(OK + OK)
    else:
        talk.server(OK).server(OK)
    assert (talk.to_client, talk.rest) == (OK, [ResetServer(), EndClient()])
    assert talk.records[0].reason is Reason.UNEXPECTED_UPSTREAM_BYTES
    talk.client(b"d" * 97 + GET)
    assert talk.to_server == forwarded


@pytest.mark.parametrize("status", [b"417 Expectation Failed", b"302 Found", b"200 OK"])
def test_a_body_that_may_not_come_is_not_forwarded_behind_a_final_answer(status: bytes) -> None:
    """A client may leave the body out, and a server that did not ask for it read on: it would be the next request."""
    refusal = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"
    talk = Talk().client(post(len(DENIED), b"Expect: 100-continue"))
    forwarded = talk.to_server
    talk.server(refusal).client(DENIED)
    assert (talk.to_server, talk.to_client) == (forwarded, refusal)
    assert talk.rest[:2] == [ResetServer(), EndClient()]
    asked = Talk().client(post(3, b"Expect: 100-continue")).server(b"HTTP/1.1 100 Continue\r\n\r\n" + OK).client(b"abc")
    assert (asked.to_server[-3:], asked.rest) == (b"abc", LAST_WORD)


def test_a_client_that_leaves_inside_a_body_that_was_answered_keeps_its_answer() -> None:
    talk = Talk().client(post(9) + b"abc").server(OK)
    assert talk.conversation.server_eof(0.0) == NOTHING  # it may still read
    assert talk.conversation.client_eof(0.0) == (ResetServer(), Close(Reason.NONE))
    assert (talk.records[0].status, talk.records[0].reason) == (200, Reason.DOWNSTREAM_CLOSED)


def test_a_body_that_no_server_takes_is_dropped_as_long_as_it_moves() -> None:
    talk = Talk().client(post(1 << 30)).server(OK)
    assert talk.conversation.server_deaf(Reason.UPSTREAM_RESET, 0.0) == (ResetServer(), EndClient())
    now = 0.0
    for _ in range(100):
        now += 299.0
        assert talk.conversation.client_bytes(bytes(1 << 16), now) == NOTHING
        assert talk.conversation.timer(now) == NOTHING
    assert talk.conversation.timer(now + 300.0) == (Close(Reason.IDLE_TIMEOUT),)


def test_a_body_goes_on_while_its_answer_begins() -> None:
    talk = Talk().client(request(b"Content-Length: 6", line=b"POST /jobs HTTP/1.1") + b"abc")
    talk.server(OK[:-1]).client(b"def").server(OK[-1:]).client(GET)
    assert talk.to_server.endswith(b"abcdef" + GET)
    assert (talk.to_client, talk.rest) == (OK, [])


def test_a_client_that_ends_inside_a_request_aborts() -> None:
    talk = Talk().client(request(b"Content-Length: 6", line=b"POST /jobs HTTP/1.1") + b"abc")
    assert talk.conversation.client_eof(0.0) == (Abort(Reason.DOWNSTREAM_CLOSED),)
    assert talk.records[0].reason is Reason.DOWNSTREAM_CLOSED
    talk = Talk().client(GET[:-1])
    assert talk.conversation.client_eof(0.0) == (Close(Reason.DOWNSTREAM_CLOSED),)


def test_a_server_that_leaves_does_not_eat_a_refusal() -> None:
    talk = Talk().client(request(b"Content-Length: 6", line=b"POST /applicants HTTP/1.1") + b"abc")
    assert list(talk.conversation.server_eof(0.0)) == LAST_WORD
    talk = Talk().client(GET[:-1])
    assert list(talk.conversation.server_eof(0.0)) == LAST_WORD


def test_what_the_edge_lost_is_logged_once() -> None:
    talk = Talk().client(GET)
    talk.conversation.lost(Reason.UPSTREAM_RESET, 3.0)
    talk.conversation.lost(Reason.UPSTREAM_RESET, 4.0)
    assert [(record.reason, record.finished) for record in talk.records] == [(Reason.UPSTREAM_RESET, 3.0)]
    assert talk.conversation.client_bytes(GET, 5.0) == NOTHING
    assert talk.conversation.server_bytes(OK, 5.0) == NOTHING
    assert talk.conversation.client_eof(5.0) == talk.conversation.server_eof(5.0) == NOTHING
    assert talk.conversation.timer(1e9) == NOTHING


def test_caches_are_bounded() -> None:
    context = HttpContext(Judge(), lambda _, __: None, config=HttpConfig(max_cached_heads=4))
    for number in range(100):
        context.call(request(b"X: %d" % number))
        context.answer(b"HTTP/1.1 200 OK\r\nX: %d\r\n\r\n" % number)
    assert len(context.calls.new) + len(context.calls.old) <= 8
    assert len(context.answers.new) + len(context.answers.old) <= 8
    context.call(request(b"X: " + b"a" * 3000))
    assert request(b"X: " + b"a" * 3000) not in context.calls.new
