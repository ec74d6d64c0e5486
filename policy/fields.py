"""Read typed fields from nodes; whatever is not as it must be becomes a finding."""

from collections.abc import Collection, Iterator
from typing import Literal

from racecar.policy.document import Node
from racecar.policy.findings import MAX_FINDINGS, TOO_MANY_FINDINGS, Finding, shown

_NAMES = {"int": "a number", "number": "a number", "bool": "a boolean", "null": "null"}
MAX_DIGITS = 18  # of a number, sign and all: more than any range needs


class Report:
    """The findings of one file: the first MAX_FINDINGS, a note that there are more, and at least one error if any."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.findings: list[Finding] = []
        self.errors = 0
        self._said: set[str] = set()

    def error(self, node: Node, text: str) -> None:
        self.add(Finding(self.path, node.line, node.column, "error", text))

    def warning(self, node: Node, text: str, slug: str) -> None:
        self.add(Finding(self.path, node.line, node.column, "warning", text, slug))

    def warning_once(self, node: Node, text: str, slug: str) -> None:
        """A warning of a kind that one line a file says well enough."""
        if slug not in self._said:
            self._said.add(slug)
            self.warning(node, text, slug)

    def notice(self, node: Node, text: str) -> None:
        self.add(Finding(self.path, node.line, node.column, "notice", text))

    def add(self, finding: Finding) -> None:
        self.errors += finding.level == "error"
        if len(self.findings) < MAX_FINDINGS or (finding.level == "error" and self.errors == 1):
            self.findings.append(finding)
        elif len(self.findings) == MAX_FINDINGS:
            self.findings.append(Finding(self.path, finding.line, finding.column, finding.level, TOO_MANY_FINDINGS))


class Fields:
    """A mapping whose keys are known: `allowed` are read, `later` exist in the language but not here yet."""

    def __init__(
        self, report: Report, node: Node, where: str, allowed: Collection[str], later: Collection[str] = ()
    ) -> None:
        self.node = node
        self._report = report
        self._where = where
        self._values: dict[str, Node] = {}
        for key, value in node.pairs:
            if string(report, key, "a key") is None:
                continue
            if key.value in allowed:
                if not value.is_null:
                    self._values[key.value] = value
            elif key.value not in later:
                report.error(key, f"unknown field {shown(key.value)} in {where}; allowed here: {_list(allowed)}")
            elif not value.is_null:
                report.error(key, f"not supported yet: {key.value} in {where}; allowed here: {_list(allowed)}")

    def get(self, key: str) -> Node | None:
        """The value, null counting as absent."""
        return self._values.get(key)

    def require(self, key: str) -> Node | None:
        value = self._values.get(key)
        if value is None:
            self._report.error(self.node, f"{self._where} needs {key}")
        return value

    def string(self, key: str) -> str | None:
        value = self._values.get(key)
        return None if value is None else string(self._report, value, key)

    def boolean(self, key: str) -> bool:
        """False if absent."""
        value = self._values.get(key)
        return value is not None and boolean(self._report, value, f"{self._where}.{key}") is True


def _list(names: Collection[str]) -> str:
    return ", ".join(names)


def fields(
    report: Report, node: Node | None, where: str, allowed: Collection[str], later: Collection[str] = ()
) -> Fields | None:
    """A mapping's fields, or None with a finding if it is no mapping."""
    if node is None or not is_kind(report, node, "mapping", where):
        return None
    return Fields(report, node, where, allowed, later)


def is_kind(report: Report, node: Node, kind: Literal["mapping", "sequence"], where: str) -> bool:
    if node.kind == kind:
        return True
    wanted = "a mapping" if kind == "mapping" else "a list"
    report.error(node, f"{where} must be {wanted}, not {_describe(node)}")
    return False


def _describe(node: Node) -> str:
    if node.kind == "scalar":
        return _NAMES.get(node.meaning, "a string")
    return "a list" if node.kind == "sequence" else "a mapping"


def items(report: Report, node: Node | None, where: str) -> Iterator[tuple[str, Node]]:
    """A list's items with their index as text; a null item is an error."""
    if node is None or not is_kind(report, node, "sequence", where):
        return
    for number, item in enumerate(node.items):
        if item.is_null:
            report.error(item, f"{where}[{number}] is empty")
        else:
            yield f"{where}[{number}]", item


def string(report: Report, node: Node, where: str) -> str | None:
    """A string, quoted or plain; a plain number, boolean, null, or word that YAML 1.1 reads as boolean is an error."""
    if node.kind != "scalar":
        report.error(node, f"{where} must be a string, not {_describe(node)}")
        return None
    if node.meaning == "string":
        return node.value
    if node.meaning == "ambiguous":
        report.error(node, f'{where}: {node.value} is a boolean to some YAML readers: write "{node.value}" in quotes')
    else:
        report.error(node, f'{where} must be a string, not {_NAMES[node.meaning]}: write "{node.value}" in quotes')
    return None


def boolean(report: Report, node: Node, where: str) -> bool | None:
    if node.kind == "scalar" and node.meaning == "bool":
        return node.value.lower() == "true"
    seen = shown(node.value) if node.kind == "scalar" else _describe(node)
    report.error(node, f"{where} must be true or false, not {seen}")
    return None


def integer(report: Report, node: Node, where: str, low: int, high: int) -> int | None:
    """A decimal integer from `low` to `high`, unquoted."""
    if node.kind != "scalar" or node.meaning != "int":
        hint = ", without quotes" if node.kind == "scalar" and not node.plain else ""
        seen = shown(node.value) if node.kind == "scalar" and node.meaning == "number" else _describe(node)
        report.error(node, f"{where} must be a decimal number{hint}, not {seen}")
        return None
    # int() refuses thousands of digits with an exception.
    number = int(node.value) if len(node.value) <= MAX_DIGITS else high + 1
    if not low <= number <= high:
        report.error(node, f"{where} must be from {low} to {high}, not {shown(node.value)}")
        return None
    return number


def strings(report: Report, node: Node | None, where: str) -> list[tuple[Node, str]]:
    """A list of strings with their places."""
    found = []
    for name, item in items(report, node, where):
        value = string(report, item, name)
        if value is not None:
            found.append((item, value))
    return found


def string_map(report: Report, node: Node | None, where: str) -> list[tuple[Node, str, Node, str]]:
    """A mapping of strings to strings, as (key's place, key, value's place, value)."""
    if node is None or not is_kind(report, node, "mapping", where):
        return []
    found = []
    for key, value in node.pairs:
        name = string(report, key, f"a key of {where}")
        text = None if name is None else string(report, value, f"{where}.{name}")
        if name is not None and text is not None:
            found.append((key, name, value, text))
    return found
