"""One racecar process as a user starts it, and a recording server behind it, on real sockets."""

import contextlib
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from http1_table import Case, Then, Turn
from http1_table.build import HEALTH, OK
from http1_table.policy import LABELS, policy_text
from oracle import check_origin
from refusals import check_client, read_refusal

PATIENCE_S = 20.0
RACECAR = Path(sys.executable).with_name("racecar")


class Racecar:
    """`racecar run --no-bpf` for one server; what it says on stderr is kept."""

    def __init__(self, directory: Path) -> None:
        self.origin = socket.create_server(("127.0.0.1", 0))
        self.origin.settimeout(PATIENCE_S)
        port = self.origin.getsockname()[1]
        policy = directory / "conformance.yaml"
        policy.write_text(policy_text(port))
        labels = ",".join(f"{key}={value}" for key, value in LABELS.items())
        command = [str(RACECAR), "run", "--no-bpf", "--listen", "127.0.0.1:0", "--upstream", f"127.0.0.1:{port}"]
        command += ["--policy", str(policy), "--labels", labels, "--access-log", str(directory / "access.log")]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self._port: int | None = None
        self._settled = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.append(line)
            if match := re.search(r"listening on \S+:(\d+)", line):
                self._port = int(match[1])
                self._settled.set()
        self._settled.set()

    @property
    def address(self) -> tuple[str, int]:
        assert self._settled.wait(PATIENCE_S), "racecar does not start"
        assert self._port is not None, f"racecar does not start: {self.said}"
        return "127.0.0.1", self._port

    def stop(self) -> int:
        """Ask it to end; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self._reader.join()
            assert self.process.stderr is not None
            self.process.stderr.close()
            self.origin.close()


def pieces(data: bytes, count: int) -> Iterator[bytes]:
    """Cut into at most `count` pieces, the first a byte long."""
    if count > 1:
        yield data[:1]
        data = data[1:]
    size = max(1, -(-len(data) // max(1, count - 1)))
    for start in range(0, len(data), size):
        yield data[start : start + size]


class Peer:
    """One end of a connection: what it got, and how that ended."""

    def __init__(self, sock: socket.socket, count: int) -> None:
        sock.settimeout(PATIENCE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.got = b""
        self.ended = self.reset = False
        self._count = count  # pieces of what it sends

    def send(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # the proxy may have ended it: what it got says so
            for piece in pieces(data, self._count):
                self.sock.sendall(piece)

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        self.ended = True

    def read_more(self) -> bool:
        """One read; False at the end of the stream."""
        if self.ended:
            return False
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionResetError:
            self.reset = True
            data = b""
        self.got += data
        self.ended = not data
        return not self.ended

    def read_until(self, size: int) -> None:
        while len(self.got) < size and self.read_more():
            pass

    def read_to_the_end(self) -> None:
        while self.read_more():
            pass

    def read_refusal(self, start: int, *, bodiless: bool) -> int:
        """Read an answer of the proxy's own; the position behind it, or `start` if it does not come."""
        while True:
            read = read_refusal(self.got[start:], bodiless=bodiless)
            if read is not None:
                return start + read[1]
            if not self.read_more():
                return start


class Session:
    """One case on one connection: both of its ends are ours."""

    def __init__(self, racecar: Racecar, count: int) -> None:
        self.client = Peer(socket.create_connection(racecar.address, PATIENCE_S), count)
        accepted, _ = racecar.origin.accept()  # dialled when the proxy took the client: nobody else is dialling now
        self.origin = Peer(accepted, count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.sock.close()
        self.origin.sock.close()

    def play(self, case: Case) -> None:
        """Play all turns; whoever acts waits for what the table says that it has by then."""
        at_origin = position = 0
        for turn in case.turns:
            self.client.send(turn.sent)
            if turn.client_ends:
                self.client.end()
            at_origin += len(turn.at_origin)
            if turn.answer or turn.origin_ends or turn.origin_resets:
                self.origin.read_until(at_origin)
                assert self.origin.got[:at_origin] == case.at_origin[:at_origin]
                self._answer(turn)
            if case.then is not Then.CUT or turn is not case.turns[-1]:
                position += len(turn.to_client)
                self.client.read_until(position)
                if turn.status:
                    position = self.client.read_refusal(position, bodiless=turn.bodiless)
        self._part(case, at_origin)
        self._check(case)

    def _answer(self, turn: Turn) -> None:
        self.origin.send(turn.answer)
        if turn.origin_resets:
            self.client.read_until(len(self.client.got) + len(turn.to_client))  # a reset drops what is on its way
            self.origin.abort()
        elif turn.origin_ends:
            self.origin.end()

    def _part(self, case: Case, at_origin: int) -> None:
        """Find out how the connection stands."""
        client, origin = self.client, self.origin
        if case.then is Then.OPEN:
            answered = len(client.got)
            client.send(HEALTH)
            origin.read_until(at_origin + len(HEALTH))
            assert origin.got.endswith(HEALTH), "a connection that takes no other request"
            origin.got = origin.got.removesuffix(HEALTH)
            origin.send(OK)
            client.read_until(answered + len(OK))
            assert client.got.endswith(OK)
            client.got = client.got.removesuffix(OK)
        elif case.then in (Then.CLOSED, Then.CUT):
            client.read_to_the_end()
            assert client.reset == (case.then is Then.CUT), "how the client's connection ended"
        else:
            origin.read_until(at_origin)
        client.sock.close()
        origin.read_to_the_end()

    def _check(self, case: Case) -> None:
        got = self.origin.got
        if case.is_torn:
            assert case.at_origin.startswith(got)
        else:
            assert got == case.at_origin
        check_client(case, self.client.got)
        check_origin(case, got, reset=self.origin.reset)
