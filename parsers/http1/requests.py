"""Read the head of a request by an allow-grammar: what is not known to be read alike by every server is refused."""

import re
from dataclasses import dataclass

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1.fields import declared_length, fields_that_matter, list_members
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
    host: bytes  # in lower case; empty in HTTP/1.0 without Host
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
    if raw.count(b"\n") - 2 > MAX_HEADERS:
        raise ProtocolError(Reason.HTTP_TOO_MANY_HEADERS, f"above {MAX_HEADERS} headers")
    method, target, minor = match.groups()
    http_1_0 = minor == b"0"
    hosts, expectations, framing, upgrades = [], [], [], False
    options: set[bytes] = set()
    for name, value in fields_that_matter(raw.lower()):
        if name == b"host":
            hosts.append(value.rstrip(b" \t"))
        elif name == b"connection":
            options.update(list_members(value))
        elif name == b"expect":
            expectations.append(value.rstrip(b" \t"))
        elif name == b"upgrade":
            upgrades = True
        else:
            framing.append((name, value))
    host = _host(hosts, http_1_0)
    length = declared_length(framing, http_1_0=http_1_0, fault=Reason.HTTP_FRAMING) if framing else 0
    if options and not options <= _CONNECTION_OPTIONS:
        raise ProtocolError(Reason.HTTP_MALFORMED, "Connection names another header")
    if expectations and expectations != [b"100-continue"]:
        raise ProtocolError(Reason.HTTP_EXPECT, "Expect other than 100-continue")
    keep_alive = b"close" not in options and (not http_1_0 or b"keep-alive" in options)
    upgrades = upgrades or b"upgrade" in options
    return RequestHead(method, target, host, http_1_0, length, keep_alive, bool(expectations), upgrades, len(raw))


def _host(hosts: list[bytes], http_1_0: bool) -> bytes:
    """Return the one Host (RFC 9112 3.2)."""
    if not hosts and http_1_0:
        return b""
    if len(hosts) != 1:
        raise ProtocolError(Reason.HTTP_HOST, f"{len(hosts)} Host headers")
    if _HOST(hosts[0]) is None:
        raise ProtocolError(Reason.HTTP_HOST, "Host is no authority")
    return hosts[0]
