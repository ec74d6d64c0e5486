"""Read single header fields out of a head whose grammar was checked.

The grammar proves that a name starts only behind CRLF and ends at its colon, so a search for `CRLF name:` in the
lower-case copy of the head is exact and no loop over all headers is needed.
"""

from racecar.parsers.errors import ProtocolError
from racecar.policy.reasons import Reason

CHUNKED = -1
UNTIL_CLOSE = -2
MAX_LENGTH_DIGITS = 15


def field_values(low: bytes, name: bytes) -> list[bytes]:
    """Return the values of the header `name` (lower case), without the space around them, in order."""
    values = []
    mark = b"\r\n" + name + b":"
    found = low.find(mark)
    while found >= 0:
        start = found + len(mark)
        end = low.find(b"\r\n", start)
        values.append(low[start:end].strip(b" \t"))
        found = low.find(mark, end)
    return values


def list_members(low: bytes, name: bytes) -> list[bytes]:
    """Return the members of a comma-separated header over all its lines (RFC 9110 5.6.1), empty ones left out."""
    members = [part.strip(b" \t") for value in field_values(low, name) for part in value.split(b",")]
    return [member for member in members if member]


def declared_length(low: bytes, *, http_1_0: bool, fault: Reason) -> int | None:
    """Return the length that a head declares, CHUNKED, or None. Raises ProtocolError(fault) if in doubt.

    Stricter than RFC 9112 6.3: one framing header at most, one coding, digits only. Names with an underscore are
    refused because CGI-like servers read them as the same name.
    """
    lengths = low.count(b"\r\ncontent-length:")
    codings = low.count(b"\r\ntransfer-encoding:")
    if b"\r\ncontent_length:" in low or b"\r\ntransfer_encoding:" in low:
        raise ProtocolError(fault, "a framing header spelled with an underscore")
    if not lengths and not codings:
        return None
    if lengths + codings > 1:
        raise ProtocolError(fault, "more than one framing header")
    if codings:
        if http_1_0:
            raise ProtocolError(fault, "Transfer-Encoding in HTTP/1.0")
        if field_values(low, b"transfer-encoding") != [b"chunked"]:
            raise ProtocolError(fault, "Transfer-Encoding other than chunked")
        return CHUNKED
    (value,) = field_values(low, b"content-length")
    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
        raise ProtocolError(fault, "Content-Length is no number in range")
    return int(value)
