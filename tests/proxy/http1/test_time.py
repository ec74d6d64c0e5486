"""What must come in time, what may take its time, and how long a client is read behind its last answer."""

import math
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
    HttpConfig,
    ResetServer,
    ToClient,
    ToServer,
)

GET = b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POST = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 1000\r\n\r\n"
REFUSED = b"POST /applicants HTTP/1.1\r\nHost: jobs\r\nContent-Length: 1000\r\n\r\n"
LAST_WORD: list[Command] = [CloseServer(), EndClient()]
CUT_OFF: list[Command] = [ResetServer(), EndClient()]


# --- heads


def test_a_head_must_come_in_time_whatever_trickles(talk: Any) -> None:
    assert talk.conversation.deadline == 400.0
    talk.client(b"GET /jobs")
    assert talk.later(6.0) == []
    talk.client(b" HTTP/1.1\r\n")
    assert talk.conversation.deadline == 110.0
    (refused, *rest) = talk.later(4.0)
    assert isinstance(refused, ToClient)
    assert refused.data.startswith(b"HTTP/1.1 408 ")
    assert rest == LAST_WORD
    assert (talk.reasons, talk.records[0].request_bytes) == ([Reason.HEAD_TIMEOUT], 20)
    assert talk.later(2.0) == [Close()]


def test_a_head_that_waited_for_its_own_answers_gets_its_time_again(talk: Any) -> None:
    talk.client(b"GET /jobs")
    talk.now += 10.0
    talk.conversation.extend_head(talk.now)
    assert talk.later(9.0) == []
    assert talk.client(b" HTTP/1.1\r\nHost: jobs\r\n\r\n") == [ToServer(GET)]


def test_an_answer_whose_head_came_in_pieces_may_take_its_time(talk: Any) -> None:
    talk.client(GET)
    talk.server(OK[:5])
    assert talk.conversation.deadline == 110.0
    talk.server(OK[5:-1])
    assert talk.conversation.deadline == math.inf
    assert talk.later(3600.0) == []
    talk.server(OK[-1:])
    assert talk.conversation.is_idle


def test_an_answers_head_must_come_in_time_though_the_body_is_complete(talk: Any) -> None:
    talk.sends(POST + b"a" * 999).answers(OK[:5])
    talk.now += 5.0
    assert talk.client(b"a") == [ToServer(b"a")]
    assert talk.conversation.deadline == 110.0
    assert talk.later(5.0)[0].data.startswith(b"HTTP/1.1 504 ")


def test_a_body_whose_answer_came_in_pieces_must_move(talk: Any) -> None:
    talk.sends(POST).answers(OK[:5]).answers(OK[5:-1])
    assert talk.conversation.deadline == 400.0
    talk.client(b"a" * 1000)
    assert talk.conversation.deadline == math.inf


def test_the_answer_of_a_server_that_takes_no_more_must_move(talk: Any) -> None:
    talk.client(GET)
    talk.conversation.server_deaf(Reason.UPSTREAM_RESET, talk.now)
    assert talk.conversation.deadline == 400.0
    talk.answers(OK[:5]).answers(OK[5:-1])
    assert talk.conversation.deadline == 400.0
    talk.now += 200.0
    talk.conversation.server_moved(0, talk.now)
    assert talk.conversation.deadline == 600.0
    assert talk.later(300.0) == [Abort(Reason.UPSTREAM_RESET)]


# --- idle


def test_an_idle_connection_ends_in_time(talk: Any) -> None:
    talk.now = 200.0
    talk.client(GET)
    assert talk.conversation.deadline == math.inf
    talk.server(OK)
    assert talk.later(299.0) == []
    assert talk.later(1.0) == [Close(Reason.IDLE_TIMEOUT)]
    assert talk.conversation.deadline == math.inf


@pytest.mark.parametrize("before", [b"", b"HTTP/1.1 100 Continue\r\n\r\n"])
def test_an_upload_that_stops_is_told_so(talk: Any, before: bytes) -> None:
    talk.sends(POST).answers(before)
    talk.now += 200.0
    talk.conversation.client_moved(10, talk.now)
    assert talk.later(299.0) == []
    (refused, *rest) = talk.later(1.0)
    assert refused.data.startswith(b"HTTP/1.1 408 ")
    assert rest == CUT_OFF
    assert (talk.reasons, talk.records[0].status) == ([Reason.IDLE_TIMEOUT], 408)


def test_an_upload_that_stops_inside_its_answer_is_cut(talk: Any) -> None:
    talk.sends(POST).answers(OK[:-1])
    assert talk.later(300.0) == [Abort(Reason.IDLE_TIMEOUT)]
    assert talk.to_client == OK[:-1]


def test_a_body_that_no_server_takes_is_dropped_as_long_as_it_moves(talk: Any) -> None:
    talk.client(POST.replace(b"1000", b"1000000000"))
    assert talk.conversation.server_deaf(Reason.UPSTREAM_RESET, talk.now) == NOTHING
    for _ in range(100):
        assert talk.later(299.0) == []
        assert talk.client(bytes(1 << 16)) == []
    (refused, *rest) = talk.later(300.0)
    assert refused.data.startswith(b"HTTP/1.1 502 ")
    assert rest == CUT_OFF


def test_the_body_of_a_refused_request_must_come_in_time(talk: Any) -> None:
    talk.client(REFUSED)
    assert talk.later(9.0) == []
    talk.client(b"a" * 10)
    assert talk.later(1.0) == LAST_WORD
    assert talk.client(b"a" * 990 + GET) == []
    assert talk.later(2.0) == [Close(Reason.IDLE_TIMEOUT)]


# --- behind the last word


def test_a_silent_client_is_given_the_time_to_take_its_answer(talk: Any) -> None:
    talk.sends(GET).answers(OK[:17] + b"Connection: close\r\n" + OK[17:])
    assert talk.rest == LAST_WORD
    assert talk.later(1.9) == []
    assert talk.later(0.1) == [Close()]


def test_one_that_goes_on_sending_is_read_and_dropped_for_a_longer_time(start: Callable[..., Any]) -> None:
    talk = start(linger_timeout_s=4.0, max_drain_bytes=0).sends(REFUSED)
    assert (talk.statuses, talk.rest) == ([403], LAST_WORD)
    for _ in range(19):
        assert talk.later(3.0) == []
        assert talk.client(b"a" * (1 << 20)) == []
        assert talk.conversation.held == 0
    assert talk.conversation.deadline == 160.0  # 15 times the timeout
    assert talk.later(2.9) == []
    assert talk.client(GET) == []
    assert talk.later(0.1) == [Close()]
    assert talk.to_server == b""
    assert len(talk.records) == 1


def test_one_that_falls_silent_meanwhile_is_closed(start: Callable[..., Any]) -> None:
    talk = start(linger_timeout_s=4.0).sends(b"SSH-2.0-x\r\n")
    talk.later(3.0)
    talk.client(b"more")
    assert talk.later(3.9) == []
    assert talk.later(0.1) == [Close()]


def test_why_it_ends_is_told_when_it_has_ended(talk: Any) -> None:
    talk.sends(GET).answers(OK).answers(b"H")
    assert talk.rest == CUT_OFF
    assert talk.later(2.0) == [Close(Reason.UNEXPECTED_UPSTREAM_BYTES)]


# --- configuration


@pytest.mark.parametrize(
    "fields",
    [
        {"head_timeout_s": 0.0},
        {"idle_timeout_s": -1.0},
        {"linger_timeout_s": 0.0},
        {"stall_timeout_s": 0.0},
        {"max_cached_heads": 0},
        {"max_cached_head_bytes": -1},
        {"max_drain_bytes": -1},
        {"max_head_bytes": 255},
        {"max_head_bytes": (1 << 20) + 1},
        {"max_head_bytes": 8192},  # no room for anything but the longest target
        {"max_target_bytes": 15},
        {"max_target_bytes": 65536},
        {"max_headers": 0},
        {"max_headers": 10001},
    ],
)
def test_settings_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields)).replace("max_head_bytes", "max_")):
        HttpConfig(**fields)
