"""What takes gigabytes or thousands of connections, through a whole `racecar exec`."""

import re
import resource
import select
import socket
import threading
from pathlib import Path

import pytest
from harness import bound, policy, relayed, start_exec, workload

pytestmark = [pytest.mark.root, pytest.mark.heavy, pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_S = 120.0
MEGABYTE = 1 << 20
GIGABYTE = 1 << 30
STALL_EVERY = 200 * MEGABYTE
STALL_S = 0.4
IDLE = 8000

# The same bytes on both sides: a block of noise, with the block's number at its head.
STREAM = """
import hashlib, random, time
BLOCK = random.Random(7).randbytes(1 << 20)
def block(n):
    return n.to_bytes(8, "big") + BLOCK[8:]
def send(s, count, stall):
    digest = hashlib.sha256()
    for n in range(count):
        if stall and n % 200 == 100:
            time.sleep(stall)
        digest.update(block(n))
        s.sendall(block(n))
    s.shutdown(socket.SHUT_WR)
    return digest.hexdigest()
def receive(s, stall):
    digest, got, next_stall = hashlib.sha256(), 0, 100 << 20
    while piece := s.recv(1 << 20):
        digest.update(piece)
        got += len(piece)
        if stall and got >= next_stall:
            next_stall += 200 << 20
            time.sleep(stall)
    return [got, digest.hexdigest()]
"""


def pss_bytes(pid: int) -> int:
    match = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


class Sampler(threading.Thread):
    """The most memory that a process had while it was watched."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.first = self.most = pss_bytes(pid)
        self._pid = pid
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(0.05):
            self.most = max(self.most, pss_bytes(self._pid))

    def grown(self) -> int:
        self._end.set()
        self.join()
        return self.most - self.first


@pytest.mark.parametrize("stalled", ["client", "server"])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_gigabyte_is_exact_and_the_proxys_memory_stays_flat(direction: str, stalled: str) -> None:
    code = (
        STREAM
        + """
s = dial("127.0.0.1", port)
s.settimeout(120)
say("open")
listen()
say(send(s, 1024, stall) if up else receive(s, stall))
listen()
"""
    )
    names: dict[str, object] = {"socket": socket}
    exec(STREAM, names)
    send, receive = names["send"], names["receive"]
    assert callable(send)
    assert callable(receive)
    with bound("127.0.0.1", socket.SOCK_STREAM) as listener:
        listener.listen()
        listener.settimeout(PATIENCE_S)
        port = listener.getsockname()[1]
        here, there = (STALL_S, 0.0) if stalled == "server" else (0.0, STALL_S)
        argv = workload(code, port=port, up=direction == "up", stall=there)
        with start_exec(policy(relayed("127.0.0.1", port)), argv) as running:
            accepted, _ = listener.accept()
            with accepted:
                accepted.settimeout(PATIENCE_S)
                assert running.heard() == "open"
                sampler = Sampler(running.worker_pid)
                sampler.start()
                running.tell("go")
                if direction == "up":
                    got, digest = receive(accepted, here)
                    sent = running.heard(PATIENCE_S)
                else:
                    sent = send(accepted, 1024, here)
                    got, digest = running.heard(PATIENCE_S)
                assert (got, digest) == (GIGABYTE, sent)
                grown = sampler.grown()
                print(f"PSS grew by {grown} bytes")
                assert grown < 4 * MEGABYTE
            running.tell("end")
            result = running.wait()
            assert result.code == 0
            flow = result.flows[0]["racecar"]
            assert max(flow["bytes_sent"], flow["bytes_received"]) == GIGABYTE


def test_8000_idle_connections_cost_at_most_10_kb_of_memory_each() -> None:
    code = """
        import resource
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        sockets = []
        for count in [1, idle]:
            for _ in range(count):
                s = dial("127.0.0.1", port)
                s.sendall(b"x")
                assert s.recv(1) == b"x"
                sockets.append(s)
            say(len(sockets))
            listen()
        for s in sockets[:: idle // 8]:
            s.sendall(b"y")
            assert s.recv(1) == b"y"
        say("all alive")
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * IDLE + 200:
        pytest.skip(f"{2 * IDLE + 200} descriptors are needed, the hard limit is {hard}")
    with IdleEcho() as server:
        argv = workload(code, port=server.port, idle=IDLE)
        with start_exec(policy(relayed("127.0.0.1", server.port)), argv) as running:
            assert running.heard() == 1
            before = pss_bytes(running.worker_pid)
            running.tell()
            assert running.heard(PATIENCE_S) == 1 + IDLE
            each = (pss_bytes(running.worker_pid) - before) / IDLE
            print(f"{each:.0f} bytes of PSS for each connection")
            assert each < 10_000
            assert running.ask() == "all alive"
            assert running.wait(PATIENCE_S).code == 0


LIMIT = 600


def test_at_the_descriptor_limit_new_connections_are_refused_with_a_reason() -> None:
    code = """
        sockets, ends = [], []
        for _ in range(400):
            try:
                s = dial("127.0.0.1", port)
                s.sendall(b"x")
                ends.append("ok" if s.recv(1) == b"x" else "END")
                sockets.append(s)
            except OSError as failed:
                ends.append(errno.errorcode[failed.errno])
        refused = [end for end in ends if end != "ok"]
        say(len(sockets), sorted(set(refused)), ends[len(sockets):] == refused)
        listen()
        for s in sockets:
            s.close()
        say("closed")
        listen()
        while True:
            try:
                s = dial("127.0.0.1", port)
                s.sendall(b"x")
                if s.recv(1) == b"x":
                    break
            except OSError:
                pass   # the proxy has not seen all closes yet
        say("room again")
        listen()
    """
    with IdleEcho() as server:
        argv = workload(code, port=server.port)
        enter = ["prlimit", f"--nofile={LIMIT}:{LIMIT}"]  # of loader, proxy and workload
        with start_exec(policy(relayed("127.0.0.1", server.port)), argv, enter=enter) as running:
            held, refused, in_order = running.heard(PATIENCE_S)
            assert refused == ["ECONNRESET"]
            assert in_order
            assert LIMIT // 2 - 64 <= held <= LIMIT // 2
            worker = running.worker_pid
            assert running.ask() == "closed"
            assert running.ask() == "room again"
            assert running.worker_pid == worker
            running.tell()
            result = running.wait(PATIENCE_S)
            assert result.code == 0
        assert set(result.reasons()) == {"DESCRIPTOR_LIMIT"}


class IdleEcho:
    """Echoes on thousands of connections, in one thread."""

    def __init__(self) -> None:
        self._listener = bound("127.0.0.1", socket.SOCK_STREAM)
        self._listener.listen(4096)
        self.port: int = self._listener.getsockname()[1]
        self.accepted: dict[int, socket.socket] = {}
        self._poller = select.epoll()
        self._poller.register(self._listener, select.EPOLLIN)
        self._wake, wake = socket.socketpair()
        self._other = wake
        self._poller.register(wake, select.EPOLLIN)
        self._soft = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._soft[1], self._soft[1]))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> "IdleEcho":
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.close()
        self._thread.join(PATIENCE_S)
        for sock in (self._listener, self._other, *self.accepted.values()):
            sock.close()
        self._poller.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, self._soft)

    def _serve(self) -> None:
        while True:
            for fd, _ in self._poller.poll():
                if fd == self._other.fileno():
                    return
                if fd == self._listener.fileno():
                    sock, _ = self._listener.accept()
                    self.accepted[sock.fileno()] = sock
                    self._poller.register(sock, select.EPOLLIN)
                    continue
                sock = self.accepted[fd]
                try:
                    data = sock.recv(4096)
                except OSError:
                    data = b""
                if data:
                    sock.sendall(data)
                else:
                    self._poller.unregister(fd)
                    self.accepted.pop(fd).close()
