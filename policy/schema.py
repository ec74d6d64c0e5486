"""Understand CiliumNetworkPolicy and RacecarPolicy: nodes in, policies and findings out."""

import re
from dataclasses import dataclass

from racecar.policy.document import Node
from racecar.policy.fields import Fields, Report, boolean, fields, items, string_map, strings
from racecar.policy.findings import shown
from racecar.policy.model import (
    DIRECTIONS,
    NAMESPACE_LABEL,
    Direction,
    Operator,
    Policy,
    Requirement,
    Selector,
    TrafficRule,
    parse_label_key,
)
from racecar.policy.rules import Origin, read_rules

_EXPORTED_METADATA = (
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
)
_SPEC = ("endpointSelector", "ingress", "egress", "enableDefaultDeny", "description", "labels")
_SPEC_LATER = ("ingressDeny", "egressDeny", "nodeSelector", "log")
_DNS_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_SOURCE = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.]*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_OPERATORS: dict[str, Operator] = {
    "In": "In",
    "NotIn": "NotIn",
    "Exists": "Exists",
    "DoesNotExist": "DoesNotExist",
}


@dataclass(frozen=True, slots=True)
class Metadata:
    name: str
    namespace: str


def read_policy(report: Report, node: Node, kind: str) -> list[Policy]:
    """The policies of one object: one for `spec`, one for each of `specs`."""
    top = fields(report, node, kind, ("apiVersion", "kind", "metadata", "spec", "specs", "status"))
    if top is None:
        return []
    metadata = _read_metadata(report, top.require("metadata"))
    sections = []
    spec, specs = top.get("spec"), top.get("specs")
    if spec is not None:
        sections.append(("", spec))
    if specs is not None:
        sections += [(f"{where}.", item) for where, item in items(report, specs, "specs")]
    if spec is None and (specs is None or not specs.items):
        report.error(node, f"{kind} needs spec or specs")
    if metadata is None:
        metadata = Metadata("unnamed", "default")  # an error by now; read on for the other mistakes
    policies = (_read_section(report, section, kind, metadata, prefix) for prefix, section in sections)
    return [policy for policy in policies if policy is not None]


def _read_metadata(report: Report, node: Node | None) -> Metadata | None:
    meta = fields(report, node, "metadata", ("name", "namespace", "labels", *_EXPORTED_METADATA))
    if meta is None:
        return None
    string_map(report, meta.get("labels"), "metadata.labels")
    string_map(report, meta.get("annotations"), "metadata.annotations")
    name_node, namespace_node = meta.require("name"), meta.get("namespace")
    name, namespace = meta.string("name"), meta.string("namespace")
    if name_node is None or name is None or (namespace_node is not None and namespace is None):
        return None
    if len(name) > 253 or not _DNS_NAME.fullmatch(name):
        report.error(name_node, f"metadata.name {shown(name)} must be lower-case letters, digits, - and .")
    if namespace_node is not None and namespace is not None and not _DNS_LABEL.fullmatch(namespace):
        report.error(namespace_node, f"metadata.namespace {shown(namespace)} must be lower-case letters, digits and -")
    return Metadata(name, "default" if namespace is None else namespace)


def _read_section(report: Report, node: Node, kind: str, metadata: Metadata, prefix: str) -> Policy | None:
    where = prefix.rstrip(".") or "spec"
    known = (*_SPEC, "audit") if kind == "RacecarPolicy" else _SPEC
    spec = fields(report, node, where, known, _SPEC_LATER)
    if spec is None:
        return None
    spec.string("description")
    for name, label in items(report, spec.get("labels"), f"{where}.labels"):
        entry = fields(report, label, name, ("key", "value", "source"))
        for key in ("key", "value", "source"):
            if entry is not None:
                entry.string(key)
    selector_node = spec.require("endpointSelector")
    selector = Selector()
    if selector_node is not None:
        own = (Requirement("k8s", NAMESPACE_LABEL, "In", frozenset((metadata.namespace,))),)
        selector = Selector(own + read_selector(report, selector_node, "endpointSelector", metadata.namespace))
    origin = (metadata.name, metadata.namespace, kind, report.path)
    rules = _read_directions(report, spec, prefix, where, origin)
    denies = _read_default_deny(report, spec.get("enableDefaultDeny"), rules)
    return Policy(
        *origin,
        node.line,
        selector,
        rules["egress"],
        denies["egress"],
        rules["ingress"],
        denies["ingress"],
        audit=spec.boolean("audit"),
    )


def _read_directions(
    report: Report, spec: Fields, prefix: str, where: str, origin: Origin
) -> dict[Direction, tuple[TrafficRule, ...]]:
    """The rules of each direction; one of them at least must have some."""
    nodes = {direction: spec.get(direction) for direction in DIRECTIONS}
    empty = [(d, n) for d, n in nodes.items() if n is not None and n.kind == "sequence" and not n.items]
    if len(empty) == sum(node is not None for node in nodes.values()):
        text = "needs egress or ingress rules; an empty list selects nothing, `egress: [{}]` denies all"
        report.error(empty[0][1] if empty else spec.node, f"{where} {text}")
    else:
        for direction, node in empty:
            text = f"{direction}: [] selects nothing in that direction; `{direction}: [{{}}]` denies all"
            report.warning(node, text, "empty-direction")
    return {d: read_rules(report, node, f"{prefix}{d}", origin, d) for d, node in nodes.items()}


def _read_default_deny(
    report: Report, node: Node | None, rules: dict[Direction, tuple[TrafficRule, ...]]
) -> dict[Direction, bool]:
    """Whether each direction is denied by default: if it has rules, and nothing says otherwise."""
    given = fields(report, node, "enableDefaultDeny", DIRECTIONS)
    denies: dict[Direction, bool] = {}
    for direction in DIRECTIONS:
        value = given.get(direction) if given is not None else None
        where = f"enableDefaultDeny.{direction}"
        wanted = boolean(report, value, where) if value is not None else None
        if value is not None and wanted and not rules[direction]:
            text = f"{where}: true denies nothing without {direction} rules; `{direction}: [{{}}]` denies all"
            report.warning(value, text, "default-deny")
        denies[direction] = bool(rules[direction]) and wanted is not False
    return denies


def read_selector(report: Report, node: Node, where: str, namespace: str) -> tuple[Requirement, ...]:
    """A label selector's requirements; a namespace other than the policy's own is replaced by it, as Cilium does."""
    selector = fields(report, node, where, ("matchLabels", "matchExpressions"))
    if selector is None:
        return ()
    requirements = []
    for key_node, key, value_node, value in string_map(report, selector.get("matchLabels"), f"{where}.matchLabels"):
        parsed = _read_key(report, key_node, key)
        _check_value(report, value_node, value)
        if parsed is None:
            continue
        if parsed[1] == NAMESPACE_LABEL and value != namespace:
            text = f"a policy selects in its own namespace {shown(namespace)} only: {shown(value)} is not used"
            report.warning(value_node, text, "foreign-namespace")
            continue
        requirements.append(Requirement(*parsed, "In", frozenset((value,))))
    for name, item in items(report, selector.get("matchExpressions"), f"{where}.matchExpressions"):
        requirement = _read_expression(report, item, name)
        if requirement is not None:
            requirements.append(requirement)
    return tuple(requirements)


def _read_expression(report: Report, node: Node, where: str) -> Requirement | None:
    expression = fields(report, node, where, ("key", "operator", "values"))
    if expression is None:
        return None
    key_node, operator_node = expression.require("key"), expression.require("operator")
    values_node = expression.get("values")
    values = strings(report, values_node, f"{where}.values")
    for value_node, value in values:
        _check_value(report, value_node, value)
    key, operator = expression.string("key"), expression.string("operator")
    if key_node is None or operator_node is None or key is None or operator is None:
        return None
    parsed = _read_key(report, key_node, key)
    if parsed is None:
        return None
    chosen = frozenset(value for _, value in values)
    known = _OPERATORS.get(operator)
    if known is None:
        allowed = ", ".join(_OPERATORS)
        report.error(operator_node, f"{where}.operator {shown(operator)} is unknown; allowed here: {allowed}")
        return None
    if known in ("In", "NotIn") and not chosen:
        report.error(values_node or node, f"{where}: operator {known} needs values")
    if known in ("Exists", "DoesNotExist") and values_node is not None and values_node.items:
        report.error(values_node, f"{where}: operator {known} takes no values")
    return Requirement(*parsed, known, chosen)


def _read_key(report: Report, node: Node, key: str) -> tuple[str, str] | None:
    """A label's (source, key); a key without a source matches labels of every source."""
    source, name = parse_label_key(key, "any")
    prefix, slash, last = name.rpartition("/")
    is_good = len(last) <= 63 and _LABEL_NAME.fullmatch(last) and _LABEL_SOURCE.fullmatch(source)
    if slash and (len(prefix) > 253 or not all(_LABEL_NAME.fullmatch(part) for part in prefix.split("/"))):
        is_good = None
    if not is_good:
        report.error(node, f"{shown(key)} is not a label key: [SOURCE:][PREFIX/]NAME of letters, digits, -, _ and .")
        return None
    return source, name


def _check_value(report: Report, node: Node, value: str) -> None:
    if len(value) > 63 or not _LABEL_VALUE.fullmatch(value):
        report.error(node, f"{shown(value)} is not a label value: up to 63 letters, digits, -, _ and .")
