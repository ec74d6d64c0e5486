"""Find where a head ends, however it is cut, and refuse early what can never become one.

How long a head may be is a `HeadLimits`. What a prefix is refused for does not depend on how
the bytes were cut: `check_request_prefix` and `check_response_prefix` look at the bytes in order, so a longer prefix
is refused for the same reason as the shorter one.
"""

import re
from collections.abc import Callable

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1.limits import DEFAULT_LIMITS, HeadLimits
from racecar.policy.reasons import Reason

MAX_STATUS_LINE_BYTES = 8192
MAX_METHOD_BYTES = 32

# Possessive are only repeats of one set of characters: Python 3.11.2 (Debian 12) keeps what a possessive group consumed
# when it fails halfway, and matches behind it. Groups stay linear because the next byte alone says how they go on.
TOKEN_CHARACTER = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"  # RFC 9110 5.6.2
TOKEN = TOKEN_CHARACTER + rb"++"
# RFC 9112 5: no space before the colon, no line folding, CRLF only, no control bytes in a value.
FIELDS = rb"(?:" + TOKEN + rb":[\t\x20-\x7e\x80-\xff]*+\r\n)*\r\n"

_METHOD = re.compile(TOKEN_CHARACTER + rb"*+").match
_TARGET = re.compile(rb"[\x21-\x7e]*+").match
_BARE_LINE_END = re.compile(rb"\r(?!\n|\Z)|(?<!\r)\n").search  # \Z: what follows it may still come
_HTTP2_LINE = b"PRI * HTTP/2"  # RFC 9113 3.4, as far as it cannot be a request of HTTP/1.x
_TLS_HANDSHAKE = 0x16  # RFC 8446 5.1
_STATUS_LINES = re.compile(rb"HTTP/1\.[01] [1-9]\d\d(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n")


def first_bytes(data: bytes | bytearray) -> Reason | None:
    """Say what a client's first bytes are if they cannot become an HTTP/1.x request; None as long as they can.

    HTTP_TLS, HTTP_HTTP2 or HTTP_NOT_HTTP, as soon as the bytes allow: TLS would wait for a blank line for ever.
    """
    if data[:1] == b"\x16":
        return Reason.HTTP_TLS
    if data[:12] == _HTTP2_LINE:
        return Reason.HTTP_HTTP2
    method = _METHOD(data)
    assert method is not None
    end = method.end()
    if end > MAX_METHOD_BYTES or (end < len(data) and (end == 0 or data[end] != 0x20)):
        return Reason.HTTP_NOT_HTTP
    return None


def _request_line(data: bytes | bytearray, limits: HeadLimits) -> int:
    """Return the length of the request line, 0 if it is not complete."""
    reason = first_bytes(data)
    if reason is not None:
        raise ProtocolError(reason, "the first bytes are no request of HTTP/1.x")
    start = data.find(b" ") + 1
    if not start:
        return 0
    target = _TARGET(data, start)
    assert target is not None
    end = target.end()
    if end - start > limits.max_target_bytes:
        raise ProtocolError(Reason.HTTP_TARGET_TOO_LONG, f"target above {limits.max_target_bytes} bytes")
    if end == len(data):
        return 0
    rest = bytes(data[end : end + 11])
    if end == start or not (b" HTTP/1.1\r\n".startswith(rest) or b" HTTP/1.0\r\n".startswith(rest)):
        raise ProtocolError(Reason.HTTP_MALFORMED, "request line")
    return end + 11 if len(rest) == 11 else 0


def _status_line(data: bytes | bytearray, _: HeadLimits) -> int:
    """Return the length of the status line, 0 if it is not complete."""
    end = data.find(b"\n", 0, MAX_STATUS_LINE_BYTES) + 1
    if not end and len(data) >= MAX_STATUS_LINE_BYTES:
        raise ProtocolError(Reason.HTTP_RESPONSE_MALFORMED, f"status line above {MAX_STATUS_LINE_BYTES} bytes")
    if _STATUS_LINES.match(data) is None if end else not b"HTTP/".startswith(bytes(data[:5])):
        raise ProtocolError(Reason.HTTP_RESPONSE_MALFORMED, "status line")
    return end


def _check(
    data: bytes | bytearray,
    checked: int,
    limits: HeadLimits,
    line: Callable[[bytes | bytearray, HeadLimits], int],
    malformed: Reason,
    too_large: Reason,
) -> int:
    most = limits.max_head_bytes
    if not checked:
        checked = line(data, limits)
    if checked:
        if _BARE_LINE_END(data, checked, most):
            raise ProtocolError(malformed, "a line that does not end in CRLF")
        checked = max(checked, min(len(data), most) - 1)  # the last byte may be half of a CRLF
    if len(data) > most:
        raise ProtocolError(too_large, f"head above {most} bytes")
    return checked


def check_request_prefix(data: bytes | bytearray, checked: int = 0, limits: HeadLimits = DEFAULT_LIMITS) -> int:
    """Raise ProtocolError if no request's head can start with `data`, else say how far it need not be read again."""
    return _check(data, checked, limits, _request_line, Reason.HTTP_MALFORMED, Reason.HTTP_HEAD_TOO_LARGE)


def check_response_prefix(data: bytes | bytearray, checked: int = 0, limits: HeadLimits = DEFAULT_LIMITS) -> int:
    """Raise ProtocolError if no response's head can start with `data`, else say how far it need not be read again."""
    return _check(data, checked, limits, _status_line, Reason.HTTP_RESPONSE_MALFORMED, Reason.HTTP_RESPONSE_MALFORMED)


Check = Callable[[bytes | bytearray, int, HeadLimits], int]


class HeadBuffer:
    """Cut heads out of a stream; holds the part of a head that waits for the rest, bounded by `limits`."""

    __slots__ = ("_buffer", "_check", "_checked", "_limits")

    def __init__(self, check: Check, limits: HeadLimits = DEFAULT_LIMITS) -> None:
        self._check = check
        self._limits = limits
        self._buffer: bytearray | None = None  # an idle connection holds none
        self._checked = 0

    @property
    def is_empty(self) -> bool:
        """No part of a head waits."""
        return self._buffer is None

    @property
    def pending(self) -> int:
        """How many bytes of a head wait for the rest."""
        return 0 if self._buffer is None else len(self._buffer)

    def clear(self) -> None:
        self._buffer, self._checked = None, 0

    def cut(self, data: bytes, start: int) -> tuple[bytes | None, int]:
        """Return the head that `data[start:]` completes and the position behind it, or None and len(data).

        Raises ProtocolError for a prefix that cannot become a head; the buffer is of no use then.
        """
        if self._buffer is None:
            end = data.find(b"\r\n\r\n", start) + 4
            if end > 3:
                return data[start:end], end
            self._buffer = bytearray(data[start:])
            self._checked = self._check(self._buffer, 0, self._limits)
            return None, len(data)
        held = len(self._buffer)
        room = self._limits.max_head_bytes + 1 - held
        self._buffer += data[start : start + room]
        end = self._buffer.find(b"\r\n\r\n", max(0, held - 3)) + 4
        if end > 3:
            head = bytes(self._buffer[:end])
            self.clear()
            return head, start + end - held
        self._checked = self._check(self._buffer, self._checked, self._limits)
        return None, len(data)
