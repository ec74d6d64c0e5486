"""Bring a request's path into the one form that every server reads alike, or say in what forms servers may read it.

Decision only: the request is forwarded as it was sent. Only the path component is normalised (RFC 3986 6.2.2);
the query is kept as it is.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

from racecar.policy.model import Encoding
from racecar.policy.reasons import Reason

# Readings of one path: any three encodings together, and every four but those that have both bytes and params.
MAX_READINGS = 32

NO_ENCODINGS: frozenset[Encoding] = frozenset()


class Examined(NamedTuple):
    """A target in origin form: path as sent, path in normal form, query with its question mark.

    The two are one object if the path is plain: every server reads it alike. `needs`: what of the path servers read in
    different ways; `normal` keeps it as it is. Reason HTTP_MALFORMED or HTTP_TARGET_FORM: answered 400, and the rest is
    empty.
    """

    reason: Reason
    path: bytes = b""
    normal: bytes = b""
    query: bytes = b""
    needs: frozenset[Encoding] = NO_ENCODINGS


class Readings(NamedTuple):
    """`forms`: the path in every form that some server may read it in, as sent first; None if there are too many."""

    needs: frozenset[Encoding]
    forms: tuple[bytes, ...] | None


# Already in normal form: no escape, parameter, empty segment or segment that starts with a dot. The usual path.
# No group is possessive: Python 3.11.2 (Debian 12) keeps what such a group consumed when it fails halfway.
_PLAIN = re.compile(rb"(?=/)(?:/[A-Za-z0-9\-_~!$&'()*+,=:@][A-Za-z0-9\-._~!$&'()*+,=:@]*+)*/?+(?:\?[!-\"$-\[\]-~]*+)?")
_NOT_VISIBLE = re.compile(rb"[^!-~]|[#\\]")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
# Parameters on a dot or empty segment: servers that cut parameters see `/..` or `//` (`/..;/`, `/;/..`).
_DOT_PARAMETER = re.compile(rb"(/\.{0,2})(?:;|%3B)[^/]*+")
_PARAMETER = re.compile(rb"(?:;|%3B)[^/]*+")
_ESCAPE = re.compile(rb"%[0-9A-Fa-f]{2}")
_HIGH_ESCAPES = re.compile(rb"(?:%[89A-F][0-9A-F])+")
_SLASHES = re.compile(rb"//+")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_~")  # the dot stays escaped
_HIDDEN: tuple[tuple[Encoding, bytes, bytes], ...] = (
    ("slash", b"%2F", b"/"),
    ("backslash", b"%5C", b"/"),  # what Windows makes of it
    ("dot", b"%2E", b"."),
)


def examine(target: bytes) -> Examined:
    """Judge the encoding of a request's path and query (origin form) and normalise it."""
    at = target.find(b"?")
    path, query = (target, b"") if at < 0 else (target[:at], target[at:])
    if _PLAIN.fullmatch(target):
        return Examined(Reason.NONE, path, path, query)
    if _NOT_VISIBLE.search(target) or b"%00" in path or _BAD_ESCAPE.search(path):
        return Examined(Reason.HTTP_MALFORMED)
    if not path.startswith(b"/"):
        return Examined(Reason.HTTP_TARGET_FORM)
    decoded = _ESCAPE.sub(_decode_unreserved, path)
    normal, other = _normal_forms(decoded)
    needs: set[Encoding] = {encoding for encoding, escape, _ in _HIDDEN if escape in decoded}
    if normal != other:
        needs.add("slash")
    if not _is_utf8(path):
        needs.add("bytes")
    if _DOT_PARAMETER.search(decoded):
        needs.add("params")
    return Examined(Reason.NONE, path, normal, query, frozenset(needs))


def readings(examined: Examined) -> Readings:
    """How servers may read a path that is not plain, and all encodings that this takes.

    Each kind of encoding is read by a server in one way for the whole path: kept, or decoded before dot segments are
    removed. Kinds are read independently, so every combination counts. Dot segments may be removed or kept, slashes
    merged or kept, and the one may be done before the other.
    """
    decoded = _ESCAPE.sub(_decode_unreserved, examined.path)
    if not examined.needs:
        return Readings(NO_ENCODINGS, tuple(dict.fromkeys((examined.path, *_forms(decoded)))))
    needs = set(examined.needs)
    texts = [decoded]
    if "bytes" in needs:
        texts += [_HIGH_ESCAPES.sub(_shorten, decoded), _HIGH_ESCAPES.sub(_drop, decoded)]
    for _, escape, character in _HIDDEN:
        texts += [text.replace(escape, character) for text in texts if escape in text]
    if any(_DOT_PARAMETER.search(text) for text in texts):  # perhaps only once a dot or slash is decoded
        needs.add("params")
        texts += [cut for text in texts for cut in (_DOT_PARAMETER.sub(rb"\1", text), _PARAMETER.sub(b"", text))]
    texts = list(dict.fromkeys(texts))
    if len(texts) > MAX_READINGS or any(b"%00" in text for text in texts):
        return Readings(frozenset(needs), None)
    forms = dict.fromkeys((examined.path, *(form for text in texts for form in _forms(text))))
    return Readings(frozenset(needs), tuple(forms))


def _normal_forms(path: bytes) -> tuple[bytes, bytes]:
    """`/a//../b` is /a/b where dot segments go first and /b where slashes are merged first; most paths are one."""
    without_dots = _remove_dot_segments(path)
    if b"//" not in path:
        return without_dots, without_dots
    return _SLASHES.sub(b"/", without_dots), _remove_dot_segments(_SLASHES.sub(b"/", path))


def _forms(path: bytes) -> tuple[bytes, ...]:
    """What servers make of the slashes and dots of a path: nothing, one of the two, or both."""
    without_dots = _remove_dot_segments(path)
    if b"//" not in path:
        return path, without_dots
    # `/a/..//b` is //b where slashes are not merged: its dots hide that it begins with two.
    return path, without_dots, _SLASHES.sub(b"/", path), *_normal_forms(path)


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


def _shorten(match: "re.Match[bytes]") -> bytes:
    """Escapes of high bytes as a decoder reads them that takes overlong forms for what they stand for."""
    return b"".join(_characters(bytes.fromhex(match[0].replace(b"%", b"").decode()), keep=True))


def _drop(match: "re.Match[bytes]") -> bytes:
    """Escapes of high bytes as a decoder reads them that leaves out what is not UTF-8."""
    return b"".join(_characters(bytes.fromhex(match[0].replace(b"%", b"").decode()), keep=False))


def _characters(data: bytes, *, keep: bool) -> Iterable[bytes]:
    """Escapes for each UTF-8 character; others are cut out, or kept with overlong forms made short."""
    at = 0
    while at < len(data):
        size = next((n for n in (2, 3, 4) if _is_character(data[at : at + n])), 0)
        if size:
            yield _escaped(data[at : at + size])
        elif keep:
            size, character = _overlong(data, at)
            yield character
        at += size or 1


def _is_character(data: bytes) -> bool:
    try:
        return len(data.decode("utf-8")) == 1
    except UnicodeDecodeError:
        return False


def _overlong(data: bytes, at: int) -> tuple[int, bytes]:
    """How many bytes at `at` are one overlong form, and what it stands for; else one byte as it is."""
    lead = data[at]
    size = 8 - (lead ^ 0xFF).bit_length()  # its leading ones
    rest = data[at + 1 : at + size]
    if 2 <= size <= 6 and len(rest) == size - 1 and all(byte & 0xC0 == 0x80 for byte in rest):
        value = lead & (0x7F >> size)
        for byte in rest:
            value = value << 6 | byte & 0x3F
        if value < 0x80:  # a backslash stays an escape, which _HIDDEN reads on
            return size, bytes((value,)) if value in _UNRESERVED or value in b"/.;" else b"%%%02X" % value
        if value < 0xD800:
            return size, _escaped(chr(value).encode())
    return 1, _escaped(data[at : at + 1])


def _escaped(data: bytes) -> bytes:
    return b"".join(b"%%%02X" % byte for byte in data)


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
