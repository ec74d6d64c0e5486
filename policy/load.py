"""Load policy files: whatever is wrong with them is a finding with its place, never an exception."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from racecar.policy.conflicts import check
from racecar.policy.document import Node, parse
from racecar.policy.fields import Report, fields, is_kind, items, string
from racecar.policy.files import MAX_FILE_BYTES, read_paths
from racecar.policy.findings import Finding, shown
from racecar.policy.http_rules import override_headers
from racecar.policy.model import Policy
from racecar.policy.schema import read_policy

_GROUPS = {"cilium.io": "v2", "networking.k8s.io": "v1", "racecar.io": "v1"}
_KINDS = {
    ("cilium.io", "CiliumNetworkPolicy"),
    ("racecar.io", "RacecarPolicy"),
}
_CONFIG = ("racecar.io", "RacecarConfig")  # no policy; who wants it read hands in the reader
_KINDS_LATER = {
    ("cilium.io", "CiliumClusterwideNetworkPolicy"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("racecar.io", "RacecarPeers"),
}
_ALLOWED = "cilium.io/v2 CiliumNetworkPolicy, racecar.io/v1 RacecarPolicy"


ConfigReader = Callable[[Report, Node], object]  # of one document; its mistakes go to the report


@dataclass(frozen=True, slots=True)
class Loaded:
    """What files hold. With an error in any of them there are no policies: half a policy enforces something else."""

    policies: tuple[Policy, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not any(finding.level == "error" for finding in self.findings)


def load_paths(paths: Sequence[str | Path], *, config_reader: ConfigReader | None = None) -> Loaded:
    """Load files and directories (`*.yaml`, `*.yml`, `*.json`).

    `config_reader` checks each RacecarConfig among them, which is skipped otherwise.
    """
    sources = read_paths([os.fspath(path) for path in paths])
    return _load(sources.files, sources.findings, config_reader)


def load_text(text: bytes, name: str, *, config_reader: ConfigReader | None = None) -> Loaded:
    """Load one file's bytes; `name` stands in the findings."""
    return _load([(name, text)], [], config_reader)


def _load(
    files: Sequence[tuple[str, bytes]], findings: Sequence[Finding], config_reader: ConfigReader | None
) -> Loaded:
    found = list(findings)
    policies: list[Policy] = []
    objects: dict[tuple[str, str, str], str] = {}
    for path, data in files:
        loader = _File(path, objects, config_reader)
        policies += loader.load(data)
        found += loader.findings
    if any(finding.level == "error" for finding in found):
        return Loaded((), tuple(found))
    found += override_headers(policies)
    found += check(policies)
    loaded = Loaded(tuple(policies), tuple(found))
    return loaded if loaded.ok else Loaded((), loaded.findings)


class _File:
    """One file; `objects` are the policy objects seen so far, in all files, with their places."""

    def __init__(self, path: str, objects: dict[tuple[str, str, str], str], config_reader: ConfigReader | None) -> None:
        self._report = Report(path)
        self._path = path
        self._objects = objects
        self._config_reader = config_reader
        self._policies: list[Policy] = []

    @property
    def findings(self) -> list[Finding]:
        """In the order of their places."""
        return sorted(self._report.findings, key=lambda finding: (finding.line, finding.column))

    def load(self, data: bytes) -> list[Policy]:
        if len(data) > MAX_FILE_BYTES:
            self._report.add(Finding(self._path, 1, 1, "error", f"larger than {MAX_FILE_BYTES} bytes"))
            return []
        parsed = parse(data, self._path)
        for finding in parsed.findings:
            self._report.add(finding)
        if parsed.error is not None:
            self._report.add(parsed.error.finding(self._path))
        documents = [document for document in parsed.documents if not document.is_null]
        if not documents and parsed.error is None:
            self._report.add(Finding(self._path, 1, 1, "notice", "holds no document"))
        for document in documents:
            self._object(document, "a document")
        return self._policies

    def _object(self, node: Node, where: str) -> None:
        if not is_kind(self._report, node, "mapping", where):
            return
        version, kind = self._header(node, where, "apiVersion"), self._header(node, where, "kind")
        if version is None or kind is None:
            return
        group, slash, number = version.partition("/")
        if version == "v1" and kind == "List":
            self._list(node)
        elif slash and group in _GROUPS:
            self._known_group(node, group, number, kind)
        elif group.lower().strip(". ") in _GROUPS:
            self._error(node, "apiVersion", f"apiVersion {shown(version)} is unknown; allowed here: {_ALLOWED}")
        else:
            self._report.notice(node, f"skipped: {shown(kind)} of {shown(version)} is no policy")

    def _header(self, node: Node, where: str, key: str) -> str | None:
        value = node.get(key)
        if value is None:
            self._report.error(node, f"{where} needs {key}")
            return None
        return string(self._report, value, key)

    def _error(self, node: Node, key: str, text: str) -> None:
        self._report.error(node.get(key) or node, text)

    def _known_group(self, node: Node, group: str, number: str, kind: str) -> None:
        if (group, kind) in _KINDS_LATER:
            self._error(node, "kind", f"not supported yet: kind {kind}; allowed here: {_ALLOWED}")
        elif (group, kind) not in (*_KINDS, _CONFIG):
            self._error(node, "kind", f"unknown kind {shown(kind)} in {group}; allowed here: {_ALLOWED}")
        elif number != _GROUPS[group]:
            text = f"unknown version {shown(number)} of {group}; allowed here: {_ALLOWED}"
            self._error(node, "apiVersion", text)
        elif (group, kind) == _CONFIG:
            self._config(node)
        else:
            policies = read_policy(self._report, node, kind)
            self._remember(node, policies)
            self._policies += policies

    def _config(self, node: Node) -> None:
        if self._config_reader is None:
            self._report.notice(node, "skipped: RacecarConfig is read by --config")
        else:
            self._config_reader(self._report, node)

    def _remember(self, node: Node, policies: Sequence[Policy]) -> None:
        """Rules are known by kind, namespace and name: two objects of one name would be one in a cluster."""
        for policy in policies[:1]:
            key = (policy.kind, policy.namespace, policy.name)
            if key in self._objects:
                text = f"{policy.kind} {policy.full_name} stands already at {self._objects[key]}"
                self._report.error(node, text)
            self._objects[key] = f"{self._path}:{node.line}"

    def _list(self, node: Node) -> None:
        top = fields(self._report, node, "List", ("apiVersion", "kind", "metadata", "items"))
        for where, item in items(self._report, top.get("items") if top is not None else None, "items"):
            self._object(item, where)
