"""Medians of the ratios of neighbouring rounds; a floor that is missed fails the run, a wrong answer always does."""

import io
import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.__main__ import main, parse, placement
from benchmarks.figures import Result, Round, Standing, exit_code
from benchmarks.processes import ENVIRONMENT, StartError
from benchmarks.report import as_json, table
from benchmarks.runner import noise
from benchmarks.scenarios import BY_NAME, SCENARIOS, Kind, Scenario

RATE = Scenario("r", "rate", floor=2.0, goal=3.0)
LATENCY = Scenario("l", "latency", Kind.LATENCY, floor=1.0)
MEMORY = Scenario("m", "memory", Kind.MEMORY, limit=40.0)


def result(scenario: Scenario, *pairs: tuple[float, float]) -> Result:
    rounds = [Round(side, figure, requests=10) for pair in pairs for side, figure in zip(("racecar", "envoy"), pair)]  # noqa: B905
    return Result(scenario, tuple(rounds))


def test_the_ratio_is_the_median_of_neighbours_not_of_all() -> None:
    """A disturbance that slows both rounds of a pair leaves their ratio as it is."""
    found = result(RATE, (300, 100), (30, 10), (210, 100))
    assert found.ratios() == [3.0, 3.0, 2.1]
    assert found.ratio == 3.0
    assert (found.figure("racecar"), found.figure("envoy")) == (210, 100)


def test_above_one_is_better_whatever_the_unit() -> None:
    assert result(RATE, (300, 100)).ratio == 3
    assert result(LATENCY, (100, 300)).ratio == 3
    assert result(MEMORY, (20, 80)).ratio == 4


def test_no_figures_are_a_ratio_of_zero() -> None:
    assert result(RATE, (0, 0)).ratio == 0
    assert result(LATENCY, (0, 100)).ratio == 0


@pytest.mark.parametrize(
    ("found", "standing"),
    [
        (result(RATE, (199, 100)), Standing.MISSED),
        (result(RATE, (200, 100)), Standing.HELD),
        (result(RATE, (300, 100)), Standing.REACHED),
        (result(RATE, (300, 100), (100, 100), (150, 100)), Standing.MISSED),
        (result(LATENCY, (100, 99)), Standing.MISSED),
        (result(LATENCY, (99, 100)), Standing.HELD),
        (result(MEMORY, (40, 80)), Standing.HELD),
        (result(MEMORY, (20, 80), (40.1, 80)), Standing.MISSED),
        (result(replace(RATE, floor=None), (1, 100)), Standing.REPORTED),
    ],
)
def test_standings(found: Result, standing: Standing) -> None:
    assert found.standing is standing


def wrong(found: Result) -> Result:
    first, *others = found.rounds
    return Result(found.scenario, (replace(first, problems=("3 status errors",)), *others))


def test_one_wrong_answer_fails_the_result_however_fast() -> None:
    found = wrong(result(RATE, (900, 100)))
    assert found.standing is Standing.FAILED
    assert found.problems == ["r, racecar: 3 status errors"]


def test_the_exit_code() -> None:
    good, missed = result(RATE, (300, 100)), result(RATE, (100, 100))
    assert exit_code([good], floors=True) == 0
    assert exit_code([good, missed], floors=True) == 1
    assert exit_code([good, missed], floors=False) == 0
    assert exit_code([good, wrong(good)], floors=False) == 1
    assert exit_code([], floors=False) == 1


def test_the_table_tells_figures_ratio_and_standing() -> None:
    console = Console(width=160, file=io.StringIO())
    with console.capture() as captured:
        console.print(table([result(RATE, (41_000, 20_000), (50_000, 20_000)), result(MEMORY, (20, 80))]))
    text = captured.get()
    assert "45,500" in text
    assert "2.27" in text
    assert "2.05, 2.50" in text
    assert "floor held" in text
    assert "40 MB" in text


def test_the_json_holds_every_round_and_where_it_was_taken() -> None:
    told = json.loads(as_json([wrong(result(RATE, (300, 100), (400, 100)))], {"machine": {"cores": 2}}))
    assert told["machine"] == {"cores": 2}
    (found,) = told["results"]
    assert (found["ratio"], found["ratios"], found["standing"]) == (3.5, [3, 4], "failed")
    assert [each["side"] for each in found["rounds"]] == ["racecar", "envoy"] * 2
    assert found["rounds"][0]["problems"] == ["3 status errors"]


def test_noise_is_of_rounds_under_load() -> None:
    quiet = Round("racecar", 1, requests=1, foreign_share=0.1, steal_share=0.05)
    idle = Round("racecar", 1, foreign_share=0.9)
    assert noise([Result(RATE, (quiet, replace(quiet, foreign_share=0.3), idle))]) == (pytest.approx(0.25), 0.35)
    assert noise([]) == (0, 0)


# --- The command line ------------------------------------------------------------------------------------------------


def test_the_default_run_takes_about_half_a_minute() -> None:
    asked = parse([])
    loads = [each for each in SCENARIOS if each.kind is not Kind.MEMORY]
    assert 25 <= asked.seconds * asked.rounds * 2 * len(loads) <= 40
    assert asked.rounds >= 3
    assert not asked.pin
    assert not asked.no_floors


@pytest.mark.parametrize("arguments", [["--seconds", "0"], ["--rounds", "x"], ["--scenario", "nothing"], ["--fast"]])
def test_bad_arguments_are_usage_errors(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_pinning_puts_the_proxy_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {3, 1, 2})
    placed = placement(pin=True)
    assert placed.for_load(["wrk"]) == ["taskset", "-c", "1", "wrk"]
    assert placed.for_proxy(["envoy"]) == ["taskset", "-c", "2", "envoy"]
    assert placement(pin=False).for_proxy(["envoy"]) == ["envoy"]
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0})
    with pytest.raises(StartError):
        placement(pin=True)


# Not a skip: these come with `make bench`, and only there this is needed.
if all(shutil.which(name, path=ENVIRONMENT["PATH"]) for name in ("wrk", "nginx")) and find_spec("envoy"):

    @pytest.mark.slow
    def test_a_whole_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        told = tmp_path / "bench.json"
        arguments = ["--rounds", "1", "--seconds", "1", "--no-floors", "--json", str(told)]
        code = main([*arguments, "--scenario", "keepalive", "--scenario", "latency", "--scenario", "memory"])
        shown = capsys.readouterr().out
        assert code == 0, shown
        results = json.loads(told.read_text())["results"]
        assert [each["scenario"] for each in results] == ["keepalive", "latency", "memory"]
        assert all(each["figures"][side] > 0 for each in results for side in ("racecar", "envoy"))
        assert all(each["logged"] >= each["requests"] > 0 for each in results[0]["rounds"])
        assert "keep-alive, 98-byte bodies" in shown


def test_each_scenario_has_what_is_asked_for() -> None:
    floors = {name: scenario.floor for name, scenario in BY_NAME.items()}
    assert floors == {"keepalive": 2, "fresh": 1.3, "10k": 2, "1m": 2, "latency": 1, "close": 1, "memory": None}
    assert BY_NAME["memory"].limit == 40
    assert (BY_NAME["keepalive"].goal, BY_NAME["close"].goal) == (3, 1.2)
