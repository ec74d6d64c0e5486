"""What takes minutes or gigabytes: a relay in a process of its own, measured from outside."""

import contextlib
import hashlib
import re
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

pytestmark = [pytest.mark.heavy, pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_S = 60.0
MEGABYTE = 1 << 20
GIGABYTE = 1 << 30
IDLE = 8000

PROCESS = """
import gc, ipaddress, resource, socket, sys, tracemalloc
import asyncio, uvloop
from racecar.proxy.limits import EdgeConfig
from racecar.proxy.server import Server
from racecar.redirect.abi import ConnectionRecord

origin, kind = int(sys.argv[1]), sys.argv[2]

class Policy:
    matcher, audit, tls_rule, tells_rules, header_names = object(), False, 0, True, frozenset()
    def __init__(self): self.kind = kind
    def rule_name(self, rule): return ""

def resolve(fd, peer):
    return ConnectionRecord(fd, 1, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0, ipaddress.ip_address("127.0.0.1"), origin, 2, 6, "x")

async def main():
    policy = Policy()
    server = Server(asyncio.get_running_loop(), EdgeConfig(), resolve=resolve, policy_for=lambda w, r: policy,
        log=lambda entry: None)
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    server.listen(listener)
    if kind == "http":
        tracemalloc.start()
    gc.collect()
    print(listener.getsockname()[1], flush=True)
    def told():
        sys.stdin.readline()
        gc.collect()
        print(len(server.connections), server.edge.turns, tracemalloc.get_traced_memory()[0], flush=True)
    asyncio.get_running_loop().add_reader(0, told)
    await asyncio.Event().wait()

uvloop.run(main())
"""


class RelayProcess:
    def __init__(self, kind: str) -> None:
        self.origin = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self.origin.settimeout(PATIENCE_S)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(self.origin.getsockname()[1]), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = ("127.0.0.1", int(self.process.stdout.readline()))

    def ask(self) -> tuple[int, int, int]:
        """Connections, turns of the loop, bytes of Python memory (0 unless traced)."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        connections, turns, traced = map(int, self.process.stdout.readline().split())
        return connections, turns, traced

    def pss_bytes(self) -> int:
        with open(f"/proc/{self.process.pid}/smaps_rollup") as file:
            match = re.search(r"^Pss: +(\d+) kB", file.read(), re.MULTILINE)
        assert match is not None
        return int(match[1]) * 1024

    def pair(self) -> tuple[socket.socket, socket.socket]:
        client = socket.create_connection(self.address, timeout=PATIENCE_S)
        server, _ = self.origin.accept()
        server.settimeout(PATIENCE_S)
        return client, server

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.origin.close()


@pytest.fixture(params=["tcp", "http"])
def relay(request: Any) -> Iterator[RelayProcess]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * IDLE + 200
    if soft < wanted:
        if hard < wanted:
            pytest.skip(f"{wanted} descriptors are needed, the hard limit is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    process = RelayProcess(request.param)
    yield process
    process.close()


def test_8000_idle_connections_cost_at_most_10_kb_of_memory_each(relay: RelayProcess) -> None:
    with contextlib.ExitStack() as stack:
        for sock in relay.pair():
            stack.enter_context(sock)
        _, _, traced = relay.ask()
        pss = relay.pss_bytes()
        pairs = []
        for _ in range(IDLE):
            pairs.append(relay.pair())
            for sock in pairs[-1]:
                stack.enter_context(sock)
        count, _, traced_after = relay.ask()
        each, each_traced = (relay.pss_bytes() - pss) / IDLE, (traced_after - traced) / IDLE
        print(f"{each:.0f} bytes of PSS, {each_traced:.0f} of traced memory for each connection")
        assert count == IDLE + 1
        assert each < 10_000
        _, turns, _ = relay.ask()
        threading.Event().wait(1.0)  # the window in which turns are counted
        assert relay.ask()[1] - turns < 20
        for client, server in pairs[:: IDLE // 8]:
            if relay.process.args[-1] == "tcp":  # type: ignore[index]
                client.sendall(b"awake")
                assert server.recv(5) == b"awake"


@pytest.mark.parametrize("relay", ["tcp"], indirect=True)
@pytest.mark.parametrize("reader", [0, 1], ids=["down", "up"])
def test_a_gigabyte_is_exact_and_memory_stays_flat(relay: RelayProcess, sender: Any, reader: int) -> None:
    pair = relay.pair()
    with pair[0], pair[1]:
        before = relay.pss_bytes()
        thread = sender(pair[1 - reader], GIGABYTE)
        digest, got, next_stall, most = hashlib.sha256(), 0, 100 * MEGABYTE, 0
        while data := pair[reader].recv(MEGABYTE):
            digest.update(data)
            got += len(data)
            if got >= next_stall:  # a reader that stalls: everything fills up, nothing spins
                next_stall += 200 * MEGABYTE
                _, turns, _ = relay.ask()
                threading.Event().wait(0.5)
                assert relay.ask()[1] - turns < 100
                most = max(most, relay.pss_bytes())
        thread.join()
    assert (got, digest.hexdigest()) == (GIGABYTE, thread.digest)
    print(f"PSS grew by at most {most - before} bytes")
    assert most - before < 4 * MEGABYTE
