"""Find rules that cannot stand beside each other, or that mean less than they seem to."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

from racecar.policy.findings import Finding
from racecar.policy.model import (
    DIRECTIONS,
    CidrBlock,
    Direction,
    Layer7,
    Policy,
    PortRange,
    RuleRef,
    is_inside,
    network_key,
    reaches_own_addresses,
)

_WIDTH = {4: 32, 6: 128}


@dataclass(frozen=True, slots=True)
class _Reach:
    """A rule with whom and what it covers; `ports` None = every protocol and port."""

    order: int  # place among all rules
    policy: Policy
    peers: tuple[CidrBlock, ...] | None
    ports: tuple[PortRange, ...] | None
    ref: RuleRef
    layer7: Layer7 | None

    def meets(self, other: "_Reach") -> bool:
        """Whether some workload, peer and port can be under both: true unless it is provably impossible."""
        return (
            _ports_meet(self.ports, other.ports)
            and _peers_meet(self.peers, other.peers)
            and self.policy.namespace == other.policy.namespace
            and not self.policy.selector.is_disjoint(other.policy.selector)
        )


class _Index:
    """Rules by their networks, so that a rule is compared with those near it and not with all."""

    def __init__(self, reaches: Iterable[_Reach]) -> None:
        self._all = list(reaches)
        self._anywhere = [reach for reach in self._all if reach.peers is None]
        self._by_network: dict[tuple[int, int, int], list[_Reach]] = {}
        for reach in self._all:
            for block in reach.peers or ():
                self._by_network.setdefault(network_key(block.network, block.network.prefixlen), []).append(reach)
        self._starts = sorted({(key[0], key[2] << (_WIDTH[key[0]] - key[1]), key) for key in self._by_network})

    def near(self, reach: _Reach) -> Iterator[_Reach]:
        """Every rule whose peers may meet those of `reach`, some of them twice."""
        if reach.peers is None:
            yield from self._all
            return
        yield from self._anywhere
        for block in reach.peers:
            network = block.network
            for bits in range(network.prefixlen + 1):
                yield from self._by_network.get(network_key(network, bits), ())
            first = bisect_left(self._starts, (network.version, int(network.network_address)))
            for version, start, key in islice(self._starts, first, None):
                if version != network.version or start > int(network.broadcast_address):
                    break
                yield from self._by_network[key]


def check(policies: Sequence[Policy]) -> list[Finding]:
    """Errors for two L7 kinds that meet, warnings for L7 rules that an L4 allow cancels; one for each rule."""
    return [finding for direction in DIRECTIONS for finding in _check(policies, direction)]


def _check(policies: Sequence[Policy], direction: Direction) -> list[Finding]:
    reaches = list(_reaches(policies, direction))
    plain = _Index(reach for reach in reaches if reach.layer7 is None)
    relays = _Index(reach for reach in reaches if reach.layer7 is not None and reach.layer7.kind == "tcp")
    findings = []
    for reach in reaches:
        if reach.layer7 is None:
            continue
        if reach.layer7.kind != "tcp":
            findings += [_two_kinds(*sorted((reach, other), key=_order)) for other in _first(reach, relays)]
        findings += [_cancelled(reach, other) for other in _first(reach, plain)]
    return findings


def _order(reach: _Reach) -> int:
    return -reach.order


def _first(reach: _Reach, index: _Index) -> list[_Reach]:
    """One rule that `reach` meets, or none."""
    return next(([other] for other in index.near(reach) if reach.meets(other)), [])


def _reaches(policies: Sequence[Policy], direction: Direction) -> Iterator[_Reach]:
    order = count()
    for policy in policies:
        for rule in policy.rules(direction):
            if rule.ports is None:
                if rule.peers:
                    yield _Reach(next(order), policy, rule.peers, None, rule.ref, None)
                continue
            for item in rule.ports:
                yield _Reach(next(order), policy, rule.peers, item.ports, item.ref, item.layer7)


def _two_kinds(reach: _Reach, other: _Reach) -> Finding:
    mine, its = reach.layer7, other.layer7
    assert mine is not None
    assert its is not None
    text = (
        f"{reach.ref.name} has {mine.shown} rules where {other.ref.name} ({other.ref.place}) has {its.shown} rules: "
        "one port of one peer can have one kind"
    )
    return Finding(reach.ref.file, reach.ref.line, reach.ref.column, "error", text)


def _cancelled(reach: _Reach, other: _Reach) -> Finding:
    text = (
        f"the L7 rules of {reach.ref.name} judge nothing where {other.ref.name} ({other.ref.place}) allows the same "
        "peers and ports without L7 rules"
    )
    return Finding(reach.ref.file, reach.ref.line, reach.ref.column, "warning", text, "l4-cancels-l7")


def _ports_meet(mine: tuple[PortRange, ...] | None, its: tuple[PortRange, ...] | None) -> bool:
    if mine is None or its is None:
        return True
    return any(one.overlaps(other) for one in mine for other in its)


def _peers_meet(mine: tuple[CidrBlock, ...] | None, its: tuple[CidrBlock, ...] | None) -> bool:
    if mine is None or its is None:
        return mine != () and its != ()
    return any(_blocks_meet(one, other) for one in mine for other in its)


def _blocks_meet(one: CidrBlock, other: CidrBlock) -> bool:
    """The narrower network decides: either one exception swallows it, or something may be left.

    The host's own addresses and the world's are apart, but for a CIDR that may name either.
    """
    if one.is_host != other.is_host and not reaches_own_addresses((other if one.is_host else one).network):
        return False
    narrow, wide = (one, other) if one.network.prefixlen >= other.network.prefixlen else (other, one)
    return is_inside(narrow.network, wide.network) and not any(
        is_inside(narrow.network, hole) for hole in wide.excepted
    )
