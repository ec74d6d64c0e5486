"""`racecar demo`: real commands under `racecar exec` against services of our own, and a table of the verdicts.

A verdict is right if the caller saw it, the services received what it allows and nothing else, and the log says so.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from racecar.proxy.demo_calls import FORWARDED, Call, Request, calls, policy_text
from racecar.proxy.demo_services import Book, Services, running_services
from racecar.proxy.demo_tries import PYTHON

CALL_TIMEOUT_S = 60
LABELS = "app=tweeter"
PIPE_COLUMNS = 150

Prefix = Callable[[Path, Path], Sequence[str]]
LogEntry = dict[str, Any]


def under_exec(policy: Path, log: Path) -> Sequence[str]:
    """What goes before a command so that it runs under the demo's policy."""
    command = (sys.executable, "-m", "racecar.proxy.cli", "exec")
    return (*command, "--policy", str(policy), "--labels", LABELS, "--access-log", str(log), "--")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was seen of one call: by the caller, by the services, in the log."""

    exit_code: int
    output: str
    errors: str
    received: dict[str, list[str]]
    log: list[LogEntry]


def main() -> int:
    """Run the demo; 0 only if every verdict was right."""
    # A pipe has no width of its own: 80 columns would break every rule's name.
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    missing = [name for name in ("curl", "bash", PYTHON) if shutil.which(name) is None]
    if missing:
        packages = " ".join(name.rpartition("/")[2] for name in missing)
        print(f"racecar: the demo needs {' and '.join(missing)}: apt-get install {packages}", file=sys.stderr)
        return 1
    if os.geteuid() != 0:
        print("racecar: the demo attaches BPF programs and needs root: sudo racecar demo", file=sys.stderr)
        return 1
    return run(console, under_exec)


def run(console: Console, prefix: Prefix) -> int:
    """Start the services, make every call, print the table and what was wrong."""
    with tempfile.TemporaryDirectory(prefix="racecar-demo-") as folder, running_services() as services:
        policy = Path(folder) / "tweeter.yaml"
        policy.write_text(policy_text(services))
        console.print(Text(policy.read_text()), style="dim", soft_wrap=True)
        table = _new_table()
        problems: list[str] = []
        for number, call in enumerate(calls(services)):
            outcome = _make(call, prefix(policy, Path(folder) / f"access-{number}.log"), services)
            problems += judge(call, outcome)
            for request, entry in zip(call.requests, find_entries(call.requests, outcome.log), strict=True):
                table.add_row(*_row(request, entry))
        problems += _differences(services)
    console.print(table)
    for problem in problems:
        console.print(Text(f"wrong: {problem}"), style="red", soft_wrap=True)
    console.print("every verdict was right" if not problems else f"{len(problems)} wrong", style="bold")
    return 1 if problems else 0


def _make(call: Call, prefix: Sequence[str], services: Services) -> Outcome:
    log = Path(prefix[prefix.index("--access-log") + 1]) if "--access-log" in prefix else None
    books = _books(services)
    before = {name: len(book.lines()) for name, book in books.items()}
    command = [*prefix, *call.command]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=CALL_TIMEOUT_S, check=False
        )
        code, output, errors = done.returncode, done.stdout, done.stderr
    except subprocess.TimeoutExpired:
        code, output, errors = -1, "", f"still running after {CALL_TIMEOUT_S} s"
    received = {name: lines for name, book in books.items() if (lines := book.lines()[before[name] :])}
    return Outcome(code, output, errors, received, read_log(log) if log else [])


def _differences(services: Services) -> list[str]:
    """Once more at the end, for bytes that arrived after their call was over."""
    wanted: dict[str, list[str]] = {}
    maybe: set[str] = set()
    for call in calls(services):
        maybe |= call.maybe
        for name, lines in call.received.items():
            wanted.setdefault(name, []).extend(lines)
    received = _without({name: lines for name, book in _books(services).items() if (lines := book.lines())}, maybe)
    return [] if received == wanted else [f"in all the services received {received}, expected {wanted}"]


def _without(received: Mapping[str, list[str]], maybe: Collection[str]) -> dict[str, list[str]]:
    """What was received beyond what may be received."""
    left = {name: [line for line in lines if line not in maybe] for name, lines in received.items()}
    return {name: lines for name, lines in left.items() if lines}


def _books(services: Services) -> dict[str, Book]:
    return {name: getattr(services, name).received for name in Services.__dataclass_fields__}


def read_log(path: Path) -> list[LogEntry]:
    """The access log's entries; a missing file is an empty log."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def judge(call: Call, outcome: Outcome) -> list[str]:
    """What was wrong about one call, one line each; empty if every verdict in it was right."""
    title = call.requests[0].title
    problems = _seen(call, outcome)
    received = _without(outcome.received, call.maybe)
    if received != dict(call.received):
        problems.append(f"{title}: the services received {received}, expected {dict(call.received)}")
    for request, entry in zip(call.requests, find_entries(call.requests, outcome.log), strict=True):
        if entry is None:
            problems.append(f"{request.title}: not in the access log")
        elif not _is_right(request, entry):
            logged, expected = f"{entry.get('verdict')} {entry.get('reason')}", f"{request.verdict} {request.reason}"
            problems.append(f"{request.title}: logged {logged}, expected {expected.strip()}")
    return problems


def _is_right(request: Request, entry: LogEntry) -> bool:
    return entry.get("verdict") == request.verdict and request.reason in ("", entry.get("reason"))


def _seen(call: Call, outcome: Outcome) -> list[str]:
    """What the caller saw otherwise than it should."""
    lines = outcome.output.splitlines()
    if outcome.exit_code != call.exit_code or len(lines) != len(call.output):
        seen = f"exit {outcome.exit_code}, {outcome.output!r} {outcome.errors.strip()}"
        expected = f"exit {call.exit_code}, {[' or '.join(any_of) for any_of in call.output]}"
        return [f"{call.requests[0].title}: the caller saw {seen}, expected {expected}"]
    titles = call.titles or (call.requests[0].title,) * len(lines)
    return [
        f"{title}: the caller saw {line!r}, expected {' or '.join(any_of)}"
        for title, line, any_of in zip(titles, lines, call.output, strict=True)
        if line not in any_of
    ]


def find_entries(requests: Sequence[Request], log: Sequence[LogEntry]) -> list[LogEntry | None]:
    """The log's entry of each request, in the order in which they were made.

    A command makes its requests one after the other; those that are pipelined differ in what they ask for.
    """
    entries = sorted(log, key=lambda entry: str(entry.get("time")))
    found: list[LogEntry | None] = []
    for request in requests:
        place = next((place for place, entry in enumerate(entries) if _is_of(request, entry)), None)
        found.append(None if place is None else entries.pop(place))
    return found


def _is_of(request: Request, entry: LogEntry) -> bool:
    """By port, and for HTTP by method and path as well, where they are known."""
    if request.port not in {ports.get("destination_port") for ports in entry.get("l4", {}).values()}:
        return False
    http = entry.get("l7", {}).get("http")
    if not request.is_http or http is None:
        return not request.is_http and http is None
    return not request.method or (http.get("method"), http.get("url")) == (request.method, request.path)


def _new_table() -> Table:
    table = Table(title="app=tweeter and the jobs service")
    for heading in ("call", "verdict", "deciding rule"):
        table.add_column(heading, overflow="fold")
    table.add_column("time", justify="right")
    table.add_column("path")
    return table


def _row(request: Request, entry: LogEntry | None) -> tuple[Text, ...]:
    """Text, not str: brackets in a rule's name are no markup."""
    if entry is None:
        return (Text(request.title), Text(f"no entry, not {request.verdict}", "red"), Text(""), Text(""), Text(""))
    verdict = str(entry.get("verdict"))
    style = "green" if verdict == FORWARDED else "yellow"
    if not _is_right(request, entry):
        verdict, style = f"{verdict}, not {request.verdict}", "red"
    extra = entry.get("racecar", {})
    duration = extra.get("duration_ms")
    return (
        Text(request.title),
        Text(verdict, style),
        Text(rule_text(entry)),
        Text("" if duration is None else f"{duration:.1f} ms"),
        Text(str(extra.get("path", ""))),
    )


def rule_text(entry: LogEntry) -> str:
    """The rule that decided, and the reason where it is not that rule alone."""
    reason = str(entry.get("reason", ""))
    text = (
        ""
        if reason in ("NONE", "DENY_RULE", "HTTP_DENY_RULE")
        else reason.removeprefix("HTTP_").lower().replace("_", " ")
    )
    rule = entry.get("rule")
    if isinstance(rule, dict):
        name = f"{rule.get('namespace')}/{rule.get('policy')} {rule.get('index')}"
        return f"{name}: {text}" if text else name
    policies = entry.get("racecar", {}).get("policies")
    return text if policies is None else f"default deny ({', '.join(policies)})"
