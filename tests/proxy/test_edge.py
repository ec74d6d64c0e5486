"""The edge against late events, hang-ups and idle crowds."""

import gc
import os
import select
import socket
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from racecar.policy.reasons import Reason
from racecar.proxy.edge import Edge, End, RawSocket
from racecar.proxy.pipes import PipePool, PipeQuota

EVENTS = 16
MEGABYTE = 1 << 20
WINDOW_S = 0.1  # in which a loop that spins makes thousands of turns


class Owner:
    """Notes what it is told; `on_readable` reacts."""

    closed = False

    def __init__(self) -> None:
        self.heard: list[tuple[str, End]] = []
        self.on_readable: Callable[[End], None] = lambda end: None

    def readable(self, end: End) -> None:
        self.heard.append(("readable", end))
        self.on_readable(end)

    def writable(self, end: End) -> None:
        self.heard.append(("writable", end))

    def failed(self, end: End, number: int) -> None:
        self.heard.append(("failed", end))

    def crashed(self) -> None:
        self.heard.append(("crashed", self.heard[-1][1]))


class Legs:
    """An edge without a loop and pairs of legs on socket pairs."""

    def __init__(self) -> None:
        self.quota = PipeQuota()
        pool = PipePool(max_pipes=4, max_per_workload=4)
        self.edge = Edge(pipes=pool, quota_of=lambda _: self.quota, events_per_turn=EVENTS, closed=lambda: None)
        self.far: list[socket.socket] = []

    def leg(self, owner: Owner) -> End:
        near, far = socket.socketpair()
        near.setblocking(False)
        self.far.append(far)
        end = End(self.edge, owner, RawSocket(fileno=near.detach()), is_client=True, paced=False)
        end.other = end
        self.edge.add(end)
        self.edge.watch(end)
        return end

    def close(self) -> None:
        for end in list(self.edge._ends.values()):
            end.drop(in_order=True)
        self.edge.close()
        for far in self.far:
            far.close()


@pytest.fixture
def legs() -> Iterator[Legs]:
    legs = Legs()
    yield legs
    legs.close()


def test_a_late_event_never_meets_a_new_owner_of_the_number(legs: Legs) -> None:
    old, new = Owner(), Owner()
    ends = [legs.leg(old), legs.leg(old)]
    numbers = {end.fd for end in ends}
    made: list[End] = []

    def replace(_: End) -> None:  # the first of the batch ends both; a new connection wants the lowest number
        for end in ends:
            end.drop(in_order=True)
        made.append(legs.leg(new))

    old.on_readable = replace
    for far in legs.far:
        far.sendall(b"x")
    legs.edge.turn()
    assert len(old.heard) == 1
    assert new.heard == []
    assert made[0].fd not in numbers
    reused = legs.leg(new)
    assert reused.fd in numbers
    legs.edge.turn()
    assert new.heard == []


def test_an_exception_ends_one_connection_and_the_batch_goes_on(legs: Legs) -> None:
    broken, sound = Owner(), Owner()

    def fail(_: End) -> None:
        raise RuntimeError

    broken.on_readable = fail
    for owner in (broken, sound):
        legs.leg(owner)
    for far in legs.far:
        far.sendall(b"x")
    legs.edge.turn()
    # Nobody reads here, so the turn asks again, within its bound.
    assert [name for name, _ in broken.heard[:2]] == ["readable", "crashed"]
    assert {name for name, _ in sound.heard} == {"readable"}
    assert len(broken.heard) // 2 + len(sound.heard) == EVENTS


def test_a_muted_leg_reports_nothing_until_it_is_wanted_again(legs: Legs) -> None:
    owner = Owner()
    end = legs.leg(owner)
    legs.edge.mute(end)
    legs.far[0].close()
    legs.edge.turn()
    assert owner.heard == []
    legs.edge.watch(end)
    legs.edge.turn()
    assert set(owner.heard) == {("readable", end)}


def turns(relay: Any) -> int:
    return int(relay.ask(lambda: relay.server.edge.turns))


def turns_in_window(relay: Any) -> int:
    before = turns(relay)
    threading.Event().wait(WINDOW_S)
    return turns(relay) - before


def stall(relay: Any, sock: socket.socket) -> int:
    """Send on `sock` until the far reader, who does not read, holds everything up; the bytes sent."""
    sock.setblocking(False)
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    sent = 0
    while poller.poll(100):
        try:
            sent += sock.send(bytes(65536))
        except BlockingIOError:
            continue
    sock.settimeout(20)
    return sent


def test_a_hang_up_behind_a_stalled_reader_does_not_spin_and_loses_nothing(relay: Any) -> None:
    client, server = relay.pair()
    client.shutdown(socket.SHUT_WR)
    assert server.recv(1) == b""
    sent = 0
    while not relay.ask(lambda: any(connection.client.queued for connection in relay.server.connections)):
        sent += server.send(bytes(65536))
    sent += server.send(b"the last bytes stay in the leg's receive buffer")
    server.close()  # both directions of the server's leg are over, its bytes wait in the relay
    assert turns_in_window(relay) < 50
    got = 0
    while data := client.recv(MEGABYTE):
        got += len(data)
    assert got == sent
    assert relay.wait_for_entries(1)[0].reason is Reason.NONE


def test_a_reset_behind_a_stalled_reader_is_noticed(relay: Any, reset: Any, read_all: Any) -> None:
    client, server = relay.pair()
    stall(relay, server)
    reset(server)
    assert relay.wait_for_entries(1)[0].reason is Reason.UPSTREAM_RESET
    with pytest.raises(ConnectionResetError):
        read_all(client)


def test_idle_and_half_closed_connections_cost_no_turns(relay: Any) -> None:
    pairs = [relay.pair() for _ in range(20)]
    for client, server in pairs[:10]:
        client.shutdown(socket.SHUT_WR)
        assert server.recv(1) == b""
    for client, server in pairs[5:15]:
        server.shutdown(socket.SHUT_WR)
        assert client.recv(1) == b""
    assert turns_in_window(relay) < 20


def test_nobody_waits_in_the_wheel_once_a_byte_relay_stands(start: Callable[..., Any]) -> None:
    relay = start(connect_timeout_s=0.02, timer_step_s=0.01)
    client, server = relay.pair()
    while relay.ask(lambda: bool(relay.server.wheel)):
        pass
    assert relay.ask(lambda: relay.server._tick) is None
    server.sendall(b"x")
    assert client.recv(1) == b"x"


def test_one_turn_moves_a_bounded_amount_for_each_leg(relay: Any, sender: Any, monkeypatch: Any) -> None:
    most = 0
    real = Edge.turn

    def measured(edge: Edge) -> None:
        nonlocal most
        real(edge)
        most = max(most, edge.moved)

    monkeypatch.setattr(Edge, "turn", measured)
    relay.ask(lambda: relay.loop.add_reader(relay.server.edge.fileno(), relay.server.edge.turn))
    client, server = relay.pair()
    thread = sender(server, 16 * MEGABYTE)
    while client.recv(MEGABYTE):
        pass
    thread.join()
    assert 65536 <= most <= 2 * MEGABYTE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_an_idle_connection_costs_at_most_10_kb_of_python_memory(start: Callable[..., Any], kind: str) -> None:
    relay = start(kind)
    relay.pair()
    count = 1000
    pairs = []
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(count):
            pairs.append(relay.pair())
        relay.ask(lambda: None)
        gc.collect()
        each = (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()
    print(f"{kind}: {each:.0f} bytes, the test's own two sockets included")
    assert each < 10_000
    assert relay.ask(lambda: len(relay.server.connections)) == count + 1
    assert len(os.listdir("/proc/self/fd")) > 4 * count
