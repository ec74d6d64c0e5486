"""The tables a workload's policies compile to, and the walk over them that the kernel makes too.

A verdict takes two longest-prefix matches and no union:
  peer     the longest network of the address's scope, or 0 (ANY_PEER) if none holds the address
  verdict  the longest port prefix for (peer, protocol), else for (peer, protocol 0), else deny
So an entry of a more specific network or port already contains what wider rules allow.
"""

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Literal

from racecar.policy.model import Direction, Encoding, Network, RuleRef

WORLD = 0
HOST = 1  # loopback and the host's own addresses
ANY_PEER = 0
ANY_PROTOCOL_NUMBER = 0


class Verdict(IntEnum):
    """What becomes of a connection or packet. Numbers are the kernel's."""

    DENY = 0  # never an entry: what no entry allows
    ALLOW = 1
    REDIRECT = 2  # to the proxy, which judges by the entry's rule set
    DENY_RULE = 3


@dataclass(frozen=True, slots=True)
class PeerEntry:
    """Addresses of `network`, as seen in `scope`, are peer number `peer`."""

    scope: int
    network: Network
    peer: int


@dataclass(frozen=True, slots=True)
class PortEntry:
    """Ports whose first `port_bits` bits are those of `port`. Protocol 0 is every protocol without an entry."""

    peer: int
    protocol: int
    port: int
    port_bits: int
    verdict: int
    ruleset: int
    rule: int


@dataclass(frozen=True, slots=True)
class HttpRule:
    """One HTTP rule: RE2 patterns anchored at both ends, None matches everything; `rule` is its number."""

    method: str | None
    path: str | None
    rule: int
    host: str | None = None  # without regard to letter case
    headers: tuple[tuple[str, str | None], ...] = ()  # name in lower case, and its exact value; None: present
    path_only: bool = False  # `path` is matched without the query
    query: str | None = None
    allow_body: bool = False  # on GET, HEAD and DELETE
    websocket: bool = False
    connect: bool = False
    encoded: frozenset[Encoding] = frozenset()  # in a path, each matched in every form that a server may read


@dataclass(frozen=True, slots=True)
class RuleSet:
    """What the proxy judges one redirected connection by. Kind tcp is relayed unread."""

    kind: Literal["none", "http", "tcp"]
    http: tuple[HttpRule, ...]
    origin: RuleRef
    tls: int = 0  # number of the rule that passes TLS through unread, 0 for none


@dataclass(frozen=True, slots=True)
class L4Verdict:
    """`ruleset` is 0 unless redirected; `rule` 0 is default deny, or no policy at all."""

    verdict: Verdict
    ruleset: int
    rule: int


@dataclass(frozen=True)
class CompiledWorkload:
    """One workload's tables in one direction: plain values that can be pickled.

    A workload that no policy selects has one entry that allows everything; empty tables deny everything.
    """

    selected: bool
    peers: tuple[PeerEntry, ...]
    ports: tuple[PortEntry, ...]
    rulesets: tuple[RuleSet, ...]  # index = number; 0 is no rule set
    rules: tuple[RuleRef, ...]  # index = number; 0 is default deny
    policies: tuple[str, ...]  # NAMESPACE/NAME of those that select the workload in this direction and are compiled
    direction: Direction = "egress"
    audit: bool = False  # what the tables and rule sets deny passes, and is logged

    def judge_l4(self, address: IPv4Address | IPv6Address, scope: int, protocol: int, port: int) -> L4Verdict:
        """The kernel's walk. v4-mapped addresses are judged as IPv4."""
        peer = self._peer(address, scope)
        entry = self._entry(peer, protocol, port) or self._entry(peer, ANY_PROTOCOL_NUMBER, port)
        if entry is None:
            return L4Verdict(Verdict.DENY, 0, 0)
        return L4Verdict(Verdict(entry.verdict), entry.ruleset, entry.rule)

    def _peer(self, address: IPv4Address | IPv6Address, scope: int) -> int:
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        number, width = int(address), address.max_prefixlen
        for bits in range(width, -1, -1):
            peer = self._peer_index.get((scope, address.version, bits, number >> (width - bits)))
            if peer is not None:
                return peer
        return ANY_PEER

    def _entry(self, peer: int, protocol: int, port: int) -> PortEntry | None:
        for bits in range(16, -1, -1):
            entry = self._port_index.get((peer, protocol, bits, port >> (16 - bits)))
            if entry is not None:
                return entry
        return None

    @cached_property
    def _peer_index(self) -> dict[tuple[int, int, int, int], int]:
        return {(e.scope, e.network.version, e.network.prefixlen, _network_bits(e.network)): e.peer for e in self.peers}

    @cached_property
    def _port_index(self) -> dict[tuple[int, int, int, int], PortEntry]:
        return {(e.peer, e.protocol, e.port_bits, e.port >> (16 - e.port_bits)): e for e in self.ports}

    def __getstate__(self) -> dict[str, Any]:
        """Without the indexes, which are built where they are used."""
        return {key: value for key, value in self.__dict__.items() if not key.endswith("_index")}


def _network_bits(network: Network) -> int:
    return int(network.network_address) >> (network.max_prefixlen - network.prefixlen)


def port_prefixes(first: int, last: int) -> list[tuple[int, int]]:
    """The fewest (port, port_bits) that cover `first` to `last`: 1024 to 65535 are six."""
    prefixes = []
    while first <= last:
        size = (first & -first) or 65536
        while first + size - 1 > last:
            size >>= 1
        prefixes.append((first, 17 - size.bit_length()))
        first += size
    return prefixes
