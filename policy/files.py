"""Read policy files that nobody but root and racecar's own user can have written."""

import os
import stat
from dataclasses import dataclass, field

from racecar.policy.findings import Finding

MAX_FILE_BYTES = 16 * 1024 * 1024
MAX_LINKS = 40  # as the kernel
SUFFIXES = (".yaml", ".yml", ".json")


class UnsafeFileError(Exception):
    """A file that cannot be read or trusted; the text says why."""


@dataclass(slots=True)
class Sources:
    """What was read: (path as shown in findings, bytes), and what was not."""

    files: list[tuple[str, bytes]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def fail(self, path: str, text: str) -> None:
        self.findings.append(Finding(path, 1, 1, "error", text))

    def notice(self, path: str, text: str) -> None:
        self.findings.append(Finding(path, 1, 1, "notice", text))


def read_paths(paths: list[str]) -> Sources:
    """Read files and the policy files of directories (not of their subdirectories), in the order of their names."""
    sources = Sources()
    if not paths:
        sources.fail("-", "no policy file given")
    for path in paths:
        try:
            _read_path(sources, path)
        except (UnsafeFileError, OSError, ValueError) as error:
            sources.fail(path, _explain(error))
    return sources


def _explain(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot read: {error.strerror or error}"
    return f"cannot read: {error}"


def _read_path(sources: Sources, path: str) -> None:
    if not path:
        raise UnsafeFileError("the path is empty")
    if os.path.isdir(path):
        _read_directory(sources, path)
        return
    directory = os.path.realpath(os.path.dirname(path) or ".")
    sources.files.append((path, _read_file(path, directory)))


def _read_directory(sources: Sources, path: str) -> None:
    directory = resolve_safely(path)
    names = sorted(os.listdir(directory))
    wanted = [name for name in names if name.endswith(SUFFIXES)]
    if not wanted:
        sources.notice(path, f"the directory holds no policy file ({', '.join('*' + s for s in SUFFIXES)})")
    for name in wanted:
        shown_path = os.path.join(path, name)
        if name.startswith("."):
            sources.notice(shown_path, "hidden file, not loaded")
            continue
        try:
            sources.files.append((shown_path, _read_file(os.path.join(directory, name), directory)))
        except (UnsafeFileError, OSError) as error:
            sources.fail(shown_path, _explain(error))


def _read_file(path: str, directory: str) -> bytes:
    """The bytes of a regular file. A link must end inside `directory`, which has no links in its path itself."""
    resolved = resolve_safely(path)
    if os.path.commonpath((resolved, directory)) != directory:
        raise UnsafeFileError(f'the link leads to "{resolved}", outside "{directory}"')
    checked = os.lstat(resolved)
    if not stat.S_ISREG(checked.st_mode):
        raise UnsafeFileError("not a regular file")
    # Without O_NONBLOCK a pipe would hang here; O_NOFOLLOW and the comparison hold the file to the one just checked.
    descriptor = os.open(resolved, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        opened = os.fstat(descriptor)
        if (opened.st_dev, opened.st_ino) != (checked.st_dev, checked.st_ino):
            raise UnsafeFileError("replaced while it was read")
        _check_owner(resolved, opened)
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise UnsafeFileError(f"larger than {MAX_FILE_BYTES} bytes")
    return data


def resolve_safely(path: str) -> str:
    """The path without links. Raises UnsafeFileError if somebody else could change any part of the way."""
    pending = os.path.join(os.getcwd(), path).split("/")
    current, links = "/", 0
    _check_owner(current, os.lstat(current))
    while pending:
        part = pending.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            current = os.path.dirname(current)
            continue
        following = os.path.join(current, part)
        status = os.lstat(following)
        _check_owner(following, status)
        if not stat.S_ISLNK(status.st_mode):
            current = following
            continue
        links += 1
        if links > MAX_LINKS:
            raise UnsafeFileError("too many links")
        target = os.readlink(following)
        if target.startswith("/"):
            current = "/"
        pending = target.split("/") + pending
    return current


def _check_owner(path: str, status: os.stat_result) -> None:
    """Owned by root or by us; others may write only to a sticky directory, where each may change only his own."""
    if status.st_uid not in (0, os.geteuid()):
        raise UnsafeFileError(f'"{path}" belongs to user {status.st_uid}; root or user {os.geteuid()} must own it')
    is_sticky = stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX
    if stat.S_ISLNK(status.st_mode) or is_sticky:
        return
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UnsafeFileError(
            f'"{path}" is writable by others (mode {stat.S_IMODE(status.st_mode):04o}); chmod go-w it'
        )
