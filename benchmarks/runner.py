"""One run: start both sides and the origin, alternate the rounds, check every answer that can be checked."""

import os
import shlex
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.checks import LogReader, log_problems, wrong_answers
from benchmarks.figures import SIDES, Result, Round
from benchmarks.load import (
    OVERTIME_S,
    Load,
    LoadError,
    client_command,
    compile_client,
    parse_client,
    parse_wrk,
    run_text,
    wrk_command,
)
from benchmarks.processes import (
    Placement,
    Server,
    busy_seconds,
    cpu_seconds,
    pss_kb,
    running_envoy,
    running_nginx,
    running_racecar,
)
from benchmarks.scenarios import BY_NAME, Kind, Scenario

RATE_PROBE_S = 2
HALF = 0.5

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What to run, and for how long."""

    scenarios: tuple[Scenario, ...]
    seconds: int
    rounds: int
    placement: Placement


@dataclass(frozen=True, slots=True)
class Run:
    """What came out, and the commands that it came from."""

    results: tuple[Result, ...]
    commands: dict[str, str]


def run(options: Options, tell: Tell) -> Run:
    """Raises StartError, LoadError. `tell` gets a line whenever something begins."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="racecar-bench-")))
        tell("starting nginx, racecar and Envoy")
        nginx = stack.enter_context(running_nginx(folder, options.placement))
        racecar = stack.enter_context(running_racecar(folder, nginx.port, options.placement))
        envoy = stack.enter_context(running_envoy(folder, nginx.port, options.placement))
        bench = _Bench(options, folder, nginx, {"racecar": racecar, "envoy": envoy}, tell)
        results = tuple(bench.results())
        commands = {server.name: shlex.join(server.command) for server in (nginx, racecar, envoy)}
    return Run(results, commands)


class _Bench:
    """The servers of one run, and what its rounds share."""

    def __init__(self, options: Options, folder: Path, nginx: Server, sides: dict[str, Server], tell: Tell) -> None:
        self._options = options
        self._folder = folder
        self._nginx = nginx
        self._sides = sides
        self._tell = tell
        self._run = 0
        self._envoy_rate = 0.0
        self._client: Path | None = None
        self._logs = {name: LogReader(log) for name, server in sides.items() if (log := server.access_log)}

    def results(self) -> Iterator[Result]:
        """Memory is taken before any load and once more after it."""
        idle = self._memory_rounds()
        for scenario in self._options.scenarios:
            if scenario.kind is Kind.MEMORY:
                continue
            result = self._result(scenario)
            if scenario.name == "keepalive":
                self._envoy_rate = result.figure("envoy")
            yield result
        for scenario in self._options.scenarios:
            if scenario.kind is Kind.MEMORY:
                yield Result(scenario, (*idle, *self._memory_rounds()))

    def _memory_rounds(self) -> list[Round]:
        return [Round(side, pss_kb(self._sides[side].pids()) / 1000) for side in SIDES]

    def _result(self, scenario: Scenario) -> Result:
        rounds = []
        for number in range(1, self._options.rounds + 1):
            for side in SIDES:
                self._tell(f"{scenario.title}: {side}, round {number} of {self._options.rounds}")
                rounds.append(self._round(scenario, side))
        return Result(scenario, tuple(rounds))

    def _round(self, scenario: Scenario, side: str) -> Round:
        server, log = self._sides[side], self._logs[side]
        self._run += 1
        command = self._options.placement.for_load(self._command(scenario, server))
        problems = wrong_answers(server.port, scenario)
        log.begin(scenario)
        before = self._clocks()
        text = run_text(command, self._options.seconds + OVERTIME_S)
        after = self._clocks()
        load = parse_client(text) if scenario.own_client else parse_wrk(text, scenario)
        log.wait_for(load.requests)
        problems += [*load.problems, *log_problems(log, load.requests, scenario), *self._deaths()]
        measured = _measured(scenario, side, load, before, after)
        return replace(measured, command=shlex.join(command), logged=log.calls, problems=tuple(problems))

    def _command(self, scenario: Scenario, server: Server) -> list[str]:
        if not scenario.own_client:
            return wrk_command(scenario, server.port, seconds=self._options.seconds, run=self._run)
        if self._client is None:
            self._client = compile_client(self._folder)
        rate = HALF * self._maximum_of_envoy() if scenario.kind is Kind.LATENCY else 0
        return client_command(self._client, scenario, server.port, rate=rate, seconds=self._options.seconds)

    def _maximum_of_envoy(self) -> float:
        """From the keep-alive rounds of this run; without them from a round of its own."""
        if not self._envoy_rate:
            scenario, port = BY_NAME["keepalive"], self._sides["envoy"].port
            command = self._options.placement.for_load(wrk_command(scenario, port, seconds=RATE_PROBE_S, run=0))
            self._envoy_rate = parse_wrk(run_text(command, RATE_PROBE_S + OVERTIME_S), scenario).rate
            if not self._envoy_rate:
                raise LoadError("envoy answered nothing")
        return self._envoy_rate

    def _deaths(self) -> list[str]:
        servers = (self._nginx, *self._sides.values())
        return [f"{server.name} ended ({server.process.poll()})" for server in servers if not server.is_alive()]

    def _clocks(self) -> "_Clocks":
        return _Clocks.read(self._sides, self._nginx)


@dataclass(frozen=True, slots=True)
class _Clocks:
    """Processor time so far: of each side, of all that belongs to the benchmark, of the machine."""

    sides: dict[str, tuple[float, float]]
    ours: float
    machine: float
    steal: float
    now: float

    @classmethod
    def read(cls, sides: dict[str, Server], nginx: Server) -> "_Clocks":
        of_sides = {name: cpu_seconds(server.pids()) for name, server in sides.items()}
        # Of the generators too: they are our children, and have ended when this is read.
        ours = sum(os.times()[:4]) + sum(cpu_seconds(nginx.pids())) + sum(map(sum, of_sides.values()))
        machine, steal = busy_seconds()
        return cls(of_sides, ours, machine, steal, time.monotonic())


def _measured(scenario: Scenario, side: str, load: Load, before: _Clocks, after: _Clocks) -> Round:
    (user_before, system_before), (user, system) = before.sides[side], after.sides[side]
    per_request = 1e6 / max(load.requests, 1)
    capacity = (after.now - before.now) * (os.cpu_count() or 1)
    foreign = (after.machine - before.machine) - (after.ours - before.ours)
    return Round(
        side,
        load.p99_us if scenario.kind is Kind.LATENCY else load.rate,
        requests=load.requests,
        seconds=load.seconds,
        p50_us=load.p50_us,
        p99_us=load.p99_us,
        user_us=(user - user_before) * per_request,
        system_us=(system - system_before) * per_request,
        foreign_share=max(foreign, 0.0) / capacity,
        steal_share=(after.steal - before.steal) / capacity,
        notes=load.notes,
    )


def noise(results: Sequence[Result]) -> tuple[float, float]:
    """How much of the machine others had: the median round, and the worst."""
    shares = [each.foreign_share + each.steal_share for result in results for each in result.rounds if each.requests]
    return (median(shares), max(shares)) if shares else (0.0, 0.0)
