"""What the edge allows itself: timeouts, quotas per workload, descriptor head-room."""

import contextlib
import os
import resource
from dataclasses import dataclass

from racecar.proxy.pipes import PipeQuota


@dataclass(frozen=True)
class EdgeConfig:
    """Limits and timeouts of the edge; checked once, at start."""

    connect_timeout_s: float = 10.0  # upstream dial; after it the client is reset
    tcp_idle_timeout_s: float | None = None  # byte relays: reset after 1 to 2 of these without traffic; None = never
    close_timeout_s: float = 30.0  # a closed connection's last bytes, without progress; then it is reset
    timer_step_s: float = 0.25  # how late a timeout may be
    max_connections_per_workload: int = 16384  # further ones are reset
    max_held_bytes_per_workload: int = 64 << 20  # in our memory; the connection that wants more is reset
    max_pipes: int | None = None  # splice pipes in all; None = three quarters of the kernel's budget for this user
    max_pipes_per_workload: int = 32  # further stretches are copied
    descriptor_headroom: int = 64  # descriptors below the limit that no connection may take
    accepts_per_turn: int = 64  # connections accepted before the others get their turn
    events_per_turn: int = 256  # events handled before asyncio gets its turn
    accept_pause_s: float = 0.5  # how long a listener rests when the kernel has no descriptor or memory for it

    def __post_init__(self) -> None:
        for name in ("connect_timeout_s", "close_timeout_s", "timer_step_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.max_connections_per_workload < 1:
            raise ValueError(f"max_connections_per_workload is {self.max_connections_per_workload}; at least 1")
        if self.max_held_bytes_per_workload < 1:
            raise ValueError(f"max_held_bytes_per_workload is {self.max_held_bytes_per_workload}; at least 1")
        if self.accepts_per_turn < 1 or self.events_per_turn < 1:
            raise ValueError("accepts_per_turn and events_per_turn must be at least 1")


class WorkloadUse:
    """What one workload has of the shared means."""

    __slots__ = ("budget", "connections", "held", "is_short", "pipes")

    def __init__(self, *, budget: int) -> None:
        self.connections = 0
        self.budget = budget
        self.held = 0  # bytes of its connections that wait in our memory
        self.is_short = False  # half of the budget is taken: small reads, so that slow readers alone hardly end it
        self.pipes = PipeQuota()

    def hold(self, more: int) -> bool:
        """Count `more` bytes held, or less if below 0; False if that takes more than there may be."""
        self.held += more
        self.is_short = self.held > self.budget >> 1
        return more <= 0 or self.held <= self.budget


class DescriptorLimitError(ValueError):
    """This process may have too few open files to serve. The text says how many, and the way out."""


class Descriptors:
    """Count descriptors and keep one in reserve, so that even at the limit a connection can be accepted and reset.

    `used` counts what the edge opens; what else the process has open is counted once, at start.
    """

    def __init__(self, *, headroom: int) -> None:
        self.limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self._reserve: int | None = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        self.used = len(os.listdir("/proc/self/fd"))
        self._headroom = headroom
        if self.limit - headroom - self.used < 2:
            self.close()
            raise DescriptorLimitError(
                f"descriptor limit {self.limit} leaves no room: {self.used} in use, head-room {headroom}; "
                "raise it (ulimit -n, LimitNOFILE=) or lower descriptorHeadroom (--config)"
            )

    def room_for(self, count: int) -> bool:
        return self.used + count <= self.limit - self._headroom

    def release_reserve(self) -> bool:
        """Free the reserve descriptor for one accept; False if it is gone already."""
        if self._reserve is None:
            return False
        os.close(self._reserve)
        self._reserve = None
        return True

    def restore_reserve(self) -> None:
        """Take the reserve again; somebody else may have been faster, then the next call tries again."""
        if self._reserve is None:
            with contextlib.suppress(OSError):
                self._reserve = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        self.release_reserve()
