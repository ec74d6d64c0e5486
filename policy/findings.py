"""What a policy file says wrong, and where."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "notice"]

SHOWN_CHARACTERS = 60
MAX_FINDINGS = 200  # of one file
TOO_MANY_FINDINGS = f"more than {MAX_FINDINGS} findings in this file, the others are not shown"


def printable(text: str) -> str:
    """One line without control bytes: a file name or value cannot forge a finding or drive a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def shown(value: str) -> str:
    """A value as findings quote it: short, in quotes."""
    return f'"{value if len(value) <= SHOWN_CHARACTERS else value[:SHOWN_CHARACTERS] + "..."}"'


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """One finding. `line` and `column` count from 1, in characters; `slug` names a kind of warning."""

    path: str
    line: int
    column: int
    level: Level
    text: str
    slug: str | None = None

    def __str__(self) -> str:
        tail = f" [{self.slug}]" if self.slug else ""
        return printable(f"{self.path}:{self.line}:{self.column}: {self.level}: {self.text}{tail}")
