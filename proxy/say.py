"""Lines for the user on stderr, and how many of them a second."""

import contextlib
import select
import sys
import time
from typing import TextIO

MAX_SAID_CHARACTERS = 1000  # of a line on stderr: below what a pipe that poll calls writable takes at once


def say(text: str, *, raw: bool = False) -> None:
    """A line on stderr. A closed stderr, or one that nobody reads, is no reason to stop: then the line is dropped."""
    line = f"racecar: {_visible(text)}"[:MAX_SAID_CHARACTERS] + ("\r\n" if raw else "\n")
    with contextlib.suppress(OSError, ValueError):
        if _has_a_reader(sys.stderr):
            sys.stderr.write(line)
            sys.stderr.flush()


def _visible(text: str) -> str:
    """Nothing in it moves the cursor. What a peer said is escaped already, and its backslashes are not doubled."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _has_a_reader(stream: TextIO) -> bool:
    """False if a write would wait. What is no descriptor at all never does."""
    try:
        fd = stream.fileno()
    except OSError:
        return True
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    return bool(poller.poll(0))


class Rate:
    """At most so many a second."""

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._second = -1
        self._taken = 0

    def take(self) -> bool:
        """True if there may be one more in this second."""
        second = int(time.monotonic())
        if second != self._second:
            self._second, self._taken = second, 0
        self._taken += 1
        return self._taken <= self._per_second
