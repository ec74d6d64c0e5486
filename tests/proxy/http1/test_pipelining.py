"""Requests that come before the answer to the one before: one is outstanding, the next waits, answers keep order."""

from collections.abc import Callable
from typing import Any

import pytest

from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import (
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
NEXT = b"GET /jobs?next HTTP/1.1\r\nHost: jobs\r\n\r\n"
LAST = b"GET /jobs HTTP/1.1\r\nHost: jobs\r\nConnection: close\r\n\r\n"
POST = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 10\r\n\r\n0123456789"
DENIED = b"GET /applicants HTTP/1.1\r\nHost: jobs\r\n\r\n"
REFUSED = b"POST /applicants HTTP/1.1\r\nHost: jobs\r\nContent-Length: 34\r\n\r\n" + GET
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKS = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
STREAM = b"HTTP/1.1 200 OK\r\n\r\nstream"
LAST_WORD: list[Command] = [CloseServer(), EndClient()]
SIZES = pytest.mark.parametrize("size", [1, 7, 100000])


def text_of(number: int) -> bytes:
    body = b"denied by policy: default deny\nevent e-%d\n" % number
    return b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 41\r\n\r\n" + body


@SIZES
@pytest.mark.parametrize("answer", [OK, CHUNKS, b"HTTP/1.1 103 Hints\r\n\r\n" + OK, b"HTTP/1.1 304 Same\r\n\r\n"])
def test_answers_come_in_order_and_a_denial_waits_for_the_one_before(talk: Any, answer: bytes, size: int) -> None:
    assert talk.client(GET + DENIED + NEXT + DENIED, size) == [ToServer(GET)]
    assert talk.conversation.client_paused
    talk.server(answer[:-1], size)
    assert answer.startswith(talk.to_client)
    assert talk.to_server == GET
    assert talk.server(answer[-1:])[1:] == [ToServer(NEXT)]
    assert talk.to_client == answer + text_of(1)
    assert talk.server(answer, size) == [ToClient(answer + text_of(2))]
    assert talk.conversation.is_idle
    assert not talk.conversation.client_paused
    assert talk.reasons == [Reason.NONE, Reason.HTTP_NO_RULE] * 2
    assert [record.request_bytes for record in talk.records] == [len(raw) for raw in (GET, DENIED, NEXT, DENIED)]
    assert [record.response_bytes for record in talk.records] == [len(answer), len(text_of(1))] * 2


@SIZES
def test_a_request_is_never_forwarded_while_another_is_outstanding(talk: Any, size: int) -> None:
    requests = [GET, POST, NEXT, POST, POST, GET]
    talk.client(b"".join(requests), size)
    for number in range(1, len(requests)):
        assert talk.to_server == b"".join(requests[:number])
        assert talk.server(OK[:-1], size) == [ToClient(OK[:-1])]
        assert talk.server(OK[-1:]) == [ToClient(OK[-1:]), ToServer(requests[number])]
    assert talk.server(OK) == [ToClient(OK)]
    assert talk.rest == []


@SIZES
def test_the_body_of_a_refused_request_behind_another_is_no_request(talk: Any, size: int) -> None:
    talk.sends(GET + REFUSED + NEXT, size)
    assert talk.server(OK) == [ToClient(OK + text_of(1)), ToServer(NEXT)]


def test_no_byte_goes_unread_while_a_request_waits(talk: Any) -> None:
    talk.client(GET + POST[:-5])
    assert talk.conversation.client_unread == 0
    assert talk.server(OK) == [ToClient(OK), ToServer(POST[:-5])]
    assert talk.conversation.client_unread == 4


def test_half_a_request_waits_as_well_and_gets_its_time_when_it_is_taken_up(talk: Any) -> None:
    talk.client(GET + DENIED[:20])
    assert talk.conversation.client_paused
    assert talk.later(3600.0) == []  # the server may take its time
    assert talk.server(OK) == [ToClient(OK)]
    assert talk.conversation.is_reading_head
    assert talk.conversation.deadline == talk.now + 10.0
    assert talk.client(DENIED[20:]) == [ToClient(text_of(1))]


def test_what_is_held_is_bounded_by_one_read(talk: Any) -> None:
    talk.client(GET)
    assert not talk.conversation.client_paused
    assert talk.conversation.client_bytes(NEXT * 100, talk.now) == NOTHING
    assert talk.conversation.client_paused
    assert talk.conversation.held == 100 * len(NEXT)
    for number in range(100):  # what is left stays held, and the client unread, to the last
        assert talk.server(OK) == [ToClient(OK), ToServer(NEXT)]
        assert talk.conversation.held == (99 - number) * len(NEXT)
        assert talk.conversation.client_paused is (number < 99)


def test_a_client_that_ended_its_half_behind_its_requests_gets_all_answers(talk: Any) -> None:
    talk.client(GET + DENIED + NEXT)
    talk.client_eof()
    assert talk.server(OK) == [ToClient(OK + text_of(1)), ToServer(NEXT), EndServer()]
    assert talk.server(OK) == [ToClient(OK), Close()]
    assert talk.reasons == [Reason.NONE, Reason.HTTP_NO_RULE, Reason.NONE]


@SIZES
@pytest.mark.parametrize("behind", [GET, DENIED, b"G", b"\x16\x03", b"\r\n"])
def test_what_waits_is_dropped_and_logged_when_the_connection_closes_behind_the_answer(
    start: Callable[..., Any], behind: bytes, size: int
) -> None:
    talks = [
        start().sends(LAST + behind).answers(OK, size),
        start().sends(GET + behind).answers(OK[:17] + b"Connection: close\r\n" + OK[17:], size),
        start().sends(GET + behind).answers(STREAM, size),
    ]
    talks[2].server_eof()
    for talk in talks:
        assert talk.to_server in (LAST, GET)
        assert talk.statuses == [200]
        assert talk.rest == LAST_WORD
        assert talk.reasons == [Reason.NONE, Reason.HTTP_PIPELINED]
        dropped = talk.records[1]
        assert (dropped.verdict, dropped.status, dropped.request_bytes) == (Verdict.DROPPED, 0, len(behind))
        assert (dropped.method, dropped.path, dropped.response_bytes, dropped.event) == (b"", b"", 0, "")
        assert talk.client(NEXT) == []
        assert talk.conversation.held == 0


@pytest.mark.parametrize("surplus", [b"H", OK, b"\r\n"])
def test_bytes_behind_an_answer_are_not_given_to_the_request_that_waits(talk: Any, surplus: bytes) -> None:
    talk.client(GET + NEXT)
    assert talk.server(OK + surplus) == [ToClient(OK), ResetServer(), EndClient()]
    assert talk.to_server == GET
    assert talk.reasons == [Reason.NONE, Reason.HTTP_PIPELINED]


@pytest.mark.parametrize("answer", [b"", OK[:20], b"x", b"HTTP/1.1 103 Hints\r\n\r\n"])
def test_what_waits_behind_a_request_that_fails_is_not_sent(talk: Any, answer: bytes) -> None:
    talk.sends(GET + NEXT).answers(answer)
    talk.server_eof()
    assert talk.to_server == GET
    assert talk.statuses[-1] == 502
    assert talk.rest == [ResetServer(), EndClient()]
    assert talk.reasons[1:] == [Reason.HTTP_PIPELINED]


def test_both_are_logged_when_the_edge_gives_up(talk: Any) -> None:
    talk.client(GET + NEXT)
    talk.conversation.lost(Reason.DOWNSTREAM_RESET, talk.now)
    assert talk.reasons == [Reason.DOWNSTREAM_RESET, Reason.HTTP_PIPELINED]
    assert talk.conversation.held == 0


def test_a_drain_takes_up_nothing_more(talk: Any) -> None:
    talk.client(GET + NEXT)
    assert talk.conversation.drain() == NOTHING
    assert talk.server(OK) == [ToClient(OK), *LAST_WORD]
    assert talk.reasons == [Reason.NONE, Reason.HTTP_PIPELINED]


def test_a_known_head_in_the_queue_is_not_taken_for_the_whole_queue(talk: Any) -> None:
    talk.sends(GET).answers(OK).sends(GET).answers(OK)
    talk.client(GET + GET + DENIED + GET)
    assert talk.server(OK) == [ToClient(OK), ToServer(GET)]
    assert talk.server(OK) == [ToClient(OK + text_of(1)), ToServer(GET)]


def test_a_great_many_denials_in_one_read_are_all_answered(talk: Any) -> None:
    commands = talk.client(DENIED * 400 + GET)
    assert commands[1:] == [ToServer(GET)]
    assert talk.statuses == [403] * 400
