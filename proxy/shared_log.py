"""One access log for several processes.

A file takes whole batches, and a pipe takes PIPE_BUF bytes at once; a longer line goes to a pipe in parts, and nobody
may write between them. So who writes to what is no file holds a lock, until the line is whole; a process that dies
lets go of it.
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

    def flush(self) -> None:
        """Write what the descriptor takes now, if it is nobody else's turn."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        super().flush()
        if not self._rest:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def finish(self, timeout_s: float) -> int:
        lost = super().finish(timeout_s)
        os.close(self._lock)
        return lost


def lock_for(log_fd: int) -> int | None:
    """What processes that share a log take turns by, None where they need not: on a file."""
    if stat.S_ISREG(os.fstat(log_fd).st_mode):
        return None
    return os.memfd_create("racecar-log")
