"""The load generators: their command lines, and what they print."""

import json
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.scenarios import Scenario

HERE = Path(__file__).resolve().parent
SCRIPT = HERE / "load.lua"
CLIENT_SOURCE = HERE / "client.c"
MAX_HEAD_BYTES = 1024  # of an answer, by far
OVERTIME_S = 30.0
WRK_ERRORS = ("connect", "read", "write", "status", "timeout")
CLIENT_ERRORS = ("wrong", "broken", "missing")


class LoadError(Exception):
    """The generator did not run or did not say what it measured."""


@dataclass(frozen=True, slots=True)
class Load:
    """What a generator measured; `problems` are errors that it counted or that its counters prove."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    notes: dict[str, float] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def wrk_command(scenario: Scenario, port: int, *, seconds: int, run: int) -> list[str]:
    """`run` is a number of its own for each round: fresh heads must be new in every one."""
    command = ["wrk", "-t1", f"-c{scenario.connections}", f"-d{seconds}s", "-s", str(SCRIPT)]
    if scenario.close:
        command += ["-H", "Connection: close"]
    command.append(f"http://127.0.0.1:{port}{scenario.target}")
    return [*command, "--", "fresh", str(run)] if scenario.fresh else command


def client_command(program: Path, scenario: Scenario, port: int, *, rate: float, seconds: float) -> list[str]:
    """`rate` 0: as fast as the answers come."""
    arguments = (scenario.target, f"{rate:.0f}", f"{seconds:g}", str(scenario.connections))
    return [str(program), "127.0.0.1", str(port), *arguments, str(scenario.body_bytes)]


def compile_client(folder: Path) -> Path:
    """Our own client, compiled into `folder`. Raises LoadError."""
    program = folder / "client"
    run_text(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(CLIENT_SOURCE)], OVERTIME_S)
    return program


def run_text(command: Sequence[str], timeout_s: float) -> str:
    """What a command prints. Raises LoadError if it fails, cannot be run, or does not end."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as failed:
        raise LoadError(f"{shlex.join(command)}: {failed}") from None
    if done.returncode != 0:
        raise LoadError(f"{shlex.join(command)}: exit {done.returncode}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def parse_wrk(text: str, scenario: Scenario) -> Load:
    """The line of load.lua. Raises LoadError."""
    lines = [line.removeprefix("RESULT ") for line in text.splitlines() if line.startswith("RESULT ")]
    try:
        (line,) = lines
        told = json.loads(line)
        requests, read, seconds = told["requests"], told["bytes"], told["duration_us"] / 1e6
        errors = [f"{told[name]} {name} errors" for name in WRK_ERRORS if told[name]]
        measured = Load(requests, seconds, told["p50_us"], told["p99_us"])
    except (ValueError, KeyError) as wrong:
        raise LoadError(f"wrk printed no result ({wrong}): {text.strip()[-500:]}") from None
    problems = errors + _volume_problems(requests, read, scenario)
    return Load(requests, seconds, measured.p50_us, measured.p99_us, {}, tuple(problems))


def _volume_problems(requests: int, read: int, scenario: Scenario) -> list[str]:
    """wrk counts answers and bytes: every answer has its whole body, and nothing is read beside that.

    What belongs to answers that were under way at the end is in the bytes alone: at most one a connection.
    """
    if not requests:
        return ["no answers"]
    least = requests * scenario.body_bytes
    most = (requests + scenario.connections) * (scenario.body_bytes + MAX_HEAD_BYTES)
    if least < read <= most:
        return []
    return [f"{read} bytes for {requests} answers of {scenario.body_bytes} bytes each"]


def parse_client(text: str) -> Load:
    """The line of client.c. Raises LoadError."""
    try:
        told = json.loads(text)
        latency, late = told["latency_us"], told["late_us"]
        notes = {"p999_us": latency["p999"], "max_us": latency["max"], "late_p99_us": late["p99"]}
        problems = tuple(f"{told[name]} {name} answers" for name in CLIENT_ERRORS if told[name])
        return Load(told["requests"], told["seconds"], latency["p50"], latency["p99"], notes, problems)
    except (ValueError, KeyError, TypeError) as wrong:
        raise LoadError(f"the client printed no result ({wrong}): {text.strip()[-500:]}") from None
