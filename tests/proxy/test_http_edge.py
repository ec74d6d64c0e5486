"""HTTP/1.1 on real sockets; the origin is played by the test and sees what it received."""

import hashlib
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest

from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import HttpConfig
from racecar.proxy.records import ConnectionEntry, HttpEntry

ALLOWED = b"GET /jobs HTTP/1.1\r\nHost: a\r\n\r\n"
DENIED = b"GET /applicants HTTP/1.1\r\nHost: a\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\njobs"
MEGABYTE = 1 << 20


@pytest.fixture
def relay(start: Callable[..., Any]) -> Any:
    return start("http")


def read_answer(client: socket.socket) -> bytes:
    """One answer with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = client.recv(65536)
        assert part, data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
    while len(body) < length:
        body += client.recv(65536)
    return head + b"\r\n\r\n" + body


def test_an_allowed_request_and_its_answer_pass_unchanged(relay: Any) -> None:
    client, server = relay.pair()
    for _ in range(3):
        client.sendall(ALLOWED)
        assert server.recv(1000) == ALLOWED
        server.sendall(ANSWER)
        assert client.recv(1000) == ANSWER
    client.close()
    assert server.recv(1) == b""
    server.close()
    *requests, connection = relay.wait_for_entries(4)
    assert [(e.http.verdict, e.http.status, e.http.path) for e in requests] == [("FORWARDED", 200, b"/jobs")] * 3
    assert isinstance(connection, ConnectionEntry)
    assert (connection.reason, connection.request_bytes) == (Reason.NONE, 3 * len(ALLOWED))


def test_a_denied_request_is_answered_and_never_reaches_the_server(relay: Any) -> None:
    client, server = relay.pair()
    client.sendall(DENIED)
    answer = read_answer(client)
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"default deny" in answer
    client.sendall(ALLOWED)
    assert server.recv(1000) == ALLOWED
    server.sendall(ANSWER)
    assert client.recv(1000) == ANSWER
    denied = relay.wait_for_entries(2)[0]
    assert isinstance(denied, HttpEntry)
    assert (denied.http.verdict, denied.http.reason, denied.record.pid) == ("DROPPED", Reason.HTTP_NO_RULE, 1)
    assert relay.ask(lambda: relay.server.http_counters[Reason.HTTP_NO_RULE]) == 1


def test_a_head_may_come_byte_by_byte(relay: Any) -> None:
    client, server = relay.pair()
    for index in range(len(ALLOWED)):
        client.sendall(ALLOWED[index : index + 1])
    got = b""
    while len(got) < len(ALLOWED):
        got += server.recv(1000)
    assert got == ALLOWED


def test_malformed_bytes_are_answered_with_400_and_an_end(relay: Any, read_all: Any) -> None:
    client, server = relay.pair()
    client.sendall(b"GET /jobs HTTP/1.1\r\nHost : a\r\n\r\n")
    assert read_all(client).startswith(b"HTTP/1.1 400 ")
    client.close()
    assert read_all(server) == b""
    entries = relay.wait_for_entries(2)
    assert entries[0].http.reason is Reason.HTTP_MALFORMED


def test_bytes_behind_a_refusal_do_not_reset_its_answer(relay: Any, read_all: Any) -> None:
    client, _ = relay.pair()
    client.sendall(b"BROKEN\r\n\r\n" + bytes(20000))
    assert read_all(client).startswith(b"HTTP/1.1 400 ")


def test_server_bytes_that_nobody_asked_for_reset_both(relay: Any) -> None:
    client, server = relay.pair()
    server.sendall(ANSWER)
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with pytest.raises(ConnectionResetError):
        server.recv(1)
    (entry,) = relay.wait_for_entries(1)
    assert entry.reason is Reason.UNEXPECTED_UPSTREAM_BYTES


def test_an_answer_cut_off_by_the_server_resets_the_client(relay: Any, read_all: Any) -> None:
    client, server = relay.pair()
    client.sendall(ALLOWED)
    assert server.recv(1000) == ALLOWED
    server.sendall(ANSWER[:-1])
    server.close()
    with pytest.raises(ConnectionResetError):
        read_all(client)
    entries = relay.wait_for_entries(2)
    assert [type(entry) for entry in entries] == [HttpEntry, ConnectionEntry]
    assert entries[1].reason is Reason.UPSTREAM_CLOSED


def test_a_request_whose_server_resets_is_answered_with_502(relay: Any, reset: Any, read_all: Any) -> None:
    client, server = relay.pair()
    client.sendall(ALLOWED)
    assert server.recv(1000) == ALLOWED
    reset(server)
    assert read_all(client).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    client.close()
    request, connection = relay.wait_for_entries(2)
    assert request.http.reason is connection.reason is Reason.UPSTREAM_RESET
    assert request.http.status == 502


def test_a_client_may_end_its_half_behind_its_request(relay: Any, read_all: Any) -> None:
    client, server = relay.pair()
    client.sendall(ALLOWED)
    client.shutdown(socket.SHUT_WR)
    assert read_all(server) == ALLOWED
    server.sendall(ANSWER)
    assert read_all(client) == ANSWER


@pytest.mark.slow
def test_a_long_answer_is_exact_and_goes_through_the_kernel(relay: Any, sender: Any) -> None:
    client, server = relay.pair()
    client.sendall(ALLOWED)
    assert server.recv(1000) == ALLOWED
    total = 100 * MEGABYTE
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
    thread = sender(server, total)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += client.recv(1)
    digest, left = hashlib.sha256(), total
    while left:
        data = client.recv(MEGABYTE)
        digest.update(data)
        left -= len(data)
    thread.join()
    assert digest.hexdigest() == thread.digest
    request = relay.wait_for_entries(1)[0]
    assert (request.path, request.http.response_bytes) == ("splice", total + len(head))


@pytest.mark.slow
def test_a_long_body_is_exact_and_goes_through_the_kernel(relay: Any, sender: Any) -> None:
    client, server = relay.pair()
    total = 50 * MEGABYTE
    client.sendall(b"POST /jobs HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % total)
    thread = sender(client, total)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += server.recv(1)
    digest, left = hashlib.sha256(), total
    while left:
        data = server.recv(MEGABYTE)
        digest.update(data)
        left -= len(data)
    thread.join()
    assert digest.hexdigest() == thread.digest
    server.sendall(ANSWER)
    assert read_answer(client) == ANSWER


@pytest.mark.slow
def test_a_client_that_does_not_read_its_refusals_is_not_read(relay: Any) -> None:
    client, _ = relay.pair()
    client.setblocking(False)
    sent = idle = 0
    while idle < 20:
        try:
            sent += client.send(DENIED * 100)
            idle = 0
        except BlockingIOError:
            idle += 1
            relay.ask(lambda: None)
        assert sent < 64 * MEGABYTE
    assert relay.ask(lambda: max(c.client.queued for c in relay.server.connections)) < MEGABYTE


def test_refusals_in_one_read_are_all_answered_in_order(relay: Any, read_all: Any) -> None:
    client, _ = relay.pair()
    client.sendall(DENIED * 200)
    client.shutdown(socket.SHUT_WR)
    answers = read_all(client)
    assert answers.count(b"HTTP/1.1 403 ") == 200
    entries = relay.wait_for_entries(201)
    events = [entry.http.event.encode() for entry in entries[:200]]
    places = [answers.index(b"event " + event + b"\n") for event in events]
    assert places == sorted(places)


def test_a_head_that_does_not_come_in_time_is_answered_with_408(start: Any, read_all: Any) -> None:
    relay = start("http", http=HttpConfig(head_timeout_s=0.05, linger_timeout_s=0.05), timer_step_s=0.01)
    client, _ = relay.pair()
    client.sendall(ALLOWED[:10])
    assert read_all(client).startswith(b"HTTP/1.1 408 ")


def test_an_idle_connection_is_closed_in_order(start: Any, read_all: Any) -> None:
    relay = start("http", http=HttpConfig(idle_timeout_s=0.05), timer_step_s=0.01)
    client, server = relay.pair()
    assert read_all(client) == read_all(server) == b""
    (entry,) = relay.wait_for_entries(1)
    assert entry.reason is Reason.IDLE_TIMEOUT


def stalled_download(relay: Any) -> tuple[socket.socket, int]:
    """A client that does not read, and the size of the answer that the origin has sent in full."""
    client, server = relay.pair()
    client.sendall(ALLOWED)
    assert server.recv(1000) == ALLOWED
    sent = server.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while not relay.ask(lambda: any(connection.client.queued for connection in relay.server.connections)):
        sent += server.send(bytes(65536))
    sent += server.send(b"the last bytes")
    server.close()
    return client, sent


@pytest.mark.slow
def test_a_slow_reader_gets_all_of_a_last_answer_however_late(start: Any) -> None:
    relay = start("http", http=HttpConfig(linger_timeout_s=0.02), timer_step_s=0.01)
    client, total = stalled_download(relay)
    got = 0
    while data := client.recv(MEGABYTE):
        got += len(data)
        threading.Event().wait(0.03)  # longer than every timeout but the one that wants no progress at all
    assert got == total


@pytest.mark.slow
def test_a_closed_connection_whose_reader_never_reads_is_given_up(start: Any, read_all: Any) -> None:
    relay = start("http", http=HttpConfig(idle_timeout_s=2.0), timer_step_s=0.01, close_timeout_s=0.05)
    client, _ = relay.pair()
    while not relay.ask(lambda: any(connection.client.queued for connection in relay.server.connections)):
        client.sendall(DENIED * 100)
    while relay.ask(lambda: relay.server.connections):
        pass
    with pytest.raises(ConnectionResetError):
        read_all(client)
    assert relay.wait_for_entries(1)[-1].reason is Reason.IDLE_TIMEOUT


def test_drain_closes_idle_connections_at_once_and_lets_a_request_end(relay: Any, read_all: Any) -> None:
    idle, _ = relay.pair()
    client, server = relay.pair()
    client.sendall(ALLOWED)
    assert server.recv(1000) == ALLOWED
    drained = relay.drain(20)
    assert read_all(idle) == b""
    server.sendall(ANSWER)
    assert read_all(client) == ANSWER
    client.close()
    assert drained.result(20) == 0


def test_a_bug_ends_its_own_connection_only(relay: Any, caplog: Any) -> None:
    other, server = relay.pair()
    client, _ = relay.pair()
    client.sendall(b"GET /bug HTTP/1.1\r\nHost: a\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        client.recv(1000)
    entries = relay.wait_for_entries(1)
    assert entries[-1].reason is Reason.INTERNAL_ERROR
    assert "a bug in a matcher" in caplog.text
    other.sendall(ALLOWED)
    assert server.recv(1000) == ALLOWED


def test_an_urgent_byte_in_a_spliced_answer_is_skipped_and_nothing_spins(relay: Any, read_all: Any) -> None:
    client, server = relay.pair()
    client.sendall(ALLOWED)
    assert server.recv(1000) == ALLOWED
    server.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\nConnection: close\r\n\r\n")
    assert client.recv(1000).endswith(b"\r\n\r\n")
    with relay.held():
        server.sendall(b"a" * 1000)
        server.send(b"!", socket.MSG_OOB)
        server.sendall(b"b" * 1000)
    got = b""
    while len(got) < 2000:
        got += client.recv(10000)
    assert got == b"a" * 1000 + b"b" * 1000
    before = relay.ask(lambda: relay.server.edge.turns)
    with relay.changed:
        relay.changed.wait(0.02)
    assert relay.ask(lambda: relay.server.edge.turns) - before < 10
    rest = b"c" * 298000
    server.sendall(rest)
    assert read_all(client) == rest
