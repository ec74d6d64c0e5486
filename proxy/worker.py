"""The proxy process: unprivileged from its first byte of traffic, holding descriptors only.

It is forked from the loader, not executed anew: its uid need not be able to read the Python that runs it, and the two
share their memory. Before it serves it enters its own cgroup, makes the listeners there (sockets are known by the
cgroup that they are made in), closes what it does not need and gives up every right.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import uvloop

from racecar.policy.engine import HttpMatcher
from racecar.policy.tables import CompiledWorkload
from racecar.proxy.channel import Channel, ChannelClosed
from racecar.proxy.core.http1_types import HttpConfig, Judge, Verdict
from racecar.proxy.flows import FlowSource, FlowWriter, denial_of_connection, denial_of_request
from racecar.proxy.limits import EdgeConfig
from racecar.proxy.records import ConnectionEntry, HttpEntry, LogEntry
from racecar.proxy.server import Server, bequeath
from racecar.proxy.sink import LineSink
from racecar.redirect.instance import ConnectionRecords

LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
FLUSH_S = 0.05
LAST_LINES_S = 1.0  # for a slow reader of the access log, at the end
STRANGERS_PER_SECOND = 10  # connections that no workload announced: in the log, never on the terminal
DENIALS_PER_SECOND = 50  # told to the loader for the terminal; the log has all
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38

logger = logging.getLogger(__name__)


class Layer:
    """One rule set, as the server asks for it. The same object as long as the policy stands."""

    def __init__(self, compiled: CompiledWorkload, number: int, *, audit: bool) -> None:
        ruleset = compiled.rulesets[number]
        self.kind: str = ruleset.kind
        self.matcher: Judge | None = HttpMatcher(ruleset) if ruleset.kind == "http" else None
        self.audit = audit
        self._rules = compiled.rules
        self._default = f"default deny ({', '.join(compiled.policies)})"

    def rule_name(self, rule: int) -> str:
        """For the text of a denial: policy and rule, or default deny and the policies that cause it."""
        return self._rules[rule].name if 0 < rule < len(self._rules) else self._default


@dataclass(frozen=True)
class WorkerPlan:
    """What the proxy is started with."""

    uid: int
    gid: int
    cgroup: Path
    source: FlowSource
    layers: dict[int, Layer]  # by number of the rule set
    log_fd: int | None
    edge: EdgeConfig
    http: HttpConfig


def start_worker(plan: WorkerPlan, forget: Callable[[], None]) -> tuple[int, Channel]:
    """Fork the proxy; its pid and our end of the channel. The loader must be single-threaded.

    `forget` runs in the child first: it lets go of what no closing of descriptors takes away, such as mapped memory.
    """
    ours, theirs = Channel.pair()
    pid = os.fork()
    if pid == 0:
        _become_worker(plan, theirs, forget)
    theirs.close()
    return pid, ours


def _become_worker(plan: WorkerPlan, channel: Channel, forget: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        forget()
        try:
            listeners = _confine(plan, channel)
        except OSError as failed:
            logger.error("the proxy cannot be confined: %s", failed)
            os._exit(1)
        uvloop.run(_serve(plan, channel, listeners))
        code = 0
    except ChannelClosed:
        code = 0  # the loader is gone or wants us gone
    except BaseException:
        logger.exception("the proxy ends")
    finally:
        sys.stderr.flush()
        os._exit(code)


def _confine(plan: WorkerPlan, channel: Channel) -> list[socket.socket]:
    os.setsid()
    for number in range(1, signal.NSIG):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    keep = {2, channel.fileno(), *(() if plan.log_fd is None else (plan.log_fd,))}
    _close_all_but(keep)
    (plan.cgroup / "cgroup.procs").write_text("0")
    listeners = _listen()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.chdir("/")
    os.umask(0o077)
    os.setgroups([])
    os.setresgid(plan.gid, plan.gid, plan.gid)
    os.setresuid(plan.uid, plan.uid, plan.uid)
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((PR_SET_NO_NEW_PRIVS, 1), (PR_SET_DUMPABLE, 0), (PR_SET_PDEATHSIG, signal.SIGKILL)):
        if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0):
            raise OSError(ctypes.get_errno(), f"prctl({option}): {os.strerror(ctypes.get_errno())}")
    return listeners


def _close_all_but(keep: set[int]) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):
                os.close(int(name))
    null = os.open("/dev/null", os.O_RDWR)  # the lowest free numbers: 0 and 1
    for standard in (0, 1):
        if null != standard and standard not in keep:
            os.dup2(null, standard)
    if null > 1:
        os.close(null)


def _listen() -> list[socket.socket]:
    listeners = []
    for family, address in LOOPBACKS:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bequeath(sock)
            sock.bind((address, 0))
            sock.listen(4096)
        except OSError:
            sock.close()
            if family == socket.AF_INET:
                raise
            continue  # no IPv6 on this host
        listeners.append(sock)
    return listeners


class _Processes:
    """Which executable a pid is, asked of the loader: this process may not look."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._known: dict[tuple[int, int], str | None] = {}

    def ask(self, pid: int, start_ns: int) -> None:
        key = (pid, start_ns)
        if key in self._known:
            return
        if len(self._known) >= 4096:
            self._known.clear()
        self._known[key] = None
        with contextlib.suppress(ChannelClosed):  # noticed, and acted on, where messages are read
            self._channel.send({"who": [pid, start_ns]})

    def answer(self, pid: int, start_ns: int, exe: str | None) -> None:
        self._known[(pid, start_ns)] = exe

    def name(self, pid: int, start_ns: int) -> str | None:
        return self._known.get((pid, start_ns))


class _Worker:
    def __init__(self, plan: WorkerPlan, channel: Channel) -> None:
        self.plan = plan
        self.channel = channel
        self.processes = _Processes(channel)
        self.flows = FlowWriter(plan.source, self.processes.name)
        self.sink = None if plan.log_fd is None else LineSink(plan.log_fd)
        self.waiting: list[LogEntry] = []
        self.told_s, self.told = 0.0, 0
        self.strangers_s, self.strangers = 0.0, 0
        self.done = asyncio.Event()
        self.server: Server | None = None
        self.drain_task: asyncio.Task[None] | None = None

    def resolve(self, records: ConnectionRecords, fd: int) -> Any:
        record = records.lookup(fd)
        if record is not None:
            self.processes.ask(record.pid, record.task_start_ns)
        return record

    def log(self, entry: LogEntry) -> None:
        """Keep the entry for the next flush: by then the loader has said who the process is."""
        if isinstance(entry, HttpEntry):
            dropped = entry.http.verdict is Verdict.DROPPED
            if dropped and entry.http.event:
                layer = self.plan.layers.get(entry.record.ruleset)
                self.tell(denial_of_request(entry, layer.rule_name(entry.http.rule) if layer else ""))
        elif entry.record is None:
            if not self.is_stranger_worth_a_line():
                return
        elif entry.verdict is Verdict.DROPPED:
            self.tell(denial_of_connection(entry))
        if self.sink is None:
            return
        if len(self.waiting) >= 20_000:
            self.sink.lost += 1
            return
        self.waiting.append(entry)

    def is_stranger_worth_a_line(self) -> bool:
        """Anybody on the host may knock at the listener: the server counts it all, the log has some of it."""
        now = time.monotonic()
        if now - self.strangers_s > 1:
            self.strangers_s, self.strangers = now, 0
        self.strangers += 1
        return self.strangers <= STRANGERS_PER_SECOND

    def tell(self, text: str) -> None:
        now = time.monotonic()
        if now - self.told_s > 1:
            self.told_s, self.told = now, 0
        self.told += 1
        if self.told <= DENIALS_PER_SECOND:
            with contextlib.suppress(ChannelClosed):
                self.channel.send({"denied": text})

    def flush(self) -> None:
        if self.sink is None:
            return
        entries, self.waiting = self.waiting, []
        for entry in entries:
            if isinstance(entry, HttpEntry):
                self.sink.add(self.flows.request(entry), denial=entry.http.verdict is not Verdict.FORWARDED)
            elif isinstance(entry, ConnectionEntry):
                self.sink.add(self.flows.connection(entry), denial=entry.verdict is not Verdict.FORWARDED)
        self.sink.flush()

    def on_message(self) -> None:
        try:
            while (received := self.channel.receive()) is not None:
                message, descriptors = received
                for fd in descriptors:
                    os.close(fd)
                self.take(message)
        except ChannelClosed:
            self.done.set()

    def take(self, message: dict[str, Any]) -> None:
        if "exe" in message:
            pid, start_ns, exe = message["exe"]
            self.processes.answer(pid, start_ns, exe)
        elif "drain" in message and self.drain_task is None and self.server is not None:
            self.drain_task = asyncio.get_running_loop().create_task(self.drain(self.server, message["drain"]))

    async def drain(self, server: Server, timeout_s: float) -> None:
        cut = await server.drain(timeout_s)
        self.flush()
        lost = 0 if self.sink is None else self.sink.finish(LAST_LINES_S)
        self.channel.send(
            {"drained": cut, "lost": lost, "counters": {r.name: n for r, n in server.counters.items() if r}}
        )
        self.done.set()


async def _serve(plan: WorkerPlan, channel: Channel, listeners: Sequence[socket.socket]) -> None:
    channel.set_timeout(30)
    ports = [listener.getsockname()[1] for listener in listeners]
    channel.send({"listening": ports}, tuple(listener.fileno() for listener in listeners))
    received = channel.receive()
    if received is None or "go" not in received[0] or len(received[1]) != 1:
        raise ChannelClosed("the loader did not hand over the records")
    records = ConnectionRecords(received[1][0])
    channel.set_blocking(False)

    loop = asyncio.get_running_loop()
    worker = _Worker(plan, channel)
    server = Server(
        loop,
        plan.edge,
        resolve=lambda fd: worker.resolve(records, fd),
        policy_for=lambda _workload, ruleset: plan.layers.get(ruleset),
        log=worker.log,
        http_config=plan.http,
    )
    worker.server = server
    for listener in listeners:
        server.listen(listener)
    loop.add_reader(channel.fileno(), worker.on_message)

    def tick() -> None:
        try:
            worker.flush()
        except Exception:
            logger.exception("the access log could not be written")
        timer[0] = loop.call_later(FLUSH_S, tick)

    timer = [loop.call_later(FLUSH_S, tick)]
    channel.send({"ready": True})
    await worker.done.wait()
    timer[0].cancel()
    loop.remove_reader(channel.fileno())
    server.close()
    worker.flush()


def layers_of(compiled: CompiledWorkload, *, audit: bool) -> dict[int, Layer]:
    """A layer per rule set that has a kind."""
    return {
        number: Layer(compiled, number, audit=audit)
        for number, ruleset in enumerate(compiled.rulesets)
        if ruleset.kind != "none"
    }
