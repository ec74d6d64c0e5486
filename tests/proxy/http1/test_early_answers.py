"""Answers that come before the request's body is complete, and clients that leave inside a request."""

from collections.abc import Callable
from typing import Any

import pytest

from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import (
    NOTHING,
    Abort,
    Close,
    CloseServer,
    Command,
    EndClient,
    ResetServer,
    ToClient,
    ToServer,
)

GET = b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n"
DENIED = b"GET /applicants HTTP/1.1\r\nHost: jobs\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 413 Too Large\r\n\r\nup to the end"
CHUNKED = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST_WORD: list[Command] = [CloseServer(), EndClient()]
CUT_OFF: list[Command] = [ResetServer(), EndClient()]
SIZES = pytest.mark.parametrize("size", [1, 7, 100000])


def post(length: int, *lines: bytes) -> bytes:
    fields = (b"POST /jobs HTTP/1.1", b"Host: jobs", b"Content-Length: %d" % length, *lines)
    return b"\r\n".join(fields) + b"\r\n\r\n"


@SIZES
@pytest.mark.parametrize("behind", [b"", DENIED, GET, b"G"])
@pytest.mark.parametrize(
    ("head", "first", "more", "unread"),
    [(post(9), b"abc", b"defghi", 5), (CHUNKED, b"9\r\nabc", b"defghi\r\n0\r\n\r\n", 6)],
)
def test_a_body_goes_on_to_its_end_behind_its_answer_and_the_connection_with_it(
    talk: Any, head: bytes, first: bytes, more: bytes, unread: int, behind: bytes, size: int
) -> None:
    talk.sends(head + first).answers(OK)
    assert (talk.to_client, talk.rest, talk.conversation.client_unread) == (OK, [], unread)
    talk.sends(more + behind, size)
    assert talk.to_server == head + first + more + (GET if behind == GET else b"")
    assert (talk.statuses, talk.rest) == ([200, 403] if behind == DENIED else [200], [])
    assert (talk.records[0].status, talk.records[0].detail) == (200, "answered before the body was complete")
    assert (talk.records[0].reason, talk.records[0].request_bytes) == (Reason.NONE, len(head + first + more))
    if behind != GET:
        talk.sends(GET[len(behind) :] if behind == b"G" else GET)
    said = talk.to_client
    assert talk.answers(OK).to_client == said + OK
    assert (talk.conversation.is_idle, talk.rest) == (True, [])
    assert (talk.records[-1].request_bytes, talk.records[-1].detail) == (len(GET), "")


@SIZES
@pytest.mark.parametrize(
    ("head", "answer", "happens"),
    [
        (post(9, b"Connection: close"), OK, ""),
        (post(9).replace(b"HTTP/1.1", b"HTTP/1.0"), OK, ""),
        (post(9), OK[:17] + b"Connection: close\r\n" + OK[17:], ""),
        (post(9), OK.replace(b"HTTP/1.1", b"HTTP/1.0"), ""),
        (post(9), OK, "server_eof"),
        (post(9), OK, "drain"),
    ],
)
def test_it_is_the_last_if_either_side_said_so(talk: Any, head: bytes, answer: bytes, happens: str, size: int) -> None:
    talk.sends(head + b"abc").answers(answer)
    if happens == "drain":
        assert talk.conversation.drain() == NOTHING
    elif happens:
        assert talk.server_eof() == []
    talk.sends(b"defghi" + GET, size)
    assert talk.to_server == head + b"abcdefghi"
    assert (talk.to_client, talk.rest) == (answer, LAST_WORD)
    talk.client(GET * 10)
    assert talk.to_server == head + b"abcdefghi"
    assert talk.records[0].detail == "answered before the body was complete"
    surplus = size > 7  # in the read that ended the body
    assert size == 7 or talk.reasons[1:] == ([Reason.HTTP_PIPELINED] if surplus else [])


def test_what_the_server_says_behind_the_end_of_such_a_body_is_nobodys(talk: Any) -> None:
    talk.sends(post(6) + b"abc").answers(OK).sends(b"def").answers(b"H")
    assert (talk.to_client, talk.rest) == (OK, CUT_OFF)
    assert talk.client(GET) == []


def test_a_server_that_leaves_the_request_behind_such_a_body_is_followed(talk: Any) -> None:
    """It has served the connection: the client may repeat the request."""
    talk.sends(post(6) + b"abc").answers(OK).sends(b"def").sends(GET)
    assert talk.server_eof() == LAST_WORD
    assert talk.to_client == OK


@SIZES
def test_an_answer_that_ends_with_the_connection_is_ended_at_once_though_the_body_goes_on(talk: Any, size: int) -> None:
    talk.client(post(9) + b"abc")
    assert talk.server(STREAM, size) == [ToClient(STREAM)]
    assert talk.server_eof() == [EndClient()]
    assert talk.client(b"def") == [ToServer(b"def")]
    assert talk.server_eof() == []
    assert talk.client(b"ghi", size)[-3:] == [ToServer(b"ghi"), *LAST_WORD]
    assert talk.client_eof() == [Close()]
    assert (talk.records[0].status, talk.records[0].request_bytes) == (413, len(post(9)) + 9)
    assert talk.records[0].response_bytes == len(STREAM)


def test_a_body_that_an_ended_server_takes_no_more_is_dropped(talk: Any) -> None:
    talk.sends(post(9) + b"abc").answers(STREAM).server_eof()
    assert talk.server_resets() == CUT_OFF
    assert talk.client(b"def") == []
    assert talk.client_eof() == [Close()]
    assert talk.reasons == [Reason.UPSTREAM_RESET]


@pytest.mark.parametrize("together", [True, False])
def test_a_server_that_says_more_than_its_early_answer_gets_no_more_of_the_body(talk: Any, together: bool) -> None:
    talk.client(post(100) + b"abc")  # a server that took the body for a request would answer that
    forwarded = talk.to_server
    if together:
        talk.server(OK + OK)
    else:
        talk.sends(b"d").answers(OK).answers(OK)
        forwarded += b"d"
    assert (talk.to_client, talk.rest) == (OK, CUT_OFF)
    assert talk.reasons == [Reason.UNEXPECTED_UPSTREAM_BYTES]
    talk.client(b"d" * 97 + GET)
    assert talk.to_server == forwarded


@pytest.mark.parametrize("framing", [b"Content-Length: %d" % len(DENIED), b"Transfer-Encoding: chunked"])
@pytest.mark.parametrize("status", [b"417 Expectation Failed", b"302 Found", b"200 OK"])
def test_a_body_that_may_not_come_is_not_forwarded_behind_a_final_answer(
    talk: Any, status: bytes, framing: bytes
) -> None:
    """A client may leave the body out, and a server that did not ask for it read on: it would be the next request."""
    refusal = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"
    head = CHUNKED.replace(b"Transfer-Encoding: chunked", framing + b"\r\nExpect: 100-continue")
    talk.sends(head).answers(refusal).client(DENIED)
    assert (talk.to_server, talk.to_client) == (head, refusal)
    assert talk.rest == CUT_OFF


def test_a_body_that_the_server_asked_for_goes_on(talk: Any) -> None:
    talk.sends(post(3, b"Expect: 100-continue")).answers(b"HTTP/1.1 100 Continue\r\n\r\n" + OK).client(b"abc")
    assert (talk.to_server[-3:], talk.rest) == (b"abc", [])


@pytest.mark.parametrize("hints", [b"HTTP/1.1 103 Early Hints\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"])
def test_another_interim_answer_asks_for_no_body(talk: Any, hints: bytes) -> None:
    talk.sends(post(len(DENIED), b"Expect: 100-continue")).answers(hints).answers(OK)
    assert talk.rest == CUT_OFF
    assert talk.client(DENIED) == []


def test_a_body_that_was_asked_for_is_not_the_next_one(talk: Any) -> None:
    head = post(3, b"Expect: 100-continue")
    talk.sends(head).answers(b"HTTP/1.1 100 Continue\r\n\r\n").sends(b"abc").answers(OK)
    talk.sends(head).answers(OK)
    assert talk.to_server == head + b"abc" + head
    assert talk.rest == CUT_OFF


def test_one_that_was_asked_for_and_then_refused_may_not_come_either(talk: Any) -> None:
    refusal = b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n"
    talk.sends(post(len(DENIED), b"Expect: 100-continue")).answers(b"HTTP/1.1 100 Continue\r\n\r\n").answers(refusal)
    assert (talk.statuses, talk.rest) == ([100, 413], CUT_OFF)
    assert talk.client(DENIED) == []


@pytest.mark.parametrize(
    ("head", "first", "more"),
    [
        (post(6, b"Expect: 100-continue"), b"abc", b"def"),
        (CHUNKED[:-2] + b"Expect: 100-continue\r\n\r\n", b"3", b"\r\nabc\r\n0\r\n\r\n"),
    ],
)
def test_one_that_has_begun_unasked_goes_on(talk: Any, head: bytes, first: bytes, more: bytes) -> None:
    talk.sends(head + first).answers(OK)
    assert (talk.to_client, talk.rest) == (OK, [])
    talk.client(more)
    assert (talk.to_server, talk.rest) == (head + first + more, [])


def test_a_body_goes_on_while_its_answer_begins(talk: Any) -> None:
    talk.sends(post(6) + b"abc").answers(OK[:-1]).sends(b"def").answers(OK[-1:]).sends(GET)
    assert talk.to_server.endswith(b"abcdef" + GET)
    assert (talk.to_client, talk.rest) == (OK, [])


# --- servers that take no more


def test_a_body_that_no_server_takes_is_dropped_and_its_answer_still_heard(talk: Any) -> None:
    talk.client(post(1000) + b"abc")
    assert talk.conversation.server_deaf(Reason.UPSTREAM_RESET, talk.now) == NOTHING
    assert talk.client(b"def") == []
    assert talk.conversation.client_unread == 0
    assert talk.server(OK) == [ToClient(OK), *CUT_OFF]
    assert (talk.records[0].status, talk.reasons) == (200, [Reason.UPSTREAM_RESET])


def test_the_answer_of_a_server_that_takes_no_more_is_its_last(talk: Any) -> None:
    talk.sends(GET).answers(OK).sends(GET)  # both heads are known
    assert talk.conversation.server_deaf(Reason.UPSTREAM_RESET, talk.now) == NOTHING
    assert talk.server(OK) == [ToClient(OK), *CUT_OFF]
    assert talk.client(GET) == []


def test_nothing_is_ended_that_takes_no_more(talk: Any) -> None:
    talk.client(GET)
    assert talk.conversation.server_deaf(Reason.UPSTREAM_RESET, talk.now) == NOTHING
    assert talk.client_eof() == []
    assert talk.server(OK) == [ToClient(OK), ResetServer(), Close()]


def test_a_body_that_no_server_takes_is_a_502_without_an_answer(talk: Any) -> None:
    talk.client(post(1000) + b"abc")
    (answer, *rest) = talk.server_resets()
    assert answer.data.startswith(b"HTTP/1.1 502 ")
    assert rest == CUT_OFF


# --- clients that leave


def test_a_client_that_leaves_inside_a_body_that_was_answered_keeps_its_answer(talk: Any) -> None:
    talk.sends(post(9) + b"abc").answers(OK)
    assert talk.server_eof() == []  # it may still read
    assert talk.client_eof() == [ResetServer(), Close(Reason.NONE)]
    assert (talk.records[0].status, talk.records[0].reason) == (200, Reason.DOWNSTREAM_CLOSED)


@pytest.mark.parametrize("request_", [post(6) + b"abc", CHUNKED, CHUNKED + b"3\r\nabc\r", CHUNKED + b"0\r\nA: b\r\n"])
def test_a_client_that_ends_inside_a_request_aborts(talk: Any, request_: bytes) -> None:
    talk.client(request_)
    assert talk.client_eof() == [Abort(Reason.DOWNSTREAM_CLOSED)]
    assert talk.reasons == [Reason.DOWNSTREAM_CLOSED]


def test_a_client_that_ends_inside_a_head_is_closed(start: Callable[..., Any]) -> None:
    assert start().sends(GET[:-1]).client_eof() == [Close(Reason.DOWNSTREAM_CLOSED)]
