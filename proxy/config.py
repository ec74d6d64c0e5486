"""`kind: RacecarConfig`: every limit and timeout that can be set, its key, range and effect, and the reader of files.

`SETTINGS` is the one table: docs/configuration.md shows it, and a test holds the two together.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from racecar.policy.document import Node, parse
from racecar.policy.fields import Fields, Report, fields, integer
from racecar.policy.files import read_paths
from racecar.policy.findings import Finding, shown
from racecar.proxy.core.http1_types import HttpConfig
from racecar.proxy.limits import EdgeConfig

KIND = "RacecarConfig"
VERSION = "racecar.io/v1"
NEVER, AUTO = "never", "auto"

Section = Literal["timeouts", "limits"]

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_DURATION = re.compile(r"(0|[1-9][0-9]{0,8})(ms|s|m|h)")


@dataclass(frozen=True, slots=True)
class Setting:
    """One key. Timeouts range in milliseconds; `word` is what stands for None, if that is allowed."""

    section: Section
    key: str
    config: type[EdgeConfig] | type[HttpConfig]
    name: str  # of the field in it
    low: int
    high: int
    effect: str
    word: str = ""

    @property
    def where(self) -> str:
        return f"spec.{self.section}.{self.key}"

    @property
    def default(self) -> int | None:
        """In milliseconds, for a timeout."""
        value: float | None = getattr(self.config(), self.name)
        if value is None:
            return None
        return round(value * 1000) if self.section == "timeouts" else int(value)

    def text(self, value: int | None) -> str:
        """As a file says it."""
        if value is None:
            return self.word
        return duration_text(value) if self.section == "timeouts" else str(value)

    @property
    def range(self) -> str:
        """What is allowed, in words."""
        span = f"{self.text(self.low)} to {self.text(self.high)}"
        return f"{span}, or {self.word}" if self.word else span


def duration_text(milliseconds: int) -> str:
    """In the largest unit that shows it whole."""
    for unit, size in reversed(_UNITS_MS.items()):
        if milliseconds >= size and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


_MINUTES, _HOURS = 60_000, 3_600_000

SETTINGS: tuple[Setting, ...] = (
    Setting(
        "timeouts", "connect", EdgeConfig, "connect_timeout_s", 10, 10 * _MINUTES,
        "dialling the destination; then 504, or a reset as long as no request was read",
    ),
    Setting(
        "timeouts", "head", HttpConfig, "head_timeout_s", 10, _HOURS,
        "first byte of a head to its last; then 408 for a request, 504 for an answer",
    ),
    Setting(
        "timeouts", "idle", HttpConfig, "idle_timeout_s", 10, 24 * _HOURS,
        "HTTP without a byte: between requests the connection is closed, inside a request's body 408",
    ),
    Setting(
        "timeouts", "stall", HttpConfig, "stall_timeout_s", 10, 24 * _HOURS,
        "HTTP with bytes that wait for a peer which takes none of them; then both ends are reset",
    ),
    Setting(
        "timeouts", "linger", HttpConfig, "linger_timeout_s", 10, 10 * _MINUTES,
        "for a client to take a last answer and close; 15 times that if it goes on sending",
    ),
    Setting(
        "timeouts", "tcpIdle", EdgeConfig, "tcp_idle_timeout_s", 10, 24 * _HOURS,
        "relayed bytes (`l7proto: tcp`): 1 to 2 of these without traffic, then a reset", NEVER,
    ),
    Setting(
        "timeouts", "close", EdgeConfig, "close_timeout_s", 10, _HOURS,
        "last bytes of a closed connection that make no progress; then it is reset",
    ),
    Setting("timeouts", "step", EdgeConfig, "timer_step_s", 1, 10_000, "how late a timeout may come"),
    Setting(
        "timeouts", "acceptPause", EdgeConfig, "accept_pause_s", 1, 10_000,
        "rest of a listener when the kernel has no descriptor or memory for it",
    ),
    Setting(
        "limits", "headBytes", HttpConfig, "max_head_bytes", 256, 1 << 20,
        "a head, blank line included; larger: 431 for a request, 502 for an answer",
    ),
    Setting("limits", "targetBytes", HttpConfig, "max_target_bytes", 16, 1 << 20, "a request's target; longer: 414"),
    Setting(
        "limits", "headers", HttpConfig, "max_headers", 1, 10_000,
        "header lines of a head; more: 431 for a request, 502 for an answer",
    ),
    Setting(
        "limits", "drainBytes", HttpConfig, "max_drain_bytes", 0, 1 << 30,
        "of a refused request's body, read and dropped to keep the connection; longer ones close it",
    ),
    Setting(
        "limits", "cachedHeads", HttpConfig, "max_cached_heads", 1, 1 << 20,
        "heads whose verdict is remembered, twice that for requests and for answers; others are read anew",
    ),
    Setting(
        "limits", "cachedHeadBytes", HttpConfig, "max_cached_head_bytes", 0, 1 << 20,
        "longer heads are read anew each time",
    ),
    Setting(
        "limits", "connections", EdgeConfig, "max_connections_per_workload", 1, 1 << 20,
        "at a time; further ones are reset (`WORKLOAD_LIMIT`)",
    ),
    Setting(
        "limits", "heldBytes", EdgeConfig, "max_held_bytes_per_workload", 65_536, 1 << 40,
        "in the proxy's memory (unfinished heads, what a slow reader has not taken); the connection that adds more is "
        "reset (`WORKLOAD_LIMIT`). From half of it on reads are small",
    ),
    Setting(
        "limits", "pipes", EdgeConfig, "max_pipes", 0, 1 << 20,
        "for `splice(2)`; auto is three quarters of the kernel's budget for the proxy's user. Without one bytes are "
        "copied", AUTO,
    ),
    Setting(
        "limits", "pipesPerWorkload", EdgeConfig, "max_pipes_per_workload", 0, 1 << 20,
        "of these; further stretches are copied",
    ),
    Setting(
        "limits", "descriptorHeadroom", EdgeConfig, "descriptor_headroom", 8, 1 << 20,
        "descriptors below the limit that no connection may take; near it new ones are reset (`DESCRIPTOR_LIMIT`)",
    ),
    Setting(
        "limits", "acceptsPerTurn", EdgeConfig, "accepts_per_turn", 1, 65_536,
        "connections accepted before the others get their turn",
    ),
    Setting(
        "limits", "eventsPerTurn", EdgeConfig, "events_per_turn", 1, 65_536,
        "socket events handled before timers and signals get their turn",
    ),
)  # fmt: skip

# A limit that cannot be reached because another one comes first is a mistake: (smaller, larger, may they be equal).
ORDERED = (
    ("targetBytes", "headBytes", False),
    ("cachedHeadBytes", "headBytes", True),
    ("headBytes", "heldBytes", True),
    ("pipesPerWorkload", "pipes", True),
    ("step", "connect", True),
    ("step", "head", True),
    ("step", "idle", True),
    ("step", "stall", True),
    ("step", "linger", True),
    ("step", "tcpIdle", True),
    ("step", "close", True),
)

_BY_KEY = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True)
class Configuration:
    """What is in force."""

    edge: EdgeConfig = field(default_factory=EdgeConfig)
    http: HttpConfig = field(default_factory=HttpConfig)


@dataclass(slots=True)
class _Read:
    """Values in a file, with their places: milliseconds, counts, or None for the word that means none."""

    values: dict[str, int | None] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)


def load_configuration(path: str) -> tuple[Configuration | None, tuple[Finding, ...]]:
    """The one RacecarConfig in a file; None, and at least one error, if there is none or it is wrong."""
    sources = read_paths([path])
    report = Report(path)
    for finding in sources.findings:
        report.add(finding)
    configuration: Configuration | None = None
    if len(sources.files) > 1:
        report.add(Finding(path, 1, 1, "error", "a directory with more than one file; --config takes one file"))
    for name, data in sources.files[:1]:
        report.path = name
        configuration = _read_file(report, data)
    ok = not any(finding.level == "error" for finding in report.findings)
    return configuration if ok else None, tuple(report.findings)


def _read_file(report: Report, data: bytes) -> Configuration | None:
    parsed = parse(data, report.path)
    for finding in parsed.findings:
        report.add(finding)
    if parsed.error is not None:
        report.add(parsed.error.finding(report.path))
        return None
    documents = [document for document in parsed.documents if not document.is_null]
    if not documents:
        report.add(Finding(report.path, 1, 1, "error", f"holds no document; one {KIND} is wanted"))
        return None
    for document in documents[1:]:
        report.error(document, f"a second document; one {KIND} is wanted")
    return read_configuration(report, documents[0]) if _is_ours(report, documents[0]) else None


def _is_ours(report: Report, node: Node) -> bool:
    headers = {key: node.get(key) for key in ("apiVersion", "kind")} if node.kind == "mapping" else {}
    for key, wanted in (("apiVersion", VERSION), ("kind", KIND)):
        value = headers.get(key)
        if value is None or value.value != wanted:
            seen = "" if value is None else f", not {shown(value.value)}"
            report.error(value or node, f"{key} must be {wanted}{seen}: this file is for --config")
            return False
    return True


def read_configuration(report: Report, node: Node) -> Configuration | None:
    """One document of this kind. Its mistakes are in `report`, and then the answer is None."""
    before = report.errors
    read = _Read()
    top = fields(report, node, KIND, ("apiVersion", "kind", "metadata", "spec"))
    if top is not None:
        metadata = fields(report, top.get("metadata"), "metadata", ("name",))
        if metadata is not None:
            metadata.string("name")
        spec = fields(report, top.require("spec"), "spec", ("timeouts", "limits"))
        for section in ("timeouts", "limits"):
            if spec is not None:
                _read_section(report, spec, section, read)
    if report.errors == before:
        _check_order(report, read)
    return _configuration(report, node, read.values) if report.errors == before else None


def _read_section(report: Report, spec: Fields, section: str, read: _Read) -> None:
    known = [setting for setting in SETTINGS if setting.section == section]
    found = fields(report, spec.get(section), f"spec.{section}", [setting.key for setting in known])
    for setting in known:
        node = found.get(setting.key) if found is not None else None
        if node is None:
            continue
        value = _value(report, node, setting)
        if not isinstance(value, _Wrong):
            read.values[setting.key] = value
            read.nodes[setting.key] = node


class _Wrong:
    """There is a finding instead of a value."""


_WRONG = _Wrong()


def _value(report: Report, node: Node, setting: Setting) -> int | _Wrong | None:
    if setting.word and node.kind == "scalar" and node.value == setting.word:
        return None
    if setting.section == "timeouts":
        return _duration(report, node, setting)
    if setting.word and (node.kind != "scalar" or node.meaning != "int"):
        seen = shown(node.value) if node.kind == "scalar" else f"a {node.kind}"
        report.error(node, f"{setting.where} must be {setting.range}, not {seen}")
        return _WRONG
    number = integer(report, node, setting.where, setting.low, setting.high)
    return _WRONG if number is None else number


def _duration(report: Report, node: Node, setting: Setting) -> int | _Wrong:
    match = _DURATION.fullmatch(node.value) if node.kind == "scalar" else None
    if match is None:
        seen = shown(node.value) if node.kind == "scalar" else f"a {node.kind}"
        units = ", ".join(_UNITS_MS)
        report.error(node, f"{setting.where} must be a whole number with a unit ({units}): {setting.range}, not {seen}")
        return _WRONG
    milliseconds = int(match[1]) * _UNITS_MS[match[2]]
    if not setting.low <= milliseconds <= setting.high:
        report.error(node, f"{setting.where} must be {setting.range}, not {shown(node.value)}")
        return _WRONG
    return milliseconds


def _check_order(report: Report, read: _Read) -> None:
    for small, large, may_equal in ORDERED:
        low, high = _effective(small, read), _effective(large, read)
        node = read.nodes.get(small) or read.nodes.get(large)
        if node is None or low is None or high is None or low < high or (may_equal and low == high):
            continue
        texts = [f"{_BY_KEY[key].where} ({_BY_KEY[key].text(value)})" for key, value in ((small, low), (large, high))]
        report.error(node, f"{texts[0]} must {'not be above' if may_equal else 'be below'} {texts[1]}")


def _effective(key: str, read: _Read) -> int | None:
    return read.values[key] if key in read.values else _BY_KEY[key].default


def _configuration(report: Report, node: Node, values: Mapping[str, int | None]) -> Configuration | None:
    arguments: dict[type, dict[str, Any]] = {EdgeConfig: {}, HttpConfig: {}}
    for key, value in values.items():
        setting = _BY_KEY[key]
        is_time = setting.section == "timeouts" and value is not None
        arguments[setting.config][setting.name] = value / 1000 if is_time and value is not None else value
    try:
        return Configuration(EdgeConfig(**arguments[EdgeConfig]), HttpConfig(**arguments[HttpConfig]))
    except ValueError as failed:  # a check that SETTINGS and ORDERED do not have
        report.error(node, str(failed))
        return None
