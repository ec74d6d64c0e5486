"""What a fuzzer found: made small, written as text, replayed by `test_fuzzer`.

A file in tests/fuzz/found is named TARGET-HASH.txt: what went wrong in lines that begin with #, then the input as a
Python literal. It stays when the defect is repaired.
"""

import ast
import hashlib
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz import targets
from tests.fuzz.program import spelled_out

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = Path(__file__).resolve().parent / "found"


def failure(name: str, data: bytes) -> Exception | None:
    """What the target raises for this input."""
    try:
        targets.check(name, data)
    except Exception as error:
        return error
    return None


def _place(error: Exception | None) -> tuple[object, ...]:
    """Where it went wrong: the same defect found again."""
    if error is None:
        return ()
    frames = traceback.extract_tb(error.__traceback__)
    cause = error.__cause__
    deepest = traceback.extract_tb(cause.__traceback__)[-1:] if cause is not None else []
    return (type(error), *((frame.filename, frame.lineno) for frame in (*frames[-1:], *deepest)))


def shrink(name: str, data: bytes, seconds: float) -> bytes:
    """Leave out what is not needed for the same failure: halves first, then ever shorter pieces."""
    wanted = _place(failure(name, data))
    end = time.monotonic() + seconds
    size = max(1, len(data) // 2)
    while True:
        start, shorter = 0, False
        while start < len(data) and time.monotonic() < end:
            without = data[:start] + data[start + size :]
            if _place(failure(name, without)) == wanted:
                data, shorter = without, True
            else:
                start += size
        if time.monotonic() >= end or (size == 1 and not shorter):
            return data
        size = max(1, size // 2)


def write(name: str, data: bytes, what: str) -> Path:
    """Write a finding; return its path."""
    FOLDER.mkdir(exist_ok=True)
    if name == "conversation":
        data = spelled_out(data)
    path = FOLDER / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}.txt"
    comment = "\n".join(f"# {line}" for line in what.splitlines() or [""])
    path.write_text(f"{comment}\n{data!r}\n", encoding="utf-8", errors="backslashreplace")
    return path


def read(path: Path) -> tuple[str, bytes]:
    """The target and the input of a finding."""
    text = "".join(line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    data = ast.literal_eval(text)
    assert isinstance(data, bytes)
    return path.stem.rpartition("-")[0], data


def every() -> Iterator[tuple[str, str, bytes]]:
    """File name, target and input of all findings."""
    for path in sorted(FOLDER.glob("*.txt")):
        yield (path.name, *read(path))
