"""What the edge refuses, gives up and survives."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from racecar.policy.reasons import Reason
from racecar.proxy.limits import Descriptors, EdgeConfig

PATIENCE_S = 20.0

# A relay in a process of its own: PORT of the origin and a descriptor limit in, PORT of the listener out.
PROCESS = """
import asyncio, ipaddress, os, resource, socket, sys, threading
from racecar.proxy.limits import EdgeConfig
from racecar.proxy.server import Server
from racecar.redirect.abi import ConnectionRecord

origin, limit, headroom, reserve = map(int, sys.argv[1:])
if limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

class Policy:
    kind, matcher, audit = "tcp", None, False
    def rule_name(self, rule): return ""

def resolve(fd, peer):
    return ConnectionRecord(fd, 1, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, ipaddress.ip_address("127.0.0.1"), origin, 2, 6, "")

async def main():
    server = Server(asyncio.get_running_loop(), EdgeConfig(descriptor_headroom=headroom, accept_pause_s=0.05),
        resolve=resolve, policy_for=lambda w, r: Policy(), log=lambda entry: print(entry.reason.name, flush=True))
    if headroom == 0:
        server.descriptors.limit = 1 << 30  # the count is wrong by design: only the kernel says no
        if not reserve:
            server.descriptors.release_reserve()
        while (limit - len(os.listdir("/proc/self/fd"))) % 2 == 1:  # the listing counts itself, the listener is to come
            os.dup(0)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server.listen(listener)
    print(listener.getsockname()[1], flush=True)
    def told():  # a line in: turns so far out
        sys.stdin.readline()
        print("turns", server.edge.turns, server.accepted, flush=True)
    asyncio.get_running_loop().add_reader(0, told)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class RelayProcess:
    def __init__(self, *, limit: int = 0, headroom: int = 64, reserve: int = 1) -> None:
        self.origin = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.origin.settimeout(PATIENCE_S)
        self.clients: list[socket.socket] = []
        self.servers: list[socket.socket] = []
        port = self.origin.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(port), str(limit), str(headroom), str(reserve)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = ("127.0.0.1", int(self.line()))

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def turns(self) -> int:
        return int(self.ask()[-1].split()[1])

    def ask(self) -> list[str]:
        """Why connections ended since the last question, then the turns of the loop."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        lines = [self.line()]
        while not lines[-1].startswith("turns"):
            lines.append(self.line())
        return lines

    def dial(self, count: int) -> None:
        for _ in range(count):
            with contextlib.suppress(ConnectionResetError):  # it may be reset before we look
                self.clients.append(socket.create_connection(self.address, timeout=PATIENCE_S))

    def accept(self) -> socket.socket:
        sock, _ = self.origin.accept()
        sock.settimeout(PATIENCE_S)
        self.servers.append(sock)
        return sock

    def answered(self) -> int:
        """How many of the clients get a byte; the others must be reset."""
        count = 0
        for sock in self.clients:
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b"x"
                count += 1
        return count

    def hang_up(self) -> None:
        for sock in self.clients + self.servers:
            sock.close()

    def close(self) -> None:
        self.hang_up()
        self.process.kill()
        self.process.communicate()
        self.origin.close()


@pytest.fixture
def run() -> Any:
    made: list[RelayProcess] = []

    def make(**arguments: int) -> RelayProcess:
        made.append(RelayProcess(**arguments))
        return made[-1]

    yield make
    for process in made:
        process.close()


def test_a_workload_over_its_connections_is_reset_and_others_are_not(start: Callable[..., Any]) -> None:
    relay = start(max_connections_per_workload=2)
    pairs = [relay.pair(), relay.pair()]
    with pytest.raises(ConnectionResetError):
        relay.dial().recv(1)
    assert relay.wait_for_entries(1)[0].reason is Reason.WORKLOAD_LIMIT
    relay.policies[2] = relay.policies[1]
    relay.workload = 2
    client, server = relay.pair()
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    for sock in pairs[0]:
        sock.close()
    relay.wait_for_entries(2)
    relay.workload = 1
    client, server = relay.pair()
    client.sendall(b"y")
    assert server.recv(1) == b"y"


def test_no_descriptor_leaks_from_connections_of_every_fate(relay: Any, reset: Any) -> None:
    def descriptors() -> int:
        return int(relay.ask(lambda: len(os.listdir("/proc/self/fd"))))

    before, used = descriptors(), relay.ask(lambda: relay.server.descriptors.used)
    for number in range(200):
        client, server = relay.pair()
        if number % 4 == 0:
            reset(client)
        elif number % 4 == 1:
            reset(server)
        client.close()
        server.close()
    relay.wait_for_entries(200)
    assert descriptors() == before
    assert relay.ask(lambda: relay.server.descriptors.used) == used
    assert relay.ask(lambda: (relay.server.connections, relay.server.edge._ends)) == (set(), {})


@pytest.mark.slow
def test_near_the_descriptor_limit_new_connections_are_reset_with_a_reason(run: Any) -> None:
    process = run(limit=128, headroom=64)
    process.dial(60)
    lines = process.ask()
    while not lines[-1].endswith(" 60"):  # accepted
        lines += process.ask()
    refused = [line for line in lines if not line.startswith("turns")]
    served = [process.accept() for _ in range(60 - len(refused))]
    assert set(refused) == {"DESCRIPTOR_LIMIT"}
    assert 15 < len(served) < 32
    for server in served:
        server.sendall(b"x")
    assert process.answered() == len(served)
    assert process.process.poll() is None


@pytest.mark.slow
@pytest.mark.parametrize("reserve", [1, 0], ids=["reserve", "without reserve"])
def test_at_the_kernels_limit_clients_are_reset_or_wait_and_the_loop_does_not_spin(run: Any, reserve: int) -> None:
    process = run(limit=64, headroom=0, reserve=reserve)
    process.dial(100)
    for _ in range(20):
        process.accept()
    if reserve:
        assert [process.line() for _ in range(50)] == ["DESCRIPTOR_LIMIT"] * 50
    before = process.turns()
    threading.Event().wait(0.2)  # the time in which a loop that spins makes thousands of turns
    assert process.turns() - before < 50
    assert process.process.poll() is None
    process.hang_up()
    threading.Thread(target=echo, args=(process.origin,)).start()
    answer = b""
    while not answer:  # the means are back: served again, sooner or later
        try:
            with socket.create_connection(process.address, timeout=PATIENCE_S) as client:
                client.sendall(b"again")  # and no shutdown: on a connection that was just reset it is ENOTCONN
                answer = client.recv(5)
        except ConnectionError:
            continue
    assert answer == b"again"


def echo(origin: socket.socket) -> None:
    """Answer one connection after the other with its own bytes, until one said b"again"."""
    data = b""
    while data != b"again":
        server, _ = origin.accept()
        with server, contextlib.suppress(ConnectionError):
            server.settimeout(PATIENCE_S)
            data = server.recv(5)
            server.sendall(data)


@pytest.mark.slow
def test_a_killed_relay_resets_both_sides(run: Any) -> None:
    process = run()
    with socket.create_connection(process.address, timeout=PATIENCE_S) as client:
        server, _ = process.origin.accept()
        with server:
            server.settimeout(PATIENCE_S)
            client.sendall(b"x")
            assert server.recv(1) == b"x"
            process.process.send_signal(signal.SIGKILL)
            for sock in (client, server):
                with pytest.raises(ConnectionResetError):
                    sock.recv(1)


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A listener whose backlog is full: further SYNs are dropped."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        listener.settimeout(PATIENCE_S)
        with socket.create_connection(listener.getsockname()):
            yield listener


def test_a_dial_that_gets_no_answer_is_given_up(start: Callable[..., Any], silent: socket.socket) -> None:
    relay = start(connect_timeout_s=0.05, timer_step_s=0.01)
    relay.target = silent.getsockname()
    with pytest.raises(ConnectionResetError):
        relay.dial().recv(1)
    assert relay.wait_for_entries(1)[0].reason is Reason.DIAL_TIMEOUT


@pytest.mark.slow  # the kernel repeats a SYN after a second
@pytest.mark.parametrize("early", [b"early", b""])
def test_bytes_and_fin_wait_for_a_slow_dial(relay: Any, silent: socket.socket, read_all: Any, early: bytes) -> None:
    relay.target = silent.getsockname()
    client = relay.dial()
    client.sendall(early)
    client.shutdown(socket.SHUT_WR)
    relay.ask(lambda: None)
    silent.accept()[0].close()
    server, _ = silent.accept()
    with server:
        server.settimeout(PATIENCE_S)
        assert read_all(server) == early
        server.sendall(b"late")
    assert read_all(client) == b"late"
    assert relay.wait_for_entries(1)[0].reason is Reason.NONE


def test_a_byte_relay_may_have_an_idle_timeout(start: Callable[..., Any]) -> None:
    relay = start(tcp_idle_timeout_s=0.03, timer_step_s=0.01)
    client, _ = relay.pair()
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    assert relay.wait_for_entries(1)[0].reason is Reason.IDLE_TIMEOUT


def test_drain_lets_a_byte_relay_end_and_resets_what_stays(relay: Any) -> None:
    client, server = relay.pair()
    staying, _ = relay.pair()
    drained = relay.drain(0.1)
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    client.close()
    server.close()
    assert drained.result(PATIENCE_S) == 1
    with pytest.raises(ConnectionResetError):
        staying.recv(1)
    assert relay.wait_for_entries(2)[1].reason is Reason.DRAINED
    with pytest.raises(ConnectionRefusedError):
        relay.dial()


def test_a_failing_log_harms_no_connection(relay: Any, caplog: Any) -> None:
    told = threading.Event()

    def fail(entry: Any) -> None:
        told.set()
        raise OSError("disk full")

    relay.ask(lambda: setattr(relay.server, "_log", fail))
    client, server = relay.pair()
    client.close()
    server.close()
    assert told.wait(PATIENCE_S)
    client, server = relay.pair()
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    assert "disk full" in caplog.text


def test_a_resolver_that_fails_resets_its_client_only(relay: Any, caplog: Any) -> None:
    relay.target = ("not an address", 1)
    with pytest.raises(ConnectionResetError):
        relay.dial().recv(1)
    assert relay.wait_for_entries(1)[0].reason is Reason.INTERNAL_ERROR
    relay.target = None
    client, server = relay.pair()
    client.sendall(b"x")
    assert server.recv(1) == b"x"


def test_a_limit_without_room_is_said_at_start() -> None:
    with pytest.raises(ValueError, match=r"leaves no room.*ulimit -n.*lower descriptorHeadroom"):
        Descriptors(headroom=1 << 30)


def held(relay: Any) -> int:
    return int(relay.ask(lambda: sum(use.held for use in relay.server._use.values())))


def test_heads_that_do_not_end_have_a_budget(start: Callable[..., Any]) -> None:
    relay = start("http", max_held_bytes_per_workload=50_000)
    clients = []
    for _ in range(4):
        clients.append(relay.pair())
        clients[-1][0].sendall(b"GET /jobs HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 14_000)
        while held(relay) < 14_000 * len(clients) and not relay.entries:
            pass
    (entry,) = relay.wait_for_entries(1)  # not four times 14,000
    assert entry.reason is Reason.WORKLOAD_LIMIT
    with pytest.raises(ConnectionResetError):
        clients[3][0].recv(1)
    assert relay.ask(lambda: relay.server.counters[Reason.WORKLOAD_LIMIT]) == 1
    for client, server in clients[:3]:  # the others go on, and give back what they held
        client.sendall(b"\r\n\r\n")
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += server.recv(65536)
    assert held(relay) == 0


def test_what_a_slow_reader_has_not_taken_counts_until_it_is_taken(start: Callable[..., Any], sender: Any) -> None:
    relay = start(max_pipes=0)
    client, server = relay.pair()
    thread = sender(server, 16 << 20)
    while not held(relay):
        pass
    while client.recv(1 << 20):
        pass
    thread.join()
    assert held(relay) == 0


def test_what_a_connection_held_is_given_back_with_it(start: Callable[..., Any]) -> None:
    relay = start("http")
    staying, _ = relay.pair()
    client, _ = relay.pair()
    client.sendall(b"GET /jobs HTTP/1.1\r\nHost: ")
    while not held(relay):
        pass
    client.close()
    relay.wait_for_entries(1)
    assert (held(relay), relay.ask(lambda: len(relay.server._use))) == (0, 1)
    staying.close()


def test_a_workload_near_its_budget_is_read_in_small_pieces(start: Callable[..., Any]) -> None:
    relay = start(max_pipes=0, max_held_bytes_per_workload=200_000)
    pairs = [relay.pair() for _ in range(3)]
    for _, server in pairs:
        server.setblocking(False)

    def stalled() -> list[int]:
        return [connection.client.queued for connection in relay.server.connections]

    while not all(queued := relay.ask(stalled)):
        for _, server in pairs:
            with contextlib.suppress(BlockingIOError):
                server.send(bytes(1 << 16))
    assert sum(queued) < 3 << 16
    assert not relay.entries


def test_the_config_says_which_field_is_wrong() -> None:
    with pytest.raises(ValueError, match="connect_timeout_s is 0"):
        EdgeConfig(connect_timeout_s=0)


def test_both_legs_of_a_connection_that_lives_for_a_while_have_keep_alive(start: Callable[..., Any]) -> None:
    """Else a peer that vanished without a word would hold it for ever."""
    relay = start(connect_timeout_s=0.02, timer_step_s=0.01)
    relay.pair()

    def have_it() -> bool:
        (connection,) = relay.server.connections
        legs = (connection.client.sock, connection.server.sock)
        return all(leg.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) for leg in legs)

    deadline = time.monotonic() + PATIENCE_S
    while not relay.ask(have_it):
        assert time.monotonic() < deadline
