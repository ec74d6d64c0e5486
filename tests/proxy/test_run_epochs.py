"""Policies that are exchanged while connections live."""

from racecar.policy.model import RuleRef
from racecar.policy.tables import CompiledWorkload, RuleSet
from racecar.proxy.epochs import Epochs, ruleset_of
from racecar.proxy.flows import FlowSource

ORIGIN = RuleRef("test", "default", "RacecarPolicy", "x.yaml", 1, "egress[0]")


def policy(rulesets: int) -> CompiledWorkload:
    sets = (RuleSet("none", (), ORIGIN), *(RuleSet("tcp", (), ORIGIN) for _ in range(rulesets)))
    return CompiledWorkload(selected=True, peers=(), ports=(), rulesets=sets, rules=(), policies=())


def epochs(rulesets: int) -> Epochs:
    return Epochs(policy(rulesets), FlowSource("test", "default", (), ()))


def test_each_policy_has_rule_sets_of_its_own_and_none_is_none_in_all() -> None:
    known = epochs(2)
    first = known.layer(0, ruleset_of(0, 1))
    assert known.exchange(policy(1), {0}) == 1
    assert known.layer(0, ruleset_of(0, 1)) is first
    second = known.layer(0, ruleset_of(1, 1))
    assert second is not None
    assert second is not first
    assert known.layer(0, ruleset_of(1, 2)) is None, "the second policy has one rule set only"
    assert ruleset_of(1, 0) == 0


def test_policies_that_nobody_lives_under_are_forgotten_at_the_next_but_one() -> None:
    """What just ended has lines to come."""
    known = epochs(1)
    for number in range(1, 100):
        known.exchange(policy(1), {0, number - 1})
        assert len(known.layers) <= 4
    known.exchange(policy(1), set())
    assert known.layer(0, ruleset_of(0, 1)) is not None
    known.exchange(policy(1), set())
    assert known.layer(0, ruleset_of(0, 1)) is None
    assert len(known.layers) == 2
