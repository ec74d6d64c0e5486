"""`racecar run --no-bpf`: the proxy as a plain reverse proxy for one upstream, without privileges."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import uvloop

from racecar.policy.tables import CompiledWorkload
from racecar.proxy.core.http1_types import HttpConfig
from racecar.proxy.crew import Crew
from racecar.proxy.flows import FlowSource
from racecar.proxy.limits import DescriptorLimitError, Descriptors, EdgeConfig
from racecar.proxy.pipes import affordable_pipes
from racecar.proxy.places import Place, PlaceError, canonical, listeners_on, place_from, reached, shown
from racecar.proxy.plain import is_own, own_addresses
from racecar.proxy.processes import take_all_descriptors
from racecar.proxy.say import say
from racecar.proxy.serving import Handle, Service, reopen, serve, stop_on_signals
from racecar.proxy.shared_log import lock_for
from racecar.proxy.sink import open_log
from racecar.redirect.names import check_name

FAILED = 2

logger = logging.getLogger(__name__)


class RunError(Exception):
    """`run` cannot start: exit code 2. The text says what, where and the way out."""


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks for."""

    listen: str
    upstream: str
    compiled: CompiledWorkload
    reload: Callable[[], CompiledWorkload | None]  # the policy as it is by now; None, and said why, if it is no good
    labels: tuple[str, ...] = ()
    namespace: str = "default"
    instance: str | None = None
    access_log: str | None = None
    workers: int = 1
    drain_timeout_s: float = 20.0
    edge: EdgeConfig = field(default_factory=EdgeConfig)
    http: HttpConfig = field(default_factory=HttpConfig)


def run(options: RunOptions) -> int:
    """Serve until a signal ends it; the exit code."""
    try:
        with contextlib.ExitStack() as stack:
            return _run(options, stack)
    except (RunError, PlaceError, DescriptorLimitError) as failed:
        say(str(failed))
    except OSError as failed:
        say(f"{failed.strerror or failed}{f': {failed.filename}' if failed.filename else ''}")
    return FAILED


def _run(options: RunOptions, stack: contextlib.ExitStack) -> int:
    listen = place_from(options.listen, "--listen", lowest_port=0)
    upstream = reached(place_from(options.upstream, "--upstream", lowest_port=1))
    take_all_descriptors()
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)  # until somebody listens: they are no reason to end
    service = _service(options, upstream, stack)
    listeners = listeners_on(listen, "--listen", count=options.workers)
    for listener in listeners:
        stack.callback(listener.close)
    serving = _place_of(listeners[0])
    _refuse_a_loop(serving, upstream)
    if options.workers > 1:
        return Crew(service, listeners, shown(serving), lambda: _reload(options)).run()
    uvloop.run(_serve_alone(service, listeners[0], shown(serving), lambda: _reload(options)))
    return 0


def _reload(options: RunOptions) -> CompiledWorkload | None:
    try:
        compiled = options.reload()
    except Exception:
        logger.exception("the policy cannot be read again; the one in force stays")
        return None
    if compiled is not None:
        say("the policy was read again: new connections are judged by it")
    return compiled


async def _serve_alone(
    service: Service, listener: socket.socket, place: str, reload: Callable[[], CompiledWorkload | None]
) -> None:
    loop = asyncio.get_running_loop()

    def ready(handle: Handle) -> None:
        def exchange() -> None:
            if (compiled := reload()) is not None:
                handle.exchange(compiled)

        stop_on_signals(loop, handle.stop.ask_or_urge)
        loop.add_signal_handler(signal.SIGHUP, exchange)
        loop.add_signal_handler(signal.SIGUSR1, reopen, service)
        say(f"listening on {place}")

    await serve(service, listener, ready)


def _service(options: RunOptions, upstream: Place, stack: contextlib.ExitStack) -> Service:
    instance = f"run-{os.getpid()}" if options.instance is None else options.instance
    compiled = options.compiled
    try:
        check_name(instance)
    except ValueError as failed:
        raise RunError(str(failed)) from None
    edge = options.edge
    Descriptors(headroom=edge.descriptor_headroom).close()  # each process asks again, with more open
    if edge.max_pipes is None and options.workers > 1:
        edge = replace(edge, max_pipes=max(1, affordable_pipes() // options.workers))  # one user's budget for all
    log_fd = _open_log(options.access_log, stack)
    log_lock = None if log_fd is None or options.workers == 1 else lock_for(log_fd)
    if log_lock is not None:
        stack.callback(os.close, log_lock)
    return Service(
        compiled=compiled,
        upstream=upstream,
        source=FlowSource(
            instance, options.namespace, options.labels, compiled.rules, compiled.policies, compiled.direction
        ),
        log_fd=log_fd,
        log_path=options.access_log,
        log_lock=log_lock,
        drain_timeout_s=options.drain_timeout_s,
        edge=edge,
        http=options.http,
    )


def _open_log(path: str | None, stack: contextlib.ExitStack) -> int | None:
    if path is None:
        return None
    try:
        fd = open_log(path)
    except OSError as failed:
        raise RunError(f"cannot open access log {path}: {failed.strerror}") from None
    stack.callback(os.close, fd)
    return fd


def _place_of(listener: socket.socket) -> Place:
    host, port = listener.getsockname()[:2]
    return canonical(host), port


def _refuse_a_loop(serving: Place, upstream: Place) -> None:
    """A proxy that dials itself takes every descriptor there is."""
    is_here = upstream[0] == serving[0] or (serving[0].is_unspecified and is_own(upstream[0], own_addresses()))
    if is_here and upstream[1] == serving[1]:
        raise RunError(f"--upstream {shown(upstream)} is where this proxy itself listens")
