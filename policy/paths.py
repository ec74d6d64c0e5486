"""Bring a request's path into the one form that every server reads alike, or refuse it.

Decision only: the request is forwarded as it was sent. Only the path component is normalised (RFC 3986 6.2.2);
the query is kept as it is.
"""

import re
from typing import NamedTuple

from racecar.policy.reasons import Reason


class Normalised(NamedTuple):
    """`target` is path and query in normal form; empty if `reason` is not NONE.

    HTTP_PATH_ENCODING is answered 403 and keeps the connection, HTTP_MALFORMED and HTTP_TARGET_FORM 400 and close.
    """

    target: bytes
    reason: Reason


# Already in normal form: no escape, parameter, empty segment or segment that starts with a dot. The usual path.
# No group is possessive: Python 3.11.2 (Debian 12) keeps what such a group consumed when it fails halfway.
_PLAIN = re.compile(rb"(?=/)(?:/[A-Za-z0-9\-_~!$&'()*+,=:@][A-Za-z0-9\-._~!$&'()*+,=:@]*+)*/?+(?:\?[!-\"$-\[\]-~]*+)?")
_NOT_VISIBLE = re.compile(rb"[^!-~]|[#\\]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_HIDDEN_DELIMITER = re.compile(rb"%(?:2[fFeE]|5[cC])")  # slash, dot, backslash
_DOT_PARAMETER = re.compile(rb"/\.{0,2}(?:;|%3[bB])")
_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_SLASHES = re.compile(rb"//+")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~")  # the dot stays escaped


def examine(target: bytes) -> Normalised:
    """Judge the encoding of a request's path and query (origin form) and normalise it."""
    if _PLAIN.fullmatch(target):
        return Normalised(target, Reason.NONE)
    path, mark, query = target.partition(b"?")
    reason = _refusal(target, path)
    if reason is not Reason.NONE:
        return Normalised(b"", reason)
    decoded = _ESCAPE.sub(_decode_unreserved, path)
    normal = _SLASHES.sub(b"/", _remove_dot_segments(decoded))
    # `/a//../b` is /a/b where dot segments go first and /b where slashes are merged first.
    if normal != _remove_dot_segments(_SLASHES.sub(b"/", decoded)):
        return Normalised(b"", Reason.HTTP_PATH_ENCODING)
    return Normalised(normal + mark + query, Reason.NONE)


def _refusal(target: bytes, path: bytes) -> Reason:
    if _NOT_VISIBLE.search(target) or b"%00" in path or _BAD_ESCAPE.search(path):
        return Reason.HTTP_MALFORMED
    if not path.startswith(b"/"):
        return Reason.HTTP_TARGET_FORM
    # A parameter on a dot or empty segment: servers that cut parameters see `/..` or `//` (`/..;/`, `/;/..`).
    if _HIDDEN_DELIMITER.search(path) or _DOT_PARAMETER.search(path) or not _is_utf8(path):
        return Reason.HTTP_PATH_ENCODING
    return Reason.NONE


def _is_utf8(path: bytes) -> bool:
    """Whether the escapes decode to UTF-8; overlong forms and surrogates do not."""
    try:
        _ESCAPE.sub(lambda match: bytes((int(match[0][1:], 16),)), path).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _decode_unreserved(match: "re.Match[bytes]") -> bytes:
    byte = int(match[0][1:], 16)
    return bytes((byte,)) if byte in _UNRESERVED else match[0].upper()


def _remove_dot_segments(path: bytes) -> bytes:
    """RFC 3986 5.2.4, for a path that starts with a slash; empty segments are segments."""
    kept: list[bytes] = []
    segments = path.split(b"/")[1:]
    for segment in segments:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    return b"/" + b"/".join(kept)
