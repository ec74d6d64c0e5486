"""Coverage-guided fuzzing: `python -m tests.fuzz --seconds 600` runs every target for its share of the time.

Each target runs in a process of its own, so many at a time as there are processors. What was learned lies in
build/fuzz and is where the next run starts. A finding is made small and written to tests/fuzz/found, where
`test_fuzzer` replays it. Exit codes: 0 nothing was found, 1 something was, 2 this Python cannot fuzz.
"""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.fuzz import corpus, findings
from tests.fuzz.guided import INPUT_TIMEOUT_S, MEMORY_MB
from tests.fuzz.targets import SHARES, TARGETS

BUILD = findings.ROOT / "build" / "fuzz"
SHRINK_S = 20.0
GRACE_S = 60.0  # to load, and to end, beyond its share

_EXECUTIONS = re.compile(r"stat::number_of_executed_units: (\d+)")
_PROGRESS = re.compile(r"#(\d+)\s+\S+\s+cov: (\d+) ft: (\d+)")


@dataclass
class Result:
    """What came of one target."""

    name: str
    executions: int
    coverage: int
    features: int
    seconds: float
    finding: str = ""

    def line(self) -> str:
        end = f"FOUND: {self.finding}" if self.finding else "nothing found"
        figures = f"{self.executions:>9} executions  {self.coverage:>5} covered  {self.features:>6} features"
        return f"{self.name:<14} {figures}  {self.seconds:>5.0f} s  {end}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600, help="in all (default: %(default)s)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="targets at a time (default: %(default)s)"
    )
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="this one only; repeatable")
    options = parser.parse_args(arguments)
    if importlib.util.find_spec("atheris") is None:
        print(f"fuzz: no atheris for this Python ({sys.version.split()[0]}); `make fuzz` installs it", file=sys.stderr)
        return 2
    results = _run_all(options.target or list(TARGETS), options.seconds, max(1, options.jobs))
    print()
    for result in results:
        print(result.line())
    return 1 if any(result.finding for result in results) else 0


def _run_all(names: Sequence[str], seconds: float, jobs: int) -> list[Result]:
    """The longest first, so that all processors end at about the same time."""
    shares = {name: SHARES.get(name, 1) for name in names}
    budget = seconds * min(jobs, len(names)) / sum(shares.values())
    waiting = sorted(names, key=lambda name: -shares[name])
    results: dict[str, Result] = {}
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                if not waiting:
                    return
                name = waiting.pop(0)
            results[name] = _run(name, max(1, round(min(seconds, budget * shares[name]))))
            print(results[name].line(), flush=True)

    threads = [threading.Thread(target=work) for _ in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[name] for name in names]


def _run(name: str, seconds: int) -> Result:
    """Fuzz one target in a process of its own."""
    started = time.monotonic()
    folder = BUILD / name
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("input-*"):
        old.unlink()
    _write_seeds(name)
    argv = [sys.executable, "-m", "tests.fuzz.guided", name, str(folder), str(seconds)]
    try:
        with open(folder / "log", "wb") as log:
            code = subprocess.run(
                argv, stdout=log, stderr=log, cwd=findings.ROOT, timeout=seconds + GRACE_S, check=False
            ).returncode
    except subprocess.TimeoutExpired:
        code = -1
    text = (folder / "log").read_text(errors="replace")
    progress = _PROGRESS.findall(text) or [("0", "0", "0")]
    executions = _EXECUTIONS.search(text)
    result = Result(
        name,
        int(executions[1] if executions else progress[-1][0]),
        int(progress[-1][1]),
        int(progress[-1][2]),
        time.monotonic() - started,
    )
    inputs = sorted(folder.glob("input-*"))
    if inputs:
        result.finding = _write_finding(name, inputs[0].read_bytes())
    elif code or not result.executions:
        result.finding = f"the fuzzer ended with {code}, its last words are in {folder / 'log'}"
    return result


def _write_seeds(name: str) -> None:
    folder = BUILD / name / "corpus"
    folder.mkdir(exist_ok=True)
    for number, seed in enumerate(corpus.seeds(name)):
        (folder / f"seed-{number}").write_bytes(seed)
    lines = ['"' + "".join(f"\\x{byte:02x}" for byte in word) + '"' for word in corpus.words(name)]
    (BUILD / name / "words").write_text("\n".join(lines) + "\n")


def _write_finding(name: str, data: bytes) -> str:
    """Make it small, write it where the tests replay it, and say what it is."""
    error = findings.failure(name, data)
    if error is None:  # too slow, too much memory, or dead: not to be tried in this process
        path = findings.write(name, data, "the fuzzer ended here, and it does not fail outside of it")
        return f"{path}: it took above {INPUT_TIMEOUT_S} s or {MEMORY_MB} MB, or killed the process"
    small = findings.shrink(name, data, SHRINK_S)
    error = findings.failure(name, small) or error
    path = findings.write(name, small, str(error))
    return f"{path}: {type(error).__name__}: {error}"


if __name__ == "__main__":
    sys.exit(main())
