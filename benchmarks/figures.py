"""Rounds, their ratios, and whether a result is what was asked for."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from statistics import median

from benchmarks.scenarios import Kind, Scenario

SIDES = ("racecar", "envoy")


@dataclass(frozen=True, slots=True)
class Round:
    """One side under one load. `figure` is in the unit of the scenario's kind."""

    side: str
    figure: float
    command: str = ""
    requests: int = 0
    seconds: float = 0.0
    p50_us: float = 0.0
    p99_us: float = 0.0
    user_us: float = 0.0  # CPU time of the proxy, a request
    system_us: float = 0.0
    foreign_share: float = 0.0  # of the machine: what others than the benchmark used
    steal_share: float = 0.0
    logged: int = 0
    notes: dict[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


class Standing(Enum):
    """How a result compares with what was asked for; the value is what the table says."""

    FAILED = "failed"
    MISSED = "floor missed"
    HELD = "floor held"
    REACHED = "goal reached"
    REPORTED = ""


@dataclass(frozen=True, slots=True)
class Result:
    """All rounds of one scenario, alternating, racecar first."""

    scenario: Scenario
    rounds: tuple[Round, ...]

    def of(self, side: str) -> list[Round]:
        return [each for each in self.rounds if each.side == side]

    def figure(self, side: str) -> float:
        """The median over the rounds."""
        return median(each.figure for each in self.of(side))

    def ratios(self) -> list[float]:
        """Of each pair of neighbouring rounds; above 1 racecar is better. A pair without figures counts as 0."""
        pairs = zip(self.of("racecar"), self.of("envoy"), strict=True)
        return [ratio(self.scenario.kind, ours.figure, theirs.figure) for ours, theirs in pairs]

    @property
    def ratio(self) -> float:
        return median(self.ratios())

    @property
    def problems(self) -> list[str]:
        return [f"{self.scenario.name}, {each.side}: {problem}" for each in self.rounds for problem in each.problems]

    @property
    def standing(self) -> Standing:
        if self.problems:
            return Standing.FAILED
        if self.scenario.limit is not None:
            worst = max(each.figure for each in self.of("racecar"))
            return Standing.HELD if worst <= self.scenario.limit else Standing.MISSED
        if self.scenario.floor is None:
            return Standing.REPORTED
        if self.ratio < self.scenario.floor:
            return Standing.MISSED
        reached = self.scenario.goal is not None and self.ratio >= self.scenario.goal
        return Standing.REACHED if reached else Standing.HELD


def ratio(kind: Kind, ours: float, theirs: float) -> float:
    """Above 1 racecar is better: more requests, or less time or memory."""
    above, below = (ours, theirs) if kind is Kind.RATE else (theirs, ours)
    return above / below if below > 0 else 0.0


def exit_code(results: Sequence[Result], *, floors: bool) -> int:
    """1 for wrong answers always, and for a missed floor unless floors are off; nothing measured is a failure too."""
    standings = {result.standing for result in results}
    failed = {Standing.FAILED, Standing.MISSED} if floors else {Standing.FAILED}
    return 1 if not results or standings & failed else 0
