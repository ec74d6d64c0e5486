"""Follow a body to its end, by the length that its head declares. Nothing is decoded and nothing is kept."""

import sys
from typing import Protocol

from racecar.parsers.http1.chunks import FRAMING_TRAILERS, ChunkReader
from racecar.parsers.http1.fields import CHUNKED, UNTIL_CLOSE
from racecar.policy.reasons import Reason


class Body(Protocol):
    """What all bodies have in common."""

    @property
    def unread(self) -> int:
        """How many of the next bytes may pass without being fed; never the last one of a body that has an end."""

    def moved(self, count: int) -> None:
        """Count bytes that passed without being fed, at most `unread`."""

    def feed(self, data: bytes, pos: int, /) -> tuple[int, bool]:
        """Return the position up to which `data[pos:]` is judged, and whether the body ends there.

        What lies behind that position of a body that has not ended must be fed again with the bytes that follow it.
        Raises ProtocolError.
        """


class CountedBody:
    """Content-Length."""

    __slots__ = ("left",)

    def __init__(self, length: int) -> None:
        self.left = length

    @property
    def unread(self) -> int:
        return self.left - 1

    def moved(self, count: int) -> None:
        self.left -= count

    def feed(self, data: bytes, pos: int) -> tuple[int, bool]:
        take = min(self.left, len(data) - pos)
        self.left -= take
        return pos + take, not self.left


class EndlessBody:
    """All bytes until the connection ends: an answer without a length (RFC 9112 6.3)."""

    __slots__ = ()

    unread = sys.maxsize

    def moved(self, count: int) -> None:
        pass

    def feed(self, data: bytes, _pos: int) -> tuple[int, bool]:
        return len(data), False


ENDLESS = EndlessBody()


def body_of(length: int, *, fault: Reason, forbidden_trailers: frozenset[bytes] = FRAMING_TRAILERS) -> Body | None:
    """The body that a length declares: a number, CHUNKED or UNTIL_CLOSE; None if it is empty."""
    if length == CHUNKED:
        return ChunkReader(fault, forbidden_trailers)
    if length == UNTIL_CLOSE:
        return ENDLESS
    return CountedBody(length) if length else None
