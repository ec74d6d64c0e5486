"""Read the head of a response: its grammar, and how its body ends. What is in doubt is refused."""

import re
from dataclasses import dataclass

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1.fields import UNTIL_CLOSE, declared_length, fields_that_matter, list_members
from racecar.parsers.http1.heads import FIELDS, MAX_STATUS_LINE_BYTES, check_response_prefix
from racecar.parsers.http1.limits import DEFAULT_LIMITS, HeadLimits
from racecar.policy.reasons import Reason

_HEAD = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [\t\x20-\x7e\x80-\xff]*+)?\r\n" + FIELDS).fullmatch
_FRAMING = frozenset((b"content-length", b"content_length", b"transfer-encoding", b"transfer_encoding"))


@dataclass(slots=True)
class ResponseHead:
    """What the head of a response says."""

    status: int
    http_1_0: bool
    declared: int | None  # Content-Length, CHUNKED, or neither
    keep_alive: bool  # as the head says; a body that ends with the connection is not looked at
    upgrade: bytes  # the protocol that it switches to, in lower case; empty if the head names none, or several
    size: int  # bytes of the head itself


def read_response_head(raw: bytes, limits: HeadLimits = DEFAULT_LIMITS) -> ResponseHead:
    """Read a whole head, blank line included. Raises ProtocolError; never anything else, whatever the bytes."""
    try:
        return _read(raw, limits)
    except ProtocolError:
        check_response_prefix(raw, 0, limits)  # an earlier byte at fault is named: the same words however it was cut
        raise


def _read(raw: bytes, limits: HeadLimits) -> ResponseHead:
    match = _HEAD(raw)
    if match is None:
        raise ProtocolError(Reason.HTTP_RESPONSE_MALFORMED, "header lines")
    if len(raw) > limits.max_head_bytes or raw.count(b"\n") - 2 > limits.max_headers:
        text = f"above {limits.max_head_bytes} bytes or {limits.max_headers} headers"
        raise ProtocolError(Reason.HTTP_RESPONSE_MALFORMED, text)
    if raw.find(b"\n", 0, MAX_STATUS_LINE_BYTES) < 0:
        raise ProtocolError(Reason.HTTP_RESPONSE_MALFORMED, f"status line above {MAX_STATUS_LINE_BYTES} bytes")
    http_1_0, status = match[1] == b"0", int(match[2])
    framing: list[tuple[bytes, bytes]] = []
    upgrades: list[bytes] = []
    options: set[bytes] = set()
    for name, value in fields_that_matter(raw.lower()):
        if name == b"connection":
            options.update(list_members(value))
        elif name == b"upgrade":
            upgrades.append(value.rstrip(b" \t"))
        elif name.startswith((b"content", b"transfer")):
            framing.append((name, value))
    declared = None
    if framing:
        declared = declared_length(framing, http_1_0=http_1_0, fault=Reason.HTTP_RESPONSE_MALFORMED)
    if declared and (status < 200 or status == 204):
        # RFC 9110 8.6, RFC 9112 6.1: must not be sent; a client that believes it would read the next answer as a body.
        raise ProtocolError(Reason.HTTP_RESPONSE_MALFORMED, f"status {status} with a body")
    if options and not options.isdisjoint(_FRAMING):
        raise ProtocolError(Reason.HTTP_RESPONSE_MALFORMED, "Connection names a framing header")
    keep_alive = b"close" not in options and (not http_1_0 or b"keep-alive" in options)
    upgrade = upgrades[0] if len(upgrades) == 1 and b"upgrade" in options else b""
    return ResponseHead(status, http_1_0, declared, keep_alive, upgrade, len(raw))


def response_length(head: ResponseHead, *, method: bytes) -> int:
    """Return the length of the body that follows `head` in answer to `method`: a number, CHUNKED or UNTIL_CLOSE.

    RFC 9112 6.3. Answers to CONNECT and 101 switch protocols and are not this function's matter.
    """
    if method == b"HEAD" or head.status < 200 or head.status in (204, 304):
        return 0
    return UNTIL_CLOSE if head.declared is None else head.declared
