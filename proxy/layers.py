"""What the server judges connections by: one layer per rule set of a compiled policy."""

from racecar.policy.engine import HttpMatcher
from racecar.policy.tables import CompiledWorkload
from racecar.proxy.core.http1_types import Judge

NO_NAMES: frozenset[bytes] = frozenset()


class Layer:
    """One rule set, as the server asks for it. The same object as long as the policy stands."""

    def __init__(self, compiled: CompiledWorkload, number: int) -> None:
        ruleset = compiled.rulesets[number]
        self.kind: str = ruleset.kind
        matcher = HttpMatcher(ruleset) if ruleset.kind == "http" else None
        self.matcher: Judge | None = matcher
        self.header_names = matcher.header_names if matcher is not None else NO_NAMES
        self.audit = compiled.audit
        self.tls_rule = ruleset.tls
        self.tells_rules = compiled.direction == "egress"  # on ingress it would tell strangers
        self._rules = compiled.rules
        self._default = f"default deny ({', '.join(compiled.policies)})"

    def rule_name(self, rule: int) -> str:
        """For the text of a denial: policy and rule, or default deny and the policies that cause it."""
        return self._rules[rule].name if 0 < rule < len(self._rules) else self._default


class RelayLayer:
    """For connections that L4 rules allow, where no kernel lets them pass by the proxy: bytes are relayed unread."""

    kind = "tcp"
    matcher = None
    audit = False
    tls_rule = 0
    tells_rules = True
    header_names = NO_NAMES

    def rule_name(self, _rule: int) -> str:
        return ""


def layers_of(compiled: CompiledWorkload) -> dict[int, Layer]:
    """A layer per rule set that has a kind."""
    return {
        number: Layer(compiled, number) for number, ruleset in enumerate(compiled.rulesets) if ruleset.kind != "none"
    }
