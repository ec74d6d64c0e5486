"""Find the header fields that matter in a head whose grammar was checked, and what they say of its body.

The grammar proves that a name starts only behind CRLF and ends at its colon, so one search over the lower-case copy of
a head is exact, and no loop over all its headers is needed.
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from racecar.parsers.errors import ProtocolError
from racecar.policy.reasons import Reason

CHUNKED = -1
UNTIL_CLOSE = -2
MAX_LENGTH_DIGITS = 15

# CGI-like servers make one and the same character of all in a name that are no letters or digits (RFC 3875 4.1.18).
_MARKS = b"!#$%&'*+-.^_`|~"
_MARK = b"[" + re.escape(_MARKS) + b"]"
_ONE_MARK = bytes.maketrans(_MARKS, b"-" * len(_MARKS))
_MATTER = re.compile(
    rb"\n(host|connection|content" + _MARK + rb"length|transfer" + _MARK + rb"encoding|expect|upgrade)"
    rb":[\t ]*+([^\r]*+)"
).findall


def fields_that_matter(low: bytes) -> list[tuple[bytes, bytes]]:
    """Return names and values, in order, from a lower-case head; values may end in space."""
    return _MATTER(low)


def plain_name(name: bytes) -> bytes:
    """A lower-case name with hyphens for all other marks: one for all names that CGI-like servers take for the same."""
    return name.translate(_ONE_MARK)


@lru_cache(maxsize=256)
def _lines_called(name: bytes) -> Callable[[bytes], list[tuple[bytes, bytes]]]:
    spelled = _MARK.join(map(re.escape, plain_name(name).split(b"-")))
    return re.compile(rb"\n(" + spelled + rb"):[\t ]*+([^\r]*+)", re.IGNORECASE).findall


def header_values(raw: bytes, name: bytes) -> list[bytes]:
    """Return the values of all headers called `name` (in lower case), as sent, without the space around them.

    `raw` is a head whose grammar was checked. To CGI-like servers `X-A`, `X_A` and `X.A` are one: values of a header
    that is spelled so count too, but only beside one that is spelled right, since they cannot stand for it.
    """
    lines = _lines_called(name)(raw)
    if not any(spelled.lower() == name for spelled, _ in lines):
        return []
    return [value.rstrip(b" \t") for _, value in lines]


def list_members(value: bytes) -> Iterable[bytes]:
    """Return the members of a comma-separated value (RFC 9110 5.6.1), empty ones left out."""
    return filter(None, [part.strip(b" \t") for part in value.split(b",")])


def declared_length(framing: list[tuple[bytes, bytes]], *, http_1_0: bool, fault: Reason) -> int:
    """Return the length that a head's framing headers declare, or CHUNKED. Raises ProtocolError(fault) if in doubt.

    Stricter than RFC 9112 6.3: one framing header, one coding, digits only.
    """
    ((name, value), *more) = framing
    if more:
        raise ProtocolError(fault, "more than one framing header")
    value = value.rstrip(b" \t")
    if name == b"content-length":
        if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
            raise ProtocolError(fault, "Content-Length is no number in range")
        return int(value)
    if name != b"transfer-encoding":
        raise ProtocolError(fault, "a framing header in another spelling")
    if http_1_0:
        raise ProtocolError(fault, "Transfer-Encoding in HTTP/1.0")
    if value != b"chunked":
        raise ProtocolError(fault, "Transfer-Encoding other than chunked")
    return CHUNKED
