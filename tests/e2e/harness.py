"""One `racecar exec` seen from both ends: what the workload was told, and every byte that a server received.

Servers run in threads of the test, outside of every enforced cgroup, on ports that the kernel picks. A workload is
Python source given to /usr/bin/python3: its uid can read neither the virtual environment nor the tests.
"""

import contextlib
import itertools
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import h11
import jsonschema
import yaml

PYTHON = "/usr/bin/python3"
PATIENCE_S = 20.0
LABELS = "app=client"
PINS = Path("/sys/fs/bpf/racecar")
FLOW = jsonschema.Draft202012Validator(
    json.loads((Path(__file__).resolve().parents[2] / "docs/flow.schema.json").read_text())
)

_serial = itertools.count()


def unique_name() -> str:
    return f"e2e-{os.getpid():x}-{next(_serial):x}"


# --- Policies --------------------------------------------------------------------------------------------------------


def cidr(network: str, *ports: int | str, protocol: str = "TCP", rules: dict[str, Any] | None = None) -> dict[str, Any]:
    """One egress rule: an address or CIDR, ports of one protocol, L7 rules for them."""
    if "/" not in network:
        network += "/128" if ":" in network else "/32"
    rule: dict[str, Any] = {"toCIDR": [network]}
    if ports:
        entry: dict[str, Any] = {"ports": [{"port": str(port), "protocol": protocol} for port in ports]}
        if rules:
            entry["rules"] = rules
        rule["toPorts"] = [entry]
    return rule


def relayed(network: str, *ports: int) -> dict[str, Any]:
    """A rule that sends the connection through the proxy, which reads nothing of it."""
    return cidr(network, *ports, rules={"l7proto": "tcp"})


def http(network: str, *ports: int, calls: Sequence[tuple[str, str]] = (("GET", "/jobs"),)) -> dict[str, Any]:
    """A rule with HTTP calls: (method, path) each."""
    return cidr(network, *ports, rules={"http": [{"method": method, "path": path} for method, path in calls]})


def policy(*egress: dict[str, Any], name: str = "test", kind: str = "CiliumNetworkPolicy", **spec: Any) -> Path:
    """Write a policy that selects `app=client`, in a directory of its own that everybody can read."""
    directory = Path(tempfile.mkdtemp(prefix="racecar-e2e-"))
    _made.append(directory)
    directory.chmod(0o755)
    document = {
        "apiVersion": "racecar.io/v1" if kind == "RacecarPolicy" else "cilium.io/v2",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"endpointSelector": {"matchLabels": {"app": "client"}}, "egress": list(egress)} | spec,
    }
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document))
    path.chmod(0o644)
    return path


_made: list[Path] = []


def remove_policies() -> None:
    """Called after each test."""
    while _made:
        shutil.rmtree(_made.pop(), ignore_errors=True)


# --- The workload ----------------------------------------------------------------------------------------------------

PRELUDE = """
import ctypes, errno, json, os, select, socket, struct, sys, threading
libc = ctypes.CDLL(None, use_errno=True)
def say(*values):
    os.write(1, json.dumps(values[0] if len(values) == 1 else values).encode() + b"\\n")  # signal handlers say too
def listen():
    return sys.stdin.readline().strip()
def attempt(function, *arguments):
    "What it returned, or the name of the errno that it failed with."
    try:
        value = function(*arguments)
    except OSError as failed:
        return errno.errorcode.get(failed.errno, str(failed))
    return value.decode("latin-1") if isinstance(value, bytes) else value if isinstance(value, (int, str)) else "ok"
def dial(address, port, kind=socket.SOCK_STREAM):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    s = socket.socket(family, kind)
    s.settimeout(10)
    s.connect((address, port))
    return s
def exchange(s, data, until_eof=True):
    "Send, then read to the end; what was read, or the name of an errno."
    try:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)
        got = b""
        while piece := s.recv(65536):
            got += piece
    except OSError as failed:
        return errno.errorcode.get(failed.errno, str(failed))
    return got.decode("latin-1")
"""


def workload(code: str, **values: Any) -> list[str]:
    """The command that runs `code` after PRELUDE, with `values` as its global names."""
    names = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    return [PYTHON, "-I", "-S", "-c", PRELUDE + names + textwrap.dedent(code)]


@dataclass(frozen=True)
class Result:
    """How an exec ended."""

    code: int
    stdout: str
    stderr: str
    flows: list[dict[str, Any]]

    @property
    def said(self) -> list[Any]:
        """What the workload said by `say`, in order."""
        return [json.loads(line) for line in self.stdout.splitlines()]

    def reasons(self, verdict: str = "DROPPED") -> list[str]:
        return [flow["reason"] for flow in self.flows if flow["verdict"] == verdict]


class HasPath(Protocol):
    @property
    def path(self) -> Path: ...


class Running:
    """A `racecar exec` under way, its workload on a pair of pipes. Leave the `with` block to end it."""

    def __init__(
        self,
        policies: Path | Sequence[Path],
        argv: Sequence[str],
        *,
        labels: str | None = LABELS,
        extra: Sequence[str] = (),
        netns: HasPath | None = None,
        pass_fds: Sequence[int] = (),
        instance: str | None = None,
        enter: Sequence[str] = (),
    ) -> None:
        self.instance = instance or unique_name()
        descriptor, log = tempfile.mkstemp(prefix="racecar-e2e-", suffix=".log")
        os.close(descriptor)
        self._log = Path(log)
        self._result: Result | None = None
        enter = list(enter) if netns is None else ["nsenter", f"--net={netns.path}"]
        paths = [policies] if isinstance(policies, Path) else policies
        options = [word for path in paths for word in ("--policy", str(path))]
        options += ["--labels", labels] if labels else []
        options += ["--instance", self.instance, "--access-log", log, *extra]
        self.process = subprocess.Popen(
            [*enter, sys.executable, "-m", "racecar.proxy.cli", "exec", *options, "--", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
        )
        self.pid = self.process.pid
        self._output: list[bytes] = []
        self._errors: list[bytes] = []
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> "Running":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._output.append(line)
            self._lines.put(line)
        self._lines.put(None)

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        self._errors.extend(self.process.stderr)

    def heard(self, timeout_s: float = PATIENCE_S) -> Any:
        """The next thing that the workload says."""
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise AssertionError(f"the workload said nothing in {timeout_s} s; stderr: {self.stderr}") from None
        if line is None:
            raise AssertionError(f"the workload has ended; stderr: {self.stderr}")
        return json.loads(line)

    def tell(self, text: str = "") -> None:
        """A line for the workload's `listen`."""
        assert self.process.stdin is not None
        self.process.stdin.write(text.encode() + b"\n")
        self.process.stdin.flush()

    def ask(self, text: str = "") -> Any:
        self.tell(text)
        return self.heard()

    @property
    def stderr(self) -> str:
        return b"".join(self._errors).decode("utf-8", "replace")

    @property
    def pins(self) -> Path:
        return PINS / self.instance

    @property
    def worker_pid(self) -> int:
        """The proxy process."""
        for pid in children_of(self.pid):
            if cgroup_of(pid).endswith(f"racecar.{self.instance}/proxy"):
                return pid
        raise AssertionError("no proxy runs")

    def wait_for_other_worker(self, old: int) -> int:
        """The pid of the proxy that was started in the place of `old`, once it serves."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(AssertionError):
                pid = self.worker_pid
                if pid != old:
                    return pid
            threading.Event().wait(0.005)
        raise AssertionError("no proxy was started in the place of the dead one")

    def cgroup(self, part: str = "app") -> Path:
        """The cgroup of the workload, or of the proxy."""
        mount = next(
            line.split(" ")[1]
            for line in Path("/proc/mounts").read_text().splitlines()
            if line.split(" ")[2] == "cgroup2"
        )
        return Path(mount + cgroup_of(self.pid)) / f"racecar.{self.instance}" / part

    def wait(self, timeout_s: float = PATIENCE_S) -> Result:
        """Wait for its end."""
        with contextlib.suppress(OSError, ValueError):
            assert self.process.stdin is not None
            self.process.stdin.close()
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(
                f"exec still runs after {timeout_s} s; said: {b''.join(self._output)!r}; stderr: {self.stderr}"
            ) from None
        for reader in self._readers:
            reader.join(PATIENCE_S)
        flows = [json.loads(line) for line in self._log.read_text().splitlines()]
        for flow in flows:
            FLOW.validate(flow)
        return Result(code, b"".join(self._output).decode(), self.stderr, flows)

    def stop(self) -> Result:
        """End it by SIGTERM, by SIGKILL if it will not end."""
        if self._result is not None:
            return self._result
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self._result = self.wait()
            return self._result
        finally:
            for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
            self._log.unlink(missing_ok=True)


def start_exec(policies: Path | Sequence[Path], argv: Sequence[str], **options: Any) -> Running:
    return Running(policies, argv, **options)


def run_exec(
    policies: Path | Sequence[Path], argv: Sequence[str], *, timeout: float = PATIENCE_S, **options: Any
) -> Result:
    """Run one command to its end."""
    with Running(policies, argv, **options) as running:
        return running.wait(timeout)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cgroup_of(pid: int) -> str:
    """Its path in the unified hierarchy."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return line[3:].rstrip("/")
    return ""


def listener_port(running: Running, family: socket.AddressFamily = socket.AF_INET) -> int:
    """Where the proxy listens: the redirect target."""
    inodes = set()
    for entry in Path(f"/proc/{running.worker_pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(entry))
    table = Path(f"/proc/{running.worker_pid}/net/" + ("tcp" if family == socket.AF_INET else "tcp6"))
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:  # TCP_LISTEN
            return int(fields[1].rpartition(":")[2], 16)
    raise AssertionError("the proxy does not listen")


# --- Servers ---------------------------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """For what has no event to wait for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {timeout_s} s: {what}")
        threading.Event().wait(0.002)


class CanCall(Protocol):
    def call(self, function: Callable[[], socket.socket]) -> socket.socket: ...


def bound(address: str, kind: int, netns: CanCall | None = None, *, port: int = 0) -> socket.socket:
    """A socket on a port that the kernel picked, in another network namespace if one is given."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def make() -> socket.socket:
        made = socket.socket(family, kind)
        try:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind((address, port))
        except OSError:
            made.close()
            raise
        return made

    return make() if netns is None else netns.call(make)


@dataclass
class Received:
    """One connection, as the server saw it."""

    peer: tuple[str, int]
    data: bytes = b""
    ended: str = ""  # "eof", "reset"; "" while it lives
    requests: list[tuple[str, str]] = field(default_factory=list)  # by h11: method and target
    error: str = ""  # why h11 could read no further


class TcpServer:
    """Records every byte of every connection. `answer` is called with each piece; what it returns is sent back."""

    def __init__(self, address: str = "127.0.0.1", netns: CanCall | None = None, *, port: int = 0) -> None:
        self._listener = bound(address, socket.SOCK_STREAM, netns, port=port)
        self._listener.listen(512)
        self.address = address
        self.port: int = self._listener.getsockname()[1]
        self.connections: list[Received] = []
        self._changed = threading.Condition()
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def received(self) -> list[bytes]:
        """What each connection brought, in the order in which they were accepted."""
        return [connection.data for connection in self.connections]

    def wait_for(self, condition: Callable[[list[Received]], bool], timeout_s: float = PATIENCE_S) -> list[Received]:
        with self._changed:
            if not self._changed.wait_for(lambda: condition(self.connections), timeout_s):
                raise AssertionError(f"the server saw {self.connections}")
            return list(self.connections)

    def wait_ended(self, count: int = 1) -> list[Received]:
        """Wait until that many connections have come and ended."""
        return self.wait_for(lambda all_: len(all_) >= count and all(one.ended for one in all_))

    def answer(self, connection: Received, data: bytes) -> bytes:
        return b""

    def at_end(self, connection: Received) -> bytes:
        return b""

    def _accept(self) -> None:
        while True:
            try:
                accepted, peer = self._listener.accept()
            except OSError:
                return
            connection = Received(peer[:2])
            with self._changed:
                self._sockets.add(accepted)
                self.connections.append(connection)
                self._changed.notify_all()
            thread = threading.Thread(target=self._serve, args=(accepted, connection), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, accepted: socket.socket, connection: Received) -> None:
        ended = "eof"
        try:
            while data := accepted.recv(1 << 18):
                with self._changed:
                    connection.data += data
                    reply = self.answer(connection, data)
                    self._changed.notify_all()
                if reply:
                    accepted.sendall(reply)
            if last := self.at_end(connection):
                accepted.sendall(last)
        except ConnectionResetError:
            ended = "reset"
        except OSError as failed:
            ended = f"{failed}"
        accepted.close()
        with self._changed:
            self._sockets.discard(accepted)
            connection.ended = ended
            self._changed.notify_all()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            left = list(self._sockets)
        for accepted in left:
            with contextlib.suppress(OSError):
                accepted.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE_S)


class EchoServer(TcpServer):
    def answer(self, connection: Received, data: bytes) -> bytes:
        return data


class HttpServer(TcpServer):
    """Answers each request that h11 reads from the bytes with 200 and its target; what h11 reads is the oracle."""

    def __init__(self, address: str = "127.0.0.1", netns: CanCall | None = None, *, port: int = 0) -> None:
        self._parsers: dict[int, h11.Connection] = {}
        super().__init__(address, netns, port=port)

    @property
    def requests(self) -> list[tuple[str, str]]:
        return [request for connection in self.connections for request in connection.requests]

    def answer(self, connection: Received, data: bytes) -> bytes:
        parser = self._parsers.setdefault(id(connection), h11.Connection(h11.SERVER))
        parser.receive_data(data)
        reply = b""
        try:
            while (event := parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Request):
                    connection.requests.append((event.method.decode(), event.target.decode("latin-1")))
                elif isinstance(event, h11.EndOfMessage):
                    body = connection.requests[-1][1].encode("latin-1")
                    head = h11.Response(status_code=200, headers=[("Content-Length", str(len(body)))], reason=b"OK")
                    for part in (head, h11.Data(data=body), h11.EndOfMessage()):
                        reply += parser.send(part) or b""
                    if parser.our_state is not h11.DONE:
                        break
                    parser.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed):
                    break
        except h11.RemoteProtocolError as failed:
            connection.error = str(failed)
        return reply


class UdpServer:
    """Records datagrams; echoes them if asked to."""

    def __init__(self, address: str = "127.0.0.1", netns: CanCall | None = None, *, echo: bool = False) -> None:
        self._socket = bound(address, socket.SOCK_DGRAM, netns)
        self.address = address
        self.port: int = self._socket.getsockname()[1]
        self.received: list[bytes] = []
        self._echo = echo
        self._end = os.urandom(16)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self._netns = netns

    def __enter__(self) -> "UdpServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _serve(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(65536)
            if data == self._end:
                return
            self.received.append(data)
            if self._echo:
                self._socket.sendto(data, peer)

    def close(self) -> list[bytes]:
        """What was received; datagrams queued before this call are all in it."""
        if self._thread.is_alive():
            with bound(self.address, socket.SOCK_DGRAM, self._netns) as ender:
                ender.sendto(self._end, (self.address, self.port))
            self._thread.join(PATIENCE_S)
        self._socket.close()
        return self.received


@contextlib.contextmanager
def closing_all(*things: Any) -> Iterator[None]:
    try:
        yield
    finally:
        for thing in things:
            thing.close()
