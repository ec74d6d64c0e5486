"""The rules that both sides hold, and what may and what may not pass them."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rule:
    """One allowed kind of call; both fields are regular expressions, anchored at both ends, the path with its query."""

    method: str
    path: str


# A service that reads jobs and files, and may hand in a job. The load meets the first, the third and the last rule.
RULES = (
    Rule("GET", "/jobs(/[0-9]+)?"),
    Rule("POST", "/jobs"),
    Rule("GET", r"/files/[a-z0-9]+\.bin"),
    Rule("GET|HEAD", "/health"),
    Rule("GET", "/users/[a-z0-9-]+/profile"),
    Rule("GET", r"/search\?q=[a-z0-9+]*(&page=[0-9]+)?"),
    Rule("PUT|PATCH", "/jobs/[0-9]+/state"),
    Rule("GET", "/items/[0-9a-f]+"),
)

# What every round tries beside its load: each of them must be refused by both sides.
DENIED = (("DELETE", "/jobs/1"), ("GET", "/jobsx"), ("GET", "/admin"))


def racecar_policy(upstream_port: int) -> str:
    """A policy document (JSON is YAML) that lets everybody call the upstream by the rules."""
    http = [{"method": rule.method, "path": rule.path} for rule in RULES]
    egress = {
        "toCIDR": ["127.0.0.1/32"],
        "toPorts": [{"ports": [{"port": str(upstream_port), "protocol": "TCP"}], "rules": {"http": http}}],
    }
    policy = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "bench"},
        "spec": {"endpointSelector": {}, "egress": [egress]},
    }
    return json.dumps(policy, indent=1)


def envoy_rbac() -> dict[str, Any]:
    """The same as the action of Envoy's RBAC filter: one policy a rule, `:path` with its query."""
    return {
        "action": "ALLOW",
        "policies": {
            f"rule-{number}": {"permissions": [_permission(rule)], "principals": [{"any": True}]}
            for number, rule in enumerate(RULES, 1)
        },
    }


def _permission(rule: Rule) -> dict[str, Any]:
    wanted = ((":method", rule.method), (":path", rule.path))
    return {"and_rules": {"rules": [{"header": _matches(name, regex)} for name, regex in wanted]}}


def _matches(name: str, regex: str) -> dict[str, Any]:
    return {"name": name, "string_match": {"safe_regex": {"regex": regex}}}
