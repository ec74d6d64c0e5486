"""Pipes for splice: few, shared, each workload with a quota, never one with another's bytes in it.

An unprivileged user has a budget of pipe pages (fs.pipe-user-pages-soft); past it the kernel makes
pipes of one page and refuses to enlarge them, so one workload could slow down all. Who gets no
pipe copies instead.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable
from typing import NamedTuple

from racecar.proxy.core.relay import PIPE_BYTES

DEFAULT_PAGES = 16384
SOFT_LIMIT_FILE = "/proc/sys/fs/pipe-user-pages-soft"


class Pipe(NamedTuple):
    read: int
    write: int


class PipeQuota:
    """How many pipes one workload holds at this moment."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held = 0


def affordable_pipes() -> int:
    """Pipes of full size within three quarters of the user's budget of pages."""
    try:
        with open(SOFT_LIMIT_FILE, "rb") as file:
            pages = int(file.read())
    except (OSError, ValueError):
        pages = DEFAULT_PAGES
    size = os.sysconf("SC_PAGE_SIZE")
    return max(1, (pages or DEFAULT_PAGES) * 3 // 4 * size // PIPE_BYTES)


class PipePool:
    """Hand out empty pipes of PIPE_BYTES. `has_room` says whether two more descriptors may be opened."""

    def __init__(self, *, max_pipes: int, max_per_workload: int, has_room: Callable[[], bool] = lambda: True) -> None:
        self._has_room = has_room
        self._max_pipes = max_pipes
        self._max_per_workload = max_per_workload
        self._free: list[Pipe] = []
        self.open = 0  # pipes that exist, free ones included
        self.refused = 0  # times a caller had to copy instead

    def take(self, quota: PipeQuota) -> Pipe | None:
        """An empty pipe, or None when a quota or the kernel says no: copy then."""
        if quota.held >= self._max_per_workload:
            self.refused += 1
            return None
        pipe = self._free.pop() if self._free else self._make()
        if pipe is None:
            self.refused += 1
            return None
        quota.held += 1
        return pipe

    def give(self, pipe: Pipe, quota: PipeQuota, *, empty: bool) -> None:
        """Take a pipe back; one that may still hold bytes is closed, never handed out again."""
        quota.held -= 1
        if empty:
            self._free.append(pipe)
        else:
            self._close(pipe)

    def close(self) -> None:
        """Close the free pipes."""
        while self._free:
            self._close(self._free.pop())

    def _make(self) -> Pipe | None:
        if self.open >= self._max_pipes or not self._has_room():
            return None
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:  # no descriptors: copying needs none
            return None
        self.open += 1
        with contextlib.suppress(OSError):  # EPERM past the budget
            fcntl.fcntl(pipe.write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        if fcntl.fcntl(pipe.write, fcntl.F_GETPIPE_SZ) < PIPE_BYTES:
            self._close(pipe)
            return None
        return pipe

    def _close(self, pipe: Pipe) -> None:
        os.close(pipe.read)
        os.close(pipe.write)
        self.open -= 1
