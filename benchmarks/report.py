"""The table on the terminal and the JSON file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from rich.table import Table
from rich.text import Text

from benchmarks.figures import SIDES, Result, Standing
from benchmarks.scenarios import Kind

FORMAT = 1
STYLES = {Standing.FAILED: "bold red", Standing.MISSED: "red", Standing.HELD: "yellow", Standing.REACHED: "green"}


def table(results: Sequence[Result]) -> Table:
    """One line a scenario: medians, the ratio with its extremes, CPU time a request, and how it stands."""
    shown = Table(title="racecar beside Envoy, one process each", title_justify="left")
    for heading in ("load", "unit"):
        shown.add_column(heading, overflow="fold")
    for heading in (*SIDES, "ratio", "least, most", "CPU us", "floor", "goal"):
        shown.add_column(heading, justify="right", no_wrap=True)
    shown.add_column("", no_wrap=True)
    for result in results:
        shown.add_row(*_row(result))
    return shown


def _row(result: Result) -> tuple[Text, ...]:
    scenario, ratios = result.scenario, result.ratios()
    standing = result.standing
    # A scenario whose floor is held and that has no further goal has done all that is asked for.
    done = standing is Standing.HELD and scenario.goal is None
    return (
        Text(scenario.title),
        Text(scenario.kind.value),
        *(Text(_figure(scenario.kind, result.figure(side))) for side in SIDES),
        Text(f"{result.ratio:.2f}", "bold"),
        Text(f"{min(ratios):.2f}, {max(ratios):.2f}"),
        Text("" if scenario.kind is Kind.MEMORY else " / ".join(f"{cpu_us(result, side):.1f}" for side in SIDES)),
        Text(_asked(result)),
        Text("" if scenario.goal is None else f"{scenario.goal:g} x"),
        Text(standing.value, "green" if done else STYLES.get(standing, "")),
    )


def _figure(kind: Kind, value: float) -> str:
    return f"{value:.1f}" if kind is Kind.MEMORY else f"{value:,.0f}"


def _asked(result: Result) -> str:
    scenario = result.scenario
    if scenario.limit is not None:
        return f"{scenario.limit:g} MB"
    return "" if scenario.floor is None else f"{scenario.floor:g} x"


def cpu_us(result: Result, side: str) -> float:
    """User and system time of the proxy, a request; the median round."""
    return median(each.user_us + each.system_us for each in result.of(side))


def as_json(results: Sequence[Result], about: Mapping[str, Any]) -> str:
    """Everything that was measured and where, one JSON object."""
    return json.dumps({"format": FORMAT, **about, "results": [_result(result) for result in results]}, indent=2)


def _result(result: Result) -> dict[str, Any]:
    scenario = result.scenario
    return {
        "scenario": scenario.name,
        "title": scenario.title,
        "unit": scenario.kind.value,
        "figures": {side: result.figure(side) for side in SIDES},
        "ratio": result.ratio,
        "ratios": result.ratios(),
        "floor": scenario.floor,
        "goal": scenario.goal,
        "limit": scenario.limit,
        "standing": result.standing.name.lower(),
        "rounds": [asdict(each) for each in result.rounds],
    }
