"""WebSocket, CONNECT and other upgrades: what is held until the answer, and when bytes pass unread."""

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
DENIED = b"GET /applicants HTTP/1.1\r\nHost: jobs\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CONNECT = b"CONNECT open:443 HTTP/1.1\r\nHost: open:443\r\n\r\n"
ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
LAST_WORD: list[Command] = [CloseServer(), EndClient()]
CUT_OFF: list[Command] = [ResetServer(), EndClient()]
SIZES = pytest.mark.parametrize("size", [1, 7, 100000])


def upgrade(protocol: bytes, *lines: bytes, path: bytes = b"/free", connection: bytes = b"Upgrade") -> bytes:
    fields = (b"GET " + path + b" HTTP/1.1", b"Host: jobs", b"Upgrade: " + protocol, b"Connection: " + connection)
    return b"\r\n".join((*fields, *lines)) + b"\r\n\r\n"


def switching(*lines: bytes) -> bytes:
    return b"\r\n".join((b"HTTP/1.1 101 Switching Protocols", *lines)) + b"\r\n\r\n"


WEBSOCKET = upgrade(b"websocket", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", b"Sec-WebSocket-Version: 13")
SWITCHED = switching(b"Upgrade: websocket", b"Connection: Upgrade", b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK=")
GRANTED = pytest.mark.parametrize(
    ("request_", "answer", "opaque"), [(WEBSOCKET, SWITCHED, "websocket"), (CONNECT, ESTABLISHED, "connect")]
)


# --- granted


@SIZES
@GRANTED
def test_what_is_granted_and_accepted_passes_both_ways_unread(
    talk: Any, request_: bytes, answer: bytes, opaque: str, size: int
) -> None:
    assert talk.client(request_, size) == [ToServer(request_)]
    assert talk.server(answer, size) == [ToClient(answer)]
    assert talk.records == []
    for data in (b"\x81\x00", GET, OK, b"\x16\x03\x01", DENIED):
        assert talk.conversation.client_bytes(data, talk.now) is FORWARD
        assert talk.conversation.server_bytes(data, talk.now) is FORWARD
    assert talk.conversation.client_unread == talk.conversation.server_unread == sys.maxsize
    talk.conversation.client_moved(1 << 33, talk.now)
    talk.conversation.server_moved(1 << 34, talk.now)
    assert talk.later(1e6) == []  # as long as it takes
    assert talk.client_eof() == [EndServer()]
    assert talk.conversation.server_bytes(b"bye", talk.now) is FORWARD
    assert talk.server_eof() == [Close()]
    (record,) = talk.records
    assert (record.verdict, record.reason, record.rule, record.opaque) == (Verdict.FORWARDED, Reason.NONE, 8, opaque)
    assert record.status == int(answer[9:12])
    passed = len(b"\x81\x00" + GET + OK + b"\x16\x03\x01" + DENIED)
    assert record.request_bytes == len(request_) + passed + (1 << 33)
    assert record.response_bytes == len(answer) + passed + (1 << 34) + 3
    assert (record.answered, record.finished) == (100.0, talk.now)


@SIZES
@GRANTED
def test_what_comes_before_the_answer_is_held_until_it_is_accepted(
    talk: Any, request_: bytes, answer: bytes, opaque: str, size: int
) -> None:
    early = b"\x81\x85early" + GET
    assert talk.client(request_ + early, size) == [ToServer(request_)]
    assert talk.conversation.client_paused
    assert talk.conversation.client_unread == 0
    talk.server(answer[:-1], size)
    assert talk.to_server == request_
    commands = talk.server(answer[-1:] + b"first")
    assert commands[0] in (ToClient(answer + b"first"), ToClient(answer[-1:] + b"first"))
    assert commands[1:] == [ToServer(early)]
    assert not talk.conversation.client_paused
    assert talk.conversation.held == 0
    talk.conversation.lost(Reason.DOWNSTREAM_RESET, talk.now)
    (record,) = talk.records
    assert (record.request_bytes, record.response_bytes) == (len(request_ + early), len(answer) + 5)
    assert (record.reason, record.opaque) == (Reason.DOWNSTREAM_RESET, opaque)


@GRANTED
def test_a_half_close_is_passed_on_from_either_side(
    start: Callable[..., Any], request_: bytes, answer: bytes, opaque: str
) -> None:
    talk = start().sends(request_).answers(answer)
    assert talk.server_eof() == [EndClient()]
    assert talk.client(b"more") == [ToServer(b"more")]
    assert talk.client_eof() == [Close()]
    talk = start().sends(request_)
    assert talk.client_eof() == [EndServer()]  # before the answer
    assert talk.server(answer + b"x") == [ToClient(answer + b"x")]
    assert talk.server_eof() == [Close()]
    assert talk.records[0].opaque == opaque


@SIZES
@GRANTED
@pytest.mark.parametrize("early", [b"", b"early"])
def test_a_server_that_takes_no_more_cannot_switch(
    talk: Any, request_: bytes, answer: bytes, opaque: str, early: bytes, size: int
) -> None:
    talk.client(request_ + early)
    assert talk.conversation.server_deaf(Reason.UPSTREAM_RESET, talk.now) == NOTHING
    talk.server(answer, size)
    assert (talk.to_server, talk.to_client, talk.rest) == (request_, b"", [Abort(Reason.UPSTREAM_RESET)])
    record = talk.records[0]
    assert (record.reason, record.status, record.opaque) == (Reason.UPSTREAM_RESET, 0, "")


@GRANTED
def test_a_server_that_fails_inside_cuts_both(talk: Any, request_: bytes, answer: bytes, opaque: str) -> None:
    talk.sends(request_).answers(answer)
    assert talk.conversation.server_deaf(Reason.UPSTREAM_RESET, talk.now) == (Abort(Reason.UPSTREAM_RESET),)
    assert (talk.reasons, talk.records[0].opaque) == ([Reason.UPSTREAM_RESET], opaque)


@GRANTED
def test_a_drain_leaves_what_is_opaque_to_its_limit(talk: Any, request_: bytes, answer: bytes, opaque: str) -> None:
    talk.sends(request_).answers(answer)
    assert talk.conversation.drain() == NOTHING
    assert talk.client(b"more") == [ToServer(b"more")]
    talk.conversation.lost(Reason.DRAINED, talk.now)
    assert (talk.reasons, talk.records[0].opaque) == ([Reason.DRAINED], opaque)


def test_interim_answers_may_come_before_the_switch(talk: Any) -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    assert talk.sends(WEBSOCKET).server(hints + SWITCHED + b"\x81") == [ToClient(hints + SWITCHED + b"\x81")]
    assert talk.client(b"\x81") == [ToServer(b"\x81")]


@pytest.mark.parametrize("name", [b"WebSocket", b"WEBSOCKET", b"websocket"])
def test_the_name_of_the_protocol_is_matched_without_regard_to_case(talk: Any, name: bytes) -> None:
    talk.sends(upgrade(name, connection=b"keep-alive, Upgrade"))
    assert talk.judge.asked[0].is_websocket
    answer = switching(b"Upgrade: " + name, b"Connection: Upgrade")
    assert talk.server(answer) == [ToClient(answer)]
    assert talk.client(b"\x81") == [ToServer(b"\x81")]


# --- not granted, or not accepted


@SIZES
@pytest.mark.parametrize(
    "raw", [upgrade(b"websocket", path=b"/jobs"), CONNECT.replace(b"open", b"closed"), upgrade(b"websocket", path=b"/")]
)
def test_what_is_not_granted_is_a_403_and_the_connection_stays(talk: Any, raw: bytes, size: int) -> None:
    talk.sends(raw + GET, size)
    assert (talk.to_server, talk.statuses, talk.rest) == (GET, [403], [])
    assert talk.records[0].opaque == ""


def test_audit_lets_what_is_not_granted_become_opaque(start: Callable[..., Any]) -> None:
    talk = start(audit=True).sends(upgrade(b"websocket", path=b"/jobs")).answers(SWITCHED).sends(b"\x81")
    assert talk.to_server.endswith(b"\x81")
    talk.conversation.lost(Reason.DOWNSTREAM_RESET, talk.now)
    assert (talk.records[0].verdict, talk.records[0].opaque) == (Verdict.AUDIT, "websocket")


@SIZES
@pytest.mark.parametrize(
    "answer",
    [
        switching(),
        switching(b"Connection: Upgrade"),
        switching(b"Upgrade: websocket"),
        switching(b"Upgrade: h2c", b"Connection: Upgrade"),
        switching(b"Upgrade: websocket, h2c", b"Connection: Upgrade"),
        switching(b"Upgrade: websocket", b"Upgrade: h2c", b"Connection: Upgrade"),
        switching(b"Upgrade: websocket/13", b"Connection: Upgrade"),
    ],
)
def test_a_switch_to_another_protocol_than_the_granted_one_cuts_both(talk: Any, answer: bytes, size: int) -> None:
    talk.sends(WEBSOCKET + b"\x81").answers(answer + b"\x81", size)
    assert (talk.to_server, talk.to_client, talk.rest) == (WEBSOCKET, b"", [Abort(Reason.HTTP_UPGRADE)])
    assert talk.reasons == [Reason.HTTP_UPGRADE, Reason.HTTP_PIPELINED]


@SIZES
@pytest.mark.parametrize("status", [b"200 OK", b"403 Forbidden", b"426 Upgrade Required"])
def test_a_server_that_does_not_switch_goes_on_in_http(talk: Any, status: bytes, size: int) -> None:
    answer = OK.replace(b"200 OK", status)
    talk.sends(WEBSOCKET + DENIED + GET, size).answers(answer, size)
    assert talk.to_server == WEBSOCKET + GET
    assert talk.statuses == [int(status[:3]), 403]
    assert talk.server(OK) == [ToClient(OK)]
    assert talk.reasons == [Reason.NONE, Reason.HTTP_NO_RULE, Reason.NONE]
    assert [record.opaque for record in talk.records] == [""] * 3


def test_frames_behind_a_switch_that_was_refused_are_not_forwarded(talk: Any) -> None:
    talk.sends(WEBSOCKET + b"\x81\x85frame").answers(OK)
    assert (talk.to_server, talk.statuses, talk.rest) == (WEBSOCKET, [200, 400], LAST_WORD)
    assert talk.reasons == [Reason.NONE, Reason.HTTP_NOT_HTTP]


# --- upgrades that are no WebSocket


@SIZES
@pytest.mark.parametrize(
    "raw",
    [
        upgrade(b"h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__", path=b"/jobs", connection=b"Upgrade, HTTP2-Settings"),
        upgrade(b"TLS/1.3, h2c", path=b"/jobs"),
        upgrade(b"websocket, h2c", path=b"/jobs"),
        upgrade(b"websocket", path=b"/jobs", connection=b"keep-alive"),
        upgrade(b"websocket", b"Upgrade: websocket", path=b"/jobs"),
        upgrade(b"websocket", path=b"/jobs").replace(b"GET", b"POST"),
        GET[:-2] + b"Connection: Upgrade\r\n\r\n",
        upgrade(b"websocket", path=b"/jobs", connection=b"keep-alive, Upgrade").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_another_upgrade_goes_on_as_plain_http_and_a_switch_is_cut(
    start: Callable[..., Any], raw: bytes, size: int
) -> None:
    talk = start().sends(raw + DENIED, size)
    assert talk.to_server == raw
    assert talk.conversation.client_paused
    talk.answers(OK, size)
    assert talk.statuses == [200, 403]
    assert not talk.judge.asked[0].is_websocket
    talk = start().sends(raw + DENIED, size).answers(SWITCHED + b"x", size)
    assert talk.to_server == raw
    if b"HTTP/1.0" in raw:  # an interim answer, which it cannot read
        assert (talk.statuses, talk.rest) == ([502], CUT_OFF)
    else:
        assert (talk.to_client, talk.rest) == (b"", [Abort(Reason.HTTP_UPGRADE)])


@pytest.mark.parametrize("raw", [GET, GET.replace(b"GET", b"HEAD"), CONNECT])
def test_a_switch_that_nobody_asked_for_is_cut(talk: Any, raw: bytes) -> None:
    talk.sends(raw).answers(SWITCHED)
    assert (talk.to_client, talk.rest) == (b"", [Abort(Reason.HTTP_UPGRADE)])
    assert talk.records[0].opaque == ""


def test_a_websocket_with_a_body_is_none(talk: Any) -> None:
    raw = upgrade(b"websocket", b"Content-Length: 1") + b"x"
    assert talk.client(raw) == [ToServer(raw)]  # /free grants a body of GET
    assert not talk.judge.asked[0].is_websocket
    talk.server(SWITCHED)
    assert talk.rest == [Abort(Reason.HTTP_UPGRADE)]


# --- CONNECT


@pytest.mark.parametrize(
    ("target", "host"),
    [(b"open:443", b"open:443"), (b"Open:443", b"open"), (b"OPEN:443", b"OPEN:443")],
)
def test_a_tunnel_is_judged_by_its_authority_in_lower_case(talk: Any, target: bytes, host: bytes) -> None:
    raw = b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    assert talk.client(raw) == [ToServer(raw)]
    (call,) = talk.judge.asked
    assert (call.method, call.target, call.host) == (b"CONNECT", target, b"open:443")
    assert talk.conversation.client_unread == 0


def test_http_1_0_may_ask_for_a_tunnel(talk: Any) -> None:
    raw = b"CONNECT open:443 HTTP/1.0\r\n\r\n"
    assert talk.client(raw) == [ToServer(raw)]
    assert talk.server(b"HTTP/1.0 200 Connected\r\n\r\n") == [ToClient(b"HTTP/1.0 200 Connected\r\n\r\n")]
    assert talk.client(b"\x16") == [ToServer(b"\x16")]


@SIZES
def test_a_tunnel_that_the_server_refuses_goes_on_in_http(talk: Any, size: int) -> None:
    answer = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 3\r\n\r\nno\n"
    again = CONNECT[:-2] + b"Proxy-Authorization: Basic eDp5\r\n\r\n"
    assert talk.client(CONNECT + again, size) == [ToServer(CONNECT)]
    talk.server(answer, size)
    assert (talk.to_client, talk.to_server, talk.rest) == (answer, CONNECT + again, [])
    assert talk.server(ESTABLISHED) == [ToClient(ESTABLISHED)]
    assert [record.status for record in talk.records] == [407]
    assert talk.client(b"\x16") == [ToServer(b"\x16")]


@SIZES
@pytest.mark.parametrize("line", [b"Content-Length: 5", b"Transfer-Encoding: chunked"])
def test_a_tunnel_with_a_body_is_malformed(talk: Any, line: bytes, size: int) -> None:
    talk.sends(CONNECT + b"\x16").answers(b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n", size)
    assert (talk.to_server, talk.statuses, talk.rest) == (CONNECT, [502], CUT_OFF)
    assert talk.reasons == [Reason.HTTP_RESPONSE_MALFORMED, Reason.HTTP_PIPELINED]


def test_a_tunnel_may_say_that_it_has_no_body(talk: Any) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert talk.sends(CONNECT).server(answer) == [ToClient(answer)]
    assert talk.client(b"\x16") == [ToServer(b"\x16")]


@pytest.mark.parametrize(
    ("target", "lines", "reason"),
    [
        (b"open", b"Host: open", Reason.HTTP_TARGET_FORM),
        (b"open:", b"Host: open", Reason.HTTP_TARGET_FORM),
        (b":443", b"Host: open", Reason.HTTP_TARGET_FORM),
        (b"/open:443", b"Host: open", Reason.HTTP_TARGET_FORM),
        (b"http://open:443/", b"Host: open", Reason.HTTP_TARGET_FORM),
        (b"u@open:443", b"Host: open", Reason.HTTP_TARGET_FORM),
        (b"open:443/free", b"Host: open", Reason.HTTP_TARGET_FORM),
        (b"open:443", b"Host: other:443", Reason.HTTP_HOST),
        (b"open:443", b"Host: open:80", Reason.HTTP_HOST),
        (b"open:443", b"X: y", Reason.HTTP_HOST),
        (b"open:443", b"Host: open\r\nContent-Length: 2", Reason.HTTP_FRAMING),
        (b"open:443", b"Host: open\r\nTransfer-Encoding: chunked", Reason.HTTP_FRAMING),
    ],
)
def test_a_tunnel_in_another_form_is_refused(talk: Any, target: bytes, lines: bytes, reason: Reason) -> None:
    talk.client(b"CONNECT " + target + b" HTTP/1.1\r\n" + lines + b"\r\n\r\n")
    assert (talk.to_server, talk.statuses, talk.rest, talk.reasons) == (b"", [400], LAST_WORD, [reason])


def test_a_tunnel_that_cannot_be_opened_is_a_502(talk: Any) -> None:
    (answer, *rest) = talk.sends(CONNECT + b"\x16").dial_fails(Reason.DIAL_FAILED)
    assert answer.data.startswith(b"HTTP/1.1 502 ")
    assert rest == CUT_OFF
    assert talk.to_server == CONNECT
