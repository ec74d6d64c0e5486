"""Real sockets: protocols that a rule grants and that are passed on unread, requests that wait for the one before."""

import contextlib
import hashlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import HttpConfig

HANDSHAKE = (
    b"GET /jobs/ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
ALLOWED = b"GET /jobs HTTP/1.1\r\nHost: a\r\n\r\n"
DENIED = b"GET /applicants HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
def relay(start: Callable[..., Any]) -> Any:
    return start("http")


def read_exactly(sock: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count:
        part = sock.recv(count - len(got))
        assert part, f"{len(got)} of {count} bytes came"
        got += part
    return got


def test_a_websocket_is_passed_on_unread_both_ways_to_its_ends(relay: Any, read_all: Any) -> None:
    client, server = relay.pair()
    client.sendall(HANDSHAKE + b"early")
    assert read_exactly(server, len(HANDSHAKE)) == HANDSHAKE
    server.sendall(SWITCHED + b"hello")
    assert read_exactly(client, len(SWITCHED) + 5) == SWITCHED + b"hello"
    assert read_exactly(server, 5) == b"early"
    client.sendall(b"\0not HTTP\xff")
    assert read_exactly(server, 10) == b"\0not HTTP\xff"
    client.shutdown(socket.SHUT_WR)
    assert read_all(server) == b""
    server.sendall(b"the last word")
    server.close()
    assert read_all(client) == b"the last word"
    request, connection = relay.wait_for_entries(2)
    assert (request.http.status, request.http.opaque, request.http.reason) == (101, "websocket", Reason.NONE)
    assert request.http.request_bytes == len(HANDSHAKE) + 15
    assert request.http.response_bytes == len(SWITCHED) + 18
    assert connection.reason is Reason.NONE


def test_a_long_stretch_of_an_opaque_connection_is_exact(relay: Any, sender: Any, read_all: Any) -> None:
    client, server = relay.pair()
    client.sendall(HANDSHAKE)
    read_exactly(server, len(HANDSHAKE))
    server.sendall(SWITCHED)
    read_exactly(client, len(SWITCHED))
    up, down = sender(client, 8 << 20), sender(server, 8 << 20)
    got: dict[str, str] = {}
    reader = threading.Thread(target=lambda: got.update(up=hashlib.sha256(read_all(server)).hexdigest()))
    reader.start()
    assert hashlib.sha256(read_all(client)).hexdigest() == (down.join() or down.digest)
    reader.join()
    assert got["up"] == (up.join() or up.digest)
    request, connection = relay.wait_for_entries(2)
    assert connection.path == request.path == "splice"


def test_a_reset_of_an_opaque_connection_is_passed_on(relay: Any, reset: Any) -> None:
    client, server = relay.pair()
    client.sendall(HANDSHAKE)
    read_exactly(server, len(HANDSHAKE))
    server.sendall(SWITCHED)
    read_exactly(client, len(SWITCHED))
    reset(client)
    with pytest.raises(ConnectionResetError):
        server.recv(1)


def test_a_request_behind_an_outstanding_one_waits_and_the_client_is_not_read_meanwhile(relay: Any) -> None:
    client, server = relay.pair()
    client.sendall(ALLOWED + DENIED + ALLOWED)
    assert read_exactly(server, len(ALLOWED)) == ALLOWED
    more = ALLOWED * 2000
    client.sendall(more[: 40 * len(ALLOWED)])
    relay.ask(lambda: None)
    assert relay.ask(lambda: [c.conversation.held for c in relay.server.connections]) == [len(DENIED) + len(ALLOWED)]
    for number in range(42):
        server.sendall(ANSWER)
        if number < 41:
            assert read_exactly(server, len(ALLOWED)) == ALLOWED
    client.shutdown(socket.SHUT_WR)
    got = b""
    while part := client.recv(65536):
        got += part
    assert got.count(ANSWER) == 42
    first, rest = got.split(ANSWER, 1)
    assert first == b""
    assert rest.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert rest.count(b"HTTP/1.1 403 ") == 1


def test_half_a_request_that_waited_does_not_stop_the_client(relay: Any) -> None:
    """The rest of it comes behind the answer: the client must be read again."""
    client, server = relay.pair()
    client.sendall(ALLOWED + ALLOWED[:10])
    assert read_exactly(server, len(ALLOWED)) == ALLOWED
    server.sendall(ANSWER)
    assert read_exactly(client, len(ANSWER)) == ANSWER
    client.sendall(ALLOWED[10:])
    assert read_exactly(server, len(ALLOWED)) == ALLOWED


def test_a_kept_connection_that_the_server_closes_ends_as_it_would_without_a_proxy(relay: Any, read_all: Any) -> None:
    client, server = relay.pair()
    client.sendall(ALLOWED)
    read_exactly(server, len(ALLOWED))
    server.sendall(ANSWER)
    read_exactly(client, len(ANSWER))
    client.sendall(ALLOWED)
    read_exactly(server, len(ALLOWED))
    server.close()
    assert read_all(client) == b""
    client.close()
    entries = relay.wait_for_entries(3)
    assert entries[1].http.reason is Reason.UPSTREAM_CLOSED
    assert entries[1].http.status == 0


@pytest.mark.parametrize("resets", [False, True], ids=["stray bytes", "a reset"])
def test_a_whole_answer_on_its_way_survives_what_the_idle_server_does(
    start: Callable[..., Any], reset: Any, resets: bool
) -> None:
    relay = start("http")
    size = 1_500_000
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size
    client, server = relay.pair()
    client.sendall(ALLOWED)
    read_exactly(server, len(ALLOWED))
    server.sendall(answer)
    while not relay.ask(lambda: all(c.conversation.is_idle for c in relay.server.connections)):
        pass
    if resets:
        reset(server)
    else:
        server.sendall(b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n")
    while relay.ask(lambda: any(c.conversation.is_idle for c in relay.server.connections)):
        pass
    got = b""
    while part := client.recv(65536):
        got += part
    assert got == answer
    client.close()
    entries = relay.wait_for_entries(2)
    assert entries[-1].reason is (Reason.UPSTREAM_RESET if resets else Reason.UNEXPECTED_UPSTREAM_BYTES)


@pytest.mark.slow
def test_a_client_that_takes_nothing_of_its_answer_is_given_up(start: Callable[..., Any]) -> None:
    relay = start("http", http=HttpConfig(stall_timeout_s=0.2), timer_step_s=0.05)
    client, server = relay.pair()
    client.sendall(ALLOWED)
    read_exactly(server, len(ALLOWED))
    size = 64 << 20
    server.settimeout(20)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size)
    entries = relay.wait_for_entries(2)
    assert entries[-1].reason is Reason.IDLE_TIMEOUT
    assert client.fileno() >= 0


@pytest.mark.slow
def test_the_head_behind_a_long_answer_gets_its_time_though_the_client_was_not_read(start: Callable[..., Any]) -> None:
    """While its own answers wait for it a client is not read: that time is not held against it."""
    relay = start("http", http=HttpConfig(head_timeout_s=0.5), timer_step_s=0.05)
    client, server = relay.pair()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    denied = DENIED * 200_000
    client.settimeout(1.2)
    sent = 0
    try:
        while sent < len(denied):
            sent += client.send(denied[sent:])
    except TimeoutError:
        pass  # the relay does not read any more: its refusals wait
    assert sent < len(denied)
    client.settimeout(20)
    got = b""
    while got.count(b"HTTP/1.1 403") < sent // len(DENIED):
        part = client.recv(1 << 20)
        assert part
        got += part
    assert server.fileno() >= 0


def close_origin(relay: Any) -> None:
    relay.target = relay.origin.getsockname()[:2]
    relay.origin.close()


def test_a_client_of_a_plain_proxy_is_told_that_its_server_cannot_be_reached(
    start: Callable[..., Any], read_all: Any
) -> None:
    relay = start("http", answers_dial_failures=True)
    close_origin(relay)
    client = relay.dial()
    client.sendall(DENIED + ALLOWED[:20])
    got = client.recv(1000)
    assert got.startswith(b"HTTP/1.1 403 ")
    client.sendall(ALLOWED[20:])
    assert read_all(client).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    client.close()
    entries = relay.wait_for_entries(3)
    assert [entry.http.reason for entry in entries[:2]] == [Reason.HTTP_NO_RULE, Reason.DIAL_FAILED]
    assert entries[2].reason is Reason.DIAL_FAILED


def test_without_that_it_is_reset(relay: Any) -> None:
    close_origin(relay)
    with pytest.raises(ConnectionResetError):
        relay.dial().recv(1)


@pytest.mark.slow
def test_a_reader_that_takes_little_at_a_time_is_no_reader_that_takes_nothing(start: Callable[..., Any]) -> None:
    relay = start("http", http=HttpConfig(stall_timeout_s=0.3), timer_step_s=0.05)
    client = socket.socket()
    relay.sockets.append(client)
    client.settimeout(20)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(relay.address)
    server = relay.accept()
    client.sendall(ALLOWED)
    read_exactly(server, len(ALLOWED))
    server.settimeout(20)
    size = 32 << 20
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size

    def send() -> None:
        with contextlib.suppress(OSError):  # the end of the test
            server.sendall(head + b"a" * size)

    sending = threading.Thread(target=send)
    sending.start()
    while not relay.ask(lambda: any(c.client.queued for c in relay.server.connections)):
        pass
    began = relay.ask(lambda: relay.server.edge.now)
    while relay.ask(lambda: relay.server.edge.now) < began + 1.2:
        assert client.recv(512)
        threading.Event().wait(0.02)  # the pace of the reader
        relay.ask(relay.server.edge.turn)
    assert relay.entries == []
    client.close()
    sending.join()
