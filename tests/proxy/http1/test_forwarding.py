"""Conversations that go well: what is forwarded, how answers are framed, when the connection stays."""

from collections.abc import Callable
from typing import Any

import pytest

from racecar.policy.engine import HttpCall, HttpVerdict
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1 import HttpConversation
from racecar.proxy.core.http1_context import HttpContext
from racecar.proxy.core.http1_types import (
    FORWARD,
    NOTHING,
    Close,
    CloseServer,
    Command,
    EndClient,
    EndServer,
    ResetServer,
    ToClient,
    ToServer,
    Verdict,
)

GET = b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n"
HEAD = b"HEAD /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n"
POST = b"POST /jobs?a=b HTTP/1.1\r\nhost: jobs\r\ncontent-length: 10\r\n\r\n0123456789"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST_WORD: list[Command] = [CloseServer(), EndClient()]
CUT_OFF: list[Command] = [ResetServer(), EndClient()]
SIZES = pytest.mark.parametrize("size", [1, 7, 100000])


# --- requests


def test_a_known_head_is_forwarded_as_the_object_that_was_read(talk: Any) -> None:
    for _ in range(3):
        assert talk.client(GET) == [ToServer(GET)]
        assert talk.server(OK) == [ToClient(OK)]
    assert talk.conversation.client_bytes(GET, 0.0) is FORWARD
    assert talk.conversation.server_bytes(OK, 0.0) is FORWARD
    assert [(call.method, call.target) for call in talk.judge.asked] == [(b"GET", b"/jobs")]
    assert [record.verdict for record in talk.records] == [Verdict.FORWARDED] * 4


@SIZES
def test_requests_follow_each_other_on_one_connection(talk: Any, size: int) -> None:
    for request in (GET, POST, GET, GET, POST):
        assert talk.client(request, size) == [ToServer(request)]
        assert talk.server(OK, size) == [ToClient(OK)]
        assert talk.conversation.is_idle
    assert [record.request_bytes for record in talk.records] == [len(r) for r in (GET, POST, GET, GET, POST)]
    assert {record.response_bytes for record in talk.records} == {len(OK)}


def test_no_byte_of_a_head_is_forwarded_before_its_last(talk: Any) -> None:
    for position in range(len(GET) - 1):
        assert talk.client(GET[position : position + 1]) == []
        assert talk.conversation.held == position + 1
    assert talk.client(GET[-1:]) == [ToServer(GET)]
    assert talk.conversation.held == 0


def test_half_a_head_and_then_a_known_head_are_not_taken_for_that_head(talk: Any) -> None:
    talk.sends(GET).answers(OK)
    assert talk.client(b"GET /applicants HTTP/1.1\r\nHost: jobs\r\nX: ") == []
    (refused, *rest) = talk.client(GET)  # is the value of X, then a second Host
    assert isinstance(refused, ToClient)
    assert refused.data.startswith(b"HTTP/1.1 400 ")
    assert rest == LAST_WORD


def test_a_body_is_forwarded_as_it_comes(talk: Any) -> None:
    head = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 6\r\n\r\n"
    assert talk.client(head + b"ab") == [ToServer(head + b"ab")]
    assert talk.conversation.client_bytes(b"cd", 0.0) is FORWARD
    assert talk.conversation.client_bytes(b"ef", 0.0) is FORWARD
    assert talk.server(OK) == [ToClient(OK)]


def test_a_known_head_is_still_followed_by_its_body(talk: Any) -> None:
    head = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 2\r\n\r\n"
    for _ in range(2):
        assert talk.client(head) == [ToServer(head)]
        assert talk.conversation.client_unread == 1
        assert talk.client(b"ab") == [ToServer(b"ab")]
        assert talk.server(OK) == [ToClient(OK)]


def test_a_granted_body_of_get_is_forwarded_and_followed(talk: Any) -> None:
    request = b"GET /free HTTP/1.1\r\nHost: jobs\r\nContent-Length: 2\r\n\r\nab"
    assert talk.client(request + GET) == [ToServer(request)]
    assert talk.server(OK) == [ToClient(OK), ToServer(GET)]
    assert talk.judge.asked[0].has_body


# --- answers

CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"


@SIZES
@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (GET, OK),
        (GET, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        (GET, CHUNKS),
        (HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        (HEAD, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (HEAD, b"HTTP/1.1 200 OK\r\n\r\n"),
        (GET, b"HTTP/1.1 204 No Content\r\n\r\n"),
        (GET, b"HTTP/1.1 304 Not Modified\r\n\r\n"),
        (GET, b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"),
        (GET, b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n"),
        (GET, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 103 Again\r\n\r\n" + OK),
        (GET, b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKS),
        (GET, b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"),
    ],
)
def test_an_answer_ends_where_its_framing_says(talk: Any, request_: bytes, answer: bytes, size: int) -> None:
    for _ in range(2):  # the second time its head is known
        assert talk.client(request_, size) == [ToServer(request_)]
        assert not talk.conversation.is_idle
        assert talk.server(answer, size) == [ToClient(answer)]
        assert talk.conversation.is_idle
    assert talk.server(b"H") == CUT_OFF
    assert talk.client_eof() == [Close(Reason.UNEXPECTED_UPSTREAM_BYTES)]


def test_an_answer_to_head_that_was_cached_for_get_has_no_body(talk: Any) -> None:
    talk.sends(GET).answers(OK).sends(HEAD)
    assert talk.server(OK[:-2]) == [ToClient(OK[:-2])]
    assert talk.conversation.is_idle


@SIZES
def test_an_answer_without_length_ends_with_the_connection(talk: Any, size: int) -> None:
    answer = b"HTTP/1.1 200 OK\r\n\r\nas long as it takes\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    talk.client(GET)
    assert talk.server(answer, size) == [ToClient(answer)]
    assert not talk.records
    assert talk.server_eof() == LAST_WORD
    assert talk.client(GET) == []
    assert talk.client_eof() == [Close()]
    assert (talk.records[0].status, talk.records[0].response_bytes) == (200, len(answer))


@SIZES
def test_an_answer_may_say_that_it_is_the_last(talk: Any, size: int) -> None:
    answer = OK[:17] + b"Connection: Close\r\n" + OK[17:]
    assert talk.client(GET, size) == [ToServer(GET)]
    assert talk.server(answer, size) == [ToClient(answer), *LAST_WORD]
    assert talk.client(GET) == []  # a client that did not know may have sent it
    assert talk.server_eof() == []


@SIZES
def test_behind_a_request_that_says_so_nothing_is_waited_for(talk: Any, size: int) -> None:
    request = GET[:-2] + b"Connection: close\r\n\r\n"
    assert talk.client(request, size) == [ToServer(request)]
    assert talk.server(OK, size) == [ToClient(OK), Close()]


def test_unless_the_client_sends_more_all_the_same(talk: Any) -> None:
    """A close with bytes unread would reset the answer."""
    request = GET[:-2] + b"Connection: close\r\n\r\n"
    assert talk.client(request + b"\r\n") == [ToServer(request)]
    assert talk.server(OK) == [ToClient(OK), *LAST_WORD]


def test_a_continue_is_passed_on_and_the_body_follows(talk: Any) -> None:
    head = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    go = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert talk.client(head) == [ToServer(head)]
    assert talk.server(go) == [ToClient(go)]
    assert talk.client(b"ab") == [ToServer(b"ab")]
    assert talk.server(OK) == [ToClient(OK)]
    assert talk.conversation.is_idle
    assert talk.records[0].response_bytes == len(go + OK)


# --- heads that were seen before, on connections where they mean something else


def test_a_known_head_still_closes(start: Callable[..., Any]) -> None:
    context = start().context
    request = GET[:-2] + b"Connection: close\r\n\r\n"
    for _ in range(2):
        assert start(context).sends(request).server(OK) == [ToClient(OK), Close()]


def test_a_known_answer_is_not_taken_for_more_or_less_than_it_is(start: Callable[..., Any]) -> None:
    talk = start()
    for request, data, expected in (
        (GET, OK, [ToClient(OK)]),
        (HEAD, OK[:-2], [ToClient(OK[:-2])]),
        (HEAD, OK, [ToClient(OK[:-2]), *CUT_OFF]),
    ):
        talk.client(request)
        assert talk.server(data) == expected
    assert start(talk.context).sends(GET).server(OK + b"H") == [ToClient(OK), *CUT_OFF]
    assert start(talk.context).sends(GET).server(OK[:-1]) == [ToClient(OK[:-1])]


def test_a_known_interim_answer_is_still_followed_by_another(talk: Any) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    talk.client(GET)
    for _ in range(3):
        assert talk.server(hints) == [ToClient(hints)]
        assert not talk.conversation.is_idle
    assert talk.server(OK) == [ToClient(OK)]


def test_a_known_answer_still_closes(start: Callable[..., Any]) -> None:
    context = start().context
    answer = OK[:17] + b"Connection: close\r\n" + OK[17:]
    for _ in range(2):
        assert start(context).sends(GET).server(answer) == [ToClient(answer), *LAST_WORD]


def test_a_known_answer_ends_a_connection_that_is_to_end(talk: Any) -> None:
    talk.sends(GET).answers(OK).sends(GET)
    talk.conversation.drain()
    assert talk.server(OK) == [ToClient(OK), *LAST_WORD]


def test_a_known_answer_that_comes_early_does_not_end_the_request(talk: Any) -> None:
    talk.sends(GET).answers(OK).sends(b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 2\r\n\r\n")
    assert talk.server(OK) == [ToClient(OK)]
    assert not talk.conversation.is_idle
    assert talk.client(b"ab") == [ToServer(b"ab")]
    assert talk.conversation.is_idle


# --- ends


def test_an_idle_connection_ends_with_either_side(start: Callable[..., Any]) -> None:
    assert start().client_eof() == [Close()]
    assert start().server_eof() == [Close()]
    assert start().sends(GET).answers(OK).client_eof() == [Close()]
    assert start().sends(GET).answers(OK).server_eof() == [Close()]


def test_a_client_that_ends_its_half_still_gets_the_answer(talk: Any) -> None:
    talk.client(GET)
    assert talk.client_eof() == [EndServer()]
    assert talk.client_eof() == []
    assert talk.server(OK[:-1]) == [ToClient(OK[:-1])]
    assert talk.server(OK[-1:]) == [ToClient(OK[-1:]), Close()]
    assert talk.reasons == [Reason.NONE]


def test_a_drain_waits_for_what_is_outstanding(start: Callable[..., Any]) -> None:
    assert start().conversation.drain() == (Close(Reason.DRAINED),)
    talk = start().sends(GET)
    assert talk.conversation.drain() == NOTHING
    assert talk.server(OK) == [ToClient(OK), *LAST_WORD]
    talk = start().sends(b"POST /applicants HTTP/1.1\r\nHost: jobs\r\nContent-Length: 2\r\n\r\n")
    assert talk.conversation.drain() == NOTHING
    assert talk.client(b"ab" + GET) == LAST_WORD


def test_a_drain_is_told_with_a_denial_whose_head_had_begun(talk: Any) -> None:
    denied = GET.replace(b"jobs", b"applicants")
    talk.client(denied[:9])
    assert talk.conversation.drain() == NOTHING
    (answer, *rest) = talk.client(denied[9:] + GET)
    assert answer.data.startswith(b"HTTP/1.1 403 ")
    assert b"\r\nConnection: close\r\n" in answer.data
    assert rest == LAST_WORD


def test_a_policy_may_be_exchanged_between_two_requests(talk: Any) -> None:
    class Nothing:
        def judge(self, _: HttpCall) -> HttpVerdict:
            return HttpVerdict(False, 0, Reason.HTTP_NO_RULE)

    talk.sends(GET + GET)  # the second is judged when it is taken up
    talk.conversation.context = HttpContext(Nothing(), lambda _, record: talk.records.append(record))
    (answer,) = talk.server(OK)
    assert answer.data.startswith(OK + b"HTTP/1.1 403 ")


# --- the record


def test_the_record_says_what_happened(talk: Any) -> None:
    talk.client(GET.replace(b"/jobs ", b"/jobs?secret=1 "))
    talk.now = 100.5
    talk.server(OK[:39])
    talk.now = 101.0
    talk.server(OK[39:])
    (record,) = talk.records
    assert (record.verdict, record.reason, record.rule, record.status) == (Verdict.FORWARDED, Reason.NONE, 7, 200)
    assert (record.method, record.path, record.has_query, record.host) == (b"GET", b"/jobs", True, b"jobs")
    assert (record.started, record.answered, record.finished, record.event) == (100.0, 100.5, 101.0, "")
    assert (record.nearest, record.opaque, record.detail) == ((), "", "")


def test_a_record_holds_nothing_of_the_request_before(talk: Any) -> None:
    talk.sends(GET).answers(OK).sends(GET).server_eof()
    record = talk.records[1]
    assert (record.status, record.answered, record.response_bytes) == (0, 0.0, 0)
    assert (record.verdict, record.reason) == (Verdict.FORWARDED, Reason.UPSTREAM_CLOSED)


def test_the_tag_goes_to_the_log_with_each_record(talk: Any) -> None:
    seen: list[object] = []
    context = HttpContext(talk.judge, lambda tag, _: seen.append(tag))
    conversation = HttpConversation(context, 0.0, tag="connection 1")
    conversation.client_bytes(GET, 0.0)
    conversation.server_bytes(OK, 0.0)
    assert seen == ["connection 1"]


def test_what_the_edge_lost_is_logged_once(talk: Any) -> None:
    talk.client(GET)
    talk.conversation.lost(Reason.UPSTREAM_RESET, 103.0)
    talk.conversation.lost(Reason.UPSTREAM_RESET, 104.0)
    assert [(record.reason, record.finished) for record in talk.records] == [(Reason.UPSTREAM_RESET, 103.0)]
    assert talk.client(GET) == talk.server(OK) == talk.client_eof() == talk.server_eof() == []
    assert talk.later(1e9) == []


# --- bodies that go unread


def test_all_but_the_last_byte_of_an_upload_may_go_unread(talk: Any) -> None:
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


def test_all_but_the_last_byte_of_a_download_may_go_unread(talk: Any) -> None:
    talk.client(GET)
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    talk.server(head)
    assert talk.conversation.server_unread == 999
    talk.conversation.server_moved(999, talk.now)
    assert talk.conversation.server_unread == 0
    assert talk.server(b"z") == [ToClient(b"z")]
    assert talk.conversation.is_idle
    assert talk.records[0].response_bytes == len(head) + 1000


def test_the_data_of_a_chunk_may_go_unread(talk: Any) -> None:
    talk.client(GET)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n"
    talk.server(head + b"abc")
    assert talk.conversation.server_unread == 252
    talk.conversation.server_moved(252, talk.now)
    assert talk.server(b"\r\n0\r\n\r\n") == [ToClient(b"\r\n0\r\n\r\n")]
    assert talk.conversation.is_idle
    assert talk.records[0].response_bytes == len(head) + 255 + 7


def test_a_body_without_length_may_go_unread_to_its_end(talk: Any) -> None:
    talk.client(GET)
    talk.server(b"HTTP/1.0 200 OK\r\n\r\n")
    assert talk.conversation.server_unread > 1 << 40
    talk.conversation.server_moved(1 << 33, talk.now)
    assert talk.server_eof() == LAST_WORD
    assert talk.records[0].response_bytes == 19 + (1 << 33)


def test_nothing_goes_unread_where_a_message_may_begin(talk: Any) -> None:
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
