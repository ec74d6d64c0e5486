"""What one workload may take of what all share, and what happens to it at the end of that."""

import contextlib
import fcntl
import hashlib
import os
import socket
import threading
from pathlib import Path

import pytest
from harness import (
    EchoServer,
    Received,
    Running,
    TcpServer,
    policy,
    relayed,
    start_exec,
    wait_until,
    workload,
)

from racecar.proxy.core.relay import PIPE_BYTES
from racecar.proxy.limits import EdgeConfig

pytestmark = [pytest.mark.root, pytest.mark.slow]

F_GETPIPE_SZ = 1032


def descriptors_of(pid: int) -> dict[int, str]:
    """What each descriptor of a process is."""
    folder = Path(f"/proc/{pid}/fd")
    found = {}
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            found[int(name)] = os.readlink(folder / name)
    return found


def pipes_of(running: Running) -> dict[str, int]:
    """The proxy's pipes, with their size."""
    sizes = {}
    for fd, what in descriptors_of(running.worker_pid).items():
        if what.startswith("pipe:"):
            opened = os.open(f"/proc/{running.worker_pid}/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK)
            sizes[what] = fcntl.fcntl(opened, F_GETPIPE_SZ)
            os.close(opened)
    return sizes


# --- Pipes -----------------------------------------------------------------------------------------------------------


class Stalling(TcpServer):
    """Reads nothing before `go`, and keeps no more than a hash."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.digests: list[str] = []
        super().__init__()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def _serve(self, accepted: socket.socket, connection: Received) -> None:
        self.go.wait(20)
        digest = hashlib.sha256()
        while data := accepted.recv(1 << 18):
            digest.update(data)
        accepted.sendall(digest.hexdigest().encode())
        accepted.close()
        with self._changed:
            self.digests.append(digest.hexdigest())
            connection.ended = "eof"
            self._changed.notify_all()


def test_one_workloads_stalled_splices_take_no_more_pipes_than_its_quota_and_every_byte_arrives() -> None:
    quota = EdgeConfig().max_pipes_per_workload
    count, size = quota + 2, 5 << 20
    code = """
        say("ready"); listen()
        import hashlib
        body = bytes(range(256)) * (size // 256)
        connections = [dial("127.0.0.1", port) for _ in range(count)]
        left = {s.fileno(): [s, memoryview(body)] for s in connections}
        poller = select.epoll()
        for s in connections:
            s.setblocking(False)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            poller.register(s, select.EPOLLOUT)
        told = False
        while left:
            ready = poller.poll(0.3 if not told else 10)
            if not ready and not told:
                told = say("stalled") or True
            for fd, _ in ready:
                s, rest = left[fd]
                left[fd][1] = rest = rest[s.send(rest[:1 << 16]):]
                if not rest:
                    poller.unregister(fd)
                    s.shutdown(socket.SHUT_WR)
                    del left[fd]
        answers = []
        for s in connections:
            s.setblocking(True)
            answers.append(s.recv(100).decode())
        say(answers == [hashlib.sha256(body).hexdigest()] * count)
        listen()
    """
    with Stalling() as server:
        rules = policy(relayed("127.0.0.1", server.port))
        argv = workload(code, port=server.port, count=count, size=size)
        with start_exec(rules, argv) as running:
            assert running.heard() == "ready"
            before = pipes_of(running)
            assert running.ask() == "stalled"
            stalled = [size for pipe, size in pipes_of(running).items() if pipe not in before]
            assert stalled == [PIPE_BYTES] * quota
            server.go.set()
            assert running.heard() is True
            expected = hashlib.sha256(bytes(range(256)) * (size // 256)).hexdigest()
            assert server.digests == [expected] * count


def test_transfers_one_after_the_other_share_their_pipes() -> None:
    code = """
        say("ready"); listen()
        body = bytes(1 << 20)
        for _ in range(8):
            s = dial("127.0.0.1", port)
            got = []
            def drain():
                total = 0
                while piece := s.recv(1 << 18):
                    total += len(piece)
                got.append(total)
            reader = threading.Thread(target=drain)
            reader.start()
            s.sendall(body)
            s.shutdown(socket.SHUT_WR)
            reader.join()
            say(got[0]); listen()
    """
    with EchoServer() as server:
        rules = policy(relayed("127.0.0.1", server.port))
        with start_exec(rules, workload(code, port=server.port)) as running:
            assert running.heard() == "ready"
            before = pipes_of(running)
            assert running.ask() == 1 << 20
            first = pipes_of(running).keys() - before
            assert 1 <= len(first) <= 2
            assert [running.ask() for _ in range(7)] == [1 << 20] * 7
            later = pipes_of(running).keys() - before
            assert first <= later
            assert len(later) <= 2
        assert [len(data) for data in server.received] == [1 << 20] * 8


def test_idle_connections_hold_no_pipe() -> None:
    code = """
        say("ready"); listen()
        connections = [dial("127.0.0.1", port) for _ in range(50)]
        for s in connections:
            s.sendall(b"hello")
            assert s.recv(5) == b"hello"
        say("idle")
        listen()
    """
    with EchoServer() as server:
        rules = policy(relayed("127.0.0.1", server.port))
        with start_exec(rules, workload(code, port=server.port)) as running:
            assert running.heard() == "ready"
            before = pipes_of(running)
            assert running.ask() == "idle"
            assert pipes_of(running) == before


# --- Descriptors -----------------------------------------------------------------------------------------------------


def limited(count: int) -> list[str]:
    return ["prlimit", f"--nofile={count}:{count}"]


def test_at_the_descriptor_limit_new_connections_are_reset_old_ones_go_on_and_room_is_used_again() -> None:
    code = """
        def open_one():
            try:
                s = dial("127.0.0.1", port)
                s.sendall(b"x")
                return s if s.recv(1) == b"x" else "closed"
            except OSError as failed:
                return errno.errorcode[failed.errno]
        opened = [open_one() for _ in range(60)]
        say([one if isinstance(one, str) else "ok" for one in opened])
        alive = [one for one in opened if not isinstance(one, str)]
        for s in alive:
            s.sendall(b"still")
            assert s.recv(5) == b"still"
        say(len(alive))
        listen()
        for s in alive:
            s.shutdown(socket.SHUT_WR)
            assert s.recv(1) == b""
            s.close()
        listen()
        say([one if isinstance(one, str) else "ok" for one in [open_one() for _ in range(3)]])
        listen()
    """
    with EchoServer() as server:
        rules = policy(relayed("127.0.0.1", server.port))
        with start_exec(rules, workload(code, port=server.port), enter=limited(140)) as running:
            told, alive = running.heard(), running.heard()
            assert 5 < alive < 60
            assert told == ["ok"] * alive + ["ECONNRESET"] * (60 - alive)
            worker = running.worker_pid
            full = len(descriptors_of(worker))
            assert full < 140
            running.tell()
            wait_until(lambda: len(descriptors_of(worker)) <= full - 2 * alive, "the descriptors are closed again")
            running.tell()
            assert running.heard() == ["ok"] * 3
            assert running.worker_pid == worker
            running.tell()
            result = running.wait()
        assert result.code == 0
        assert server.received == [b"xstill"] * alive + [b"x"] * 3
    assert result.reasons() == ["DESCRIPTOR_LIMIT"] * (60 - alive)
    assert "DESCRIPTOR_LIMIT" in result.stderr


def test_a_flood_at_the_descriptor_limit_neither_ends_nor_spins_the_proxy() -> None:
    code = """
        sockets = []
        for _ in range(100):
            s = socket.socket()
            s.setblocking(False)
            attempt(s.connect, ("127.0.0.1", port))
            sockets.append(s)
        ends = {}
        for s in sockets:
            s.settimeout(10)
            try:
                s.sendall(b"x")
                end = s.recv(1).decode()
            except OSError as failed:
                end = errno.errorcode.get(failed.errno, str(failed))
            ends[end] = ends.get(end, 0) + 1
        say(ends)
        listen()
    """
    with EchoServer() as server:
        rules = policy(relayed("127.0.0.1", server.port))
        with start_exec(rules, workload(code, port=server.port), enter=limited(140)) as running:
            ends = running.heard()
            worker = running.worker_pid
        assert set(ends) <= {"x", "ECONNRESET", "EPIPE"}
        assert sum(ends.values()) == 100
        assert ends["x"] == len(server.connections)
        assert worker


@pytest.mark.parametrize("limit", [40, 105])
def test_a_limit_too_low_to_load_the_programs_starts_nothing_and_leaves_nothing(limit: int, tmp_path: Path) -> None:
    marker = tmp_path / "started"
    argv = ["/bin/touch", str(marker)]
    with start_exec(policy(relayed("127.0.0.1", 1)), argv, enter=limited(limit)) as running:
        result = running.wait()
        assert result.code == 125
        assert "too many open files" in result.stderr
        assert not marker.exists()
        assert not running.pins.exists()
        assert not (Path("/run/racecar") / running.instance).exists()
