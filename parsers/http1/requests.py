"""Read the head of a request by an allow-grammar: what is not known to be read alike by every server is refused."""

import re
from dataclasses import dataclass

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1.fields import declared_length, field_values, list_members
from racecar.parsers.http1.heads import (
    FIELDS,
    MAX_HEADERS,
    MAX_METHOD_BYTES,
    MAX_TARGET_BYTES,
    TOKEN,
    check_request_prefix,
)
from racecar.policy.reasons import Reason

_HEAD = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]++) HTTP/1\.([01])\r\n" + FIELDS).fullmatch
# A subset of RFC 3986 3.2.2: a name or IPv4 address of unreserved characters, or an IPv6 address in brackets; a port.
_HOST = re.compile(rb"(?:[A-Za-z0-9\-._~]++|\[[0-9A-Fa-f:.]++\])(?::[0-9]{1,5}+)?").fullmatch
# What Connection may name. Naming anything else would have the next hop drop a header that a rule may have read.
_CONNECTION_OPTIONS = frozenset((b"close", b"keep-alive", b"te", b"upgrade", b"http2-settings"))


@dataclass(slots=True)
class RequestHead:
    """What the head of a request says. Names and values are the client's: escape before showing them."""

    method: bytes
    target: bytes
    host: bytes  # as sent; empty in HTTP/1.0 without Host
    http_1_0: bool
    length: int  # of the body: a number or CHUNKED
    keep_alive: bool  # the client means to send more requests
    expects_continue: bool
    upgrades: bool  # an Upgrade header, or Connection: upgrade
    size: int  # bytes of the head itself


def read_request_head(raw: bytes) -> RequestHead:
    """Read a whole head, blank line included. Raises ProtocolError; never anything else, whatever the bytes."""
    try:
        return _read(raw)
    except ProtocolError:
        check_request_prefix(raw)  # if an earlier byte is at fault, name that: the same reason however it was cut
        raise


def _read(raw: bytes) -> RequestHead:
    match = _HEAD(raw)
    if match is None:
        raise ProtocolError(Reason.HTTP_MALFORMED, "header lines")
    if len(raw) > MAX_TARGET_BYTES or match.end(1) > MAX_METHOD_BYTES:
        check_request_prefix(raw)
    if raw.count(b"\r\n") - 2 > MAX_HEADERS:
        raise ProtocolError(Reason.HTTP_TOO_MANY_HEADERS, f"above {MAX_HEADERS} headers")
    method, target, minor = match.groups()
    low = raw.lower()
    http_1_0 = minor == b"0"
    host = _host(raw, low, http_1_0)
    length = declared_length(low, http_1_0=http_1_0, fault=Reason.HTTP_FRAMING)
    options = list_members(low, b"connection") if b"\r\nconnection:" in low else ()
    if not _CONNECTION_OPTIONS.issuperset(options):
        raise ProtocolError(Reason.HTTP_MALFORMED, "Connection names another header")
    return RequestHead(
        method=method,
        target=target,
        host=host,
        http_1_0=http_1_0,
        length=length or 0,
        keep_alive=b"close" not in options and (not http_1_0 or b"keep-alive" in options),
        expects_continue=_expects_continue(low),
        upgrades=b"\r\nupgrade:" in low or b"upgrade" in options,
        size=len(raw),
    )


def _host(raw: bytes, low: bytes, http_1_0: bool) -> bytes:
    """Return the one Host (RFC 9112 3.2), as sent."""
    values = field_values(low, b"host")
    if not values and http_1_0:
        return b""
    if len(values) != 1:
        raise ProtocolError(Reason.HTTP_HOST, f"{len(values)} Host headers")
    if _HOST(values[0]) is None:
        raise ProtocolError(Reason.HTTP_HOST, "Host is no authority")
    start = low.find(b"\r\nhost:") + 7
    return raw[start : raw.find(b"\r\n", start)].strip(b" \t")


def _expects_continue(low: bytes) -> bool:
    if b"\r\nexpect:" not in low:
        return False
    if field_values(low, b"expect") != [b"100-continue"]:
        raise ProtocolError(Reason.HTTP_EXPECT, "Expect other than 100-continue")
    return True
