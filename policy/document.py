"""Text to YAML nodes with their places, within bounds.

Reads events rather than Python values: what a plain scalar means is decided by YAML 1.2 (`Node.meaning`), every key
keeps its place, and depth, aliases and size are bounded while reading, before anything is built from them.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from racecar.policy.findings import MAX_FINDINGS, TOO_MANY_FINDINGS, Finding, shown

MAX_NESTING = 64
MAX_NODES = 1_000_000  # of one file, aliases expanded
MAX_ALIASED_NODES = 100_000  # what aliases may add to one file

Meaning = Literal["string", "null", "bool", "int", "number", "ambiguous"]

_WORDS: dict[str, Meaning] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), "null"),
    **dict.fromkeys(("true", "True", "TRUE", "false", "False", "FALSE"), "bool"),
    **{
        form: "ambiguous"  # booleans in YAML 1.1, strings in 1.2: readers disagree
        for word in ("y", "n", "yes", "no", "on", "off")
        for form in (word, word.capitalize(), word.upper())
    },
}
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
# Whatever YAML 1.1 or 1.2 takes for a number: octal, hexadecimal, binary, sexagesimal, with underscores, floats.
_NUMBER = re.compile(
    r"[-+]?(?:0o?[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+|[0-9][0-9_]*(?::[0-5]?[0-9])*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?"
    r"|\.[0-9][0-9_]*(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)
# Not allowed in YAML, or shown to a reviewer as something else: line breaks of some readers only, text direction.
_BAD_CHARACTER = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]"
)
_SURROGATE = re.compile("[\ud800-\udfff]")
_STANDARD_TAGS = {"tag:yaml.org,2002:str", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"}


class DocumentError(Exception):
    """The text cannot be read as YAML from here on. Lines and columns count from 1."""

    def __init__(self, line: int, column: int, text: str) -> None:
        super().__init__(text)
        self.line = line
        self.column = column
        self.text = text

    def finding(self, path: str) -> Finding:
        return Finding(path, self.line, self.column, "error", self.text)


@dataclass(slots=True)
class Node:
    """A scalar, sequence or mapping. An alias is the node itself, so nodes may be reached by several ways."""

    kind: Literal["scalar", "sequence", "mapping"]
    line: int
    column: int
    value: str = ""
    plain: bool = False  # neither quoted nor tagged as a string
    items: list["Node"] = field(default_factory=list)
    pairs: list[tuple["Node", "Node"]] = field(default_factory=list)
    height: int = 1
    weight: int = 1  # nodes, aliases expanded
    is_open: bool = False  # its end has not been read: an alias to it would never end

    @property
    def meaning(self) -> Meaning:
        """What a scalar is in YAML 1.2, with `ambiguous` for words that YAML 1.1 reads as booleans."""
        if not self.plain:
            return "string"
        word = _WORDS.get(self.value)
        if word is not None:
            return word
        if _DECIMAL.fullmatch(self.value):
            return "int"
        return "number" if _NUMBER.fullmatch(self.value) else "string"

    @property
    def is_null(self) -> bool:
        return self.kind == "scalar" and self.meaning == "null"

    def get(self, key: str) -> "Node | None":
        """The value of a mapping's key, null counting as absent."""
        for name, value in self.pairs:
            if name.value == key and not value.is_null:
                return value
        return None


@dataclass(slots=True)
class Parsed:
    """The documents read before `error`, and the mistakes that did not stop reading."""

    documents: list[Node]
    findings: list[Finding]
    error: DocumentError | None = None


def parse(data: bytes, path: str) -> Parsed:
    """Read all documents of one file."""
    parsed = Parsed([], [])
    try:
        for document in _Builder(path, parsed.findings).documents(_decode(data)):
            parsed.documents.append(document)
    except DocumentError as error:
        parsed.error = error
    return parsed


def _decode(data: bytes) -> str:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        raise DocumentError(*_place(before, len(before)), f"byte 0x{data[error.start]:02x} is not UTF-8") from None
    text = text.removeprefix("\ufeff")
    bad = _BAD_CHARACTER.search(text)
    if bad:
        raise DocumentError(
            *_place(text, bad.start()), f"character U+{ord(bad[0]):04X} is not allowed in a policy file"
        )
    return text


def _place(text: str, index: int) -> tuple[int, int]:
    before = text[:index].replace("\r\n", "\n").replace("\r", "\n")
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


class _Builder:
    """Events to nodes without recursion, so depth is a number and not a stack."""

    def __init__(self, path: str, findings: list[Finding]) -> None:
        self._path = path
        self._findings = findings
        self._stack: list[Node] = []
        self._keys: list[Node | None] = []  # for each open collection, the key that waits for its value
        self._seen: list[dict[str, tuple[int, int]]] = []  # for each open collection, its keys and their places
        self._anchors: dict[str, Node] = {}
        self._nodes = 0
        self._aliased = 0
        self._root: Node | None = None

    def documents(self, text: str) -> Iterator[Node]:
        import yaml

        try:
            for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
                self._take(event)
                if isinstance(event, yaml.DocumentEndEvent) and self._root is not None:
                    yield self._root
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            if "nesting depth" in str(error.problem):  # libyaml looks ahead: its own limit may come first
                raise DocumentError(line, column, f"nested deeper than {MAX_NESTING} levels") from None
            parts = (error.context, error.problem)
            raise DocumentError(line, column, f"not YAML: {', '.join(part for part in parts if part)}") from None
        except (yaml.YAMLError, ValueError, OverflowError) as error:
            first_line = (str(error).splitlines() or [""])[0]
            raise DocumentError(1, 1, f"not YAML: {first_line}") from None

    def _take(self, event: Any) -> None:
        """One parser event. PyYAML's event classes are told apart by name: the module is imported by use."""
        name = type(event).__name__
        if name == "DocumentStartEvent":
            self._anchors.clear()
            self._root = None
        elif name == "AliasEvent":
            self._alias(event)
        elif name == "ScalarEvent":
            line, column = _start(event)
            if _SURROGATE.search(event.value):  # PyYAML's own scanner lets "\\ud800" through
                raise DocumentError(line, column, "half of a surrogate pair is no character")
            plain = not event.style and self._tag(event) != "tag:yaml.org,2002:str"
            self._add(self._anchored(event, Node("scalar", line, column, event.value, plain)))
        elif name in ("SequenceStartEvent", "MappingStartEvent"):
            self._open(event, "sequence" if name == "SequenceStartEvent" else "mapping")
        elif name in ("SequenceEndEvent", "MappingEndEvent"):
            self._close()

    def _tag(self, event: Any) -> str | None:
        tag: str | None = event.tag
        if tag is not None and tag not in _STANDARD_TAGS:
            raise DocumentError(*_start(event), f"tag {shown(tag)} is not supported: leave it out")
        return tag

    def _anchored(self, event: Any, node: Node) -> Node:
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _open(self, event: Any, kind: Literal["sequence", "mapping"]) -> None:
        line, column = _start(event)
        self._tag(event)
        if len(self._stack) >= MAX_NESTING:
            raise DocumentError(line, column, f"nested deeper than {MAX_NESTING} levels")
        node = self._anchored(event, Node(kind, line, column, is_open=True))
        self._stack.append(node)
        self._keys.append(None)
        self._seen.append({})

    def _close(self) -> None:
        node = self._stack.pop()
        self._keys.pop()
        self._seen.pop()
        children = node.items or [child for pair in node.pairs for child in pair]
        node.height = 1 + max((child.height for child in children), default=0)
        node.weight = 1 + sum(child.weight for child in children)
        node.is_open = False
        self._add(node)

    def _alias(self, event: Any) -> None:
        line, column = _start(event)
        node = self._anchors.get(event.anchor)
        if node is None:
            raise DocumentError(line, column, f"alias {shown(event.anchor)} names no anchor")
        if node.is_open:
            raise DocumentError(line, column, f"alias {shown(event.anchor)} stands inside what it names")
        if len(self._stack) + node.height - 1 > MAX_NESTING:
            raise DocumentError(line, column, f"nested deeper than {MAX_NESTING} levels by an alias")
        self._aliased += node.weight
        if self._aliased > MAX_ALIASED_NODES:
            raise DocumentError(line, column, f"aliases expand to more than {MAX_ALIASED_NODES} values")
        self._add(node, line, column)

    def _add(self, node: Node, line: int = 0, column: int = 0) -> None:
        """Put a finished node where it belongs; `line` and `column` are an alias's own place."""
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise DocumentError(node.line, node.column, f"more than {MAX_NODES} values in one file")
        if not self._stack:
            self._root = node
            return
        parent = self._stack[-1]
        if parent.kind == "sequence":
            parent.items.append(node)
            return
        key = self._keys[-1]
        if key is None:
            self._keys[-1] = self._key(node, line or node.line, column or node.column)
        else:
            parent.pairs.append((key, node))
            self._keys[-1] = None

    def _key(self, node: Node, line: int, column: int) -> Node:
        if node.kind != "scalar":
            raise DocumentError(line, column, f"a key must be a string, not a {node.kind}")
        first = self._seen[-1].setdefault(node.value, (line, column))
        if first != (line, column):
            if len(self._findings) == MAX_FINDINGS:
                raise DocumentError(line, column, TOO_MANY_FINDINGS)
            text = f"duplicate key {shown(node.value)}, first on line {first[0]}"
            self._findings.append(Finding(self._path, line, column, "error", text))
        return node


def _start(event: Any) -> tuple[int, int]:
    return event.start_mark.line + 1, event.start_mark.column + 1
