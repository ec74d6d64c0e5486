"""Find rules that cannot stand beside each other, or that mean less than they seem to."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from racecar.policy.findings import Finding
from racecar.policy.model import CidrBlock, Layer7, Policy, PortRange, RuleRef, is_inside


@dataclass(frozen=True, slots=True)
class _Reach:
    """A rule with whom and what it covers; `ports` None = every protocol and port."""

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


def check(policies: Sequence[Policy]) -> list[Finding]:
    """Errors for two L7 kinds that meet, warnings for L7 rules that an L4 allow cancels; one for each rule."""
    reaches = list(_reaches(policies))
    plain = [reach for reach in reaches if reach.layer7 is None]
    findings = []
    kinds: dict[str, list[_Reach]] = {}
    for reach in reaches:
        if reach.layer7 is None:
            continue
        others = [other for kind, known in kinds.items() if kind != reach.layer7.kind for other in known]
        findings += [_two_kinds(reach, other) for other in _first(reach, others)]
        findings += [_cancelled(reach, other) for other in _first(reach, plain)]
        kinds.setdefault(reach.layer7.kind, []).append(reach)
    return findings


def _first(reach: _Reach, others: Iterable[_Reach]) -> Iterator[_Reach]:
    for other in others:
        if reach.meets(other):
            yield other
            return


def _reaches(policies: Sequence[Policy]) -> Iterator[_Reach]:
    for policy in policies:
        for rule in policy.egress:
            if rule.ports is None:
                if rule.peers:
                    yield _Reach(policy, rule.peers, None, rule.ref, None)
                continue
            for item in rule.ports:
                yield _Reach(policy, rule.peers, item.ports, item.ref, item.layer7)


def _two_kinds(reach: _Reach, other: _Reach) -> Finding:
    mine, its = reach.layer7, other.layer7
    assert mine is not None
    assert its is not None
    text = (
        f"{reach.ref.name} has {mine.kind} rules where {other.ref.name} ({other.ref.place}) has {its.kind} rules: "
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
    """The narrower network decides: either one exception swallows it, or something may be left."""
    narrow, wide = (one, other) if one.network.prefixlen >= other.network.prefixlen else (other, one)
    return is_inside(narrow.network, wide.network) and not any(
        is_inside(narrow.network, hole) for hole in wide.excepted
    )
