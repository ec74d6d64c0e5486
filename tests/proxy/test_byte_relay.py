"""The byte relay, seen from its two peers."""

import hashlib
import socket
from collections.abc import Callable
from typing import Any

import pytest

from racecar.policy.reasons import Reason
from racecar.proxy import connections

MEGABYTE = 1 << 20


def test_bytes_pass_both_ways(relay: Any) -> None:
    client, server = relay.pair()
    with client, server:
        client.sendall(b"ping")
        assert server.recv(10) == b"ping"
        server.sendall(b"pong")
        assert client.recv(10) == b"pong"


def test_the_server_may_speak_first(relay: Any) -> None:
    client, server = relay.pair()
    with client, server:
        server.sendall(b"220 hello\r\n")
        assert client.recv(20) == b"220 hello\r\n"


def test_ipv6(start: Any) -> None:
    relay = start(family=socket.AF_INET6)
    client, server = relay.pair()
    with client, server:
        client.sendall(b"ping")
        assert server.recv(10) == b"ping"


def test_the_client_may_end_its_half_first(relay: Any) -> None:
    client, server = relay.pair()
    with client, server:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert server.recv(100) == b"question"
        assert server.recv(100) == b""
        server.sendall(b"answer")
        assert client.recv(100) == b"answer"
        server.close()
        assert client.recv(100) == b""
    (entry,) = relay.wait_for_entries(1)
    assert (entry.reason, entry.request_bytes, entry.response_bytes) == (Reason.NONE, 8, 6)


def test_the_server_may_end_its_half_first(relay: Any) -> None:
    client, server = relay.pair()
    with client, server:
        server.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
        client.sendall(b"still here")
        assert server.recv(100) == b"still here"
        client.close()
        assert server.recv(100) == b""
    (entry,) = relay.wait_for_entries(1)
    assert entry.reason is Reason.NONE


def test_a_fin_that_comes_before_the_dial_is_done_is_kept(relay: Any) -> None:
    client = relay.dial()
    with client:
        client.shutdown(socket.SHUT_WR)
        with relay.accept() as server:
            assert server.recv(10) == b""
            server.sendall(b"late")
        assert client.recv(10) == b"late"
        assert client.recv(10) == b""


@pytest.mark.parametrize(("index", "reason"), [(0, Reason.DOWNSTREAM_RESET), (1, Reason.UPSTREAM_RESET)])
def test_a_reset_is_passed_on_as_a_reset(relay: Any, reset: Any, index: int, reason: Reason) -> None:
    pair = relay.pair()
    pair[0].sendall(b"x")
    assert pair[1].recv(1) == b"x"
    reset(pair[index])
    with pair[1 - index] as other, pytest.raises(ConnectionResetError):
        other.recv(1)
    (entry,) = relay.wait_for_entries(1)
    assert entry.reason is reason
    assert relay.ask(lambda: relay.server.counters[reason]) == 1


@pytest.mark.parametrize("index", [0, 1])
def test_a_reset_behind_a_half_close_is_passed_on(relay: Any, reset: Any, index: int) -> None:
    pair = relay.pair()
    pair[index].shutdown(socket.SHUT_WR)
    assert pair[1 - index].recv(1) == b""
    reset(pair[index])
    relay.wait_for_entries(1)
    with pair[1 - index] as other, pytest.raises((ConnectionResetError, BrokenPipeError)):  # EPIPE: behind a FIN
        other.send(b"x")


def test_a_refused_dial_resets_the_client(relay: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        relay.target = gone.getsockname()
    with pytest.raises(ConnectionResetError):
        relay.dial().recv(1)
    (entry,) = relay.wait_for_entries(1)
    assert entry.reason is Reason.DIAL_FAILED
    assert entry.dialled[1] == relay.target[1]


def test_a_connection_that_nobody_announced_is_reset(relay: Any) -> None:
    relay.target = ("127.0.0.1", 0)
    with pytest.raises(ConnectionResetError):
        relay.dial().recv(1)
    (entry,) = relay.wait_for_entries(1)
    assert (entry.reason, entry.record, entry.verdict) == (Reason.NO_RECORD, None, "DROPPED")


def test_a_rule_set_without_a_layer_is_reset(relay: Any) -> None:
    relay.policies[1].kind = "kafka"
    with pytest.raises(ConnectionResetError):
        relay.dial().recv(1)
    (entry,) = relay.wait_for_entries(1)
    assert entry.reason is Reason.NO_LAYER


@pytest.mark.slow
@pytest.mark.parametrize("reader", [0, 1], ids=["down", "up"])
def test_a_stream_is_exact_though_its_reader_stalls(relay: Any, sender: Any, reader: int) -> None:
    pair = relay.pair()
    total = 100 * MEGABYTE
    thread = sender(pair[1 - reader], total)
    digest, got, stalled = hashlib.sha256(), 0, 0
    with pair[0], pair[1]:
        while data := pair[reader].recv(MEGABYTE):
            digest.update(data)
            got += len(data)
            if got > stalled + 30 * MEGABYTE:
                stalled = got
                turns = settle(relay)
                assert settle(relay) - turns < 50, "the relay spins on a reader that stalls"
        thread.join()
        assert (got, digest.hexdigest()) == (total, thread.digest)
        pair[reader].shutdown(socket.SHUT_WR)
        (entry,) = relay.wait_for_entries(1)
    assert (entry.path, entry.reason) == ("splice", Reason.NONE)
    assert max(entry.request_bytes, entry.response_bytes) == total


def settle(relay: Any) -> int:
    """Turns of the loop once next to nothing moves any more; a loop that spins makes thousands in that time."""
    for _ in range(200):
        before = relay.ask(lambda: (relay.server.edge.turns, moved(relay)))
        with relay.changed:
            relay.changed.wait(0.02)
        after = relay.ask(lambda: (relay.server.edge.turns, moved(relay)))
        if before[1] == after[1]:
            return int(after[0])
    raise AssertionError("bytes move though nobody reads")


def moved(relay: Any) -> int:
    return sum(connection.moved_bytes() for connection in relay.server.connections)


def test_a_slow_reader_costs_a_bounded_buffer(sender: Any, start: Callable[..., Any]) -> None:
    relay = start(max_pipes=0)
    client, server = relay.pair()
    thread = sender(server, 16 * MEGABYTE)
    with client, server:
        while not relay.ask(lambda: any(c.client.queued for c in relay.server.connections)):
            pass
        queued = relay.ask(lambda: max(c.client.queued for c in relay.server.connections))
        assert 0 < queued <= 65536
        got = 0
        while data := client.recv(MEGABYTE):
            got += len(data)
        thread.join()
        assert got == thread.total


def test_a_workload_over_its_pipe_quota_is_copied(start: Any, sender: Any) -> None:
    relay = start(max_pipes_per_workload=1)
    pairs = [relay.pair() for _ in range(3)]
    threads = [sender(server, 12 * MEGABYTE) for _, server in pairs]
    while not relay.ask(lambda: relay.server.pipes.refused):
        pass
    held = relay.ask(lambda: [c.use.pipes.held for c in relay.server.connections])
    assert set(held) <= {0, 1}
    for (client, server), thread in zip(pairs, threads, strict=True):
        digest = hashlib.sha256()
        while data := client.recv(MEGABYTE):
            digest.update(data)
        thread.join()
        assert digest.hexdigest() == thread.digest
        client.close()
        server.close()
    relay.wait_for_entries(3)
    assert relay.ask(lambda: relay.server.pipes.open) <= 1


def test_a_pipe_with_bytes_in_it_is_never_used_again(relay: Any, sender: Any, reset: Any, monkeypatch: Any) -> None:
    # Else the bytes that the client does not take may wait in memory instead.
    monkeypatch.setattr(connections, "worth_splicing", lambda end, _: not end.is_client)
    client, server = relay.pair()
    sender(server, 64 * MEGABYTE)  # more than all socket buffers on the way hold
    open_before = 0

    def reset_once_the_pipe_holds_bytes() -> bool:
        nonlocal open_before
        if not any(c.client.piped for c in relay.server.connections):
            return False
        open_before = relay.server.pipes.open
        reset(client)  # in the loop's thread: the relay cannot empty the pipe in between
        return True

    while not relay.ask(reset_once_the_pipe_holds_bytes):
        pass
    relay.wait_for_entries(1)
    assert relay.ask(lambda: relay.server.pipes.open) == open_before - 1


@pytest.mark.parametrize("ended", [False, True], ids=["open", "ended"])
@pytest.mark.parametrize("reader", [0, 1], ids=["down", "up"])
def test_an_urgent_byte_in_a_spliced_stretch_is_skipped_alone(
    relay: Any, monkeypatch: Any, reader: int, ended: bool
) -> None:
    monkeypatch.setattr(connections, "worth_splicing", lambda *_: True)
    pair = relay.pair()
    relay.ask(lambda: None)
    with relay.held():  # all of it is there when the relay looks
        pair[1 - reader].sendall(b"before")
        pair[1 - reader].send(b"!", socket.MSG_OOB)
        pair[1 - reader].sendall(b"behind")
        if ended:
            pair[1 - reader].shutdown(socket.SHUT_WR)
    got = b""
    while len(got) < 12 and (data := pair[reader].recv(100)):
        got += data
    assert got == b"beforebehind"
    turns = settle(relay)
    assert settle(relay) - turns < 50
