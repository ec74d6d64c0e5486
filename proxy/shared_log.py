"""One access log for several processes.

A pipe takes PIPE_BUF bytes at once; a longer line goes to it in parts, and nobody may write between them. So who writes
to what is no file holds a lock, until the line is whole; a process that dies lets go of it. Files have locks of their
own: see LineSink.
"""

import fcntl
import os
import stat

from racecar.proxy.sink import LineSink


class SharedSink(LineSink):
    """A sink beside those of other processes, each with a lock of its own on the file behind `lock_fd`."""

    def __init__(self, fd: int, lock_fd: int) -> None:
        super().__init__(fd)
        self._lock = os.open(f"/proc/self/fd/{lock_fd}", os.O_RDWR | os.O_CLOEXEC)

    def _begin_turn(self) -> bool:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _end_turn(self) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def finish(self, timeout_s: float) -> int:
        lost = super().finish(timeout_s)
        os.close(self._lock)
        return lost


def lock_for(log_fd: int) -> int | None:
    """What processes that share a log take turns by, None for a file: it has locks of its own."""
    if stat.S_ISREG(os.fstat(log_fd).st_mode):
        return None
    return os.memfd_create("racecar-log")
