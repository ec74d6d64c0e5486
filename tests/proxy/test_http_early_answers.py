"""Answers that come before the request's body is complete, from origins that read on, close or reset.

The order of what happens is set by keeping the relay from looking meanwhile.
"""

import hashlib
import socket
from collections.abc import Callable
from typing import Any

import pytest

from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import Verdict
from racecar.proxy.records import ConnectionEntry

TOO_LARGE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 413 Too Large\r\n\r\nup to the end"
# Shorter than what is worth a pipe, and longer.
LENGTHS = pytest.mark.parametrize("length", [20_000, 1_000_000], ids=["copied", "spliced"])


@pytest.fixture
def relay(start: Callable[..., Any]) -> Any:
    return start("http")


def begin(relay: Any, length: int, *fields: bytes, sent: int = 1000) -> tuple[socket.socket, socket.socket]:
    """A POST whose head the origin has read; `sent` bytes of its body are on their way."""
    client, server = relay.pair()
    lines = (b"POST /jobs HTTP/1.1", b"Host: a", b"Content-Length: %d" % length, *fields, b"", b"")
    head = b"\r\n".join(lines)
    client.sendall(head + b"a" * sent)
    got = b""
    while len(got) < len(head):
        got += server.recv(len(head) - len(got))
    assert got == head
    return client, server


def write_fails(relay: Any, client: socket.socket, server: socket.socket, answer: bytes, *, fin: bool = False) -> None:
    """The relay writes more of the body first, and finds that the origin has answered and reset before."""
    with relay.held():
        client.sendall(b"b" * 5000)
        server.sendall(answer)
        if fin:
            server.shutdown(socket.SHUT_WR)
        server.close()  # with bytes unread: a reset


@LENGTHS
def test_a_whole_answer_outlives_the_reset_behind_it(relay: Any, read_all: Any, length: int) -> None:
    client, server = begin(relay, length)
    write_fails(relay, client, server, TOO_LARGE)
    left = length - 6000
    client.sendall(b"c" * left)  # taken, and dropped
    assert read_all(client) == TOO_LARGE
    client.close()
    request, connection = relay.wait_for_entries(2)
    assert (request.http.status, request.http.reason) == (413, Reason.UPSTREAM_RESET)
    assert connection.reason is Reason.NONE


@LENGTHS
def test_a_reset_inside_an_answer_is_passed_on(relay: Any, read_all: Any, length: int) -> None:
    client, server = begin(relay, length)
    write_fails(relay, client, server, TOO_LARGE[:-1])
    with pytest.raises(ConnectionResetError):
        read_all(client)
    request, connection = relay.wait_for_entries(2)
    assert request.http.reason is connection.reason is Reason.UPSTREAM_RESET


def test_an_answer_up_to_the_end_is_whole_with_a_fin_before_the_reset(relay: Any, read_all: Any) -> None:
    client, server = begin(relay, 20_000)
    write_fails(relay, client, server, STREAM, fin=True)
    assert read_all(client) == STREAM


def test_an_answer_up_to_the_end_is_not_whole_with_a_reset_alone(relay: Any, read_all: Any) -> None:
    client, server = begin(relay, 20_000)
    write_fails(relay, client, server, STREAM)
    with pytest.raises(ConnectionResetError):
        read_all(client)


def test_a_client_that_ends_its_half_still_gets_the_answer_of_a_server_that_reset(relay: Any, read_all: Any) -> None:
    client, server = begin(relay, 6000)
    with relay.held():
        client.sendall(b"b" * 5000)
        client.shutdown(socket.SHUT_WR)
        server.sendall(TOO_LARGE)
        server.close()
    assert read_all(client) == TOO_LARGE


def test_a_request_behind_a_body_that_no_server_takes_is_dropped(relay: Any, read_all: Any) -> None:
    client, server = begin(relay, 20_000)
    write_fails(relay, client, server, TOO_LARGE)
    client.sendall(b"c" * 14_000 + b"GET /applicants HTTP/1.1\r\nHost: a\r\n\r\n")
    assert read_all(client) == TOO_LARGE
    client.close()
    entries = relay.wait_for_entries(2)
    while not isinstance(entries[-1], ConnectionEntry):  # that request is logged if one read held it and the body's end
        entries = relay.wait_for_entries(len(entries) + 1)
    assert [entry.http.verdict for entry in entries[1:-1]] in ([], [Verdict.DROPPED])


def read_exactly(sock: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = sock.recv(count - len(got))
        assert part, f"{len(got)} of {count} bytes came"
        got += part
    return got


@pytest.mark.parametrize("together", [True, False])
@LENGTHS
def test_a_body_that_was_answered_is_forwarded_to_its_end_and_then_the_next_request(
    relay: Any, length: int, together: bool
) -> None:
    get = b"GET /jobs HTTP/1.1\r\nHost: a\r\n\r\n"
    client, server = begin(relay, length)
    server.sendall(OK)
    assert read_exactly(client, len(OK)) == OK
    client.sendall(b"b" * (length - 1000) + (get if together else b""))
    assert read_exactly(server, length) == b"a" * 1000 + b"b" * (length - 1000)
    if not together:
        client.sendall(get)
    assert read_exactly(server, len(get)) == get
    server.sendall(OK)
    assert read_exactly(client, len(OK)) == OK
    client.close()
    early, next_, connection = relay.wait_for_entries(3)
    assert (early.http.status, early.http.reason) == (200, Reason.NONE)
    assert early.http.detail == "answered before the body was complete"
    assert (next_.http.status, next_.http.detail) == (200, "")
    assert connection.reason is Reason.NONE


@LENGTHS
def test_a_body_that_was_answered_by_a_server_that_closes_is_the_last(relay: Any, read_all: Any, length: int) -> None:
    client, server = begin(relay, length)
    server.sendall(TOO_LARGE)
    assert read_exactly(client, len(TOO_LARGE)) == TOO_LARGE
    client.sendall(b"b" * (length - 1000))
    assert read_all(server) == b"a" * 1000 + b"b" * (length - 1000)
    assert read_all(client) == b""
    client.close()
    early, connection = relay.wait_for_entries(2)
    assert (early.http.status, early.http.detail) == (413, "answered before the body was complete")
    assert connection.reason is Reason.NONE


def test_a_body_that_was_answered_is_forwarded_at_the_pace_of_its_server(
    relay: Any, read_all: Any, sender: Any
) -> None:
    relay.origin.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    total = 8 << 20
    client, server = begin(relay, total, sent=0)
    server.sendall(OK)
    thread = sender(client, total)
    while not relay.ask(lambda: any(connection.server.queued for connection in relay.server.connections)):
        pass
    assert hashlib.sha256(read_all(server)).hexdigest() == (thread.join() or thread.digest)
    assert read_all(client) == OK


@LENGTHS
@pytest.mark.parametrize("resets", [True, False])
def test_a_client_may_finish_a_body_whose_server_answered_and_left(
    relay: Any, reset: Any, read_all: Any, length: int, resets: bool
) -> None:
    client, server = begin(relay, length)
    server.sendall(OK)
    assert read_exactly(client, len(OK)) == OK
    with relay.held():
        client.sendall(b"b" * 5000)
        reset(server) if resets else server.close()
    relay.wait_for_entries(1)
    client.sendall(b"b" * (length - 6000))
    assert read_all(client) == b""
    client.close()
    request, connection = relay.wait_for_entries(2)
    assert (request.http.status, request.http.reason) == (200, Reason.UPSTREAM_RESET)
    assert connection.reason is Reason.NONE


@LENGTHS
def test_a_stream_that_ends_before_the_body_does_ends_for_the_client_at_once(
    relay: Any, read_all: Any, length: int
) -> None:
    client, server = begin(relay, length)
    server.sendall(STREAM)
    server.shutdown(socket.SHUT_WR)
    assert read_all(client) == STREAM
    client.sendall(b"b" * (length - 1000))
    assert read_all(server) == b"a" * 1000 + b"b" * (length - 1000)
