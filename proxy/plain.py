"""Records of connections that no kernel announced: accepted on an address of ours, for one upstream."""

import ipaddress
import socket

from racecar.policy.tables import HOST, WORLD, CompiledWorkload, L4Verdict, Verdict
from racecar.proxy.server import SocketAddress
from racecar.redirect.abi import ConnectionRecord, ConnectionState, IPAddress
from racecar.redirect.netlink import IPNetwork, Own, own_networks

WORKLOAD = 0
MAX_KNOWN_CLIENTS = 4096


def canonical(text: str) -> IPAddress:
    """An address as sockets give it; IPv4 that came to an IPv6 socket is IPv4."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


class PlainRecords:
    """Judge connections to `upstream` by L4: by its address on egress, by the client's on ingress."""

    def __init__(self, compiled: CompiledWorkload, upstream: tuple[IPAddress, int], *, is_ingress: bool) -> None:
        self._compiled = compiled
        self._upstream = upstream
        self._is_ingress = is_ingress
        self._known: dict[str, ConnectionRecord] = {}  # by the client's address
        self._addresses: dict[str, IPAddress] = {}
        self._record: ConnectionRecord | None = None
        self._own: tuple[IPNetwork, ...] = ()
        self.renew()

    def renew(self) -> None:
        """Ask which addresses are the host's own. Raises OSError; then what was known still holds."""
        self._own = tuple(network for network, own in own_networks().items() if own is Own.LOCAL)
        self._known.clear()
        self._record = None if self._is_ingress else self._judge(self._upstream[0])

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

    def source_of(self, peer: SocketAddress) -> tuple[IPAddress, int]:
        """A client's address for the log."""
        text: str = peer[0]
        address = self._addresses.get(text)
        if address is None:
            if len(self._addresses) >= MAX_KNOWN_CLIENTS:
                self._addresses.clear()
            address = self._addresses[text] = canonical(text)
        return address, peer[1]

    def _judge(self, address: IPAddress) -> ConnectionRecord:
        scope = HOST if self._is_own(address) else WORLD
        verdict = self._compiled.judge_l4(address, scope, socket.IPPROTO_TCP, self._upstream[1])
        return self._record_of(verdict)

    def _is_own(self, address: IPAddress) -> bool:
        return address.is_loopback or any(address in network for network in self._own)

    def _record_of(self, verdict: L4Verdict) -> ConnectionRecord:
        is_allowed = verdict.verdict in (Verdict.ALLOW, Verdict.REDIRECT)
        return ConnectionRecord(
            cookie=0,
            cgroup_id=0,
            task_start_ns=0,
            connected_ns=0,
            workload=WORKLOAD,
            generation=0,
            epoch=0,
            ruleset=verdict.ruleset,
            rule=verdict.rule,
            pid=0,
            uid=0,
            flags=0,
            address=self._upstream[0],
            port=self._upstream[1],
            state=ConnectionState.REDIRECTED if is_allowed else ConnectionState.REFUSED,
            protocol=socket.IPPROTO_TCP,
            comm="",
        )
