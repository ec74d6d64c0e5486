"""Read the head of a request by an allow-grammar: what is not known to be read alike by every server is refused."""

import re
from dataclasses import dataclass

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1.fields import CHUNKED, declared_length, fields_that_matter, list_members
from racecar.parsers.http1.heads import FIELDS, MAX_METHOD_BYTES, TOKEN, check_request_prefix
from racecar.parsers.http1.limits import DEFAULT_LIMITS, HeadLimits
from racecar.policy.reasons import Reason

_HEAD = re.compile(rb"(" + TOKEN + rb") ([\x21-\x7e]++) HTTP/1\.([01])\r\n" + FIELDS).fullmatch
# A subset of RFC 3986 3.2.2: a name or IPv4 address of unreserved characters, or an IPv6 address in brackets; a port.
_AUTHORITY = rb"(?:[A-Za-z0-9\-._~]++|\[[0-9A-Fa-f:.]++\])"
_HOST = re.compile(_AUTHORITY + rb"(?::[0-9]{1,5}+)?").fullmatch
_TUNNEL = re.compile(rb"(" + _AUTHORITY + rb"):[0-9]{1,5}+").fullmatch
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp]://([^/?#]++)(.*)", re.DOTALL).fullmatch  # RFC 9112 3.2.2
# No capitals, no tabs and nothing behind it, though RFC 9112 allows them: some servers then see no chunked body.
_CHUNKED_AS_SENT = re.compile(rb"\n(?i:transfer-encoding): *+chunked\r").search
# What Connection may name. Naming anything else would have the next hop drop a header that a rule may have read.
_CONNECTION_OPTIONS = frozenset((b"close", b"keep-alive", b"te", b"upgrade", b"http2-settings"))
WEBSOCKET = b"websocket"
OTHER_UPGRADE = b"?"


@dataclass(slots=True)
class RequestHead:
    """What the head of a request says. Names and values are the client's: escape before showing them."""

    method: bytes
    target: bytes  # as sent
    judged: bytes  # path and query; of absolute-form too, where an empty path is `/`, or `*` for OPTIONS
    host: bytes  # in lower case; empty in HTTP/1.0 without Host
    http_1_0: bool
    length: int  # of the body: a number or CHUNKED
    keep_alive: bool  # the client means to send more requests
    expects_continue: bool
    upgrade: bytes  # WEBSOCKET if that can come of it, OTHER_UPGRADE for any other hint of an upgrade, else empty
    size: int  # bytes of the head itself


def read_request_head(raw: bytes, limits: HeadLimits = DEFAULT_LIMITS) -> RequestHead:
    """Read a whole head, blank line included. Raises ProtocolError; never anything else, whatever the bytes."""
    try:
        return _read(raw, limits)
    except ProtocolError:
        check_request_prefix(raw, 0, limits)  # an earlier byte at fault is named: the same reason however it was cut
        raise


def _read(raw: bytes, limits: HeadLimits) -> RequestHead:
    match = _HEAD(raw)
    if match is None:
        raise ProtocolError(Reason.HTTP_MALFORMED, "header lines")
    if len(raw) > limits.max_target_bytes or match.end(1) > MAX_METHOD_BYTES:
        check_request_prefix(raw, 0, limits)
    if raw.count(b"\n") - 2 > limits.max_headers:
        raise ProtocolError(Reason.HTTP_TOO_MANY_HEADERS, f"above {limits.max_headers} headers")
    method, target, minor = match.groups()
    http_1_0 = minor == b"0"
    hosts, expectations, framing, upgrades = [], [], [], []
    options: set[bytes] = set()
    for name, value in fields_that_matter(raw.lower()):
        if name == b"host":
            hosts.append(value.rstrip(b" \t"))
        elif name == b"connection":
            options.update(list_members(value))
        elif name == b"expect":
            expectations.append(value.rstrip(b" \t"))
        elif name == b"upgrade":
            upgrades.append(value.rstrip(b" \t"))
        else:
            framing.append((name, value))
    host = _host(hosts, http_1_0)
    length = declared_length(framing, http_1_0=http_1_0, fault=Reason.HTTP_FRAMING) if framing else 0
    if length == CHUNKED and not _CHUNKED_AS_SENT(raw):
        raise ProtocolError(Reason.HTTP_FRAMING, "Transfer-Encoding other than chunked")  # capitals: servers differ
    if length >= 0 and framing and framing[0][1].rstrip(b" \t") != b"%d" % length:
        raise ProtocolError(Reason.HTTP_FRAMING, "Content-Length with leading zeros")  # octal for some servers
    if options and not options <= _CONNECTION_OPTIONS:
        raise ProtocolError(Reason.HTTP_MALFORMED, "Connection names another header")
    if expectations and expectations != [b"100-continue"]:
        raise ProtocolError(Reason.HTTP_EXPECT, "Expect other than 100-continue")
    judged = target
    if method == b"CONNECT":
        host = _tunnel(target, host, length)
    elif not target.startswith(b"/"):
        judged = _judged(method, target, host)
    keep_alive = b"close" not in options and (not http_1_0 or b"keep-alive" in options)
    upgrade = b""
    if upgrades or b"upgrade" in options:
        may_switch = upgrades == [WEBSOCKET] and b"upgrade" in options and method == b"GET" and not http_1_0
        upgrade = WEBSOCKET if may_switch and not length else OTHER_UPGRADE
    return RequestHead(
        method, target, judged, host, http_1_0, length, keep_alive, bool(expectations), upgrade, len(raw)
    )


def _host(hosts: list[bytes], http_1_0: bool) -> bytes:
    """Return the one Host (RFC 9112 3.2)."""
    if not hosts and http_1_0:
        return b""
    if len(hosts) != 1:
        raise ProtocolError(Reason.HTTP_HOST, f"{len(hosts)} Host headers")
    if _HOST(hosts[0]) is None:
        raise ProtocolError(Reason.HTTP_HOST, "Host is no authority")
    return hosts[0]


def _judged(method: bytes, target: bytes, host: bytes) -> bytes:
    """Return what rules look at of a target that is no path: asterisk-form, absolute-form (RFC 9112 3.2.2, 3.2.4)."""
    if target == b"*":
        if method != b"OPTIONS":
            raise ProtocolError(Reason.HTTP_TARGET_FORM, "* with a method other than OPTIONS")
        return target
    match = _ABSOLUTE(target)
    if match is None:
        raise ProtocolError(Reason.HTTP_TARGET_FORM, "a target that is neither a path nor http://")
    authority, rest = match.groups()
    if authority.lower() != host:
        raise ProtocolError(Reason.HTTP_HOST, "Host is not the authority of the target")
    if rest.startswith(b"/"):
        return rest
    return b"*" if method == b"OPTIONS" and not rest else b"/" + rest


def _tunnel(target: bytes, host: bytes, length: int) -> bytes:
    """Return the authority that CONNECT asks for, in lower case (RFC 9112 3.2.3)."""
    authority = target.lower()
    match = _TUNNEL(authority)
    if match is None:
        raise ProtocolError(Reason.HTTP_TARGET_FORM, "CONNECT with a target other than host:port")
    if host not in (b"", authority, match[1]):
        raise ProtocolError(Reason.HTTP_HOST, "Host is not the authority of the target")
    if length:
        raise ProtocolError(Reason.HTTP_FRAMING, "CONNECT with a body")
    return authority
