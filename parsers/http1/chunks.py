"""Follow a chunked body: strict sizes, extensions and trailers (RFC 9112 7.1), nothing decoded and nothing kept."""

import re

from racecar.parsers.errors import ProtocolError
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
_FORBIDDEN_TRAILERS = re.compile(
    rb"(?:^|\r\n)(?:content[-_]length|transfer[-_]encoding|host|connection|trailer)[:]", re.IGNORECASE
).search  # RFC 9110 6.5.1: a recipient that merges them would frame or route anew


class ChunkReader:
    """The state of one chunked body."""

    __slots__ = ("_fault", "_match", "_start", "left")

    def __init__(self, fault: Reason) -> None:
        self.left = 0  # bytes of the current chunk that may pass unread
        self._fault = fault
        self._match = _FIRST
        self._start = _FIRST_START

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
        if _FORBIDDEN_TRAILERS(data[pos : match.end()]):
            raise ProtocolError(self._fault, "a trailer that would frame or route the message")
        return match.end(), True
