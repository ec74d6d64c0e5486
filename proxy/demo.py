"""`racecar demo`: real commands under `racecar exec` against services of our own, and a table of the verdicts.

A verdict is right if the caller saw it, the services received what it allows and nothing else, and the log says so.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from racecar.proxy.demo_calls import Call, Request, calls, policy_text
from racecar.proxy.demo_services import Book, Services, running_services

CALL_TIMEOUT_S = 60
LABELS = "app=tweeter"
PIPE_COLUMNS = 140

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
    missing = [name for name in ("curl", "bash") if shutil.which(name) is None]
    if missing:
        print(f"racecar: the demo needs {' and '.join(missing)}: apt-get install {' '.join(missing)}", file=sys.stderr)
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
            for request in call.requests:
                table.add_row(*_row(request, find_entry(request, outcome.log)))
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
    for call in calls(services):
        for name, lines in call.received.items():
            wanted.setdefault(name, []).extend(lines)
    received = {name: lines for name, book in _books(services).items() if (lines := book.lines())}
    return [] if received == wanted else [f"in all the services received {received}, expected {wanted}"]


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
    problems = []
    if (outcome.exit_code, outcome.output) != (call.exit_code, call.output):
        seen = f"exit {outcome.exit_code}, {outcome.output!r} {outcome.errors.strip()}"
        problems.append(f"{title}: the caller saw {seen}, expected exit {call.exit_code}, {call.output!r}")
    if outcome.received != dict(call.received):
        problems.append(f"{title}: the services received {outcome.received}, expected {dict(call.received)}")
    for request in call.requests:
        entry = find_entry(request, outcome.log)
        if entry is None:
            problems.append(f"{request.title}: not in the access log")
        elif entry.get("verdict") != request.verdict:
            problems.append(f"{request.title}: logged {entry.get('verdict')}, expected {request.verdict}")
    return problems


def find_entry(request: Request, log: Sequence[LogEntry]) -> LogEntry | None:
    """The log's entry of a request: by port, and for HTTP by method and path as well."""
    for entry in log:
        if request.port not in {ports.get("destination_port") for ports in entry.get("l4", {}).values()}:
            continue
        http = entry.get("l7", {}).get("http")
        if not request.method and http is None:
            return entry
        if http is not None and (http.get("method"), http.get("url")) == (request.method, request.path):
            return entry
    return None


def _new_table() -> Table:
    table = Table(title="app=tweeter and the jobs service")
    for heading in ("call", "expected", "verdict", "deciding rule"):
        table.add_column(heading, overflow="fold")
    table.add_column("time", justify="right")
    table.add_column("path")
    return table


def _row(request: Request, entry: LogEntry | None) -> tuple[Text, ...]:
    """Text, not str: brackets in a rule's name are no markup."""
    if entry is None:
        return (Text(request.title), Text(request.verdict), Text("no entry", "red"), Text(""), Text(""), Text(""))
    verdict = str(entry.get("verdict"))
    style = "red" if verdict != request.verdict else "green" if verdict == "FORWARDED" else "yellow"
    extra = entry.get("racecar", {})
    duration = extra.get("duration_ms")
    return (
        Text(request.title),
        Text(request.verdict),
        Text(verdict, style),
        Text(rule_text(entry)),
        Text("" if duration is None else f"{duration:.1f} ms"),
        Text(str(extra.get("path", ""))),
    )


def rule_text(entry: LogEntry) -> str:
    """The rule that decided; where none did, the reason."""
    rule = entry.get("rule")
    if isinstance(rule, dict):
        return f"{rule.get('namespace')}/{rule.get('policy')} {rule.get('index')}"
    policies = entry.get("racecar", {}).get("policies")
    if policies is not None:
        return f"default deny ({', '.join(policies)})"
    return str(rule or str(entry.get("reason", "")).lower().replace("_", " "))
