"""Tell a TLS ClientHello from what only begins like one, and a ServerHello from other answers.

Nothing of TLS is understood beyond that: a connection whose two hellos were seen is passed on unread.
"""

from racecar.parsers.errors import ProtocolError
from racecar.policy.reasons import Reason

RECORD_HEADER_BYTES = 5
MAX_RECORD_BYTES = 16384  # RFC 8446 5.1, of a plaintext record
_ALERT, _HANDSHAKE = 21, 22
_CLIENT_HELLO, _SERVER_HELLO = 1, 2
_WARNING = 1
_MIN_SUITES_BYTES = 2


def client_hello_size(data: bytes | bytearray) -> int | None:
    """Return the size of the record at the start of `data`, which is one whole ClientHello; None if more must come.

    Raises ProtocolError(HTTP_TLS) as soon as the bytes cannot become that (RFC 8446 4.1.2, 5.1). A hello that spans
    records is refused too: no client in use sends one.
    """
    _check(not data or data[0] == _HANDSHAKE, "no handshake record")
    _check(len(data) < 2 or data[1] == 3, "no version of TLS")
    _check(len(data) < 3 or data[2] <= 4, "no version of TLS")
    if len(data) < RECORD_HEADER_BYTES:
        return None
    length = int.from_bytes(data[3:5], "big")
    _check(4 < length <= MAX_RECORD_BYTES, "a record of a size that no hello has")
    _check(len(data) < 6 or data[5] == _CLIENT_HELLO, "no ClientHello")
    if len(data) < 9:
        return None
    _check(int.from_bytes(data[6:9], "big") + 4 == length, "a ClientHello that does not fill its record")
    size = RECORD_HEADER_BYTES + length
    if len(data) < size:
        return None
    _check_hello(bytes(data[9:size]))
    return size


def _check(good: bool, text: str) -> None:
    if not good:
        raise ProtocolError(Reason.HTTP_TLS, text)


def _check_hello(body: bytes) -> None:
    """Walk the fields: version, random, session id, cipher suites, compression methods, extensions."""
    _check(len(body) >= 35 and body[0] == 3, "a ClientHello that is cut short")
    pos = 34
    pos = _skip(body, pos, 1, 0, 32)
    start = pos
    pos = _skip(body, pos, 2, _MIN_SUITES_BYTES, 65534)
    _check((pos - start) % 2 == 0, "half a cipher suite")
    pos = _skip(body, pos, 1, 1, 255)
    if pos == len(body):  # TLS 1.2 without extensions
        return
    end = _skip(body, pos, 2, 0, 65535)
    _check(end == len(body), "bytes behind the extensions")
    pos += 2
    while pos < end:
        _check(end - pos >= 4, "half an extension")
        pos = _skip(body, pos + 2, 2, 0, 65535)
    _check(pos == end, "an extension that is too long")


def _skip(body: bytes, pos: int, width: int, least: int, most: int) -> int:
    """Return the position behind a vector whose length stands in `width` bytes at `pos`."""
    _check(pos + width <= len(body), "a ClientHello that is cut short")
    length = int.from_bytes(body[pos : pos + width], "big")
    end = pos + width + length
    _check(least <= length <= most and end <= len(body), "a ClientHello that is cut short")
    return end


def is_server_hello(data: bytes) -> bool | None:
    """Say whether a server's first bytes are a ServerHello: None if more must come, False for a fatal alert.

    Raises ProtocolError(HTTP_TLS) for anything else.
    """
    _check(not data or data[0] in (_HANDSHAKE, _ALERT), "no TLS answer to a ClientHello")
    _check(len(data) < 2 or data[1] == 3, "no TLS answer to a ClientHello")
    if len(data) < 6:
        return None
    if data[0] == _ALERT:
        return None if data[5] == _WARNING else False
    _check(data[5] == _SERVER_HELLO, "no ServerHello")
    return True


def warning_size(data: bytes) -> int:
    """Return the size of the warning alert at the start of `data`, 0 if there is none, or not a whole one.

    A server may warn before its hello (RFC 6066 3: of a name that it does not know), and goes on after that.
    """
    is_warning = data[:1] == b"\x15" and data[1:2] == b"\3" and data[3:6] == b"\0\2\1"
    return RECORD_HEADER_BYTES + 2 if is_warning and len(data) >= RECORD_HEADER_BYTES + 2 else 0
