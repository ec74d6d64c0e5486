"""cgroup2 directories: find the mount, make, empty and remove them.

Documentation/admin-guide/cgroup-v2.rst of the kernel. The mount is found in /proc, never assumed: hybrid hosts have
it below /sys/fs/cgroup/unified.
"""

import errno
import os
import select
import time
from pathlib import Path


class CgroupError(OSError):
    """A cgroup that could not be found, made or removed; says which and the way out."""


def cgroup2_mount(mounts: str = "/proc/self/mounts") -> Path:
    """Where cgroup2 is mounted. Raises CgroupError if it is nowhere."""
    for line in Path(mounts).read_text().splitlines():
        fields = line.split()
        if len(fields) > 2 and fields[2] == "cgroup2":
            return Path(fields[1].encode().decode("unicode_escape"))
    raise CgroupError(errno.ENOENT, "no cgroup2 file system is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")


def own_cgroup() -> Path:
    """The directory of the cgroup that this process is in."""
    mount = cgroup2_mount()
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            path = mount / line[3:].lstrip("/")
            if not path.is_dir():
                raise CgroupError(errno.ENOENT, f"own cgroup {line[3:]} is not visible below {mount}")
            return path
    raise CgroupError(errno.ENOENT, "this process is in no cgroup2 cgroup")


def cgroup_id(path: Path) -> int:
    """The number by which the kernel and BPF know it: the inode of its directory."""
    return path.stat().st_ino


class Cgroup:
    """A cgroup directory that we made, held open."""

    def __init__(self, path: Path) -> None:
        """Make it. Raises CgroupError."""
        self.path = path
        try:
            path.mkdir(mode=0o755)
            self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as failed:
            raise CgroupError(failed.errno or 0, f"cannot make cgroup {path}: {failed.strerror}") from None
        self.id = cgroup_id(path)

    def enter(self) -> None:
        """Move the calling process into it."""
        (self.path / "cgroup.procs").write_text("0")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def is_populated(path: Path) -> bool:
    try:
        return "populated 1" in (path / "cgroup.events").read_text()
    except FileNotFoundError:
        return False


def kill_all(path: Path) -> None:
    """SIGKILL to every process in it and below (cgroup.kill, Linux 5.14)."""
    try:
        (path / "cgroup.kill").write_text("1")
    except FileNotFoundError:
        return


def wait_empty(path: Path, timeout_s: float) -> bool:
    """Wait for the last process to go; False if some are left after the time."""
    deadline = time.monotonic() + timeout_s
    try:
        events = os.open(path / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        poller = select.poll()
        poller.register(events, select.POLLPRI)
        while b"populated 1" in os.pread(events, 4096, 0):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            poller.poll(left * 1000)
        return True
    finally:
        os.close(events)


def remove_tree(path: Path) -> None:
    """Remove a cgroup and those below it, which must be empty. A path that is gone is fine. Raises CgroupError."""
    if not path.is_dir():
        return
    for child in sorted(path.rglob("*"), key=lambda p: len(p.parts), reverse=True):
        if child.is_dir():
            _rmdir(child)
    _rmdir(path)


def _rmdir(path: Path) -> None:
    # A dead process may hold its cgroup for a moment after `populated` fell to 0 (EBUSY).
    deadline = time.monotonic() + 2
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError as failed:
            if failed.errno != errno.EBUSY or time.monotonic() > deadline:
                raise CgroupError(failed.errno or 0, f"cannot remove cgroup {path}: {failed.strerror}") from None
            select.select([], [], [], 0.005)
        else:
            return
