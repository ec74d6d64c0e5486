"""`racecar run --no-bpf`: the proxy as a plain reverse proxy for one upstream, without privileges."""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
from dataclasses import dataclass, field

import uvloop

from racecar.policy.tables import CompiledWorkload
from racecar.proxy.core.http1_types import HttpConfig
from racecar.proxy.flows import FlowSource, FlowWriter
from racecar.proxy.journal import Journal
from racecar.proxy.layers import RelayLayer, layers_of
from racecar.proxy.limits import EdgeConfig
from racecar.proxy.plain import PlainRecords, canonical
from racecar.proxy.say import say
from racecar.proxy.server import LayerPolicy, Server, bequeath
from racecar.proxy.sink import LineSink, open_log
from racecar.redirect.abi import IPAddress

BACKLOG = 4096
LAST_LINES_S = 1.0  # for a slow reader of the access log, at the end

Place = tuple[IPAddress, int]


class RunError(Exception):
    """`run` cannot start: exit code 2. The text says what, where and the way out."""


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks for."""

    listen: str
    upstream: str
    compiled: CompiledWorkload
    is_ingress: bool = False
    labels: tuple[str, ...] = ()
    namespace: str = "default"
    instance: str = "run"
    audit: bool = False
    access_log: str | None = None
    drain_timeout_s: float = 20.0
    edge: EdgeConfig = field(default_factory=EdgeConfig)
    http: HttpConfig = field(default_factory=HttpConfig)


def place_from(text: str, option: str, *, lowest_port: int) -> Place:
    """`HOST:PORT` or `[ADDRESS]:PORT`; of a name's addresses the first, IPv4 before IPv6. Raises RunError."""
    host, colon, number = text.rpartition(":")
    is_bracketed = host[:1] == "[" and host[-1:] == "]"
    if not colon or not host or (":" in host) != is_bracketed or host == "[]":
        raise RunError(f"{option} {text}: HOST:PORT is wanted, [ADDRESS]:PORT for IPv6")
    if not (number.isascii() and number.isdecimal()) or not lowest_port <= int(number[:6]) <= 65535:
        raise RunError(f"{option} {text}: a port is a number from {lowest_port} to 65535")
    name = host.strip("[]")
    try:
        found = socket.getaddrinfo(name, int(number), type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as failed:
        why = failed.strerror if isinstance(failed, OSError) else "no name"
        raise RunError(f"{option} {text}: {name} does not resolve: {why}") from None
    _family, _kind, _protocol, _name, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return canonical(str(address[0])), int(number)


def shown(place: Place) -> str:
    address, port = place
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def listener_on(place: Place) -> socket.socket:
    """A socket that listens. Raises RunError."""
    family = socket.AF_INET6 if isinstance(place[0], ipaddress.IPv6Address) else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bequeath(sock)
        sock.bind((str(place[0]), place[1]))
        sock.listen(BACKLOG)
    except OSError as failed:
        sock.close()
        raise RunError(f"--listen {shown(place)}: {os.strerror(failed.errno or 0)}") from None
    return sock


def run(options: RunOptions) -> int:
    """Serve until a signal ends it; the exit code."""
    try:
        listen = place_from(options.listen, "--listen", lowest_port=0)
        upstream = place_from(options.upstream, "--upstream", lowest_port=1)
        with contextlib.ExitStack() as stack:
            log_fd = None
            if options.access_log is not None:
                log_fd = _open_log(options.access_log)
                stack.callback(os.close, log_fd)
            listener = listener_on(listen)
            uvloop.run(_serve(options, upstream, listener, log_fd))
    except RunError as failed:
        say(str(failed))
        return 2
    return 0


def _open_log(path: str) -> int:
    try:
        return open_log(path)
    except OSError as failed:
        raise RunError(f"cannot open access log {path}: {failed.strerror}") from None


async def _serve(options: RunOptions, upstream: Place, listener: socket.socket, log_fd: int | None) -> None:
    loop = asyncio.get_running_loop()
    compiled = options.compiled
    source = FlowSource(options.instance, options.namespace, options.labels, compiled.rules, compiled.policies)
    layers = layers_of(compiled, audit=options.audit)
    relay = RelayLayer()

    def policy_for(_workload: int, ruleset: int) -> LayerPolicy | None:
        return layers.get(ruleset) if ruleset else relay

    records = PlainRecords(compiled, upstream, is_ingress=options.is_ingress)
    sink = None if log_fd is None else LineSink(log_fd)
    journal = Journal(loop, FlowWriter(source, lambda _pid, _start: None), sink, layers, say)
    server = Server(
        loop,
        options.edge,
        resolve=records.resolve,
        policy_for=policy_for,
        log=journal.log,
        source_of=records.source_of,
        http_config=options.http,
    )
    done = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, done.set)
    server.listen(listener)
    host, port = listener.getsockname()[:2]
    say(f"listening on {shown((canonical(host), port))}")
    await done.wait()
    await server.drain(options.drain_timeout_s)
    server.close()
    journal.finish(LAST_LINES_S)
