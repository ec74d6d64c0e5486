"""What is measured, and what is asked for."""

from dataclasses import dataclass
from enum import Enum

from benchmarks.configs import BODIES, SMALL_BODY

MB = 1e6


class Kind(Enum):
    """How a scenario is measured; the value is the unit of its figure."""

    RATE = "requests/s"
    LATENCY = "p99, us"
    MEMORY = "PSS, MB"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of load. `floor` and `goal` are ratios (above 1 racecar is better); `limit` bounds racecar's figure."""

    name: str
    title: str
    kind: Kind = Kind.RATE
    floor: float | None = None
    goal: float | None = None
    limit: float | None = None
    target: str = "/jobs/1"
    body_bytes: int = len(SMALL_BODY)
    connections: int = 32
    fresh: bool = False
    close: bool = False
    own_client: bool = False  # client.c instead of wrk


SCENARIOS = (
    Scenario("keepalive", "keep-alive, 98-byte bodies, 32 connections", floor=2.0, goal=3.0),
    Scenario("fresh", "heads never seen before, 32 connections", floor=1.3, fresh=True),
    Scenario("10k", "10 KB bodies, 32 connections", floor=2.0, target="/files/10k.bin", body_bytes=BODIES["10k"]),
    Scenario(
        "1m",
        "1 MB bodies, 16 connections",
        floor=2.0,
        target="/files/1m.bin",
        body_bytes=BODIES["1m"],
        connections=16,
        own_client=True,
    ),
    Scenario(
        "latency", "p99 at half of Envoy's maximum rate, 32 connections", Kind.LATENCY, floor=1.0, own_client=True
    ),
    Scenario("close", "new connection per request, 32 at a time", floor=1.0, goal=1.2, close=True),
    Scenario("memory", "memory of all processes, idle", Kind.MEMORY, limit=40.0),
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
