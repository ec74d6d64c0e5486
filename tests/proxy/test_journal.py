"""What becomes of entries: lines in the log, denials for the user, and nothing that grows without bound."""

import asyncio
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from racecar.policy.model import DEFAULT_DENY
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import HttpRecord, Verdict
from racecar.proxy.flows import FlowSource, FlowWriter
from racecar.proxy.journal import DENIALS_PER_SECOND, ENTRY_BYTES, MAX_WAITING_BYTES, SLICE_ENTRIES, Journal
from racecar.proxy.records import ConnectionEntry, HttpEntry
from racecar.proxy.sink import LineSink, open_log
from racecar.redirect.abi import ConnectionRecord, ConnectionState

PEER = IPv4Address("192.0.2.7")
RECORD = ConnectionRecord(
    cookie=77,
    cgroup_id=4711,
    task_start_ns=5_000_000_000,
    connected_ns=6_000_000_000,
    workload=0,
    generation=1,
    epoch=1,
    ruleset=1,
    rule=0,
    pid=4242,
    uid=2_000_000_000,
    flags=0,
    address=PEER,
    port=80,
    state=ConnectionState.REDIRECTED,
    protocol=6,
    comm="curl",
)
DENIED = HttpRecord(
    verdict=Verdict.DROPPED,
    reason=Reason.HTTP_NO_RULE,
    rule=0,
    method=b"GET",
    path=b"/applicants",
    has_query=False,
    host=b"jobs.example",
    status=403,
    request_bytes=80,
    response_bytes=140,
    started=10.0,
    answered=10.0,
    finished=10.0,
    event="e-1",
    detail="",
)
FORWARDED = replace(DENIED, verdict=Verdict.FORWARDED, reason=Reason.NONE, path=b"/jobs", event="")
CONNECTION = ConnectionEntry(
    record=RECORD,
    verdict=Verdict.FORWARDED,
    reason=Reason.NONE,
    rule=0,
    kind="http",
    dialled=(PEER, 80),
    started=1_700_000_000.25,
    duration_s=0.0125,
    request_bytes=10,
    response_bytes=20,
    path="relay",
)


def request(http: HttpRecord = DENIED) -> HttpEntry:
    return HttpEntry(record=RECORD, dialled=(PEER, 80), http=http, started=1_700_000_000.25, path="relay")


class Bench:
    """A journal on a loop that the test turns by hand."""

    def __init__(self, fd: int | None) -> None:
        self.loop = asyncio.new_event_loop()
        self.told: list[str] = []
        self.sink = None if fd is None else LineSink(fd)
        source = FlowSource("exec-1", "default", (), (DEFAULT_DENY,))
        flows = FlowWriter(source, lambda pid, start_ns: None)
        self.journal = Journal(self.loop, flows, self.sink, {}, self.told.append)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[tuple[Path, Bench]]:
    path = tmp_path / "access.log"
    fd = open_log(str(path))
    bench = Bench(fd)
    yield path, bench
    bench.loop.close()
    os.close(fd)


@pytest.fixture
def full() -> Iterator[Bench]:
    """A log on a disk that is full."""
    fd = os.open("/dev/full", os.O_WRONLY | os.O_CLOEXEC)
    bench = Bench(fd)
    yield bench
    bench.loop.close()
    os.close(fd)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


@pytest.mark.slow
def test_a_flood_of_denials_loses_nothing_as_long_as_the_file_takes_it(log: tuple[Path, Bench]) -> None:
    """In one turn of the loop: no timer comes between."""
    path, bench = log
    for number in range(100_000):
        bench.journal.log(request(replace(DENIED, event=f"e-{number}")))
    assert bench.journal.finish(1) == 0
    assert [json.loads(line)["uuid"] for line in lines(path)] == [f"e-{number}" for number in range(100_000)]


def test_few_entries_wait_for_the_next_flush(log: tuple[Path, Bench]) -> None:
    path, bench = log
    bench.journal.log(request())
    assert lines(path) == []

    async def written() -> None:
        while not lines(path):
            await asyncio.sleep(0.005)

    bench.loop.run_until_complete(asyncio.wait_for(written(), 10))
    assert len(lines(path)) == 1


def test_many_entries_do_not_wait(log: tuple[Path, Bench]) -> None:
    path, bench = log
    for _ in range(MAX_WAITING_BYTES // ENTRY_BYTES):
        bench.journal.log(request())
    written = len(lines(path))
    assert written >= SLICE_ENTRIES  # a slice at a time: requests must not wait for all of it
    for _ in range(1000):
        bench.journal.log(request())
    assert len(lines(path)) >= written + 1000 - SLICE_ENTRIES


@pytest.mark.parametrize("field", ["method", "path", "host"])
def test_long_entries_do_not_wait(log: tuple[Path, Bench], field: str) -> None:
    path, bench = log
    long = replace(DENIED, **{field: b"x" * 65536})
    for _ in range(MAX_WAITING_BYTES // 65536):
        bench.journal.log(request(long))
    assert len(lines(path)) == MAX_WAITING_BYTES // 65536


def test_denials_are_written_before_what_was_allowed(log: tuple[Path, Bench]) -> None:
    path, bench = log
    for http in (FORWARDED, DENIED, replace(DENIED, verdict=Verdict.AUDIT), FORWARDED):
        bench.journal.log(request(http))
    bench.journal.log(CONNECTION)
    bench.journal.log(replace(CONNECTION, verdict=Verdict.DROPPED, reason=Reason.DIAL_FAILED))
    assert bench.journal.finish(1) == 0
    verdicts = [json.loads(line)["verdict"] for line in lines(path)]
    assert verdicts == ["DROPPED", "AUDIT", "DROPPED", "FORWARDED", "FORWARDED", "FORWARDED"]


def test_lost_lines_are_told_now_and_then_and_counted_at_the_end(full: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("racecar.proxy.sink.MAX_HELD_BYTES", 10_000)
    for _ in range(3):
        for _ in range(100):
            full.journal.log(request(replace(FORWARDED, host=b"x" * 100)))
        full.journal._tick()
    (told,) = full.told
    assert "the access log takes too little" in told
    assert full.journal.finish(1) == 300


def test_of_many_denials_the_user_is_told_some(log: tuple[Path, Bench]) -> None:
    _path, bench = log
    for _ in range(3 * DENIALS_PER_SECOND):
        bench.journal.log(request())
    assert DENIALS_PER_SECOND <= len(bench.told) <= 2 * DENIALS_PER_SECOND  # a second may end in between


def test_an_entry_that_cannot_be_written_costs_no_other(
    log: tuple[Path, Bench], caplog: pytest.LogCaptureFixture
) -> None:
    path, bench = log
    bench.journal.log(request())
    bench.journal.log(request(replace(FORWARDED, method="no bytes")))  # type: ignore[arg-type]
    bench.journal.log(request())
    assert bench.journal.finish(1) == 1
    assert len(lines(path)) == 2
    assert "could not be written" in caplog.text


def test_without_a_log_denials_are_told() -> None:
    bench = Bench(None)
    bench.journal.log(request())
    assert len(bench.told) == 1
    assert bench.journal.finish(1) == 0
    bench.loop.close()
