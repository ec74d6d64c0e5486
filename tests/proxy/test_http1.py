"""Conversations that go well: what is forwarded, how answers are framed, when the connection stays."""

import math

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
    Commands,
    EndClient,
    EndServer,
    HttpConfig,
    HttpRecord,
    ToClient,
    ToServer,
    Verdict,
)

GET = b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST_WORD: list[Command] = [CloseServer(), EndClient()]


class Jobs:
    """Allows everything on /jobs."""

    def __init__(self) -> None:
        self.asked: list[tuple[bytes, bytes]] = []

    def judge(self, call: HttpCall) -> HttpVerdict:
        self.asked.append((call.method, call.target))
        allow = call.target.partition(b"?")[0] == b"/jobs"
        return HttpVerdict(allow, 7 if allow else 0, Reason.NONE if allow else Reason.HTTP_NO_RULE)


class Talk:
    """One conversation as a test tells it; FORWARD is written out as what it means."""

    def __init__(self, config: HttpConfig | None = None, *, audit: bool = False) -> None:
        self.now = 100.0
        self.records: list[HttpRecord] = []
        self.judge = Jobs()
        self.context = HttpContext(
            self.judge, lambda _, record: self.records.append(record), config=config or HttpConfig(), audit=audit
        )
        self.conversation = HttpConversation(self.context, self.now)

    def client(self, data: bytes) -> list[Command]:
        commands = self.conversation.client_bytes(data, self.now)
        return [ToServer(data)] if commands is FORWARD else list(commands)

    def server(self, data: bytes) -> list[Command]:
        commands = self.conversation.server_bytes(data, self.now)
        return [ToClient(data)] if commands is FORWARD else list(commands)

    def later(self, seconds: float) -> Commands:
        self.now += seconds
        return self.conversation.timer(self.now)


def joined(commands: list[Command]) -> list[Command]:
    """The same commands with bytes to one side in one piece."""
    out: list[Command] = []
    for command in commands:
        last = out[-1] if out else None
        if isinstance(command, ToServer) and isinstance(last, ToServer):
            out[-1] = ToServer(last.data + command.data)
        elif isinstance(command, ToClient) and isinstance(last, ToClient):
            out[-1] = ToClient(last.data + command.data)
        else:
            out.append(command)
    return out


def say(talk: Talk, side: str, data: bytes, size: int) -> list[Command]:
    """Hand in bytes in pieces of `size`."""
    hand = talk.client if side == "client" else talk.server
    return joined([command for start in range(0, len(data), size) for command in hand(data[start : start + size])])


SIZES = pytest.mark.parametrize("size", [1, 7, 100000])


# --- requests


def test_a_known_head_is_forwarded_as_the_object_that_was_read() -> None:
    talk = Talk()
    for _ in range(3):
        assert talk.client(GET) == [ToServer(GET)]
        assert talk.server(OK) == [ToClient(OK)]
    assert talk.conversation.client_bytes(GET, 0.0) is FORWARD
    assert talk.conversation.server_bytes(OK, 0.0) is FORWARD
    assert talk.judge.asked == [(b"GET", b"/jobs")]
    assert [record.verdict for record in talk.records] == [Verdict.FORWARDED] * 4


@SIZES
def test_requests_follow_each_other_on_one_connection(size: int) -> None:
    talk = Talk()
    post = b"POST /jobs?a=b HTTP/1.1\r\nhost: jobs\r\ncontent-length: 10\r\n\r\n0123456789"
    for request in (GET, post, GET, GET, post):
        assert say(talk, "client", request, size) == [ToServer(request)]
        assert say(talk, "server", OK, size) == [ToClient(OK)]
        assert talk.conversation.is_idle
    assert [record.request_bytes for record in talk.records] == [len(r) for r in (GET, post, GET, GET, post)]
    assert {record.response_bytes for record in talk.records} == {len(OK)}


def test_no_byte_of_a_head_is_forwarded_before_its_last() -> None:
    talk = Talk()
    for position in range(len(GET) - 1):
        assert talk.client(GET[position : position + 1]) == []
    assert talk.client(GET[-1:]) == [ToServer(GET)]


def test_half_a_head_and_then_a_known_head_are_not_taken_for_that_head() -> None:
    talk = Talk()
    talk.client(GET)
    talk.server(OK)
    assert talk.client(b"GET /applicants HTTP/1.1\r\nHost: jobs\r\nX: ") == []
    (refused, *rest) = talk.client(GET)  # is the value of X, then a line without a colon in its grammar
    assert isinstance(refused, ToClient)
    assert b" 400 " in refused.data or b" 403 " in refused.data
    assert not any(isinstance(command, ToServer) for command in rest)


def test_a_body_is_forwarded_as_it_comes() -> None:
    talk = Talk()
    head = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 6\r\n\r\n"
    assert talk.client(head + b"ab") == [ToServer(head + b"ab")]
    assert talk.conversation.client_bytes(b"cd", 0.0) is FORWARD
    assert talk.conversation.client_bytes(b"ef", 0.0) is FORWARD
    assert talk.server(OK) == [ToClient(OK)]


def test_the_record_says_what_happened() -> None:
    talk = Talk()
    talk.client(GET.replace(b"/jobs ", b"/jobs?secret=1 "))
    talk.now = 100.5
    talk.server(OK[:39])
    talk.now = 101.0
    talk.server(OK[39:])
    (record,) = talk.records
    assert (record.verdict, record.reason, record.rule, record.status) == (Verdict.FORWARDED, Reason.NONE, 7, 200)
    assert (record.method, record.path, record.has_query, record.host) == (b"GET", b"/jobs", True, b"jobs")
    assert (record.started, record.answered, record.finished, record.event) == (100.0, 100.5, 101.0, "")


def test_the_tag_goes_to_the_log_with_each_record() -> None:
    seen: list[object] = []
    context = HttpContext(Jobs(), lambda tag, _: seen.append(tag))
    conversation = HttpConversation(context, 0.0, tag="connection 1")
    conversation.client_bytes(GET, 0.0)
    conversation.server_bytes(OK, 0.0)
    assert seen == ["connection 1"]


# --- answers

CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"


@SIZES
@pytest.mark.parametrize(
    ("method", "answer"),
    [
        (b"GET", OK),
        (b"GET", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (b"GET", CHUNKS),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (b"HEAD", b"HTTP/1.1 200 OK\r\n\r\n"),
        (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        (b"GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"),
        (b"GET", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Again\r\n\r\n" + OK),
        (b"GET", b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKS),
        (b"GET", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"),
    ],
)
def test_an_answer_ends_where_its_framing_says(method: bytes, answer: bytes, size: int) -> None:
    talk = Talk()
    request = GET.replace(b"GET", method)
    for _ in range(2):  # the second time its head is known
        assert say(talk, "client", request, size) == [ToServer(request)]
        assert not talk.conversation.is_idle
        assert say(talk, "server", answer, size) == [ToClient(answer)]
        assert talk.conversation.is_idle
    assert talk.server(b"H") == [Abort(Reason.UNEXPECTED_UPSTREAM_BYTES)]


def test_an_answer_to_head_that_was_cached_for_get_has_no_body() -> None:
    talk = Talk()
    talk.client(GET)
    talk.server(OK)
    talk.client(GET.replace(b"GET", b"HEAD"))
    assert talk.server(OK[:-2]) == [ToClient(OK[:-2])]
    assert talk.conversation.is_idle


@SIZES
def test_an_answer_without_length_ends_with_the_connection(size: int) -> None:
    talk = Talk()
    answer = b"HTTP/1.1 200 OK\r\n\r\nas long as it takes\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    talk.client(GET)
    assert say(talk, "server", answer, size) == [ToClient(answer)]
    assert not talk.records
    assert list(talk.conversation.server_eof(talk.now)) == LAST_WORD
    assert talk.client(GET) == []
    assert talk.conversation.client_eof(talk.now) == (Close(),)
    assert (talk.records[0].status, talk.records[0].response_bytes) == (200, len(answer))


@SIZES
@pytest.mark.parametrize(
    ("request_line", "answer_line"), [(b"Connection: close\r\n", b""), (b"", b"Connection: Close\r\n")]
)
def test_either_side_may_make_an_answer_the_last(request_line: bytes, answer_line: bytes, size: int) -> None:
    talk = Talk()
    request = GET[:-2] + request_line + b"\r\n"
    answer = OK[:17] + answer_line + OK[17:]
    assert say(talk, "client", request, size) == [ToServer(request)]
    assert say(talk, "server", answer, size) == [ToClient(answer), *LAST_WORD]
    assert talk.client(GET) == []
    assert talk.conversation.server_eof(talk.now) == NOTHING


def test_http_1_0_closes_unless_it_asks_to_stay() -> None:
    talk = Talk()
    request = b"GET /jobs HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    assert talk.client(request) == [ToServer(request)]
    assert talk.server(OK) == [ToClient(OK)]
    request = b"GET /jobs HTTP/1.0\r\n\r\n"
    assert talk.client(request) == [ToServer(request)]
    assert talk.server(OK) == [ToClient(OK), *LAST_WORD]


def test_a_continue_is_passed_on_and_the_body_follows() -> None:
    talk = Talk()
    head = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    go = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert talk.client(head) == [ToServer(head)]
    assert talk.server(go) == [ToClient(go)]
    assert talk.client(b"ab") == [ToServer(b"ab")]
    assert talk.server(OK) == [ToClient(OK)]
    assert talk.conversation.is_idle
    assert talk.records[0].response_bytes == len(go + OK)


# --- heads that were seen before, on connections where they mean something else


def test_a_known_head_is_still_followed_by_its_body() -> None:
    talk = Talk()
    head = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 2\r\n\r\n"
    for _ in range(2):
        assert talk.client(head) == [ToServer(head)]
        assert talk.conversation.client_unread == 1
        assert talk.client(b"ab") == [ToServer(b"ab")]
        assert talk.server(OK) == [ToClient(OK)]


def test_a_known_head_still_closes() -> None:
    context = Talk().context
    request = GET[:-2] + b"Connection: close\r\n\r\n"
    for _ in range(2):
        talk = Talk()
        talk.conversation.context = context
        talk.client(request)
        assert talk.server(OK) == [ToClient(OK), *LAST_WORD]


def test_a_known_answer_is_not_taken_for_more_or_less_than_it_is() -> None:
    talk = Talk()
    for request, data, expected in (
        (GET, OK, [ToClient(OK)]),
        (GET.replace(b"GET", b"HEAD"), OK[:-2], [ToClient(OK[:-2])]),
        (GET.replace(b"GET", b"HEAD"), OK, [Abort(Reason.UNEXPECTED_UPSTREAM_BYTES)]),
    ):
        talk.client(request)
        assert talk.server(data) == expected
    other = Talk()
    other.conversation.context = talk.context
    other.client(GET)
    assert other.server(OK + b"H") == [Abort(Reason.UNEXPECTED_UPSTREAM_BYTES)]


def test_a_known_interim_answer_is_still_followed_by_another() -> None:
    talk = Talk()
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    talk.client(GET)
    for _ in range(3):
        assert talk.server(hints) == [ToClient(hints)]
        assert not talk.conversation.is_idle
    assert talk.server(OK) == [ToClient(OK)]


def test_a_known_answer_still_closes() -> None:
    context = Talk().context
    answer = OK[:17] + b"Connection: close\r\n" + OK[17:]
    for _ in range(2):
        talk = Talk()
        talk.conversation.context = context
        talk.client(GET)
        assert talk.server(answer) == [ToClient(answer), *LAST_WORD]


def test_a_known_answer_ends_a_connection_that_is_to_end() -> None:
    talk = Talk()
    talk.client(GET)
    talk.server(OK)
    talk.client(GET)
    talk.conversation.drain()
    assert talk.server(OK) == [ToClient(OK), *LAST_WORD]


def test_a_known_answer_that_comes_early_is_the_last() -> None:
    talk = Talk()
    talk.client(GET)
    talk.server(OK)
    talk.client(b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 2\r\n\r\n")
    assert talk.server(OK) == [ToClient(OK)]
    assert talk.client(b"ab") == [ToServer(b"ab"), *LAST_WORD]


def test_a_record_holds_nothing_of_the_request_before() -> None:
    talk = Talk()
    talk.client(GET)
    talk.server(OK)
    talk.client(GET)
    talk.conversation.server_eof(talk.now)
    record = talk.records[1]
    assert (record.status, record.answered, record.response_bytes) == (0, 0.0, 0)
    assert (record.verdict, record.reason) == (Verdict.FORWARDED, Reason.UPSTREAM_CLOSED)


# --- ends


def test_an_idle_connection_ends_with_either_side() -> None:
    assert Talk().conversation.client_eof(0.0) == (Close(),)
    assert Talk().conversation.server_eof(0.0) == (Close(),)


def test_a_client_that_ends_its_half_still_gets_the_answer() -> None:
    talk = Talk()
    talk.client(GET)
    assert talk.conversation.client_eof(talk.now) == (EndServer(),)
    assert talk.conversation.client_eof(talk.now) == NOTHING
    assert talk.server(OK[:-1]) == [ToClient(OK[:-1])]
    assert talk.server(OK[-1:]) == [ToClient(OK[-1:]), Close()]
    assert talk.records[0].reason is Reason.NONE


def test_a_drain_waits_for_what_is_outstanding() -> None:
    assert Talk().conversation.drain() == (Close(Reason.DRAINED),)
    talk = Talk()
    talk.client(GET)
    assert talk.conversation.drain() == NOTHING
    assert talk.server(OK) == [ToClient(OK), *LAST_WORD]
    talk = Talk()
    talk.client(b"POST /applicants HTTP/1.1\r\nHost: jobs\r\nContent-Length: 2\r\n\r\n")
    assert talk.conversation.drain() == NOTHING
    assert talk.client(b"ab" + GET) == LAST_WORD


# --- bodies that go unread


def test_all_but_the_last_byte_of_an_upload_may_go_unread() -> None:
    talk = Talk()
    talk.client(b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 1000\r\n\r\n" + b"a" * 100)
    assert talk.conversation.client_unread == 899
    talk.conversation.client_moved(500, talk.now)
    assert talk.client(b"b" * 300) == [ToServer(b"b" * 300)]
    talk.conversation.client_moved(99, talk.now)
    assert talk.conversation.client_unread == 0
    assert talk.client(b"c") == [ToServer(b"c")]
    assert talk.server(OK) == [ToClient(OK)]
    assert talk.records[0].request_bytes == 1057
    assert talk.client(GET) == [ToServer(GET)]


def test_all_but_the_last_byte_of_a_download_may_go_unread() -> None:
    talk = Talk()
    talk.client(GET)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    talk.server(head)
    assert talk.conversation.server_unread == 999
    talk.conversation.server_moved(999, talk.now)
    assert talk.conversation.server_unread == 0
    assert talk.server(b"z") == [ToClient(b"z")]
    assert talk.conversation.is_idle
    assert talk.records[0].response_bytes == len(head) + 1000


def test_the_data_of_a_chunk_may_go_unread() -> None:
    talk = Talk()
    talk.client(GET)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n"
    talk.server(head + b"abc")
    assert talk.conversation.server_unread == 252
    talk.conversation.server_moved(252, talk.now)
    assert talk.server(b"\r\n0\r\n\r\n") == [ToClient(b"\r\n0\r\n\r\n")]
    assert talk.conversation.is_idle


def test_a_body_without_length_may_go_unread_to_its_end() -> None:
    talk = Talk()
    talk.client(GET)
    talk.server(b"HTTP/1.0 200 OK\r\n\r\n")
    assert talk.conversation.server_unread > 1 << 40
    talk.conversation.server_moved(1 << 33, talk.now)
    assert list(talk.conversation.server_eof(talk.now)) == LAST_WORD
    assert talk.records[0].response_bytes == 19 + (1 << 33)


def test_nothing_goes_unread_where_a_message_may_begin() -> None:
    talk = Talk()
    for step in (
        lambda: None,
        lambda: talk.client(GET[:9]),
        lambda: talk.client(GET[9:]),
        lambda: talk.server(OK[:9]),
        lambda: talk.server(OK[9:]),
    ):
        step()
        assert (talk.conversation.client_unread, talk.conversation.server_unread) == (0, 0)
        for moved in (talk.conversation.client_moved, talk.conversation.server_moved):
            with pytest.raises(ValueError, match="may go unread"):
                moved(1, talk.now)


# --- time


def test_a_head_must_come_in_time_whatever_trickles() -> None:
    talk = Talk()
    assert talk.conversation.deadline == 400.0
    talk.client(b"GET /jobs")
    assert talk.later(6.0) == NOTHING
    talk.client(b" HTTP/1.1\r\n")
    assert talk.conversation.deadline == 110.0
    (refused, *rest) = talk.later(4.0)
    assert isinstance(refused, ToClient)
    assert refused.data.startswith(b"HTTP/1.1 408 ")
    assert rest == LAST_WORD
    assert talk.records[0].reason is Reason.HEAD_TIMEOUT
    assert talk.later(2.0) == (Close(),)


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_an_answers_head_must_come_in_time_whatever_trickles(before: bytes) -> None:
    talk = Talk()
    talk.client(GET)
    assert talk.later(3600.0) == NOTHING  # the answer may take its time
    if before:
        talk.server(before)
        assert talk.later(3600.0) == NOTHING
    talk.server(OK[:5])
    assert talk.later(9.0) == NOTHING
    talk.server(OK[5:10])
    assert talk.later(1.0) == (Abort(Reason.HEAD_TIMEOUT),)
    assert talk.records[0].reason is Reason.HEAD_TIMEOUT


def test_an_answers_head_must_come_in_time_though_the_body_goes_on() -> None:
    talk = Talk()
    talk.client(b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 9000\r\n\r\n")
    talk.server(OK[:5])
    for _ in range(9):
        assert talk.later(1.0) == NOTHING
        talk.client(b"a" * 10)
        talk.conversation.client_moved(10, talk.now)
    assert talk.later(1.0) == (Abort(Reason.HEAD_TIMEOUT),)


def test_an_answer_whose_head_came_in_pieces_may_take_its_time() -> None:
    talk = Talk()
    talk.client(GET)
    talk.server(OK[:5])
    talk.server(OK[5:-1])
    assert talk.conversation.deadline == math.inf
    assert talk.later(3600.0) == NOTHING
    talk.server(OK[-1:])
    assert talk.conversation.is_idle


def test_an_idle_connection_ends_in_time() -> None:
    talk = Talk()
    talk.now = 200.0
    talk.client(GET)
    assert talk.conversation.deadline == math.inf
    talk.server(OK)
    assert talk.later(299.0) == NOTHING
    assert talk.later(1.0) == (Close(Reason.IDLE_TIMEOUT),)
    assert talk.conversation.deadline == math.inf


def test_an_upload_that_stops_ends_in_time() -> None:
    talk = Talk()
    talk.client(b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 1000\r\n\r\n")
    talk.now += 200.0
    talk.conversation.client_moved(10, talk.now)
    assert talk.later(299.0) == NOTHING
    assert talk.later(1.0) == (Abort(Reason.IDLE_TIMEOUT),)
    assert talk.records[0].reason is Reason.IDLE_TIMEOUT


def test_a_policy_may_be_exchanged_between_two_requests() -> None:
    talk = Talk()
    talk.client(GET)
    talk.server(OK)
    stricter = HttpContext(Nothing(), lambda _, record: talk.records.append(record))
    talk.conversation.context = stricter
    (refused,) = talk.client(GET)
    assert isinstance(refused, ToClient)
    assert refused.data.startswith(b"HTTP/1.1 403 ")


class Nothing:
    def judge(self, call: HttpCall) -> HttpVerdict:
        return HttpVerdict(False, 0, Reason.HTTP_NO_RULE)
