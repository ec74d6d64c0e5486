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
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import uvloop

from racecar.proxy.channel import Channel, ChannelClosed
from racecar.proxy.core.http1_types import HttpConfig
from racecar.proxy.flows import FlowSource, FlowWriter
from racecar.proxy.journal import LAST_LINES_S, Journal
from racecar.proxy.layers import Layer
from racecar.proxy.limits import DescriptorLimitError, EdgeConfig
from racecar.proxy.processes import take_all_descriptors
from racecar.proxy.server import Server, bequeath, tune_garbage_collection
from racecar.proxy.sink import LineSink
from racecar.redirect.abi import ConnectionRecord
from racecar.redirect.instance import ConnectionRecords

LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerPlan:
    """What the proxy is started with."""

    uid: int
    gid: int
    cgroup: Path
    source: FlowSource
    layers: dict[int, Layer]  # by number of the rule set
    log_fd: int | None
    log_is_stdout: bool
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
    except DescriptorLimitError as failed:
        with contextlib.suppress(ChannelClosed):
            channel.send({"failed": str(failed)})
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
    take_all_descriptors()
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
        self.channel = channel
        self.processes = _Processes(channel)
        sink = None if plan.log_fd is None else LineSink(plan.log_fd, is_stdout=plan.log_is_stdout)
        flows = FlowWriter(plan.source, self.processes.name)
        self.journal = Journal(asyncio.get_running_loop(), flows, sink, plan.layers, self.tell)
        self.done = asyncio.Event()
        self.server: Server | None = None
        self.drain_task: asyncio.Task[None] | None = None

    def resolve(self, records: ConnectionRecords, fd: int) -> ConnectionRecord | None:
        record = records.lookup(fd)
        if record is not None:
            self.processes.ask(record.pid, record.task_start_ns)
        return record

    def tell(self, text: str) -> None:
        with contextlib.suppress(ChannelClosed):
            self.channel.send({"denied": text})

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
        lost = self.journal.finish(LAST_LINES_S)
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
        resolve=lambda fd, _peer: worker.resolve(records, fd),
        policy_for=lambda _workload, ruleset: plan.layers.get(ruleset),
        log=worker.journal.log,
        http_config=plan.http,
    )
    worker.server = server
    tune_garbage_collection()
    for listener in listeners:
        server.listen(listener)
    loop.add_reader(channel.fileno(), worker.on_message)

    channel.send({"ready": True})
    await worker.done.wait()
    loop.remove_reader(channel.fileno())
    server.close()
    worker.journal.finish(LAST_LINES_S)
