"""What the Python clients share. They are programs: `CLIENT BASE_URL`, a script of calls on stdin, results on stdout.

A call is a line of six columns, parted by tabs: method, path, size of the body (-1: none), flags (chunked, expect,
close, follow), how many at once, one header line. A result is a line of five, parted by spaces: status, length and
SHA-256 of the body as the application gets it, Content-Length (or -), the first 200 bytes in hex; or `error` and the
text in hex. Every client, in whatever language, talks like this.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """One line of the script."""

    method: str
    path: str
    size: int
    flags: frozenset[str]
    parallel: int
    headers: dict[str, str]


def calls() -> Iterator[Call]:
    """Read the script."""
    for line in sys.stdin.read().splitlines():
        method, path, size, flags, parallel, header = line.split("\t")
        name, _, value = header.partition(": ")
        headers = {name: value} if name else {}
        if "close" in flags:
            headers["Connection"] = "close"
        yield Call(method, path, int(size), frozenset(flags.split(",")), int(parallel), headers)


def pattern(size: int) -> bytes:
    """What every body consists of."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def pieces(size: int) -> Iterator[bytes]:
    """The same in pieces of odd lengths, for a client that streams."""
    body = pattern(size)
    at, step = 0, 1
    while at < size:
        yield body[at : at + step]
        at += step
        step = min(step * 3, 30_000)


def say(status: int, body: bytes, content_length: str | None) -> None:
    """Tell what the application got."""
    digest = hashlib.sha256(body).hexdigest()
    _write(f"{status} {len(body)} {digest} {content_length or '-'} {body[:200].hex()}")


def say_error(error: BaseException) -> None:
    _write(f"error {f'{type(error).__name__}: {error}'.encode().hex()}")


def _write(line: str) -> None:
    """In one piece: several threads have something to say."""
    os.write(1, line.encode() + b"\n")
