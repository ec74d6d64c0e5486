"""What the crash tests share: who is who in an exec, what it has in the kernel, a machine of its own to crash in."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from harness import PATIENCE_S, Running, children_of, wait_until

from racecar.redirect.instance import NETNS_PROGRAMS, PROXY_PROGRAMS, WORKLOAD_PROGRAMS

RUN = Path("/run/racecar")

# Loops for ever over new connections to a relayed server and to one that no rule allows; says every 200 calls what
# came of them. A clean end before the echo is the one thing that a crash must not look like.
CLIENTS = """
import collections, time
from concurrent.futures import ThreadPoolExecutor
counts = collections.Counter()
lock = threading.Lock()
def count(what):
    with lock:
        counts[what] += 1
def call(port):
    try:
        with socket.socket() as s:
            s.settimeout(10)
            s.connect(("127.0.0.1", port))
            for _ in range(8):
                s.sendall(b"x" * 3000)
                got = 0
                while got < 3000:
                    piece = s.recv(65536)
                    if not piece:
                        return "END"
                    got += len(piece)
        return "ok"
    except OSError as failed:
        return errno.errorcode.get(failed.errno, type(failed).__name__)
def forbidden():
    try:
        with socket.socket() as s:
            s.settimeout(10)
            s.connect(("127.0.0.1", closed))
            s.sendall(b"forbidden")
        return "PASSED"
    except OSError as failed:
        return errno.errorcode.get(failed.errno, type(failed).__name__)
def loop():
    while True:
        count("relay " + call(relay))
        count("closed " + forbidden())
for _ in range(4):
    threading.Thread(target=loop, daemon=True).start()
while True:
    line = listen()
    if not line or line == "end":
        break
    with lock:
        seen = dict(counts)
        counts.clear()
    say(seen)
os._exit(7)
"""


class Machine:
    """A mount namespace with a bpffs and a /run/racecar of its own: what crashes in it is seen by no other instance."""

    def __init__(self) -> None:
        script = "mkdir -p /run/racecar && mount -t tmpfs -o mode=755 racecar /run/racecar && "
        script += "mount -t bpf bpf /sys/fs/bpf && echo ready && exec cat"
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"ready\n"
        self.root = Path(f"/proc/{self._holder.pid}/root")
        self.enter = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt"]

    def racecar(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [*self.enter, sys.executable, "-m", "racecar.proxy.cli", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    def traces(self) -> list[str]:
        """Instances that left something behind."""
        found = set()
        for place in ("run/racecar", "sys/fs/bpf/racecar"):
            with contextlib.suppress(FileNotFoundError):
                found |= {entry.name for entry in (self.root / place).iterdir()}
        return sorted(found - {"uids", "lock"})

    def close(self) -> None:
        self.racecar("uninstall", "--force")  # what a failed test left
        self._holder.kill()
        self._holder.communicate()


@pytest.fixture
def machine() -> Iterator[Machine]:
    made = Machine()
    yield made
    made.close()


def guardian_of(running: Running) -> int:
    for pid in children_of(running.pid):
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text() == "racecar-guard\n":
                return pid
    raise AssertionError("no guardian runs")


def processes_in(cgroup: Path) -> list[int]:
    try:
        return [int(pid) for pid in (cgroup / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _listed(kind: str) -> list[dict[str, Any]]:
    done = subprocess.run(["bpftool", "--json", "--bpffs", kind, "list"], capture_output=True, check=True)
    entries: list[dict[str, Any]] = json.loads(done.stdout or b"[]")
    return entries


def _is_below(entry: dict[str, Any], directory: Path) -> bool:
    return any(Path(pin).is_relative_to(directory) for pin in entry.get("pinned", []))


class Holdings:
    """Everything of a running exec that must be gone once it has ended. BPF ids are never used twice."""

    def __init__(self, running: Running) -> None:
        base = running.cgroup("app").parent
        self.paths = [base, running.pins, RUN / running.instance]
        self.pids = {running.worker_pid, guardian_of(running), *processes_in(base / "app")}
        links = [link for link in _listed("link") if _is_below(link, running.pins)]
        self.links = {link["id"] for link in links}
        self.programs = {link["prog_id"] for link in links}
        self.programs |= {program["id"] for program in _listed("prog") if _is_below(program, running.pins)}
        self.maps = {map_["id"] for map_ in _listed("map") if _is_below(map_, running.pins)}
        for program in _listed("prog"):
            if program["id"] in self.programs:
                self.maps.update(program.get("map_ids", []))
        hooks = (*WORKLOAD_PROGRAMS, *PROXY_PROGRAMS, *NETNS_PROGRAMS)
        assert len(self.programs) == len(hooks)

    def left(self) -> dict[str, object]:
        found: dict[str, object] = {
            "paths": [str(path) for path in self.paths if path.exists()],
            "pids": [pid for pid in self.pids if _lives(pid)],
            "links": self.links & {entry["id"] for entry in _listed("link")},
            "programs": self.programs & {entry["id"] for entry in _listed("prog")},
            "maps": self.maps & {entry["id"] for entry in _listed("map")},
        }
        return {what: values for what, values in found.items() if values}

    def wait_gone(self, timeout_s: float = PATIENCE_S) -> None:
        """Freed programs and maps linger for an RCU grace period, which has no event to wait for."""
        left: dict[str, object] = {}
        for _ in range(int(timeout_s / 0.05)):
            left = self.left()
            if not left:
                return
            threading.Event().wait(0.05)
        raise AssertionError(f"left behind: {left}")


def _lives(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return text[text.rindex(")") + 2] != "Z"


def kill(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def merged(seen: Sequence[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counts in seen:
        for what, number in counts.items():
            total[what] = total.get(what, 0) + number
    return total


def load(running: Running, at_least: int = 20) -> dict[str, int]:
    """Wait until that many relayed calls more have come back whole; what came of all calls meanwhile."""
    seen: list[dict[str, int]] = []

    def enough() -> bool:
        seen.append(running.ask("counts"))
        return merged(seen).get("relay ok", 0) >= at_least

    wait_until(enough, f"{at_least} relayed calls")
    return merged(seen)
