"""The access log's sink: lines are queued, written when the file takes them, and dropped and counted when it does not.

A line that a full disk takes in part is cut off again: who else writes to the file finds whole lines only. Denials go
first and are dropped last. Workloads take turns, and where room is short the one that holds most of it gives
way: none can wash out what is said of another. Nothing here ever waits for the reader of the log.
"""

import contextlib
import errno
import fcntl
import os
import select
import stat
import time
from collections import deque
from pathlib import Path

STDOUT = "-"  # as the name of a log
MAX_HELD_BYTES = 16 << 20  # of all lines that wait
MAX_OTHER_BYTES = 8 << 20  # of those among them that are no denials
LINE_OVERHEAD = 64  # bytes that a line takes in memory beyond its text
FILE_BATCH_BYTES = 65536
TURN_S = 0.001  # until it is asked again, at the end, whether others are done with the file
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # a disk, a quota or a file that is full, for now


def open_log(path: str) -> int:
    """A descriptor for `--access-log FILE|-`, never blocking. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    if path == STDOUT:
        if stat.S_ISREG(os.fstat(1).st_mode):
            return os.dup(1)  # files never block, and one offset for both keeps the command from writing over lines
        try:
            # An open file description of our own: O_NONBLOCK on the shared one would change it for the command too.
            return os.open("/proc/self/fd/1", flags)
        except OSError:
            return os.dup(1)  # a socket, say; written only when poll says that it takes bytes
    if Path(path).is_symlink():
        raise OSError(errno.ELOOP, f"access log {path} is a symbolic link; name the file itself")
    fd = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        with contextlib.suppress(OSError):  # it may be ours to write and not to read
            readable = os.open(f"/proc/self/fd/{fd}", flags & ~os.O_WRONLY | os.O_RDWR)
            os.close(fd)
            return readable
    return fd


def reopen_log(path: str, fd: int) -> None:
    """Have `fd` write to what `path` names by now, if it is a file. Raises OSError; then `fd` is as before.

    No line is lost: those that wait go to the new file, and none is half written between two flushes.
    """
    if path == STDOUT or not stat.S_ISREG(os.fstat(fd).st_mode):
        return
    opened = open_log(path)
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "it is no file any more")
        os.dup2(opened, fd, inheritable=False)
    finally:
        os.close(opened)


class _Lines:
    """Lines of one kind, a queue for each workload."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[bytes]] = {}
        self._held: dict[int, int] = {}  # by workload; sums up to `held`
        self.held = 0

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, workload: int, line: bytes, size: int) -> None:
        queue = self._queues.get(workload)
        if queue is None:
            queue = self._queues[workload] = deque()
            self._held[workload] = 0
        queue.append(line)
        self._held[workload] += size
        self.held += size

    def make_room(self, workload: int, size: int, limit: int) -> int:
        """Drop the newest lines of those that hold more than `workload` would, until `limit` is kept; how many."""
        dropped = 0
        while self.held + size > limit and self._queues:
            largest = max(self._held, key=self._held.__getitem__)
            if self._held[largest] <= self._held.get(workload, 0) + size:
                break
            self.drop_newest(largest)
            dropped += 1
        return dropped

    def drop_newest(self, workload: int | None = None) -> None:
        """Of `workload`, or of the one that holds most."""
        if workload is None:
            workload = max(self._held, key=self._held.__getitem__)
        self._let_go(workload, len(self._queues[workload].pop()) + LINE_OVERHEAD)

    def move_to(self, batch: bytearray, limit: int) -> None:
        """Fill the batch with whole lines of the workload whose turn it is, then it is the next one's."""
        workload, queue = next(iter(self._queues.items()))
        taken = 0
        while queue and (not batch or len(batch) + len(queue[0]) <= limit):
            line = queue.popleft()
            batch += line
            taken += len(line) + LINE_OVERHEAD
        if taken and queue and len(self._queues) > 1:
            self._queues[workload] = self._queues.pop(workload)
        self._let_go(workload, taken)

    def clear(self) -> int:
        """How many lines are gone."""
        gone = len(self)
        self._queues.clear()
        self._held.clear()
        self.held = 0
        return gone

    def _let_go(self, workload: int, size: int) -> None:
        self.held -= size
        self._held[workload] -= size
        if not self._queues[workload]:
            del self._queues[workload], self._held[workload]


class LineSink:
    """Bounded queues in front of a descriptor.

    Processes that write to one file take turns by a lock on it. `is_stdout`: others write to it too, and know of no
    turns, so that nothing may be cut off.
    """

    def __init__(self, fd: int, *, is_stdout: bool = False) -> None:
        self._fd = fd
        self._is_file = stat.S_ISREG(os.fstat(fd).st_mode)
        self._cuts = self._is_file and not is_stdout
        self._denials = _Lines()
        self._others = _Lines()
        self._rest = b""  # what the sink has not taken yet of the last batch
        self._is_torn = False  # it begins inside a line
        self._is_full = False
        self.lost = 0
        self.broken = False

    def add(self, line: str, *, denial: bool, workload: int = 0) -> None:
        """Queue one line, without its newline."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        size = len(data) + LINE_OVERHEAD
        lines, limit = (self._denials, MAX_HELD_BYTES) if denial else (self._others, MAX_OTHER_BYTES)
        if self.broken or not self._has_room(lines, limit, workload, size):
            self.lost += 1
            return
        lines.add(workload, data, size)

    @property
    def takes_at_once(self) -> bool:
        """Nothing waits, and lines may be written together: to a pipe with other writers each goes for itself."""
        return self._is_file and self.is_empty and not self.broken

    def add_at_once(self, lines: list[str]) -> None:
        """Queue lines, a bounded number, while `takes_at_once`: none of them can be in another's way."""
        self._rest = "\n".join(lines).encode("utf-8", "backslashreplace") + b"\n"

    def _has_room(self, lines: _Lines, limit: int, workload: int, size: int) -> bool:
        if lines is self._denials:
            while self._others and lines.held + self._others.held + size > MAX_HELD_BYTES:
                self._others.drop_newest()
                self.lost += 1
        else:
            limit = min(limit, MAX_HELD_BYTES - self._denials.held)
        if lines.held + size > limit:
            self.lost += lines.make_room(workload, size, limit)
        return lines.held + size <= limit

    @property
    def is_empty(self) -> bool:
        return not (self._rest or self._denials or self._others)

    def flush(self) -> None:
        """Write what the descriptor takes now, if it is nobody else's turn."""
        self._is_full = False
        if self.is_empty or not self._begin_turn():
            return
        while not self.is_empty and not self.broken and not self._is_full:
            if not self._is_writable() or not self._write(self._rest or self._next_batch()):
                break
        if not self._is_torn:
            self._end_turn()

    def _write(self, batch: bytes) -> bool:
        """False if the descriptor takes no more for now."""
        self._rest = batch
        before = b"" if self._is_torn or self._is_at_a_line() else b"\n"
        try:
            written = os.write(self._fd, before + batch) - len(before)
        except BlockingIOError:
            return False
        except OSError as failed:
            if failed.errno in NO_SPACE:
                self._is_full = True  # somebody may make room: tried again with the next flush
            else:
                self.broken = True  # the reader is gone: count, and go on without a log
                self._drop_all()
            return False
        if self._cuts and written < len(batch):
            self._is_full = True
            written = self._cut(batch, written)
        self._rest = batch[written:]
        self._is_torn = bool(self._rest) and written > 0 and batch[written - 1 : written] != b"\n"
        return True

    def _is_at_a_line(self) -> bool:
        """False for a file that ends inside one: who wrote it was killed, or the machine was."""
        if not self._is_file:
            return True
        try:
            size = os.fstat(self._fd).st_size
            return size == 0 or os.pread(self._fd, 1, size - 1) == b"\n"
        except OSError:
            return True  # not ours to read

    def _cut(self, batch: bytes, written: int) -> int:
        """Take back what was written of a line that is not whole; how much of the batch is left in the file."""
        whole = batch.rfind(b"\n", 0, written) + 1
        try:
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - (written - whole))
        except OSError:  # somebody emptied the file just now, or the file system cannot: the line is completed later
            return written
        return whole

    def _begin_turn(self) -> bool:
        """False if it is somebody else's. A lock of the process's own: descriptors may be shared with others."""
        if self._is_file:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as failed:
                return failed.errno not in (errno.EAGAIN, errno.EACCES)  # else a file system that knows no locks
        return True

    def _end_turn(self) -> None:
        if self._is_file:
            with contextlib.suppress(OSError):
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def finish(self, timeout_s: float) -> int:
        """Write the last lines: a slow reader gets this long. How many lines were lost in all."""
        deadline = time.monotonic() + timeout_s
        self.flush()
        while not self.is_empty and not self._is_full and (left_s := deadline - time.monotonic()) > 0:
            if self._is_writable(left_s):
                time.sleep(TURN_S)
                self.flush()
        self._drop_all()
        return self.lost

    def _drop_all(self) -> None:
        self.lost += self._rest.count(b"\n") + self._denials.clear() + self._others.clear()
        self._rest, self._is_torn = b"", False

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
        for lines in (self._denials, self._others):
            while lines:
                before = len(batch)
                lines.move_to(batch, limit)
                if len(batch) == before:
                    return bytes(batch)
        return bytes(batch)
