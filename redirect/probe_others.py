"""Probes of who and what else is here: other owners of the hooks, and sockets that policy does not see."""

import os
import socket
import struct
from collections.abc import Iterator
from ctypes import addressof, create_string_buffer
from pathlib import Path

from racecar.redirect import scratch
from racecar.redirect.ability import Ability, NotedError, NotTriedError, Status, probe, reason_of
from racecar.redirect.libbpf import object_info

_PROG_GET_FD_BY_ID, _PROG_QUERY = 13, 16  # enum bpf_cmd
_QUERY_EFFECTIVE = 1
_MAX_PROGRAMS = 64  # BPF_CGROUP_MAX_PROGS
_NAME_OFFSET, _NAME_BYTES = 64, 16  # of struct bpf_prog_info

# enum bpf_attach_type
HOOKS = {"connect4": 10, "connect6": 11, "sendmsg4": 14, "sendmsg6": 15, "sock_create": 2, "sockops": 3, "egress": 1}
_SHARING = {0: "shared with nobody below", 1: "replaceable below", 2: "shared"}

# As /proc/net/protocols calls them: only what is there already is tried, so that no module is loaded by asking.
_FAMILIES = {
    "PACKET": ("AF_PACKET", 17, socket.SOCK_RAW),
    "AF_VSOCK": ("AF_VSOCK", 40, socket.SOCK_STREAM),
    "SMC": ("AF_SMC", 43, socket.SOCK_STREAM),
    "TIPC": ("AF_TIPC", 30, socket.SOCK_STREAM),
    "RDS": ("AF_RDS", 21, socket.SOCK_SEQPACKET),
    "XDP": ("AF_XDP", 44, socket.SOCK_RAW),
    "RAW": ("raw IPv4", socket.AF_INET, socket.SOCK_RAW),
}


def attached_programs(cgroup: Path, hook: str, *, effective: bool) -> tuple[list[int], int]:
    """Ids of the programs of a hook that are attached to the cgroup, or run for it; and the attach flags."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        ids = create_string_buffer(4 * _MAX_PROGRAMS)
        flags = _QUERY_EFFECTIVE if effective else 0
        request = struct.pack("=IIIIQII", directory, HOOKS[hook], flags, 0, addressof(ids), _MAX_PROGRAMS, 0)
        _, answer = scratch.bpf_call(_PROG_QUERY, request)
    finally:
        os.close(directory)
    count = struct.unpack_from("=I", answer, 24)[0]
    return list(struct.unpack_from(f"={count}I", ids.raw)), struct.unpack_from("=I", answer, 12)[0]


def program_name(number: int) -> str:
    """The name of a program by id, or why it cannot be had (CAP_SYS_ADMIN)."""
    try:
        descriptor, _ = scratch.bpf_call(_PROG_GET_FD_BY_ID, struct.pack("=III", number, 0, 0))
    except OSError as error:
        return f"name not readable: {error.strerror}"
    try:
        raw = object_info(descriptor)[_NAME_OFFSET : _NAME_OFFSET + _NAME_BYTES]
    finally:
        os.close(descriptor)
    return raw.split(b"\0")[0].decode("ascii", "backslashreplace") or "nameless"


def owners(cgroup: Path, mount: Path) -> Iterator[str]:
    """A line for each program that already runs for sockets of the cgroup, with the ancestor that carries it."""
    chain = [path for path in (cgroup, *cgroup.parents) if path == mount or mount in path.parents]
    for hook in HOOKS:
        waiting = set(attached_programs(cgroup, hook, effective=True)[0])
        for path in chain:
            here, flags = attached_programs(path, hook, effective=False)
            for number in (n for n in here if n in waiting):
                waiting.discard(number)
                yield f"{hook} at {path}: {program_name(number)} (id {number}, {_SHARING.get(flags & 3, 'shared')})"
        yield from (f"{hook}: {program_name(number)} (id {number}, place not found)" for number in sorted(waiting))


def others(cgroup: Path | None, mount: str | None) -> list[Ability]:
    """What else acts on a workload's sockets, and what lies open beside them."""

    def neighbours() -> str:
        if cgroup is None or mount is None:
            raise NotTriedError("no throw-away cgroup")
        found = list(owners(cgroup, Path(mount)))
        if found:
            raise NotedError(Status.WARNING, "; ".join(found))
        return "none on the cgroups above"

    def families() -> str:
        openable = scratch.in_child(_openable)
        if openable:
            raise NotedError(Status.INFO, f"open to an unprivileged process: {', '.join(openable)}")
        return "none of those present; families in modules may load when first asked for"

    def namespaces() -> str:
        try:
            scratch.in_child(_unshare)
        except OSError as error:
            return f"refused to an unprivileged process ({reason_of(error)})"
        raise NotedError(
            Status.INFO, "an unprivileged process may make one, and is root over network namespaces that it makes"
        )

    return [
        probe(
            "other owners of the hooks",
            neighbours,
            serves="knowing who else rewrites or refuses a workload's connections",
            without="what a parent's program rewrites is judged again when the connection is established",
            absent=Status.INFO,
        ),
        probe(
            "socket families",
            families,
            serves="knowing ways out that policy does not see",
            without="exec closes them to its command; other cgroups need a seccomp profile that does",
            absent=Status.INFO,
        ),
        probe(
            "unprivileged user namespaces",
            namespaces,
            serves="knowing what a workload may become",
            without="nothing leaves such a namespace but through the workload's own sockets",
            absent=Status.INFO,
        ),
    ]


def _openable() -> list[str]:
    registered = {line.split()[0] for line in Path("/proc/net/protocols").read_text(encoding="ascii").splitlines()}
    scratch.become_nobody()
    found = []
    for protocol, (name, family, kind) in _FAMILIES.items():
        if protocol not in registered:
            continue
        try:
            socket.socket(family, kind, 255 if protocol == "RAW" else 0).close()
        except OSError:
            continue
        found.append(name)
    return found


def _unshare() -> None:
    scratch.become_nobody()
    scratch.unshare(0x10000000 | 0x40000000)  # CLONE_NEWUSER, CLONE_NEWNET
