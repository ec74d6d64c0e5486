"""How the regular expressions that judge a peer's bytes are written: alike on every Python, and linear in time."""

import importlib
import pkgutil
import re
import re._parser as sre
import time
from collections.abc import Iterable, Iterator
from re._constants import ANY, ATOMIC_GROUP, IN, LITERAL, NOT_LITERAL, POSSESSIVE_REPEAT
from types import ModuleType
from typing import Any

import pytest

import racecar.parsers
import racecar.policy
from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1 import ChunkReader, read_request_head, read_response_head
from racecar.policy.reasons import Reason

ONE_CHARACTER = {ANY, IN, LITERAL, NOT_LITERAL}


def modules(package: ModuleType) -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        yield importlib.import_module(found.name)


def compiled(module: ModuleType) -> Iterator[tuple[str, "re.Pattern[Any]"]]:
    """The module's patterns, also those of which it keeps a method only."""
    for name, value in vars(module).items():
        pattern = getattr(value, "__self__", value)
        if isinstance(pattern, re.Pattern):
            yield f"{module.__name__}.{name}", pattern


PATTERNS = {
    name: pattern
    for package in (racecar.parsers, racecar.policy)
    for module in modules(package)
    for name, pattern in compiled(module)
}


def possessive_groups(nodes: Iterable[Any]) -> int:
    """Count possessive repeats of more than one set of characters, and atomic groups, at any depth."""
    count = 0
    for node in nodes:
        if isinstance(node, sre.SubPattern):
            count += possessive_groups(node)
        elif isinstance(node, tuple | list):
            if node and node[0] is ATOMIC_GROUP:
                count += 1
            elif node and node[0] is POSSESSIVE_REPEAT:
                items = list(node[1][2])
                count += len(items) != 1 or items[0][0] not in ONE_CHARACTER
            count += possessive_groups(node)
    return count


@pytest.mark.parametrize("name", PATTERNS)
def test_only_repeats_of_one_set_of_characters_are_possessive(name: str) -> None:
    """In Python 3.11.2 (Debian 12) a possessive group that fails halfway keeps what it consumed."""
    pattern = PATTERNS[name]
    assert possessive_groups(sre.parse(pattern.pattern, pattern.flags & ~re.UNICODE)) == 0


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        (r"a*+[bc]++.?+[^d]{1,2}+(?:ef)*(?:g|h)?", 0),
        (r"(?:ab)*+", 1),
        (r"(?:(?:ab)*+c)?|(?:d|ef)++", 2),
        (r"x(?>ab)", 1),
        (r"(?=(?:ab)?+)(c(?:de){2}+)", 2),
    ],
)
def test_possessive_groups_are_seen_at_any_depth(pattern: str, count: int) -> None:
    assert possessive_groups(sre.parse(pattern)) == count


def test_every_pattern_is_looked_at() -> None:
    for name in ("parsers.http1.chunks._NEXT", "parsers.http1.heads._BARE_LINE_END", "policy.paths._PLAIN"):
        assert f"racecar.{name}" in PATTERNS


REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\n"
LONG = 60000


@pytest.mark.parametrize(
    "lines",
    [b"a:\r\n" * (LONG // 4), b"a" * LONG, b"a:" * (LONG // 2), b"a: " + b" " * LONG, b"a:b\r\n" * (LONG // 5) + b"c"],
)
@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\0\r\n\r\n", b"\r\n"])
def test_heads_take_linear_time(lines: bytes, end: bytes) -> None:
    started = time.perf_counter()
    for read, line in ((read_request_head, REQUEST), (read_response_head, RESPONSE)):
        try:
            read(line + lines + end)
        except ProtocolError:
            continue
    assert time.perf_counter() - started < 0.2


@pytest.mark.parametrize("piece", [b";a", b";a=b", b';a="b"', b'\\"', b"a", b';a="\\a', b"\\", b"f", b";"])
@pytest.mark.parametrize("start", [b"1", b'1;a="'])
@pytest.mark.parametrize("room", [1000, 1_000_000])
def test_chunk_size_lines_take_linear_time(start: bytes, piece: bytes, room: int) -> None:
    started = time.perf_counter()
    for end in (b"\r\n", b'"\r\n', b"\0\r\n"):
        try:
            ChunkReader(Reason.HTTP_FRAMING).feed(start + piece * (room // len(piece)) + end, 0)
        except ProtocolError:
            continue
    assert time.perf_counter() - started < 0.2
