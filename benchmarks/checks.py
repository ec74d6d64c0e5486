"""A client beside the load: what must pass passes, whole; what must not is refused; and the log is written."""

import http.client
import os
import re
import time
from pathlib import Path

from benchmarks.configs import BODIES, SMALL_BODY
from benchmarks.processes import POLL_S, body_of
from benchmarks.rules import DENIED
from benchmarks.scenarios import Scenario

TIMEOUT_S = 10.0
LOG_TIMEOUT_S = 5.0
READ_BYTES = 1 << 20
FRESH_PATH = re.compile(rb"/items/([0-9a-f]{16})")
FORBIDDEN = 403
OK = 200


def answer(port: int, method: str, target: str) -> tuple[int, bytes]:
    """Status and body, on a connection of its own. Raises OSError, HTTPException."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request(method, target)
        got = connection.getresponse()
        return got.status, got.read()
    finally:
        connection.close()


def expected_body(scenario: Scenario) -> bytes:
    for name, size in BODIES.items():
        if scenario.target == f"/files/{name}.bin":
            return body_of(size)
    return SMALL_BODY.encode()


def wrong_answers(port: int, scenario: Scenario) -> list[str]:
    """One line for each answer that is not what the rules and the origin say."""
    problems = []
    try:
        status, body = answer(port, "GET", scenario.target)
        if status != OK or body != expected_body(scenario):
            problems.append(f"GET {scenario.target}: {status} and {len(body)} bytes")
        for method, target in DENIED:
            status, _ = answer(port, method, target)
            if status != FORBIDDEN:
                problems.append(f"{method} {target}: {status}, expected {FORBIDDEN}")
    except (OSError, http.client.HTTPException) as failed:
        problems.append(f"the checking client: {failed!r}")
    return problems


class LogReader:
    """Counts the calls of a scenario in an access log as they arrive, and the distinct fresh paths among them.

    Only lines with the scenario's path count: racecar has a line for each connection too. Emptied after every round, so
    that no round pays for writing an earlier one to the disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._call = FRESH_PATH
        self._offset = 0
        self._rest = b""
        self.calls = 0
        self.fresh: set[bytes] = set()

    def begin(self, scenario: Scenario) -> None:
        """Empty the log and forget what was counted."""
        os.truncate(self._path, 0)
        # Envoy's line has `"GET /path HTTP/1.1"`, racecar's `"/path"`.
        path = re.compile(rb'(?<=[" ])' + re.escape(scenario.target.encode()) + rb'[" ]')
        self._call = FRESH_PATH if scenario.fresh else path
        self._offset = 0
        self._rest = b""
        self.calls = 0
        self.fresh = set()

    def wait_for(self, calls: int) -> None:
        """Read until there are that many calls, or none come any more."""
        deadline = time.monotonic() + LOG_TIMEOUT_S
        while True:
            self._read()
            if self.calls >= calls or time.monotonic() > deadline:
                return
            time.sleep(POLL_S)

    def _read(self) -> None:
        with self._path.open("rb") as log:
            log.seek(self._offset)
            while chunk := log.read(READ_BYTES):
                self._offset += len(chunk)
                self._take(chunk)

    def _take(self, chunk: bytes) -> None:
        whole, _, self._rest = (self._rest + chunk).rpartition(b"\n")
        found = self._call.findall(whole)
        self.calls += len(found)
        if self._call is FRESH_PATH:
            self.fresh.update(found)


def log_problems(log: LogReader, requests: int, scenario: Scenario) -> list[str]:
    """Every answer has its line; fresh heads were really distinct, all of them."""
    problems = []
    if log.calls < requests:
        problems.append(f"{log.calls} calls in the access log for {requests} answers")
    if scenario.fresh and len(log.fresh) < min(requests, log.calls):
        problems.append(f"{len(log.fresh)} distinct paths in {requests} requests")
    return problems
