"""Start a command through the launcher and learn how it ended.

The launcher (`launcher/`, C) does what has to be done between fork and exec and guards the run; this module builds its
arguments and reads its answers. Which uid, cgroup and policy a command gets is decided elsewhere.
"""

import contextlib
import errno
import importlib.resources
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType

from racecar.redirect.uids import NoFreeUid, UidLease, free_uids

__all__ = [
    "Ending",
    "LaunchError",
    "LaunchPlan",
    "Launched",
    "NoFreeUid",
    "Outcome",
    "UidLease",
    "exec_failure_text",
    "free_uids",
    "launcher_path",
    "spawn",
]

EXIT_REFUSED = 125
EXIT_NOT_RUN = 126
EXIT_NOT_FOUND = 127

# The guardian waits 30 s for killed processes to be gone and 5 s for each helper.
FINISH_TIMEOUT_S = 60.0
START_TIMEOUT_S = 30.0


class LaunchError(Exception):
    """The launcher could not start the command; `exec` ends with 125."""


class Ending(Enum):
    """How a command ended."""

    EXITED = "exit"
    SIGNALLED = "signal"
    EXEC_FAILED = "exec-failed"
    REFUSED = "failed"  # the launcher could not or would not confine it
    LOST = "lost"  # the guardian itself was killed


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a command. `code` is the exit code that `exec` passes on."""

    code: int
    kind: Ending
    number: int = 0  # exit status, signal or errno, by kind
    text: str = ""


@dataclass(frozen=True, slots=True)
class LaunchPlan:
    """One command and what it is confined to. Its descriptors stay the caller's; `spawn` needs them once."""

    command: Sequence[str]
    cgroup_fd: int  # an open directory of cgroup2; everything in it is killed at the end
    uid: int | None = None  # None only with keep_privileges
    gid: int | None = None
    groups: tuple[int, ...] = ()
    keep_privileges: bool = False
    pty_fd: int | None = None  # slave side
    pty_mask: int = 0  # bit n: descriptor n becomes the pty
    cleanup: tuple[str, ...] = ()  # removed in this order when the run ends, see Launched.finish
    kill_pids: tuple[int, ...] = ()  # the run's helpers, killed when it ends
    seal_fd: int | None = None  # the kernel's map of workloads: at the end it is told that nothing more is allowed
    held_fds: tuple[int, ...] = ()  # the guardian keeps them open as long as it lives (locks)
    environment: Mapping[str, str] | None = None
    directory: str | None = None

    def __post_init__(self) -> None:
        if not self.command or not self.command[0]:
            raise ValueError("a command is needed")
        if self.keep_privileges != (self.uid is None and self.gid is None):
            raise ValueError("give uid and gid, or keep_privileges, not both")
        if not self.keep_privileges and (not self.uid or self.gid is None):
            raise ValueError("uid (not 0) and gid are needed without keep_privileges")
        if self.pty_mask and self.pty_fd is None:
            raise ValueError("pty_mask without pty_fd")

    def arguments(self, guard_fd: int, status_fd: int) -> list[str]:
        """The launcher's argument vector without its name."""
        options = ["--cgroup-fd", self.cgroup_fd, "--guard-fd", guard_fd, "--status-fd", status_fd]
        if self.keep_privileges:
            options.append("--keep-privileges")
        else:
            options += ["--uid", self.uid, "--gid", self.gid]
        if self.groups:
            options += ["--groups", ",".join(map(str, self.groups))]
        if self.pty_fd is not None:
            options += ["--pty-fd", self.pty_fd, "--pty-mask", self.pty_mask]
        for path in self.cleanup:
            options += ["--cleanup", path]
        for pid in self.kill_pids:
            options += ["--kill-pid", pid]
        if self.seal_fd is not None:
            options += ["--seal-fd", self.seal_fd]
        return [*map(str, options), "--", *self.command]

    def inherited(self) -> tuple[int, ...]:
        """Descriptors that the guardian needs of us; the command gets none of them."""
        pty = () if self.pty_fd is None else (self.pty_fd,)
        seal = () if self.seal_fd is None else (self.seal_fd,)
        return (self.cgroup_fd, *pty, *seal, *self.held_fds)


class Launched:
    """A command under a guardian. Leave the `with` block, or call `finish`, when everything else is done."""

    def __init__(self, plan: LaunchPlan, guardian: subprocess.Popen[bytes], guard_fd: int, status_fd: int) -> None:
        self.guardian_pid = guardian.pid
        self.pid = 0
        self.outcome: Outcome | None = None
        self.left: list[str] = []  # what the guardian could not end or remove, one text each
        self._plan = plan
        self._guardian = guardian
        self._guard_fd = guard_fd
        self._status_fd = status_fd
        self._pidfd = -1
        self._cgroup_fd = os.dup(plan.cgroup_fd)
        self._buffer = b""

    def __enter__(self) -> "Launched":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def fileno(self) -> int:
        """Readable when `poll` may have news; for an event loop."""
        return self._status_fd

    def poll(self) -> Outcome | None:
        """Read what the guardian has said so far; None while the command runs. Never blocks."""
        while self.outcome is None and self._is_readable(0.0):
            self._read()
        return self.outcome

    def wait(self, timeout_s: float | None = None) -> Outcome:
        """Wait for the end of the command; its children may still run. Raises TimeoutError."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while self.outcome is None:
            left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not self._is_readable(left):
                raise TimeoutError(f"the command still runs after {timeout_s} s")
            self._read()
        return self.outcome

    def send_signal(self, number: int) -> None:
        """Signal the command itself, never another process: nothing happens once it has ended."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def finish(self, timeout_s: float = FINISH_TIMEOUT_S) -> Outcome:
        """End the run: kill what is left in the cgroup and the helpers, remove the cleanup paths.

        The guardian does it, by the same steps as after the loader's death. Idempotent. Processes that cannot be killed
        keep their paths, as does a guardian that was killed (the cgroup is killed from here then): what stays is in
        `left`. Raises TimeoutError if the guardian does not end.
        """
        if self._guard_fd >= 0:
            os.close(self._guard_fd)
            self._guard_fd = -1
        if self._status_fd >= 0:
            deadline = time.monotonic() + timeout_s
            while self._is_readable(max(deadline - time.monotonic(), 0.0)) and self._read():
                pass
            try:
                self._guardian.wait(max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                raise TimeoutError(f"the guardian {self.guardian_pid} has not ended after {timeout_s} s") from None
            if self._guardian.returncode < 0:
                self._replace_guardian()
            self._close()
        return self.outcome or Outcome(EXIT_REFUSED, Ending.LOST, text="the guardian was killed")

    def _replace_guardian(self) -> None:
        """A killed guardian takes its child along, but not the child's children."""
        with contextlib.suppress(OSError):
            fd = os.open("cgroup.kill", os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._cgroup_fd)
            with open(fd, "wb", buffering=0) as kill:
                kill.write(b"1")
        self.left += self._plan.cleanup

    def _close(self) -> None:
        for fd in (self._status_fd, self._pidfd, self._cgroup_fd):
            if fd >= 0:
                os.close(fd)
        self._status_fd = self._pidfd = self._cgroup_fd = -1

    def _is_readable(self, timeout_s: float | None) -> bool:
        poller = select.poll()
        poller.register(self._status_fd, select.POLLIN)
        return bool(poller.poll(None if timeout_s is None else timeout_s * 1000))

    def _read(self) -> bool:
        """Take one piece of the guardian's report; False at its end."""
        data = os.read(self._status_fd, 4096)
        if not data:
            if self.outcome is None:
                self.outcome = Outcome(EXIT_REFUSED, Ending.LOST, text="the guardian was killed")
            return False
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._take(*line.decode("utf-8", "replace").partition(" ")[::2])
        return True

    def _take(self, word: str, rest: str) -> None:
        if word == "pid":
            self.pid = int(rest)
            # The guardian keeps the zombie, so the pid is still this command's.
            with contextlib.suppress(ProcessLookupError):
                self._pidfd = os.pidfd_open(self.pid)
        elif word == "left":
            self.left.append(rest)
        elif self.outcome is None:
            self.outcome = _outcome(self._plan, word, rest)


def _exists(plan: LaunchPlan) -> bool:
    """Is there a file that the command's name could mean, as far as we may look?"""
    command = plan.command[0]
    environment = os.environ if plan.environment is None else plan.environment
    if "/" in command:
        return True
    return shutil.which(command, os.F_OK, environment.get("PATH", "/bin:/usr/bin")) is not None


def _outcome(plan: LaunchPlan, word: str, rest: str) -> Outcome:
    kind = Ending(word)
    if kind is Ending.REFUSED:
        return Outcome(EXIT_REFUSED, kind, text=rest)
    number = int(rest)
    if kind is Ending.EXITED:
        return Outcome(number, kind, number)
    if kind is Ending.SIGNALLED:
        return Outcome(128 + number, kind, number, signal.strsignal(number) or "")
    if number == errno.EACCES and not _exists(plan):
        number = errno.ENOENT  # a folder of PATH is closed to the uid, and what it holds does not matter
    code = EXIT_NOT_FOUND if number == errno.ENOENT else EXIT_NOT_RUN
    return Outcome(code, kind, number, os.strerror(number))


def launcher_path() -> str:
    """Raises LaunchError when the launcher has not been built."""
    path = importlib.resources.files("racecar.redirect").joinpath("launcher/racecar-launcher")
    if not path.is_file():
        raise LaunchError(f"{path} is missing; build it with: make -C redirect/launcher")
    return str(path)


def spawn(
    plan: LaunchPlan, *, stdin: int | None = None, stdout: int | None = None, stderr: int | None = None
) -> Launched:
    """Start the command of `plan`; it is in its cgroup from birth. Raises LaunchError when it cannot be born.

    A command that was born and then not confined or not executed is an Outcome. The guardian takes the closing of a
    pipe that only this process holds for our death: processes forked from it later without exec must close it.
    """
    guard_read, guard_write = os.pipe()
    status_read, status_write = os.pipe()
    try:
        guardian = subprocess.Popen(
            [launcher_path(), *plan.arguments(guard_read, status_write)],
            pass_fds=(guard_read, status_write, *plan.inherited()),
            env=plan.environment,
            cwd=plan.directory,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )
    except (OSError, LaunchError, ValueError) as error:
        os.close(guard_write)
        os.close(status_read)
        raise LaunchError(f"cannot start the launcher: {error}") from error
    finally:
        os.close(guard_read)
        os.close(status_write)
    launched = Launched(plan, guardian, guard_write, status_read)
    _wait_for_birth(launched)
    return launched


def _wait_for_birth(launched: Launched) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not launched.pid and launched.outcome is None:
        if not launched._is_readable(max(deadline - time.monotonic(), 0.0)):
            break
        launched._read()
    if not launched.pid:
        outcome = launched.finish()
        raise LaunchError(outcome.text if outcome.kind is Ending.REFUSED else "the launcher ended at once")


def exec_failure_text(command: str, outcome: Outcome, uid: int | None) -> str:
    """One line for a command that could not be executed; names --user where another uid could help."""
    text = f"cannot run {command}: {outcome.text} ({outcome.number})"
    if outcome.number in (errno.EPERM, errno.EACCES) and uid is not None:
        return f"{text}; uid {uid} may not read or execute it: --user NAME runs it as a user who may"
    return text
