"""What every process that looks after others needs: their deaths counted, signals as something to wait for."""

import contextlib
import os
import resource
import signal
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

MAX_RESTARTS = 5  # of what dies within RESTART_WINDOW_S; then it is given up
RESTART_WINDOW_S = 10.0


class Deaths:
    """How often something died lately."""

    def __init__(self) -> None:
        self._times: list[float] = []

    def __str__(self) -> str:
        return f"{len(self._times)} times in {RESTART_WINDOW_S:g} s"

    def may_restart(self, now: float) -> bool:
        """Count a death; False if there were too many."""
        self._times = [time for time in self._times if now - time < RESTART_WINDOW_S]
        self._times.append(now)
        return len(self._times) <= MAX_RESTARTS


@contextlib.contextmanager
def caught(received: list[int], numbers: Sequence[int]) -> Iterator[int]:
    """Collect signals; a descriptor that is readable when there are some."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
    for number in numbers:
        before[number] = signal.signal(number, note)
    wakeup = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)


def take_all_descriptors() -> None:
    """As many open files as this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
