"""`python -m benchmarks`: measure, show, and exit with 1 if an answer was wrong or a floor was missed."""

import argparse
import datetime
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from benchmarks.figures import exit_code
from benchmarks.load import LoadError
from benchmarks.machine import machine, versions
from benchmarks.processes import Placement, StartError
from benchmarks.report import as_json, table
from benchmarks.runner import Options, Run, noise, run
from benchmarks.scenarios import BY_NAME, SCENARIOS

PIPE_COLUMNS = 160
FAILED = 1
QUIET_SHARE = 0.05  # of the machine in the hands of others, in the median round


def positive(text: str) -> int:
    """Raises argparse.ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: a whole number from 1 on")
    return int(text)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="racecar beside Envoy: same rules, same origin, alternating rounds."
    )
    parser.add_argument("--seconds", type=positive, default=1, help="length of a round (default: %(default)s)")
    parser.add_argument("--rounds", type=positive, default=3, help="rounds of each side (default: %(default)s)")
    parser.add_argument(
        "--scenario", action="append", choices=sorted(BY_NAME), help="only this one; may be given again"
    )
    parser.add_argument("--pin", action="store_true", help="load and nginx on one core, the proxy on another")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures, with machine and commands")
    parser.add_argument("--no-floors", action="store_true", help="report only: a missed floor is no failure")
    return parser.parse_args(arguments)


def placement(pin: bool) -> Placement:
    """The first two processors that we may use. Raises StartError where there is only one."""
    if not pin:
        return Placement()
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        raise StartError("--pin needs two processors")
    return Placement(load=str(usable[0]), proxy=str(usable[1]))


def main(arguments: Sequence[str] | None = None) -> int:
    asked = parse(arguments)
    chosen = tuple(each for each in SCENARIOS if asked.scenario is None or each.name in asked.scenario)
    # A pipe has no width of its own: 80 columns would break the table.
    console = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    try:
        placed = placement(asked.pin)
        about = {"started": started, "machine": machine(), "versions": versions()}
        with console.status("") as status:
            done = run(Options(chosen, asked.seconds, asked.rounds, placed), status.update)
    except (StartError, LoadError) as failed:
        print(f"benchmarks: {failed}", file=sys.stderr)
        return FAILED
    _show(console, done, about, asked)
    if asked.json:
        asked.json.write_text(as_json(done.results, {**about, **_conditions(done, asked, placed)}) + "\n")
    return exit_code(done.results, floors=not asked.no_floors)


def _conditions(done: Run, asked: argparse.Namespace, placed: Placement) -> dict[str, Any]:
    usual, worst = noise(done.results)
    return {
        "seconds": asked.seconds,
        "rounds": asked.rounds,
        "placement": {"load and nginx": placed.load, "proxy": placed.proxy},
        "others_share": {"median": usual, "worst": worst},
        "commands": done.commands,
    }


def _show(console: Console, done: Run, about: dict[str, Any], asked: argparse.Namespace) -> None:
    found, used = about["machine"], about["versions"]
    usual, worst = noise(done.results)
    placed = "load and nginx on one core, the proxy on another" if asked.pin else "not pinned"
    console.print(table(done.results))
    lines = (
        f"{found['processor']}, {found['usable_cores']} cores, Linux {found['kernel']}, {found['system']}; {placed}",
        ", ".join(f"{name} {version}" for name, version in used.items()),
        f"{asked.rounds} rounds of {asked.seconds} s, alternating; other processes had {usual:.0%} of the machine, "
        f"{worst:.0%} in the worst round",
    )
    for line in lines:
        console.print(Text(line), style="dim", soft_wrap=True)
    if usual > QUIET_SHARE:
        console.print("the machine was too busy for these ratios to mean much: run it again", style="yellow")
    for result in done.results:
        for problem in result.problems:
            console.print(Text(f"wrong: {problem}"), style="red", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
