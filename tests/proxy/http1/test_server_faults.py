"""Servers that fail or do what they must not: 502 and 504 where nothing of an answer was passed on, else a cut."""

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
    EndServer,
    ResetServer,
    ToClient,
    ToServer,
    Verdict,
)

GET = b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n"
HEAD = b"HEAD /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n"
POST = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 9\r\n\r\nabc"  # six bytes of its body are to come
CHUNKED = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nTransfer-Encoding: chunked\r\n\r\n"
DENIED = b"GET /applicants HTTP/1.1\r\nHost: jobs\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
LAST_WORD: list[Command] = [CloseServer(), EndClient()]
CUT_OFF: list[Command] = [ResetServer(), EndClient()]
SIZES = pytest.mark.parametrize("size", [1, 7, 100000])


def assert_failed(talk: Any, commands: list[Command], status: int, reason: Reason) -> None:
    """The client was told `status` and nothing else, the server's leg is reset, and all that is on record."""
    answer, *rest = commands
    assert isinstance(answer, ToClient)
    assert answer.data.startswith(b"HTTP/1.1 %d " % status)
    assert b"\r\nConnection: close\r\n" in answer.data
    assert rest == CUT_OFF
    record = talk.records[-1]
    assert (record.verdict, record.reason, record.status) == (Verdict.FORWARDED, reason, status)
    assert record.event.encode() + b"\n" in answer.data
    assert record.response_bytes >= len(answer.data)
    assert (record.answered, record.finished) == (talk.now, talk.now)
    assert talk.client(GET) == talk.server(OK) == talk.server_eof() == []
    assert talk.client_eof() == [Close(reason)]


# --- the dial


@pytest.mark.parametrize("reason", [Reason.DIAL_FAILED, Reason.DIAL_TIMEOUT])
@pytest.mark.parametrize("before", [b"", GET[:20]])
def test_a_dial_that_fails_before_a_request_is_a_reset(talk: Any, reason: Reason, before: bytes) -> None:
    talk.client(before)
    assert talk.dial_fails(reason) == [Abort(reason)]
    assert talk.records == []


@pytest.mark.parametrize(("reason", "status"), [(Reason.DIAL_FAILED, 502), (Reason.DIAL_TIMEOUT, 504)])
@pytest.mark.parametrize("before", [b"", GET[:20]])
@pytest.mark.parametrize("request_", [GET, POST, DENIED + GET, CHUNKED + b"x", CHUNKED + b"0\r\n\r\n", GET + b"\0"])
@SIZES
def test_where_failed_dials_are_answered_the_first_request_that_is_allowed_is(
    start: Callable[..., Any], reason: Reason, status: int, before: bytes, request_: bytes, size: int
) -> None:
    talk = start(answers_dial_failures=True)
    start(talk.context).sends(GET)  # the head is known
    talk.client(before)
    assert talk.dial_fails(reason) == [ResetServer()]
    talk.client(GET[20:] + request_ if before else request_, size)
    assert talk.to_server == b""
    assert talk.statuses == ([status] if before or DENIED not in request_ else [403, status])
    assert talk.rest == [ResetServer(), EndClient()]
    assert talk.client(GET) == []
    assert talk.client_eof() == [Close(reason)]
    assert [record.reason for record in talk.records if record.status == status] == [reason]


def test_there_a_denied_request_is_answered_as_ever(start: Callable[..., Any]) -> None:
    talk = start(answers_dial_failures=True)
    assert talk.dial_fails(Reason.DIAL_FAILED) == [ResetServer()]
    talk.client(DENIED + DENIED)
    assert (talk.statuses, talk.rest) == ([403, 403], [ResetServer()])
    assert talk.client(b"\0")[1:] == [EndClient()]
    assert talk.client_eof() == [Close(Reason.DIAL_FAILED)]


def test_there_a_tls_client_is_reset(start: Callable[..., Any]) -> None:
    body = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
    hello = b"\x01" + len(body).to_bytes(3, "big") + body
    talk = start(answers_dial_failures=True, tls_rule=5)
    assert talk.dial_fails(Reason.DIAL_FAILED) == [ResetServer()]
    assert talk.client(b"\x16\x03\x01" + len(hello).to_bytes(2, "big") + hello) == [Abort(Reason.DIAL_FAILED)]
    assert talk.reasons == [Reason.DIAL_FAILED]


@pytest.mark.parametrize(
    ("reason", "status"), [(Reason.DIAL_FAILED, 502), (Reason.DIAL_TIMEOUT, 504), (Reason.UPSTREAM_RESET, 502)]
)
@pytest.mark.parametrize("request_", [GET, POST])
def test_a_dial_that_fails_behind_a_request_answers_it(talk: Any, reason: Reason, status: int, request_: bytes) -> None:
    assert talk.client(request_) == [ToServer(request_)]
    assert_failed(talk, talk.dial_fails(reason), status, reason)
    assert len(talk.records) == 1


def test_a_dial_that_fails_does_not_eat_a_denial(talk: Any) -> None:
    talk.client(DENIED)
    assert talk.dial_fails(Reason.DIAL_FAILED) == CUT_OFF
    assert talk.client(GET) == []
    assert talk.client_eof() == [Close(Reason.DIAL_FAILED)]


def test_a_failure_is_told_to_a_head_request_without_a_body(talk: Any) -> None:
    (answer, *_) = talk.sends(HEAD).dial_fails(Reason.DIAL_FAILED)
    assert answer.data.startswith(b"HTTP/1.1 502 ")
    assert answer.data.endswith(b"\r\n\r\n")


def test_a_client_that_ended_its_half_is_told_and_closed(talk: Any) -> None:
    talk.client(GET)
    assert talk.client_eof() == [EndServer()]
    (answer, *rest) = talk.dial_fails(Reason.DIAL_FAILED)
    assert answer.data.startswith(b"HTTP/1.1 502 ")
    assert rest == [ResetServer(), Close(Reason.DIAL_FAILED)]


# --- malformed answers

BAD_ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 65536 + b"\r\n\r\n",
    b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"SSH-2.0-x\r\n",
    b"\r\n" + OK,
]


@SIZES
@pytest.mark.parametrize("before", [b"", HINTS])
@pytest.mark.parametrize("request_", [GET, POST])
@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_nothing_of_a_malformed_answer_reaches_the_client(
    talk: Any, answer: bytes, request_: bytes, before: bytes, size: int
) -> None:
    talk.client(request_)
    talk.server(before)
    commands = talk.server(answer, max(size, len(answer) // 2000))
    assert talk.to_client.startswith(before + b"HTTP/1.1 502 ")
    assert_failed(talk, commands, 502, Reason.HTTP_RESPONSE_MALFORMED)


@SIZES
@pytest.mark.parametrize("bad", [b"-1\r\n", b"2\r\nokk", b"0\r\nHost: x\r\n\r\n", b"1;\r\nx\r\n"])
def test_an_answer_that_turns_malformed_is_cut(talk: Any, bad: bytes, size: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    talk.sends(GET).answers(head + b"2\r\nok\r\n" + bad, size)
    assert talk.rest == [Abort(Reason.HTTP_RESPONSE_MALFORMED)]
    assert talk.to_client.startswith(head)
    assert (head + b"2\r\nok\r\n" + bad[:-1]).startswith(talk.to_client)
    assert talk.statuses == [200]
    assert talk.reasons == [Reason.HTTP_RESPONSE_MALFORMED]


@SIZES
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"]
)
def test_an_answer_that_http_1_0_cannot_read_is_malformed(talk: Any, answer: bytes, size: int) -> None:
    talk.client(b"GET /jobs HTTP/1.0\r\n\r\n")
    assert_failed(talk, talk.server(answer, size), 502, Reason.HTTP_RESPONSE_MALFORMED)


# --- too slow


@pytest.mark.parametrize("before", [b"", HINTS])
def test_an_answers_head_must_come_in_time_whatever_trickles(talk: Any, before: bytes) -> None:
    talk.client(GET)
    assert talk.later(3600.0) == []  # the answer may take its time
    if before:
        talk.server(before)
        assert talk.later(3600.0) == []
    talk.server(OK[:5])
    assert talk.later(9.0) == []
    talk.server(OK[5:10])
    assert_failed(talk, talk.later(1.0), 504, Reason.HTTP_RESPONSE_TIMEOUT)
    assert talk.to_client.startswith(before + b"HTTP/1.1 504 ")


def test_an_answers_head_must_come_in_time_though_the_body_goes_on(talk: Any) -> None:
    talk.client(b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 9000\r\n\r\n")
    talk.server(OK[:5])
    for _ in range(9):
        assert talk.later(1.0) == []
        talk.client(b"a" * 10)
        talk.conversation.client_moved(10, talk.now)
    assert_failed(talk, talk.later(1.0), 504, Reason.HTTP_RESPONSE_TIMEOUT)


# --- servers that leave


@pytest.mark.parametrize("leave", ["server_eof", "server_resets"])
@pytest.mark.parametrize("before", [b"", DENIED])
@pytest.mark.parametrize("answer", [b"", HINTS, b"HTTP/1.1 200 ", HINTS + b"H"])
def test_a_server_that_leaves_its_first_request_without_an_answer_is_a_502(
    talk: Any, leave: str, before: bytes, answer: bytes
) -> None:
    talk.sends(before).sends(GET).answers(answer)
    reason = Reason.UPSTREAM_CLOSED if leave == "server_eof" else Reason.UPSTREAM_RESET
    commands = getattr(talk, leave)()
    assert talk.statuses == [403] * bool(before) + [103] * (HINTS in answer) + [502]
    assert_failed(talk, commands, 502, reason)
    half = answer[-1:] in (b"H", b" ")
    assert talk.records[-1].detail == f"the server ended {'inside' if half else 'without'} an answer"


@pytest.mark.parametrize(
    ("leave", "expected", "reason"),
    [
        ("server_eof", LAST_WORD, Reason.UPSTREAM_CLOSED),
        ("server_resets", [Abort(Reason.UPSTREAM_RESET)], Reason.UPSTREAM_RESET),
    ],
)
@pytest.mark.parametrize("request_", [GET, POST])
def test_one_that_leaves_a_later_request_is_followed_so_that_the_client_may_repeat_it(
    talk: Any, leave: str, expected: list[Command], reason: Reason, request_: bytes
) -> None:
    talk.sends(GET).answers(OK).sends(request_)
    assert getattr(talk, leave)() == expected
    assert talk.to_client == OK
    record = talk.records[1]
    assert (record.verdict, record.reason, record.status, record.event) == (Verdict.FORWARDED, reason, 0, "")
    assert talk.client(GET) == []


@pytest.mark.parametrize("answer", [HINTS, b"H", OK[:-3]])
def test_a_later_answer_that_has_begun_is_a_502_all_the_same(talk: Any, answer: bytes) -> None:
    talk.sends(GET).answers(OK).sends(GET).answers(answer)
    assert_failed(talk, talk.server_eof(), 502, Reason.UPSTREAM_CLOSED)


@pytest.mark.parametrize("leave", ["server_eof", "server_resets"])
@pytest.mark.parametrize(
    "answer", [OK[:-1], OK[:-2], b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"]
)
def test_a_server_that_leaves_inside_an_answer_cuts_it(talk: Any, leave: str, answer: bytes) -> None:
    talk.sends(GET).answers(answer)
    reason = Reason.UPSTREAM_CLOSED if leave == "server_eof" else Reason.UPSTREAM_RESET
    assert getattr(talk, leave)() == [Abort(reason)]
    assert answer.startswith(talk.to_client)
    assert (talk.records[0].reason, talk.records[0].status) == (reason, 200)


def test_a_stream_that_may_have_been_cut_is_not_ended_in_order(talk: Any) -> None:
    talk.sends(GET).answers(b"HTTP/1.1 200 OK\r\n\r\nstream")
    assert talk.server_resets() == [Abort(Reason.UPSTREAM_RESET)]


def test_a_server_that_leaves_does_not_eat_a_refusal(start: Callable[..., Any]) -> None:
    talk = start().sends(b"POST /applicants HTTP/1.1\r\nHost: jobs\r\nContent-Length: 6\r\n\r\nabc")
    assert talk.server_eof() == LAST_WORD
    assert start().sends(GET[:-1]).server_eof() == LAST_WORD
    talk = start().sends(DENIED)
    assert talk.server_resets() == CUT_OFF


# --- bytes that nobody asked for


@pytest.mark.parametrize("before", [b"", GET[:20]])
def test_a_server_that_speaks_before_anything_was_said_is_a_reset(talk: Any, before: bytes) -> None:
    talk.client(before)
    assert talk.server(b"H") == [Abort(Reason.UNEXPECTED_UPSTREAM_BYTES)]
    assert talk.sends(GET).answers(OK).to_client == b""
    assert talk.to_server == b""


@pytest.mark.parametrize("before", [DENIED, DENIED + GET[:20], DENIED.replace(b"\r\n\r\n", b"\r\nX: y\r\n\r\n")])
def test_one_that_speaks_behind_a_denial_does_not_eat_it(talk: Any, before: bytes) -> None:
    talk.client(before)
    assert talk.server(b"H") == CUT_OFF
    assert talk.sends(GET).answers(OK).statuses == [403]
    assert talk.to_server == b""
    assert talk.client_eof() == [Close(Reason.UNEXPECTED_UPSTREAM_BYTES)]


@SIZES
@pytest.mark.parametrize("surplus", [b"H", OK, b"\r\n"])
def test_bytes_behind_an_answer_become_nobodys(start: Callable[..., Any], surplus: bytes, size: int) -> None:
    for talk in (start().sends(GET).answers(OK + surplus, size), start().sends(GET).answers(OK).answers(surplus, size)):
        assert (talk.to_client, talk.rest) == (OK, CUT_OFF)
        assert talk.sends(GET).answers(OK).to_client == OK
        assert talk.to_server == GET
        assert talk.reasons == [Reason.NONE]
        assert talk.client_eof() == [Close(Reason.UNEXPECTED_UPSTREAM_BYTES)]


def test_bytes_behind_the_last_answer_are_dropped(talk: Any) -> None:
    talk.sends(GET[:-2] + b"Connection: close\r\n\r\n").answers(OK + OK)
    assert (talk.to_client, talk.rest) == (OK, [Close()])
    assert talk.answers(OK).to_client == OK


def test_nothing_is_heard_when_it_is_over(talk: Any) -> None:
    assert talk.server(b"H") == [Abort(Reason.UNEXPECTED_UPSTREAM_BYTES)]
    assert talk.conversation.is_over
    assert talk.conversation.held == 0
    assert talk.conversation.client_bytes(GET, 5.0) == talk.conversation.server_bytes(OK, 5.0) == NOTHING
    assert talk.conversation.client_eof(5.0) == talk.conversation.server_eof(5.0) == NOTHING
