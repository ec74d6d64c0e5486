"""`racecar doctor`: print what this machine can do, as a table or as JSON."""

import json
import sys
from typing import Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from racecar.redirect.ability import Ability, Status
from racecar.redirect.doctor import Report, examine

_STYLES = {Status.OK: "green", Status.MISSING: "bold red", Status.WARNING: "yellow", Status.INFO: "cyan"}


class DoctorArguments(Protocol):
    """What the command line gives."""

    json: bool


def run_doctor(arguments: DoctorArguments) -> int:
    """Probe, print, and return the exit code: 0 if workloads can be enforced here, else 1."""
    report = examine()
    if arguments.json:
        json.dump(_as_object(report), sys.stdout, indent=1)
        sys.stdout.write("\n")
    else:
        print_table(report)
    return 1 if report.blockers else 0


def _as_object(report: Report) -> dict[str, object]:
    return {
        "kernel": report.kernel,
        "can_enforce": not report.blockers,
        "abilities": [ability.as_dict() for ability in report.abilities],
    }


def _plain(text: str) -> Text:
    """Names of other owners' programs come from outside: no control bytes, no markup."""
    return Text("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text))


def print_table(report: Report) -> None:
    """A row for each ability; what a lack means only where there is one."""
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("", "ability", "what was found"):
        table.add_column(heading, overflow="fold")
    for ability in report.abilities:
        table.add_row(Text(ability.status.value, _STYLES[ability.status]), _plain(ability.name), _finding(ability))
    console.print(Text("kernel "), _plain(report.kernel), sep="")
    console.print(table)
    if report.blockers:
        names = ", ".join(ability.name for ability in report.blockers)
        console.print(_plain(f"workloads cannot be enforced here; missing: {names}"))
    else:
        console.print("workloads can be enforced here")


def _finding(ability: Ability) -> Text:
    text = _plain(ability.detail)
    if ability.status in (Status.MISSING, Status.WARNING):
        text.append(f"\nfor: {ability.serves}\nwithout it: {ability.without}", "dim")
    return text
