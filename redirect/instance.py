"""One instance's programs, maps and pins: made, filled, attached, taken down.

Everything is pinned under one directory on bpffs (0700): with every process of racecar gone, the programs go on
refusing. Taking down means sealing the workload and unpinning; what judges its sockets goes with the last of them.
"""

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Protocol

from racecar.redirect import libbpf
from racecar.redirect.abi import (
    CONFIG_STRUCT,
    CONNECTION_STRUCT,
    OWN_KEY_STRUCT,
    PEER_KEY_STRUCT,
    PORT_KEY_STRUCT,
    PORT_VALUE_STRUCT,
    WORKLOAD_STRUCT,
    ConnectionRecord,
    mapped,
    mapped_bits,
    swap16,
)
from racecar.redirect.netlink import IPNetwork, Own

BPFFS_MAGIC = 0xCAFE4A11
BPFFS_MOUNT = Path("/sys/fs/bpf")
PENDING_LIMIT = 16384
MAX_PEERS, MAX_PORTS = 65536, 262144  # maps.h
NO_POLICY = 0  # tables that nobody fills: they deny everything

# object -> programs that belong on the workload's cgroup, in the order in which they are attached: the gate first,
# so that at no moment a socket is released by a hook that nothing backs.
WORKLOAD_PROGRAMS = (
    ("gate", "rc_gate"),
    ("gate", "rc_arrivals"),
    ("sock_create", "rc_sock_create"),
    ("sockops", "rc_workload_sockops"),
    ("peername", "rc_getpeername4"),
    ("peername", "rc_getpeername6"),
    ("sendmsg", "rc_sendmsg4"),
    ("sendmsg", "rc_sendmsg6"),
    ("connect", "rc_connect4"),
    ("connect", "rc_connect6"),
)
PROXY_PROGRAMS = (("sockops", "rc_proxy_sockops"),)
NETNS_PROGRAMS = (("sk_lookup", "rc_sk_lookup"),)
OBJECTS = ("gate", "sock_create", "sockops", "peername", "sendmsg", "connect", "sk_lookup")


class PeerEntry(Protocol):
    @property
    def scope(self) -> int: ...
    @property
    def network(self) -> IPNetwork: ...
    @property
    def peer(self) -> int: ...


class PortEntry(Protocol):
    @property
    def peer(self) -> int: ...
    @property
    def protocol(self) -> int: ...
    @property
    def port(self) -> int: ...
    @property
    def port_bits(self) -> int: ...
    @property
    def verdict(self) -> int: ...
    @property
    def ruleset(self) -> int: ...
    @property
    def rule(self) -> int: ...


@dataclass(frozen=True, slots=True)
class ListenPorts:
    """The redirect target's ports on 127.0.0.1 and ::1; 0 where the family is not available."""

    ipv4: int
    ipv6: int


def ensure_bpffs(mount: Path = BPFFS_MOUNT) -> Path:
    """The bpffs mount, mounted if it is not. Raises OSError that names the command."""
    if not _is_bpffs(mount):
        code = libbpf.mount_bpffs(mount)
        if code:
            raise OSError(code, f"cannot mount bpffs at {mount}: {os.strerror(code)}; mount -t bpf bpf {mount}")
    return mount


def _is_bpffs(path: Path) -> bool:
    try:
        return libbpf.filesystem_magic(path) == BPFFS_MAGIC
    except OSError:
        return False


def pin_root(mount: Path = BPFFS_MOUNT) -> Path:
    return mount / "racecar"


class Instance:
    """The kernel's part of one racecar: open, fill, attach, tear down."""

    def __init__(self, name: str) -> None:
        """Make the pin directory. Raises FileExistsError if an instance of that name is there."""
        self.name = name
        root = pin_root(ensure_bpffs())
        root.mkdir(mode=0o700, exist_ok=True)
        _owned_by_us(root)
        self.directory = root / name
        self.directory.mkdir(mode=0o700)
        self._objects: dict[str, libbpf.BpfObject] = {}
        self._maps: dict[str, int] = {}
        self._links: list[int] = []
        self._own: dict[IPNetwork, Own] = {}

    def load(self, workload: int, listen: ListenPorts, *, connections: int = PENDING_LIMIT) -> None:
        """Load all programs for one workload's attachment: until `fill` they refuse all. Raises libbpf.BpfError."""
        settings = CONFIG_STRUCT.pack(workload, swap16(listen.ipv4), swap16(listen.ipv6))
        sizes = {"pending": connections, "udp_replies": connections}
        for name in OBJECTS:
            with as_file(files("racecar.redirect") / "bpf" / f"{name}.bpf.o") as path:
                loaded = libbpf.BpfObject(path)
            self._objects[name] = loaded
            loaded.configure(settings)
            loaded.share_maps(self._maps, sizes)
            for map_name, fd in loaded.load().items():
                if map_name not in self._maps:
                    self._maps[map_name] = fd
                    libbpf.pin(fd, self.directory / f"map_{map_name}")
        self._write_workload(workload, NO_POLICY, enforce_egress=True, audit=False, pending_limit=connections)

    def map_fd(self, name: str) -> int:
        return self._maps[name]

    def read_only_fd(self, name: str) -> int:
        """A descriptor of a map by which it cannot be changed; for the unprivileged proxy."""
        return libbpf.open_pin(self.directory / f"map_{name}", read_only=True)

    def set_listener(self, key: int, listener_fd: int) -> None:
        """Lead the redirect target to this socket. It leaves the map by itself when its last owner closes it."""
        table = libbpf.Map(self._maps["listeners"], 8, "listeners")
        table.put(key.to_bytes(4, "little"), listener_fd.to_bytes(8, "little"))

    def fill(
        self,
        workload: int,
        policy: int,
        peers: Iterable[PeerEntry],
        ports: Iterable[PortEntry],
        *,
        enforce_egress: bool,
        audit: bool,
        pending_limit: int = PENDING_LIMIT,
    ) -> None:
        """Write a policy's tables, then make the workload use them: the last write switches."""
        peer_table = libbpf.Map(self._maps["peers"], 4, "peers")
        port_table = libbpf.Map(self._maps["ports"], PORT_VALUE_STRUCT.size, "ports")
        try:
            for peer in peers:
                key = PEER_KEY_STRUCT.pack(
                    64 + mapped_bits(peer.network), policy, peer.scope, mapped(peer.network.network_address)
                )
                peer_table.put(key, peer.peer.to_bytes(4, "little"))
            for entry in ports:
                key = PORT_KEY_STRUCT.pack(
                    80 + entry.port_bits, policy, entry.peer, 0, entry.protocol, swap16(entry.port)
                )
                port_table.put(key, PORT_VALUE_STRUCT.pack(entry.verdict, entry.ruleset, entry.rule))
        except libbpf.BpfError as failed:
            if failed.errno not in (errno.ENOSPC, errno.E2BIG):
                raise
            raise OSError(
                failed.errno,
                "the policies that select this workload are too large for the kernel's tables: at most "
                f"{MAX_PEERS} networks and {MAX_PORTS} port prefixes of them",
            ) from None
        self._write_workload(workload, policy, enforce_egress=enforce_egress, audit=audit, pending_limit=pending_limit)

    def _write_workload(
        self, workload: int, policy: int, *, enforce_egress: bool, audit: bool, pending_limit: int
    ) -> None:
        table = libbpf.Map(self._maps["workloads"], WORKLOAD_STRUCT.size, "workloads")
        value = WORKLOAD_STRUCT.pack(policy, 1, int(enforce_egress), int(audit), pending_limit, 0)
        table.put(workload.to_bytes(4, "little"), value)

    def set_own(self, networks: Mapping[IPNetwork, Own]) -> None:
        """Make the table of the host's own addresses equal to `networks`: add first, then remove."""
        table = libbpf.Map(self._maps["own"], 4, "own")
        for network, kind in networks.items() - self._own.items():
            table.put(_own_key(network), kind.to_bytes(4, sys.byteorder))
        for network in self._own.keys() - networks.keys():
            table.delete(_own_key(network))
        self._own = dict(networks)

    def attach_workload(self, cgroup_fd: int, cgroup: Path) -> None:
        """Attach to the workload's cgroup, beside whoever is there, until its last socket is gone.

        Not by link: a socket that the workload hands to somebody else outlives its processes, the links and the
        directory. Programs attached so stay with the cgroup until the kernel frees it, and that waits for its sockets.
        """
        for object_name, program in WORKLOAD_PROGRAMS:
            with _named(cgroup):
                libbpf.pin(self._objects[object_name].attach_for_good(program, cgroup_fd), self._pin_of(program))

    def attach_proxy(self, cgroup_fd: int, cgroup: Path) -> None:
        self._attach(PROXY_PROGRAMS, cgroup_fd, cgroup)

    def attach_netns(self) -> None:
        """Steer the redirect target in this network namespace."""
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._attach(NETNS_PROGRAMS, namespace, Path("/proc/self/ns/net"))
        finally:
            os.close(namespace)

    def _attach(self, programs: Iterable[tuple[str, str]], target_fd: int, target: Path) -> None:
        for object_name, program in programs:
            with _named(target):
                link = self._objects[object_name].attach(program, target_fd)
            self._links.append(link)
            libbpf.pin(link, self.directory / f"link_{program}")

    def refusals(self) -> dict[int, int]:
        """Refusals counted in the kernel, by reason."""
        cpus = libbpf.possible_cpus()
        table = libbpf.Map(self._maps["refusals"], 8 * cpus, "refusals")
        counted = {}
        for reason in range(64):
            value = table.get(reason.to_bytes(4, "little")) or b""
            total = sum(int.from_bytes(value[at : at + 8], "little") for at in range(0, len(value), 8))
            if total:
                counted[reason] = total
        return counted

    def close(self) -> None:
        """Let go of the descriptors; what is pinned stays in force."""
        for link in self._links:
            os.close(link)
        self._links.clear()
        for loaded in self._objects.values():
            loaded.close()
        self._objects.clear()
        self._maps.clear()

    def _pin_of(self, program: str) -> Path:
        return self.directory / f"prog_{program}"

    def tear_down(self) -> None:
        """Let go of everything. Programs on the workload's cgroup go with the last of its sockets."""
        self.close()
        remove_pins(self.directory)


@contextmanager
def _named(target: Path) -> Iterator[None]:
    """Say in a failure what was to be attached to."""
    try:
        yield
    except libbpf.BpfError as failed:
        hint = "; needs CAP_BPF and CAP_NET_ADMIN" if failed.errno == errno.EPERM else ""
        raise libbpf.BpfError(failed.errno or 0, f"{failed.strerror} to {target}{hint}") from None


def seal(directory: Path) -> None:
    """Let a dead instance's workload open nothing any more, as the guardian does (launcher/seal.c)."""
    try:
        fd = libbpf.open_pin(directory / "map_workloads")
    except OSError:
        return  # it died before it had one, and so before anything was attached
    try:
        table = libbpf.Map(fd, WORKLOAD_STRUCT.size, "workloads")
        _policy, generation, enforce_egress, _audit, _limit, pending = WORKLOAD_STRUCT.unpack(
            table.get(bytes(4)) or b""
        )
        table.put(bytes(4), WORKLOAD_STRUCT.pack(NO_POLICY, generation, enforce_egress, 0, 0, pending))
    finally:
        os.close(fd)


def remove_pins(directory: Path) -> None:
    """Unpin an instance. What judges the workload's sockets stays with its cgroup, and allows nothing new."""
    seal(directory)
    for entry in sorted(directory.glob("*")):
        entry.unlink(missing_ok=True)
    if directory.is_dir():
        directory.rmdir()


def _own_key(network: IPNetwork) -> bytes:
    return OWN_KEY_STRUCT.pack(mapped_bits(network), mapped(network.network_address))


def _owned_by_us(directory: Path) -> None:
    status = directory.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionError(
            errno.EPERM, f"{directory} must belong to uid {os.geteuid()} with mode 0700: chmod 700 {directory}"
        )


class ConnectionRecords:
    """The record of an accepted socket, read with its descriptor as key: a later owner of the tuple has none."""

    def __init__(self, map_fd: int) -> None:
        self._map = libbpf.Map(map_fd, CONNECTION_STRUCT.size, "conns")

    def lookup(self, fd: int) -> ConnectionRecord | None:
        """None if no workload's socket announced this connection: it must be reset."""
        raw = self._map.get(fd.to_bytes(4, "little"))
        return None if raw is None else ConnectionRecord.unpack(raw)
