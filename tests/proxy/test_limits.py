"""What the edge refuses, gives up and survives."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from racecar.policy.reasons import Reason
from racecar.proxy.limits import Descriptors, EdgeConfig

PATIENCE_S = 20.0

# A relay in a process of its own: PORT of the origin and a descriptor limit in, PORT of the listener out.
PROCESS = """
import asyncio, ipaddress, resource, socket, sys, threading
from racecar.proxy.limits import EdgeConfig
from racecar.proxy.server import Server
from racecar.redirect.abi import ConnectionRecord

origin, limit, headroom = map(int, sys.argv[1:])
if limit:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

class Policy:
    kind, matcher, audit = "tcp", None, False
    def rule_name(self, rule): return ""

def resolve(fd):
    return ConnectionRecord(fd, 1, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, ipaddress.ip_address("127.0.0.1"), origin, 2, 6, "")

async def main():
    server = Server(asyncio.get_running_loop(), EdgeConfig(descriptor_headroom=headroom, accept_pause_s=0.05),
        resolve=resolve, policy_for=lambda w, r: Policy(), log=lambda entry: print(entry.reason.name, flush=True))
    if headroom == 0:
        server.descriptors.limit = 1 << 30  # the count is wrong by design: only the kernel says no
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server.listen(listener)
    print(listener.getsockname()[1], flush=True)
    def told():  # a line in: turns so far out
        sys.stdin.readline()
        print("turns", server.edge.turns, flush=True)
    asyncio.get_running_loop().add_reader(0, told)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class RelayProcess:
    def __init__(self, *, limit: int = 0, headroom: int = 64) -> None:
        self.origin = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.origin.settimeout(PATIENCE_S)
        port = self.origin.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(port), str(limit), str(headroom)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.address = ("127.0.0.1", int(self.line()))

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def turns(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        while not (line := self.line()).startswith("turns"):
            pass
        return int(line.split()[1])

    def close(self) -> None:
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
    clients, refused = [], 0
    for _ in range(60):
        client = socket.create_connection(process.address, timeout=PATIENCE_S)
        clients.append(client)
    for client in clients:
        try:
            client.sendall(b"x")
            process.origin.settimeout(0.2 if refused else PATIENCE_S)
            server, _ = process.origin.accept()
            server.sendall(b"y")
            assert client.recv(1) == b"y"
            server.close()
            client.close()
        except ConnectionError:
            refused += 1
        except TimeoutError:
            with pytest.raises(ConnectionError):
                client.recv(1)
            refused += 1
    assert 30 < refused < 60
    assert process.process.poll() is None
    lines = [process.line() for _ in range(60)]
    assert lines.count("DESCRIPTOR_LIMIT") == refused
    assert set(lines) <= {"DESCRIPTOR_LIMIT", "NONE", "DOWNSTREAM_RESET", "UPSTREAM_RESET"}
    for client in clients:
        client.close()


@pytest.mark.slow
def test_at_the_kernels_limit_clients_are_reset_and_the_loop_does_not_spin(run: Any) -> None:
    process = run(limit=64, headroom=0)
    clients = [socket.create_connection(process.address, timeout=PATIENCE_S) for _ in range(100)]
    reasons: list[str] = []
    while "DESCRIPTOR_LIMIT" not in reasons:
        reasons.append(process.line())
    before = process.turns()
    threading.Event().wait(0.2)  # the time in which a loop that spins makes thousands of turns
    assert process.turns() - before < 50
    assert process.process.poll() is None
    for client in clients:
        client.close()
    threading.Thread(target=echo, args=(process.origin,)).start()
    answer = b""
    while not answer:  # the means are back: served again, sooner or later
        try:
            with socket.create_connection(process.address, timeout=PATIENCE_S) as client:
                client.sendall(b"again")
                client.shutdown(socket.SHUT_WR)
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


def test_a_dial_that_gets_no_answer_is_given_up(start: Callable[..., Any]) -> None:
    relay = start(connect_timeout_s=0.05, timer_step_s=0.01)
    with socket.socket() as silent:  # a full backlog of one: further SYNs are dropped
        silent.bind(("127.0.0.1", 0))
        silent.listen(0)
        relay.target = silent.getsockname()
        fillers = [socket.socket() for _ in range(2)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(relay.target)
        with pytest.raises(ConnectionResetError):
            relay.dial().recv(1)
        for filler in fillers:
            filler.close()
    assert relay.wait_for_entries(1)[0].reason is Reason.DIAL_TIMEOUT


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
    def fail(entry: Any) -> None:
        raise OSError("disk full")

    relay.ask(lambda: setattr(relay.server, "_log", fail))
    client, server = relay.pair()
    client.close()
    server.close()
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
    with pytest.raises(ValueError, match="leaves no room.*ulimit -n"):
        Descriptors(headroom=1 << 30)


def test_the_config_says_which_field_is_wrong() -> None:
    with pytest.raises(ValueError, match="connect_timeout_s is 0"):
        EdgeConfig(connect_timeout_s=0)
