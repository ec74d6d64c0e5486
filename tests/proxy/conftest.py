"""A relay on real loopback sockets: the server's loop in a thread, blocking sockets in the test."""

import asyncio
import contextlib
import hashlib
import ipaddress
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop

from racecar.policy.engine import HttpCall, HttpVerdict
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import HttpConfig
from racecar.proxy.limits import EdgeConfig
from racecar.proxy.server import Server
from racecar.redirect.abi import ConnectionRecord

PATIENCE_S = 20.0


@dataclass
class Policy:
    kind: str = "tcp"
    matcher: Any = None
    audit: bool = False
    tls_rule: int = 0
    tells_rules: bool = True
    header_names: frozenset[bytes] = frozenset()

    def rule_name(self, rule: int) -> str:
        return f"default/test rule {rule}" if rule else "default deny"


@dataclass
class Verdict:
    allow: bool
    rule: int
    reason: Reason


class Matcher:
    """GET of /jobs and what lies below it, POST of /jobs."""

    def judge(self, call: HttpCall) -> HttpVerdict:
        if call.target.startswith(b"/bug"):
            raise RuntimeError("a bug in a matcher")
        allow = call.target.startswith(b"/jobs") and call.method in (b"GET", b"HEAD", b"POST")
        return HttpVerdict(allow, 1 if allow else 0, Reason.NONE if allow else Reason.HTTP_NO_RULE)


class Relay:
    """A running server; everything it owns is touched in its own thread only, by `ask`."""

    def __init__(
        self,
        config: EdgeConfig,
        policy: Policy,
        *,
        family: int = socket.AF_INET,
        http: HttpConfig | None = None,
        answers_dial_failures: bool = False,
    ) -> None:
        self.config = config
        self.policies: dict[int, Policy | None] = {1: policy}
        self.entries: list[Any] = []
        self.workload = 1
        self.target: tuple[str, int] | None = None  # where the record says that the client wanted to go
        self.changed = threading.Condition()
        self.sockets: list[socket.socket] = []
        host = "127.0.0.1" if family == socket.AF_INET else "::1"
        self.origin = socket.create_server((host, 0), family=family)
        self.origin.settimeout(PATIENCE_S)
        self.host = host
        listener = socket.create_server((host, 0), family=family, backlog=4096)
        self.address = listener.getsockname()[:2]
        self.loop = uvloop.new_event_loop()
        self.server = Server(
            self.loop,
            config,
            resolve=self.resolve,
            policy_for=lambda workload, _: self.policies.get(workload),
            log=self.log,
            http_config=http,
            answers_dial_failures=answers_dial_failures,
        )
        self.server.listen(listener)
        self.thread = threading.Thread(target=self.loop.run_forever, name="relay")
        self.thread.start()

    def resolve(self, fd: int, _peer: object) -> ConnectionRecord | None:
        host, port = self.target or self.origin.getsockname()[:2]
        if not port:
            return None
        return ConnectionRecord(
            cookie=fd, cgroup_id=1, task_start_ns=0, connected_ns=0, workload=self.workload, generation=1, epoch=1,
            ruleset=1, rule=3, pid=1, uid=0, flags=0, address=ipaddress.ip_address(host), port=port,
            state=2, protocol=6, comm="test",
        )  # fmt: skip

    def log(self, entry: Any) -> None:
        with self.changed:
            self.entries.append(entry)
            self.changed.notify_all()

    def wait_for_entries(self, count: int) -> list[Any]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.entries) >= count, PATIENCE_S), self.entries
            entries = list(self.entries)
        self.ask(lambda: None)  # sockets are closed behind the batch that logged them
        return entries

    def ask(self, call: Callable[[], Any]) -> Any:
        """Run `call` in the loop's thread, after everything that is due there."""
        answer: Future[Any] = Future()

        def run() -> None:
            try:
                answer.set_result(call())
            except BaseException as error:
                answer.set_exception(error)

        self.loop.call_soon_threadsafe(run)
        return answer.result(PATIENCE_S)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep the loop's thread from running: what the peers do meanwhile is all there when it looks."""
        stopped, go = threading.Event(), threading.Event()

        def stop() -> None:
            stopped.set()
            go.wait(PATIENCE_S)

        self.loop.call_soon_threadsafe(stop)
        assert stopped.wait(PATIENCE_S)
        try:
            yield
        finally:
            go.set()

    def drain(self, timeout_s: float) -> "Future[int]":
        return asyncio.run_coroutine_threadsafe(self.server.drain(timeout_s), self.loop)

    def dial(self) -> socket.socket:
        client = socket.create_connection(self.address, timeout=PATIENCE_S)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sockets.append(client)
        return client

    def accept(self) -> socket.socket:
        server, _ = self.origin.accept()
        server.settimeout(PATIENCE_S)
        self.sockets.append(server)
        return server

    def pair(self) -> tuple[socket.socket, socket.socket]:
        client = self.dial()
        return client, self.accept()

    def stop(self) -> None:
        if self.thread.is_alive():
            self.ask(self.server.close)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.thread.join()
        self.loop.close()
        self.origin.close()
        for sock in self.sockets:
            sock.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Relay]]:
    """Start a relay with `EdgeConfig` fields as keywords."""
    with contextlib.ExitStack() as stack:

        def make(
            kind: str = "tcp",
            *,
            family: int = socket.AF_INET,
            http: HttpConfig | None = None,
            answers_dial_failures: bool = False,
            **fields: Any,
        ) -> Relay:
            policy = Policy(kind, Matcher() if kind == "http" else None)
            relay = Relay(
                EdgeConfig(**fields), policy, family=family, http=http, answers_dial_failures=answers_dial_failures
            )
            stack.callback(relay.stop)
            return relay

        yield make


@pytest.fixture
def relay(start: Callable[..., Relay]) -> Relay:
    return start()


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.fixture(name="reset")
def reset_fixture() -> Callable[[socket.socket], None]:
    return reset


def read_all(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(65536):
        parts.append(part)
    return b"".join(parts)


@pytest.fixture(name="read_all")
def read_all_fixture() -> Callable[[socket.socket], bytes]:
    return read_all


class Sender(threading.Thread):
    """Send `total` bytes of a pattern and FIN; `digest` once joined."""

    def __init__(self, sock: socket.socket, total: int) -> None:
        super().__init__()
        self.sock, self.total, self.digest = sock, total, ""
        self.start()

    def run(self) -> None:
        block = bytes(range(256)) * 1021  # no power of two: a lost or doubled piece shifts the pattern
        left, digest = self.total, hashlib.sha256()
        with contextlib.suppress(ConnectionError):
            while left:
                part = block[: min(left, len(block))]
                self.sock.sendall(part)
                digest.update(part)
                left -= len(part)
            self.digest = digest.hexdigest()
            self.sock.shutdown(socket.SHUT_WR)


@pytest.fixture
def sender() -> Iterator[Callable[[socket.socket, int], Sender]]:
    made: list[Sender] = []

    def make(sock: socket.socket, total: int) -> Sender:
        made.append(Sender(sock, total))
        return made[-1]

    yield make
    for thread in made:
        thread.join(PATIENCE_S)
