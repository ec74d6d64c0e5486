"""Probes of BPF: each hook's program loaded alone, attached by link, and one record followed from end to end."""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from racecar.redirect import scratch
from racecar.redirect.ability import Ability, NotTriedError, probe
from racecar.redirect.libbpf import BpfError, BpfObject, Map, RingBuffer, open_pin, pin

RECORD_STRUCT = struct.Struct("=IIIIQ")  # struct probe_record, redirect/bpf/probe_maps.bpf.c
_TEST_ADDRESS = "192.0.2.1"  # RFC 5737: leads nowhere unless the hook rewrites it

_NOTHING = "no workload can be enforced here"
_GATE = "the release gate: no packet leaves without its verdict"

# object, program, name, what it is for
HOOKS = (
    ("probe", "probe_connect4", "connect4", "sending IPv4 connections to the proxy or refusing them"),
    ("probe", "probe_connect6", "connect6", "the same for IPv6"),
    ("probe", "probe_sendmsg4", "sendmsg4", "judging unconnected datagrams"),
    ("probe", "probe_sendmsg6", "sendmsg6", "the same for IPv6"),
    ("probe", "probe_getpeername4", "getpeername4", "the workload sees the address that it asked for"),
    ("probe", "probe_getpeername6", "getpeername6", "the same for IPv6"),
    ("probe", "probe_sock_create", "sock_create", "refusing raw sockets"),
    ("probe", "probe_sockops", "sockops", "following a connection from the workload's socket to the proxy's"),
    ("probe", "probe_egress", "cgroup_skb egress", _GATE),
    ("probe", "probe_ingress", "cgroup_skb ingress", "who may be answered by datagram"),
    ("probe", "probe_sk_lookup", "sk_lookup", "the proxy's port leads to the proxy alone"),
    ("probe_maps", "probe_assign", "sk_lookup from a SOCKMAP", "a dead proxy's port is refused, not free to take"),
    ("probe_maps", "probe_storage", "SK_STORAGE from connect", "the original destination lies with the socket"),
    ("probe_maps", "probe_sockops_storage", "SK_STORAGE from sockops", "the record follows the connection"),
    ("probe_maps", "probe_egress_storage", "SK_STORAGE from cgroup_skb", _GATE),
    ("probe", "probe_netns_cookie", "netns cookie in sockops", "equal tuples in two network namespaces stay apart"),
    ("probe_maps", "probe_ring", "ring buffer", "refusals reach the access log"),
    (
        "probe_core",
        "probe_tcp_sock",
        "bpf_skc_to_tcp_sock in connect",
        "refusing Fast Open data, which passes unjudged",
    ),
    ("probe_core", "probe_task", "task structure in connect", "telling processes apart in the access log"),
)

_ELSEWHERE = ("probe_sk_lookup", "probe_netns_cookie")
_CGROUP_PROGRAMS = tuple(program for name, program, *_ in HOOKS if name == "probe" and program not in _ELSEWHERE)


@contextmanager
def loaded(name: str, program: str) -> Iterator[tuple[BpfObject, dict[str, int]]]:
    """One program of an object, alone in the kernel until the end of the block; with the object's maps."""
    path = Path(str(files("racecar.redirect") / "bpf" / f"{name}.bpf.o"))
    with closing(BpfObject(path)) as target:
        target.only(program)
        yield target, target.load()


@contextmanager
def attached(target: BpfObject, program: str, directory: Path | str) -> Iterator[int]:
    """A link of a loaded program, by descriptor; detached at the end of the block."""
    place = os.open(directory, os.O_RDONLY)
    try:
        link = target.attach(program, place)
    finally:
        os.close(place)
    try:
        yield link
    finally:
        os.close(link)


def hooks() -> list[Ability]:
    """Each program loaded by itself."""

    def loads(name: str, program: str) -> Callable[[], str]:
        def attempt() -> str:
            with loaded(name, program):
                return "loaded"

        return attempt

    return [
        probe(title, loads(name, program), serves=serves, without=_NOTHING, required=True)
        for name, program, title, serves in HOOKS
    ]


def attachment(cgroup: Path | None) -> list[Ability]:
    """The programs attached by link where they belong."""

    def to_cgroup() -> str:
        if cgroup is None:
            raise NotTriedError("no throw-away cgroup")
        for program in _CGROUP_PROGRAMS:
            with loaded("probe", program) as (target, _), attached(target, program, cgroup):
                pass
        return f"{len(_CGROUP_PROGRAMS)} hooks, one after the other"

    def to_namespace() -> str:
        program = "probe_sk_lookup"  # passes everything: harmless where it is
        with loaded("probe", program) as (target, _), attached(target, program, "/proc/self/ns/net"):
            return "attached and detached"

    blocked = "another owner of a hook that shares it with nobody (attached without multi) must leave first"
    return [
        probe("link to a cgroup", to_cgroup, serves="enforcement of a workload", without=blocked, required=True),
        probe(
            "link to a network namespace",
            to_namespace,
            serves="the proxy's port, in the namespace of the workload",
            without=_NOTHING,
            required=True,
        ),
    ]


def end_to_end(cgroup: Path | None, pins: Path | None) -> list[Ability]:
    """What was loaded does what it should, for a real connection out of a real cgroup."""

    def place() -> Path:
        if cgroup is None:
            raise NotTriedError("no throw-away cgroup")
        return cgroup

    def record() -> str:
        return _follow_record(place())

    def event() -> str:
        return _follow_event(place())

    def read_only() -> str:
        if pins is None:
            raise NotTriedError("no directory on bpffs")
        return _refuses_updates(pins)

    return [
        probe(
            "record of a connection",
            record,
            serves="connect4 redirects; an unprivileged process reads from the socket where it was going",
            without=_NOTHING,
            required=True,
        ),
        probe(
            "event of a connection", event, serves="the access log", without="refusals are only counted", required=True
        ),
        probe(
            "read-only map descriptor",
            read_only,
            serves="a proxy that is taken over cannot widen policy",
            without=_NOTHING,
            required=True,
        ),
    ]


def _dial(cgroup: Path, port: int, then: Callable[[socket.socket], Any]) -> Any:
    """In a child inside the cgroup and without privileges: connect to the test address, go on with the socket."""

    def work() -> Any:
        scratch.join(cgroup)
        scratch.become_nobody()
        with socket.socket() as client:
            client.settimeout(1)
            client.connect((_TEST_ADDRESS, port))
            return [os.getpid(), then(client)]

    return scratch.in_child(work)


def _follow_record(cgroup: Path) -> str:
    program = "probe_storage"
    with ExitStack() as stack:
        target, maps = stack.enter_context(loaded("probe_maps", program))
        stack.enter_context(attached(target, program, cgroup))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = listener.getsockname()[1]

        def look_up(client: socket.socket) -> str:
            value = Map(maps["records"], RECORD_STRUCT.size).get(struct.pack("=i", client.fileno()))
            return value.hex() if value else ""

        dialler, found = _dial(cgroup, port, look_up)
    if not found:
        raise OSError(errno.ENOENT, "the socket was connected and carries no record")
    pid, address, kernel_port, _, cookie = RECORD_STRUCT.unpack(bytes.fromhex(found))
    seen = socket.inet_ntoa(struct.pack("=I", address)), socket.ntohs(kernel_port & 0xFFFF), pid
    if seen != (_TEST_ADDRESS, port, dialler) or not cookie:
        raise OSError(0, f"the record says {seen}, dialled was {(_TEST_ADDRESS, port, dialler)}")
    return f"{_TEST_ADDRESS} dialled, loopback reached, the original read by uid {scratch.NOBODY}"


def _follow_event(cgroup: Path) -> str:
    program = "probe_ring"
    with ExitStack() as stack:
        target, maps = stack.enter_context(loaded("probe_maps", program))
        ring = stack.enter_context(closing(RingBuffer(maps["ring"])))
        stack.enter_context(attached(target, program, cgroup))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def work() -> int:
            scratch.join(cgroup)
            with socket.create_connection(listener.getsockname(), 1):
                return os.getpid()

        dialler = scratch.in_child(work)
        pids = [RECORD_STRUCT.unpack(event)[0] for event in ring.read()]
    if pids != [dialler]:
        raise OSError(0, f"one connection by process {dialler}, events from {pids}")
    return "one connection, one event"


def _refuses_updates(pins: Path) -> str:
    made = scratch.make_array_map()
    try:
        pin(made, pins / "read_only")
    finally:
        os.close(made)
    descriptor = open_pin(pins / "read_only", read_only=True)

    def work() -> str:
        scratch.become_nobody()
        inherited, key = Map(descriptor, 4), bytes(4)
        if inherited.get(key) is None:
            raise OSError(errno.ENOENT, "an inherited descriptor finds nothing")
        try:
            inherited.put(key, b"\1\0\0\0")
        except BpfError as refused:
            if refused.errno == errno.EPERM:
                return f"uid {os.geteuid()} reads, and may not write"
            raise
        raise OSError(0, "a descriptor opened read-only took an update")

    try:
        return str(scratch.in_child(work))
    finally:
        os.close(descriptor)
