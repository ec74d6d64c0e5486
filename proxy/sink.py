"""The access log's sink: lines are queued, written when the file takes them, and dropped and counted when it does not.

Denials go first and are dropped last. Nothing here ever waits for the reader of the log.
"""

import errno
import os
import select
import stat
import time
from collections import deque
from pathlib import Path

MAX_QUEUED_LINES = 10_000  # of each kind
FILE_BATCH_BYTES = 65536


def open_log(path: str) -> int:
    """A descriptor for `--access-log FILE|-`, never blocking. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    if path == "-":
        if stat.S_ISREG(os.fstat(1).st_mode):
            return os.dup(1)  # files never block, and one offset for both keeps the command from writing over lines
        try:
            # An open file description of our own: O_NONBLOCK on the shared one would change it for the command too.
            return os.open("/proc/self/fd/1", flags)
        except OSError:
            return os.dup(1)  # a socket, say; written only when poll says that it takes bytes
    if Path(path).is_symlink():
        raise OSError(errno.ELOOP, f"access log {path} is a symbolic link; name the file itself")
    return os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)


class LineSink:
    """Bounded queues in front of a descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._denials: deque[bytes] = deque()
        self._others: deque[bytes] = deque()
        self._rest = b""  # of a line that the sink took in part
        self.lost = 0
        self.broken = False

    def add(self, line: str, *, denial: bool) -> None:
        """Queue one line, without its newline."""
        queue = self._denials if denial else self._others
        if len(queue) >= MAX_QUEUED_LINES or self.broken:
            self.lost += 1
            return
        queue.append(line.encode("utf-8", "backslashreplace") + b"\n")

    @property
    def is_empty(self) -> bool:
        return not (self._rest or self._denials or self._others)

    def flush(self) -> None:
        """Write what the descriptor takes now."""
        while not self.is_empty and not self.broken:
            if not self._is_writable():
                return
            batch = self._rest or self._next_batch()
            try:
                written = os.write(self._fd, batch)
            except BlockingIOError:
                self._rest = batch
                return
            except OSError:
                self.broken = True  # the reader is gone: count, and go on without a log
                self.lost += len(self._denials) + len(self._others) + batch.count(b"\n")
                self._denials.clear()
                self._others.clear()
                self._rest = b""
                return
            self._rest = batch[written:]

    def finish(self, timeout_s: float) -> int:
        """Write the last lines: a slow reader gets this long. How many lines were lost in all."""
        deadline = time.monotonic() + timeout_s
        self.flush()
        while not self.is_empty and self._is_writable(deadline - time.monotonic()):
            self.flush()
        self.lost += self._rest.count(b"\n") + len(self._denials) + len(self._others)
        self._rest = b""
        self._denials.clear()
        self._others.clear()
        return self.lost

    def _is_writable(self, wait_s: float = 0) -> bool:
        if self._is_file:
            return True
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        return bool(poller.poll(max(wait_s, 0) * 1000))

    def _next_batch(self) -> bytes:
        """Whole lines, as many as one write takes at once: a pipe takes PIPE_BUF bytes whole or not at all."""
        limit = FILE_BATCH_BYTES if self._is_file else select.PIPE_BUF
        batch = bytearray()
        for queue in (self._denials, self._others):
            while queue and (not batch or len(batch) + len(queue[0]) <= limit):
                batch += queue.popleft()
        return bytes(batch)
