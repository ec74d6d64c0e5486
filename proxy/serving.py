"""One process of plain mode, from its listener to its last line in the log."""

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass

from racecar.policy.tables import CompiledWorkload
from racecar.proxy.core.http1_types import HttpConfig
from racecar.proxy.epochs import Epochs
from racecar.proxy.flows import FlowSource
from racecar.proxy.journal import LAST_LINES_S, Journal
from racecar.proxy.limits import EdgeConfig
from racecar.proxy.places import Place
from racecar.proxy.plain import WORKLOAD, PlainRecords
from racecar.proxy.say import say
from racecar.proxy.server import Server, tune_garbage_collection
from racecar.proxy.shared_log import SharedSink
from racecar.proxy.sink import STDOUT, LineSink, reopen_log
from racecar.redirect.netlink import RouteWatch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Service:
    """What one process serves, and how."""

    compiled: CompiledWorkload
    upstream: Place
    source: FlowSource
    log_fd: int | None
    log_path: str | None
    log_lock: int | None  # a descriptor to take turns by, where other processes write to the log too
    drain_timeout_s: float
    edge: EdgeConfig
    http: HttpConfig


@dataclass(frozen=True)
class Handle:
    """By what a process that serves is told what to do."""

    stop: "Stop"
    exchange: Callable[[CompiledWorkload], None]  # judge new connections by this policy


class Stop:
    """Asked for once: drain. Asked for again: end at once."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._urged = asyncio.Event()

    def ask(self) -> None:
        self._asked.set()

    def urge(self) -> None:
        self._asked.set()
        self._urged.set()

    def ask_or_urge(self) -> None:
        """What a signal from the user means."""
        if self._asked.is_set():
            self.urge()
        else:
            self.ask()

    async def wait(self) -> None:
        await self._asked.wait()

    async def wait_urged(self) -> None:
        await self._urged.wait()


async def serve(service: Service, listener: socket.socket, ready: Callable[[Handle], None]) -> None:
    """Serve until what `ready` was given is asked to stop; it is called once connections are accepted."""
    loop = asyncio.get_running_loop()
    epochs = Epochs(service.compiled, service.source)
    tune_garbage_collection()
    with contextlib.ExitStack() as stack:
        watch = RouteWatch()  # before the first look at the addresses: no change is missed
        stack.callback(watch.close)
        records = PlainRecords(service.compiled, service.upstream)
        loop.add_reader(watch.fileno(), _renew, watch, records)
        stack.callback(loop.remove_reader, watch.fileno())
        sink = _sink(service)
        journal = Journal(loop, epochs.flows, sink, epochs.layers, say)
        server = Server(
            loop,
            service.edge,
            resolve=records.resolve,
            policy_for=epochs.layer,
            log=journal.log,
            source_of=records.source_of,
            http_config=service.http,
            answers_dial_failures=True,
        )
        stack.callback(_tell_losses, journal)
        stack.callback(server.close)
        server.listen(listener)
        stop = Stop()

        def exchange(compiled: CompiledWorkload) -> None:
            living = {connection.record.epoch for connection in server.connections}
            records.exchange(compiled, epochs.exchange(compiled, living))
            server.forget(WORKLOAD)

        ready(Handle(stop, exchange))
        await stop.wait()
        await _drain(server, stop, service.drain_timeout_s)


def _sink(service: Service) -> LineSink | None:
    if service.log_fd is None:
        return None
    if service.log_lock is not None:
        return SharedSink(service.log_fd, service.log_lock)
    return LineSink(service.log_fd, is_stdout=service.log_path == STDOUT)


def _renew(watch: RouteWatch, records: PlainRecords) -> None:
    """Addresses or routes have changed."""
    watch.drain()
    try:
        records.renew()
    except OSError as failed:
        logger.error("cannot ask for the host's own addresses, those known before stay in force: %s", failed)


async def _drain(server: Server, stop: Stop, timeout_s: float) -> None:
    draining = asyncio.ensure_future(server.drain(timeout_s))
    urged = asyncio.ensure_future(stop.wait_urged())
    await asyncio.wait((draining, urged), return_when=asyncio.FIRST_COMPLETED)
    cut = draining.result() if draining.done() else server.abort_all()
    if cut:
        say(f"{cut} connection{'s were' if cut > 1 else ' was'} reset: still open when time was up")
    await draining
    urged.cancel()


def _tell_losses(journal: Journal) -> None:
    if lost := journal.finish(LAST_LINES_S):
        say(f"the access log is incomplete: {lost} lines were dropped, its reader or its disk was too slow or full")


def reopen(service: Service) -> None:
    """Go on in the file that has the log's name by now."""
    if service.log_path is None or service.log_fd is None:
        return
    try:
        reopen_log(service.log_path, service.log_fd)
    except OSError as failed:
        say(f"cannot open access log {service.log_path} anew, it goes on where it was: {failed.strerror}")


def stop_on_signals(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    """Have `stop` called for each SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
