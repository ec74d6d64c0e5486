"""Lend uids that nobody else has: one per workload, so that no process outside its cgroup may act for it.

A uid is lent under a file lock that the kernel drops with its last holder. Uids are handed out in turn, because files
and IPC objects that a workload leaves behind belong to whoever gets its uid next.
"""

import contextlib
import errno
import fcntl
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

RANGES = (range(2_000_000_000, 2_000_010_000), range(64_000, 65_000))
DIRECTORY = Path("/run/racecar/uids")
UID_FIELD = b"\nUid:"


class NoFreeUid(Exception):  # noqa: N818  (an answer, not a fault)
    """Every uid of the reserved range is lent or in use."""


@dataclass(slots=True)
class UidLease:
    """Uids (and gids of the same numbers) held until `release`, or the death of all that hold `fds`."""

    uids: tuple[int, ...] = ()
    fds: tuple[int, ...] = ()  # to be held by the guardian too: LaunchPlan.held_fds
    paths: tuple[str, ...] = ()  # lock files, for LaunchPlan.cleanup
    _open: list[int] = field(default_factory=list)

    def __enter__(self) -> "UidLease":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Give the uids back; idempotent. Only when no process of theirs is left."""
        while self._open:
            fd = self._open.pop()
            with contextlib.suppress(FileNotFoundError):
                _unlink_if_same(fd)
            os.close(fd)


def _unlink_if_same(fd: int) -> None:
    """Remove a lock file by its descriptor's own path, unless another file has taken the name."""
    path = os.readlink(f"/proc/self/fd/{fd}")
    if _is_same(fd, path):
        os.unlink(path)


def _is_same(fd: int, path: str) -> bool:
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    held = os.fstat(fd)
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)


def is_mapped(wanted: range, id_map: str) -> bool:
    """Does a user namespace's map (`/proc/self/uid_map`) hold every number of `wanted`?"""
    for line in id_map.splitlines():
        first, _, count = map(int, line.split())
        if first <= wanted.start and wanted.stop <= first + count:
            return True
    return False


def reserved_range() -> range:
    """The first of RANGES that this user namespace maps for uids and gids. Raises NoFreeUid."""
    maps = [Path(f"/proc/self/{kind}_map").read_text() for kind in ("uid", "gid")]
    for wanted in RANGES:
        if all(is_mapped(wanted, id_map) for id_map in maps):
            return wanted
    raise NoFreeUid("this user namespace maps neither 2000000000-2000009999 nor 64000-64999; use --user")


def _threads() -> Iterator[str]:
    for process in os.listdir("/proc"):
        if process.isdigit():
            # A thread may have changed its own uid only (the system call, not the library's setuid).
            with contextlib.suppress(OSError):
                for thread in os.listdir(f"/proc/{process}/task"):
                    yield f"/proc/{process}/task/{thread}/status"


def uids_in_use(wanted: range) -> set[int]:
    """The uids of `wanted` that a visible thread has as real, effective, saved or file-system uid."""
    found: set[int] = set()
    for path in _threads():
        try:
            with open(path, "rb") as status:
                text = status.read()
        except OSError:
            continue  # it has just ended
        start = text.index(UID_FIELD) + len(UID_FIELD)
        found.update(map(int, text[start : text.index(b"\n", start)].split()))
    return {uid for uid in found if uid in wanted}


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


@contextmanager
def _turn(directory: Path) -> Iterator[int]:
    """Hold the allocator's lock; yields the descriptor of the file that says whose turn it is."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = os.stat(directory, follow_symlinks=False)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "not ours alone", str(directory))
    fd = os.open(directory / "next", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def _lock(path: Path) -> int | None:
    """An exclusively locked lock file, or None when somebody holds it."""
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if _is_same(fd, str(path)):
            return fd
        os.close(fd)  # its last holder removed it between our open and our lock


def _candidates(turn_fd: int, wanted: range) -> Iterator[int]:
    text = os.pread(turn_fd, 32, 0).strip()
    start = int(text) if text.isdigit() and int(text) in wanted else wanted.start
    yield from range(start, wanted.stop)
    yield from range(wanted.start, start)


def free_uids(count: int, *, directory: Path = DIRECTORY, wanted: range | None = None) -> UidLease:
    """Lend `count` uids that no account, process or other lease has.

    Raises NoFreeUid, or OSError when the lock directory cannot be used. Processes of other pid namespaces are not seen.
    """
    wanted = wanted or reserved_range()
    taken: list[tuple[int, int]] = []
    with _turn(directory) as turn_fd:
        used = uids_in_use(wanted)
        for uid in _candidates(turn_fd, wanted):
            if len(taken) == count:
                break
            if uid not in used and not _has_account(uid):
                fd = _lock(directory / str(uid))
                if fd is not None:
                    taken.append((uid, fd))
        lease = UidLease(
            uids=tuple(uid for uid, _ in taken),
            fds=tuple(fd for _, fd in taken),
            paths=tuple(str(directory / str(uid)) for uid, _ in taken),
            _open=[fd for _, fd in taken],
        )
        if len(taken) < count:
            lease.release()
            raise NoFreeUid(f"{len(taken)} of {count} uids free in {wanted.start}-{wanted.stop - 1}; use --user")
        if lease.uids:
            os.pwrite(turn_fd, b"%-16d" % (lease.uids[-1] + 1), 0)
    return lease
