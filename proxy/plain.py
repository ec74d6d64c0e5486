"""Records of connections that no kernel announced: accepted on an address of ours, for one upstream."""

import socket
from collections.abc import Collection

from racecar.policy.tables import HOST, WORLD, CompiledWorkload, Verdict
from racecar.proxy.connections import AUDIT_FLAG
from racecar.proxy.epochs import ruleset_of
from racecar.proxy.places import Place, canonical
from racecar.proxy.server import SocketAddress
from racecar.redirect.abi import ConnectionRecord, ConnectionState, IPAddress
from racecar.redirect.netlink import IPNetwork, Own, own_networks

WORKLOAD = 0
MAX_KNOWN_CLIENTS = 4096


def own_addresses() -> tuple[IPNetwork, ...]:
    """What the kernel delivers to this host alone. Raises OSError."""
    return tuple(network for network, own in own_networks().items() if own is Own.LOCAL)


def is_own(address: IPAddress, own: Collection[IPNetwork]) -> bool:
    """True for loopback and the host's own addresses."""
    return address.is_loopback or any(address in network for network in own)


class PlainRecords:
    """Judge connections to `upstream` by L4: by its address on egress, by the client's on ingress."""

    def __init__(self, compiled: CompiledWorkload, upstream: Place) -> None:
        self._compiled = compiled
        self._epoch = 0
        self._upstream = upstream
        self._known: dict[str, ConnectionRecord] = {}  # by the client's address
        self._addresses: dict[str, IPAddress] = {}
        self._record: ConnectionRecord | None = None
        self._own: tuple[IPNetwork, ...] = ()
        self.renew()

    def renew(self) -> None:
        """Ask which addresses are the host's own. Raises OSError; then what was known still holds."""
        self._own = own_addresses()
        self._judge_anew()

    def exchange(self, compiled: CompiledWorkload, epoch: int) -> None:
        """Judge by another policy from now on."""
        self._compiled, self._epoch = compiled, epoch
        self._judge_anew()

    def _judge_anew(self) -> None:
        self._known.clear()
        self._record = None if self._compiled.direction == "ingress" else self._judge(self._upstream[0])

    def resolve(self, _fd: int, peer: SocketAddress) -> ConnectionRecord:
        """The record of a connection from `peer`; its state is REFUSED where the rules deny it."""
        if self._record is not None:
            return self._record
        text: str = peer[0]
        record = self._known.get(text)
        if record is None:
            if len(self._known) >= MAX_KNOWN_CLIENTS:
                self._known.clear()
            record = self._known[text] = self._judge(canonical(text))
        return record

    def source_of(self, peer: SocketAddress) -> Place:
        """A client's address for the log."""
        text: str = peer[0]
        address = self._addresses.get(text)
        if address is None:
            if len(self._addresses) >= MAX_KNOWN_CLIENTS:
                self._addresses.clear()
            address = self._addresses[text] = canonical(text)
        return address, peer[1]

    def _judge(self, address: IPAddress) -> ConnectionRecord:
        """What holds for connections to, or from, `address`. Without a kernel nothing but these is filled in."""
        scope = HOST if is_own(address, self._own) else WORLD
        judged = self._compiled.judge_l4(address, scope, socket.IPPROTO_TCP, self._upstream[1])
        is_allowed = judged.verdict in (Verdict.ALLOW, Verdict.REDIRECT)
        return ConnectionRecord(
            cookie=0,
            cgroup_id=0,
            task_start_ns=0,
            connected_ns=0,
            workload=WORKLOAD,
            generation=0,
            epoch=self._epoch,
            ruleset=ruleset_of(self._epoch, judged.ruleset),
            rule=judged.rule,
            pid=0,
            uid=0,
            flags=0 if is_allowed else AUDIT_FLAG,
            address=self._upstream[0],
            port=self._upstream[1],
            state=ConnectionState.REDIRECTED if is_allowed or self._compiled.audit else ConnectionState.REFUSED,
            protocol=socket.IPPROTO_TCP,
            comm="",
        )
