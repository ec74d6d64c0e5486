"""What a probe answers: one ability of this machine, what it is for and what happens without it."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from racecar.redirect.libbpf import BpfError

_DETAIL_CHARACTERS = 300


class Status(StrEnum):
    OK = "ok"
    MISSING = "missing"
    WARNING = "warning"  # works, with a limit that will be felt
    INFO = "info"  # nothing to repair; good to know


@dataclass(frozen=True, slots=True)
class Ability:
    """The result of one probe. `required`: without it no workload can be enforced here."""

    name: str
    status: Status
    detail: str
    serves: str  # what it is for
    without: str  # what happens without it
    required: bool = False

    def as_dict(self) -> dict[str, str | bool]:
        """The form that `racecar doctor --json` prints."""
        return {
            "name": self.name,
            "status": self.status.value,
            "detail": self.detail,
            "for": self.serves,
            "without": self.without,
            "required": self.required,
        }


class NotTriedError(Exception):
    """The probe needs something that another probe has found missing."""


class NotedError(Exception):
    """Neither there nor missing: ends a probe with a status of its own."""

    def __init__(self, status: Status, detail: str) -> None:
        super().__init__(detail)
        self.status = status


def reason_of(error: Exception) -> str:
    """One line that says why a call failed, with the verifier's telling line where there is one."""
    if not isinstance(error, OSError):
        return f"{type(error).__name__}: {error}"[:_DETAIL_CHARACTERS]
    text = error.strerror or str(error)
    if isinstance(error, BpfError):
        head, _, log = text.partition(" [")
        lines = [line for line in log.split("; ") if _is_telling(line)]
        text = f"{head} ({lines[-1].rstrip(']')})" if lines else head
    elif error.errno and text == os.strerror(error.errno) and error.filename:
        text = f"{error.filename}: {text}"
    return text[:_DETAIL_CHARACTERS]


def _is_telling(line: str) -> bool:
    words = ("unknown func", "cannot use helper", "invalid bpf_context", "not supported", "BTF", "invalid func")
    return any(word in line for word in words)


def probe(
    name: str,
    attempt: Callable[[], str],
    *,
    serves: str,
    without: str,
    required: bool = False,
    absent: Status | None = None,
) -> Ability:
    """Run one attempt, which returns a detail or raises; `absent` is the status of a failure, normally missing.

    Never raises: a probe that breaks is an ability that was not shown to be there.
    """
    status = Status.OK
    try:
        detail = attempt()
    except NotedError as noted:
        status, detail = noted.status, str(noted)
    except NotTriedError as skipped:
        status, detail = absent or Status.MISSING, f"not tried: {skipped}"
    except Exception as error:
        status, detail = absent or Status.MISSING, reason_of(error)
        if isinstance(error, OSError) and error.errno in (errno.EPERM, errno.EACCES) and os.geteuid():
            detail += f" (as uid {os.geteuid()})"
    return Ability(name, status, detail, serves, without, required)
