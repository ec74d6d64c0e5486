"""Follow a chunked body: strict sizes, extensions and trailers (RFC 9112 7.1), nothing decoded and nothing kept."""

import re

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1.fields import plain_name
from racecar.parsers.http1.heads import FIELDS, TOKEN
from racecar.policy.reasons import Reason

MAX_SIZE_LINE_BYTES = 1024
MAX_TRAILER_BYTES = 8192

_PLAIN = rb"[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]*+"  # no quote, no backslash
_QUOTED = rb'"' + _PLAIN + rb"(?:\\[\t \x21-\x7e\x80-\xff]" + _PLAIN + rb')*"'
_EXTENSIONS = rb"(?:;" + TOKEN + rb"(?:=(?:" + TOKEN + rb"|" + _QUOTED + rb"))?)*"
# At most 15 digits; what a size line may be as long as it has no end.
_SIZE = rb"([0-9A-Fa-f]{1,15}+)" + _EXTENSIONS + rb"\r\n"
_FIRST = re.compile(_SIZE).match
_NEXT = re.compile(rb"\r\n" + _SIZE).match
_TRAILERS = re.compile(FIELDS).match
_START = re.compile(rb"(?:\r(?:\n(?:[0-9A-Fa-f]{1,15}+(?:;[\t\x20-\x7e\x80-\xff]*+)?\r?)?)?)?\Z").match
_FIRST_START = re.compile(rb"(?:[0-9A-Fa-f]{1,15}+(?:;[\t\x20-\x7e\x80-\xff]*+)?\r?)?\Z").match
_NAMES = re.compile(rb"(?:\A|\n)([^:\r\n]++):").findall

# RFC 9110 6.5.1: a recipient that merges trailers into the head would frame, route, authorise or modify by them.
FRAMING_TRAILERS = frozenset(
    (b"content-length", b"transfer-encoding", b"host", b"connection", b"trailer", b"te", b"upgrade", b"expect")
)
REQUEST_TRAILERS = FRAMING_TRAILERS | frozenset(
    (
        b"authorization", b"cache-control", b"content-encoding", b"content-range", b"content-type", b"cookie",
        b"forwarded", b"if-match", b"if-modified-since", b"if-none-match", b"if-range", b"if-unmodified-since",
        b"keep-alive", b"max-forwards", b"proxy-authorization", b"range", b"x-forwarded-for", b"x-forwarded-host",
        b"x-http-method", b"x-http-method-override", b"x-method-override", b"x-original-url", b"x-rewrite-url",
    )
)  # fmt: skip


class ChunkReader:
    """The state of one chunked body."""

    __slots__ = ("_fault", "_forbidden", "_match", "_start", "left")

    def __init__(self, fault: Reason, forbidden_trailers: frozenset[bytes] = FRAMING_TRAILERS) -> None:
        """`fault` is the reason of the ProtocolErrors; `forbidden_trailers` are `plain_name`s."""
        self._forbidden = forbidden_trailers
        self.left = 0  # bytes of the current chunk that may pass unread
        self._fault = fault
        self._match = _FIRST
        self._start = _FIRST_START

    @property
    def unread(self) -> int:
        """How many of the next bytes may pass without being fed: what follows them tells of the next chunk."""
        return self.left

    def moved(self, count: int) -> None:
        """Count bytes that passed without being fed, at most `unread`."""
        self.left -= count

    def feed(self, data: bytes, pos: int) -> tuple[int, bool]:
        """Return the position up to which the bytes are judged, and whether the body ends there.

        What lies behind that position of an unfinished body must be handed in again with the bytes that follow it:
        half a size line or trailers, never more than MAX_SIZE_LINE_BYTES or MAX_TRAILER_BYTES. Raises ProtocolError.
        """
        size = len(data)
        while True:
            take = min(self.left, size - pos)
            pos += take
            self.left -= take
            if self.left or pos == size:
                return pos, False
            if self._match is _TRAILERS:
                return self._trailers(data, pos)
            match = self._match(data, pos, pos + MAX_SIZE_LINE_BYTES)
            if match is None:
                if size - pos > MAX_SIZE_LINE_BYTES or self._start(data, pos) is None:
                    raise ProtocolError(self._fault, "chunk size line")
                return pos, False
            pos = match.end()
            self.left = int(match[1], 16)
            self._match, self._start = (_NEXT, _START) if self.left else (_TRAILERS, _START)

    def _trailers(self, data: bytes, pos: int) -> tuple[int, bool]:
        if data.startswith(b"\r\n", pos):
            return pos + 2, True
        end = data.find(b"\r\n\r\n", pos) + 4
        if end < 4 and len(data) - pos <= MAX_TRAILER_BYTES:
            return pos, False
        match = _TRAILERS(data, pos, pos + MAX_TRAILER_BYTES)
        if match is None:
            raise ProtocolError(self._fault, "trailers")
        names = _NAMES(data[pos : match.end()].lower())
        if not self._forbidden.isdisjoint(map(plain_name, names)):
            raise ProtocolError(self._fault, "a trailer that would frame or route the message")
        return match.end(), True
