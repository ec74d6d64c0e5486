"""Understand CiliumNetworkPolicy and RacecarPolicy: nodes in, policies and findings out."""

import re
from dataclasses import dataclass

from racecar.policy.document import Node
from racecar.policy.egress import read_egress
from racecar.policy.fields import Report, boolean, fields, items, string_map, strings
from racecar.policy.findings import shown
from racecar.policy.model import NAMESPACE_LABEL, Operator, Policy, Requirement, Selector, parse_label_key

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
_SPEC = ("endpointSelector", "egress", "enableDefaultDeny", "description", "labels")
_SPEC_LATER = ("ingress", "ingressDeny", "egressDeny", "nodeSelector", "log")
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
    later = (*_SPEC_LATER, "audit") if kind == "RacecarPolicy" else _SPEC_LATER
    spec = fields(report, node, where, _SPEC, later)
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
    egress_node = spec.get("egress")
    if egress_node is None or (egress_node.kind == "sequence" and not egress_node.items):
        report.error(
            egress_node or node,
            f"{where} needs egress rules; an empty list selects nothing, `egress: [{{}}]` denies all",
        )
    origin = (metadata.name, metadata.namespace, kind, report.path)
    egress = read_egress(report, egress_node, f"{prefix}egress", origin)
    default_deny = _read_default_deny(report, spec.get("enableDefaultDeny"))
    return Policy(*origin, node.line, selector, egress, default_deny)


def _read_default_deny(report: Report, node: Node | None) -> bool:
    directions = fields(report, node, "enableDefaultDeny", ("egress",), ("ingress",))
    egress = directions.get("egress") if directions is not None else None
    if egress is None:
        return True
    return boolean(report, egress, "enableDefaultDeny.egress") is not False


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
