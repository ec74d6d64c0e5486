"""Compile the policies that select a workload into its tables.

The kernel takes the longest match only, so every network and port prefix gets the union of all rules that cover it.
"""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from itertools import pairwise

from racecar.policy.conflicts import check as check
from racecar.policy.model import (
    ANY_PROTOCOL,
    DEFAULT_DENY,
    ENCODINGS,
    LOOPBACK_NETWORKS,
    CidrBlock,
    Direction,
    HttpMatch,
    Layer7,
    Network,
    Policy,
    RuleRef,
    is_inside,
    network_key,
    reaches_own_addresses,
    workload_labels,
)
from racecar.policy.tables import (
    ANY_PEER,
    ANY_PROTOCOL_NUMBER,
    HOST,
    WORLD,
    CompiledWorkload,
    HttpRule,
    PeerEntry,
    PortEntry,
    RuleSet,
    Verdict,
    port_prefixes,
)

_ALL_IPV4 = IPv4Network("0.0.0.0/0")
_MAPPED = IPv6Network("::ffff:0:0/96")
_NO_RULESET = RuleSet("none", (), DEFAULT_DENY)


class PolicyConflictError(ValueError):
    """Two kinds of L7 rules for one peer and port of this workload: neither can be enforced."""


class _Grant:
    """One rule for some ports of some peers, flat: what the tables are made of."""

    __slots__ = ("first", "last", "layer7", "order", "peers", "protocols", "ref", "widened")

    def __init__(
        self,
        order: int,
        peers: tuple[CidrBlock, ...] | None,
        ports: tuple[tuple[int, ...], int, int],
        layer7: Layer7 | None,
        ref: RuleRef,
        widened: bool,
    ) -> None:
        self.order = order
        self.peers = peers
        self.protocols, self.first, self.last = ports
        self.layer7 = layer7
        self.ref = ref
        self.widened = widened  # the policy has no default deny: its L7 rules refuse nothing


def compile_workload(
    policies: Sequence[Policy],
    *,
    namespace: str,
    cluster: str,
    labels: Mapping[str, str],
    direction: Direction = "egress",
    audit: bool = False,
) -> CompiledWorkload:
    """The tables of a workload with these labels in one direction; `audit` makes every policy an audit policy.

    Raises PolicyConflictError if two kinds of L7 rules meet; `check` finds that at load for policies that may meet.
    """
    known = workload_labels(labels, namespace=namespace, cluster=cluster)
    selecting = [policy for policy in policies if policy.rules(direction) and policy.selects(namespace, known)]
    enforced = [] if audit else [policy for policy in selecting if not policy.audit]
    # Where enforced policies deny, an audit policy changes nothing: it widens no other, and denies nothing.
    if any(policy.default_deny(direction) for policy in enforced):
        selecting = enforced
    is_audit = len(selecting) > len(enforced)
    names = tuple(dict.fromkeys(policy.full_name for policy in selecting))
    if not any(policy.default_deny(direction) for policy in selecting):
        allow_all = PortEntry(ANY_PEER, ANY_PROTOCOL_NUMBER, 0, 0, Verdict.ALLOW.value, 0, 0)
        return CompiledWorkload(
            False, (), (allow_all,), (_NO_RULESET,), (DEFAULT_DENY,), names, direction=direction, audit=is_audit
        )
    return _Compiler(_grants(selecting, direction)).tables(names, direction, is_audit)


def _grants(policies: Iterable[Policy], direction: Direction) -> list[_Grant]:
    grants: list[_Grant] = []
    for policy in policies:
        widened = not policy.default_deny(direction)
        for rule in policy.rules(direction):
            if rule.ports is None and rule.peers is not None:
                grants.append(_Grant(len(grants), rule.peers, ((), 0, 65535), None, rule.ref, widened))
            for item in rule.ports or ():
                for ports in item.ports:
                    span = (ports.protocols, ports.first, ports.last)
                    grants.append(_Grant(len(grants), rule.peers, span, item.layer7, item.ref, widened))
    return grants


def _holds_in(block: CidrBlock, scope: int) -> bool:
    if scope == WORLD:
        return not block.is_host
    return block.is_host or reaches_own_addresses(block.network)


def _networks_of(blocks: Iterable[CidrBlock], scope: int) -> list[Network]:
    networks = {network for b in blocks if _holds_in(b, scope) for network in (b.network, *b.excepted)}
    if scope == WORLD:
        networks = {n for n in networks if not any(is_inside(n, outer) for outer in LOOPBACK_NETWORKS)}
    # One trie may hold both versions, IPv4 as v4-mapped: ::/0 must not become a peer of IPv4 addresses.
    if any(is_inside(_MAPPED, network) for network in networks):
        networks.add(_ALL_IPV4)
    return sorted(networks, key=lambda n: (n.version, int(n.network_address), n.prefixlen))


class _Compiler:
    """Numbers are given in the order of use, so equal policies make equal tables."""

    def __init__(self, grants: list[_Grant]) -> None:
        self._grants = grants
        self._anywhere = tuple(grant for grant in grants if grant.peers is None)
        self._rules: dict[RuleRef, int] = {DEFAULT_DENY: 0}
        self._rulesets: dict[tuple[str, tuple[HttpRule, ...], int], int] = {}
        self._ruleset_list = [_NO_RULESET]
        self._entries: list[PortEntry] = []
        self._blocks: dict[tuple[int, int, int], list[tuple[_Grant, CidrBlock]]] = {}
        for grant in grants:
            for block in grant.peers or ():
                key = network_key(block.network, block.network.prefixlen)
                self._blocks.setdefault(key, []).append((grant, block))

    def tables(self, names: tuple[str, ...], direction: Direction, audit: bool) -> CompiledWorkload:
        numbers: dict[tuple[int, ...], int] = {tuple(g.order for g in self._anywhere): ANY_PEER}
        self._add_ports(ANY_PEER, self._anywhere)
        peers = []
        for scope, network in self._networks():
            covering = self._covering(scope, network)
            key = tuple(grant.order for grant in covering)
            if key not in numbers:
                numbers[key] = len(numbers)
                self._add_ports(numbers[key], covering)
            peers.append(PeerEntry(scope, network, numbers[key]))
        return CompiledWorkload(
            True,
            tuple(peers),
            tuple(self._entries),
            tuple(self._ruleset_list),
            tuple(self._rules),
            names,
            direction=direction,
            audit=audit,
        )

    def _covering(self, scope: int, network: Network) -> tuple[_Grant, ...]:
        """The rules that hold for all of `network`, found by its wider networks: not by a walk over all rules."""
        found = {grant.order: grant for grant in self._anywhere}
        for bits in range(network.prefixlen + 1):
            for grant, block in self._blocks.get(network_key(network, bits), ()):
                if block.covers(network) and _holds_in(block, scope):
                    found[grant.order] = grant
        return tuple(found[order] for order in sorted(found))

    def _networks(self) -> list[tuple[int, Network]]:
        """Every network that a rule names, exceptions included, in each scope where it can hold an address."""
        blocks = {block for grant in self._grants for block in grant.peers or ()}
        return [(scope, network) for scope in (WORLD, HOST) for network in _networks_of(blocks, scope)]

    def _add_ports(self, peer: int, grants: tuple[_Grant, ...]) -> None:
        for grant in grants:
            if not grant.protocols:  # allows every protocol and port, and so cancels everything beside it
                rule = self._rule(grant.ref)
                self._entries.append(PortEntry(peer, ANY_PROTOCOL_NUMBER, 0, 0, Verdict.ALLOW.value, 0, rule))
                return
        for protocol in ANY_PROTOCOL:
            self._add_protocol(peer, protocol, [grant for grant in grants if protocol in grant.protocols])

    def _add_protocol(self, peer: int, protocol: int, grants: list[_Grant]) -> None:
        """Cut the ports where a rule starts or ends, judge each piece, join equal neighbours."""
        edges = sorted({edge for grant in grants for edge in (grant.first, grant.last + 1)})
        runs: list[tuple[int, int, tuple[int, int, int]]] = []
        for first, end in pairwise(edges):
            covering = [grant for grant in grants if grant.first <= first and grant.last >= end - 1]
            if not covering:
                continue
            verdict = self._union(covering)
            if runs and runs[-1][1] == first and runs[-1][2] == verdict:
                runs[-1] = (runs[-1][0], end, verdict)
            else:
                runs.append((first, end, verdict))
        for first, end, verdict in runs:
            for port, bits in port_prefixes(first, end - 1):
                self._entries.append(PortEntry(peer, protocol, port, bits, *verdict))

    def _union(self, grants: list[_Grant]) -> tuple[int, int, int]:
        """Verdict, rule set and rule of grants that all cover one piece: a plain allow cancels L7 rules."""
        for grant in grants:
            if grant.layer7 is None:
                return Verdict.ALLOW.value, 0, self._rule(grant.ref)
        return Verdict.REDIRECT.value, self._ruleset(grants), self._rule(grants[0].ref)

    def _ruleset(self, grants: list[_Grant]) -> int:
        layers = [(grant.layer7, grant.widened) for grant in grants if grant.layer7 is not None]
        first = layers[0][0]
        matches: dict[HttpMatch, None] = {}
        tls = 0
        for layer, widened in layers:
            if layer.kind != first.kind:
                raise PolicyConflictError(
                    f"{first.ref.name} ({first.ref.place}) has {first.kind} rules and {layer.ref.name} "
                    f"({layer.ref.place}) has {layer.kind} rules for one peer and port"
                )
            matches.update(dict.fromkeys(layer.http))
            if widened and layer.kind == "http":
                matches[_everything(layer.ref)] = None
            if not tls and layer.kind == "http" and (widened or layer.passes_tls):
                tls = self._rule(layer.ref)
        rules = tuple(self._http_rule(match) for match in matches)
        key = (first.kind, rules, tls)
        if key not in self._rulesets:
            self._rulesets[key] = len(self._ruleset_list)
            self._ruleset_list.append(RuleSet(first.kind, rules, first.ref, tls))
        return self._rulesets[key]

    def _http_rule(self, match: HttpMatch) -> HttpRule:
        return HttpRule(
            match.method,
            match.path,
            self._rule(match.ref),
            host=match.host,
            headers=match.headers,
            path_only=match.path_only,
            query=match.query,
            allow_body=match.allow_body,
            websocket=match.websocket,
            connect=match.connect,
            encoded=match.encoded,
        )

    def _rule(self, ref: RuleRef) -> int:
        return self._rules.setdefault(ref, len(self._rules))


def _everything(ref: RuleRef) -> HttpMatch:
    """What a policy without default deny adds to its L7 rules: the other requests pass, whatever they need."""
    every = frozenset(ENCODINGS)
    return HttpMatch(None, None, ref, allow_body=True, websocket=True, connect=True, encoded=every)
