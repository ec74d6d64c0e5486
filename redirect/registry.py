"""Which instances there are: a directory each under /run/racecar with a lock that its owner holds while it lives.

The lock tells a living instance from what a crash left; the state file says what belongs to it, and is written
before any of it is made, so that a crash half-way leaves nothing that the next start cannot find.
"""

import errno
import fcntl
import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from racecar.redirect.cgroups import kill_all, remove_tree, wait_empty
from racecar.redirect.instance import pin_root, remove_pins
from racecar.redirect.names import RESERVED, check_name

RUN_DIRECTORY = Path("/run/racecar")
LAYOUT = 1  # of pins and state; another number is left alone and named

logger = logging.getLogger(__name__)


@dataclass
class State:
    """What belongs to an instance."""

    kind: str  # exec: ends with its command. run: goes on refusing when its processes are gone
    owner_pid: int
    cgroups: list[str] = field(default_factory=list)  # ours to kill and remove
    layout: int = LAYOUT


class Registration:
    """A name taken: holds the lock until `release`."""

    def __init__(self, name: str, state: State) -> None:
        """Raises ValueError for a bad name, FileExistsError if a living instance has it."""
        check_name(name)
        self.name = name
        self.directory = RUN_DIRECTORY / name
        _make_private(RUN_DIRECTORY)
        with _turn():
            _make_private(self.directory, mode=0o700)
            self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._lock)
                raise FileExistsError(
                    errno.EEXIST, f"instance {name} is running already; choose another --instance"
                ) from None
            self.save(state)

    def fileno(self) -> int:
        """The lock: whoever holds this descriptor keeps the instance alive. The guardian does, while it cleans up."""
        return self._lock

    def save(self, state: State) -> None:
        temporary = self.directory / "state.json.new"
        temporary.write_text(json.dumps(asdict(state)))
        temporary.rename(self.directory / "state.json")

    def release(self) -> None:
        """Forget the instance: everything of it has been removed."""
        with _turn():
            shutil.rmtree(self.directory, ignore_errors=True)
            self.abandon()

    def abandon(self) -> None:
        """Let go of the lock and leave the rest as it is."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def names() -> list[str]:
    """Every instance that left a trace, living or not."""
    found = set()
    for root in (RUN_DIRECTORY, pin_root()):
        try:
            found |= {entry.name for entry in root.iterdir() if entry.is_dir() and entry.name not in RESERVED}
        except (FileNotFoundError, PermissionError):
            continue
    return sorted(found)


def is_alive(name: str) -> bool:
    with _turn():
        return _is_locked(name)


def _is_locked(name: str) -> bool:
    try:
        lock = os.open(RUN_DIRECTORY / name / "lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


@contextmanager
def _turn() -> Iterator[None]:
    """One process at a time makes, probes or removes an instance: a probe holds its lock, a removal its name."""
    try:
        # A file of root's alone: whoever can open the directory could lock that, and stop every start.
        lock = os.open(RUN_DIRECTORY / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except FileNotFoundError:
        yield  # no instance was ever made here
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def read_state(name: str) -> State | None:
    """None if there is none, or one that this version cannot read."""
    try:
        raw = json.loads((RUN_DIRECTORY / name / "state.json").read_text())
        state = State(
            str(raw["kind"]), int(raw["owner_pid"]), [str(path) for path in raw["cgroups"]], int(raw["layout"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if state.layout == LAYOUT else None


def remove(name: str) -> None:
    """Take down a dead instance: end its processes, detach, remove its cgroups. Raises OSError, also if it lives."""
    with _turn():
        if _is_locked(name):
            raise BlockingIOError(errno.EBUSY, f"instance {name} is running")
        _remove(name)


def _remove(name: str) -> None:
    state = read_state(name)
    for cgroup in state.cgroups if state else []:
        kill_all(Path(cgroup))
    for cgroup in state.cgroups if state else []:
        if not wait_empty(Path(cgroup), timeout_s=5):
            raise OSError(errno.EBUSY, f"processes in {cgroup} do not end; what confines them stays")
    remove_pins(pin_root() / name)
    for cgroup in state.cgroups if state else []:
        remove_tree(Path(cgroup))
    shutil.rmtree(RUN_DIRECTORY / name, ignore_errors=True)


def sweep() -> list[str]:
    """Remove what dead `exec` instances left; what cannot be removed is logged and stays.

    An instance of another kind goes on refusing until `uninstall`.
    """
    swept = []
    for name in names():
        with _turn():
            # The trace may have gone meanwhile, or come: a name is judged when nobody can change it.
            if _is_locked(name) or name not in names():
                continue
            state = read_state(name)
            if (state and state.kind == "exec") or (state is None and name.startswith("exec-")):
                try:
                    _remove(name)
                except OSError as failed:
                    logger.warning("instance %s, left by a crash, cannot be removed: %s", name, failed)
                    continue
                swept.append(name)
    return swept


def _make_private(directory: Path, mode: int = 0o755) -> None:
    directory.mkdir(mode=mode, exist_ok=True)
    status = directory.lstat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o022 or directory.is_symlink():
        raise PermissionError(
            errno.EPERM, f"{directory} must be a directory of uid {os.geteuid()} that nobody else may write"
        )
