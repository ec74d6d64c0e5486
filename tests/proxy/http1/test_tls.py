"""TLS on a connection that is read as HTTP: passed through where a rule grants that, else refused in its own words."""

import sys
from collections.abc import Callable
from typing import Any

import pytest

from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import (
    FORWARD,
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
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BODY = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00" + b"\x00\x04\x00\x2b\x00\x00"
HELLO = b"\x16\x03\x01" + (len(BODY) + 4).to_bytes(2, "big") + b"\x01" + len(BODY).to_bytes(3, "big") + BODY
SERVER_HELLO = b"\x16\x03\x03\x00\x2c\x02\x00\x00\x28\x03\x03" + bytes(38)
SERVER_ALERT = b"\x15\x03\x03\x00\x02\x02\x28"
REFUSAL = b"\x15\x03\x01\x00\x02\x02\x31"  # access_denied
EARLY = b"\x14\x03\x03\x00\x01\x01\x17\x03\x03\x00\x05early" + GET
LAST_WORD: list[Command] = [CloseServer(), EndClient()]
SIZES = pytest.mark.parametrize("size", [1, 7, 100000])


@pytest.fixture
def talk(start: Callable[..., Any]) -> Any:
    return start(tls_rule=5)


@SIZES
def test_a_hello_is_forwarded_alone_and_all_that_follows_when_the_server_took_it(talk: Any, size: int) -> None:
    assert talk.client(HELLO + EARLY, size) == [ToServer(HELLO)]
    assert talk.conversation.client_paused
    assert talk.conversation.client_unread == 0
    assert talk.later(3600.0) == []
    assert ToServer(EARLY) in talk.server(SERVER_HELLO[:6] + b"rest", size)
    assert talk.to_server == HELLO + EARLY
    assert talk.to_client == SERVER_HELLO[:6] + b"rest"
    assert talk.conversation.client_unread == talk.conversation.server_unread == sys.maxsize
    assert talk.conversation.client_bytes(GET, talk.now) is FORWARD
    assert talk.conversation.server_bytes(OK, talk.now) is FORWARD
    assert talk.judge.asked == []
    assert talk.client_eof() == [EndServer()]
    assert talk.server_eof() == [Close()]
    (record,) = talk.records
    assert (record.verdict, record.reason, record.rule, record.opaque) == (Verdict.FORWARDED, Reason.NONE, 5, "tls")
    assert (record.method, record.path, record.host, record.status) == (b"", b"", b"", 0)
    assert record.request_bytes == len(HELLO + EARLY + GET)
    assert record.response_bytes == 10 + len(OK)
    assert (record.started, record.answered) == (100.0, talk.now)


def test_no_byte_of_a_hello_is_forwarded_before_its_last(talk: Any) -> None:
    for position in range(len(HELLO) - 1):
        assert talk.client(HELLO[position : position + 1]) == []
        assert talk.conversation.held == position + 1
    assert talk.client(HELLO[-1:]) == [ToServer(HELLO)]
    assert talk.conversation.held == 0
    assert not talk.conversation.client_paused


def test_a_server_is_not_believed_before_its_first_six_bytes(talk: Any) -> None:
    talk.client(HELLO + EARLY)
    assert talk.server(SERVER_HELLO[:5], 1) == []
    assert talk.to_server == HELLO
    assert talk.server(SERVER_HELLO[5:]) == [ToClient(SERVER_HELLO), ToServer(EARLY)]


@SIZES
@pytest.mark.parametrize(
    "answer", [OK, b"\x16\x03\x03\x00\x2c\x01", b"\x17\x03\x03\x00\x05x", b"\x16\x02\x00\x00\x02\x02", b"220 mail\r\n"]
)
def test_a_server_that_answers_otherwise_cuts_both(talk: Any, answer: bytes, size: int) -> None:
    talk.sends(HELLO + EARLY).answers(answer, size)
    assert (talk.to_server, talk.to_client, talk.rest) == (HELLO, b"", [Abort(Reason.HTTP_TLS)])
    assert talk.reasons == [Reason.HTTP_TLS, Reason.HTTP_PIPELINED]
    assert talk.records[0].opaque == "tls"


@SIZES
def test_an_alert_of_the_server_is_passed_on_and_nothing_of_the_client_behind_its_hello(talk: Any, size: int) -> None:
    talk.sends(HELLO + EARLY).answers(SERVER_ALERT, size)
    assert (talk.to_server, talk.to_client, talk.rest) == (HELLO, SERVER_ALERT, [])
    assert talk.server_eof() == LAST_WORD
    assert talk.to_server == HELLO
    assert (talk.records[0].reason, talk.records[0].opaque) == (Reason.NONE, "tls")
    assert talk.records[0].response_bytes == len(SERVER_ALERT)


@SIZES
def test_a_warning_of_the_server_does_not_end_a_handshake(talk: Any, size: int) -> None:
    """RFC 6066 3: unrecognized_name, before the ServerHello."""
    warning = b"\x15\x03\x01\x00\x02\x01\x70"
    talk.sends(HELLO).answers(warning + SERVER_HELLO, size)
    assert talk.to_client == warning + SERVER_HELLO
    assert talk.client(EARLY) == [ToServer(EARLY)]


@SIZES
@pytest.mark.parametrize(
    "hello",
    [
        b"\x16\x02" + HELLO[2:],
        b"\x16\x03\x05" + HELLO[3:],
        HELLO[:3] + b"\x00\x04" + HELLO[5:],
        HELLO[:3] + b"\x40\x01" + HELLO[5:],
        HELLO[:5] + b"\x02" + HELLO[6:],
        HELLO[:8] + b"\x01" + HELLO[9:],
        HELLO[:43] + b"\x21" + HELLO[44:],
        HELLO[:-1] + b"\x01",
        b"\x16\x03\x01" + GET,
    ],
)
def test_what_only_begins_like_a_hello_is_refused(talk: Any, hello: bytes, size: int) -> None:
    talk.client(hello + GET, size)
    assert (talk.to_server, talk.to_client, talk.rest) == (b"", REFUSAL, LAST_WORD)
    (record,) = talk.records
    assert (record.verdict, record.reason, record.opaque) == (Verdict.DROPPED, Reason.HTTP_TLS, "")
    assert talk.sends(HELLO).to_server == b""


@SIZES
def test_without_a_rule_it_is_refused_at_its_first_byte(start: Callable[..., Any], size: int) -> None:
    for audit in (False, True):
        talk = start(audit=audit).sends(HELLO, size)
        assert (talk.to_server, talk.to_client, talk.rest) == (b"", REFUSAL, LAST_WORD)
        assert talk.reasons == [Reason.HTTP_TLS]


@pytest.mark.parametrize("before", [GET, GET.replace(b"jobs", b"x")])
def test_it_must_be_the_first_that_is_said(talk: Any, before: bytes) -> None:
    talk.sends(before).answers(OK if talk.to_server else b"").sends(HELLO)
    assert talk.to_server in (GET, b"")
    assert (talk.to_client.endswith(REFUSAL), talk.rest) == (True, LAST_WORD)


def test_http_is_judged_as_ever_where_tls_may_pass(talk: Any) -> None:
    assert talk.client(GET) == [ToServer(GET)]
    assert talk.server(OK) == [ToClient(OK)]


def test_a_hello_must_come_in_time(talk: Any) -> None:
    talk.client(HELLO[:-1])
    assert talk.later(9.0) == []
    assert talk.later(1.0) == [Close(Reason.HEAD_TIMEOUT)]
    assert (talk.reasons, talk.records[0].request_bytes) == ([Reason.HEAD_TIMEOUT], len(HELLO) - 1)
    assert talk.to_server == b""


def test_clients_and_servers_may_leave_before_the_other_hello(start: Callable[..., Any]) -> None:
    assert start(tls_rule=5).sends(HELLO[:-1]).client_eof() == [Close(Reason.DOWNSTREAM_CLOSED)]
    assert start(tls_rule=5).sends(HELLO[:-1]).server_eof() == LAST_WORD
    assert start(tls_rule=5).sends(HELLO).client_eof() == [EndServer()]
    talk = start(tls_rule=5).sends(HELLO)
    assert talk.server_eof() == [Abort(Reason.UPSTREAM_CLOSED)]
    assert talk.reasons == [Reason.UPSTREAM_CLOSED]
    assert start(tls_rule=5).sends(HELLO).dial_fails(Reason.DIAL_FAILED) == [Abort(Reason.DIAL_FAILED)]
    assert start(tls_rule=5).sends(HELLO).server_resets() == [Abort(Reason.UPSTREAM_RESET)]


@SIZES
@pytest.mark.parametrize("early", [b"", EARLY])
def test_a_server_that_takes_no_more_may_alert_but_not_go_on(talk: Any, start: Any, early: bytes, size: int) -> None:
    other = start(tls_rule=5)
    for one in (talk, other):
        one.client(HELLO + early)
        assert one.conversation.server_deaf(Reason.UPSTREAM_RESET, one.now) == NOTHING
    talk.server(SERVER_HELLO, size)
    assert (talk.to_server, talk.to_client, talk.rest) == (HELLO, b"", [Abort(Reason.UPSTREAM_RESET)])
    assert talk.reasons[0] is Reason.UPSTREAM_RESET
    assert other.answers(SERVER_ALERT, size).to_client == SERVER_ALERT


def test_a_drain_does_not_tear_a_handshake(talk: Any) -> None:
    talk.client(HELLO[:9])
    assert talk.conversation.drain() == NOTHING
    assert talk.client(HELLO[9:]) == [ToServer(HELLO)]
    assert talk.server(SERVER_HELLO) == [ToClient(SERVER_HELLO)]


def test_a_server_that_speaks_first_is_reset(talk: Any) -> None:
    talk.client(HELLO[:9])
    assert talk.server(SERVER_HELLO) == [Abort(Reason.UNEXPECTED_UPSTREAM_BYTES)]


def test_a_client_that_got_its_refusal_is_heard_to_its_end(start: Callable[..., Any]) -> None:
    talk = start().sends(HELLO)
    assert talk.client(HELLO * 3) == []
    assert talk.client_eof() == [Close()]
    assert ResetServer() not in talk.rest
