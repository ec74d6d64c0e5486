"""Response heads: grammar, and how the body ends."""

import pytest

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    HeadBuffer,
    HeadLimits,
    check_response_prefix,
    heads,
    read_response_head,
    response_length,
)
from racecar.policy.reasons import Reason


def head(*lines: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    return line + b"\r\n" + b"".join(text + b"\r\n" for text in lines) + b"\r\n"


@pytest.mark.parametrize(
    ("line", "lines", "method", "length"),
    [
        (b"HTTP/1.1 200 OK", (b"Content-Length: 5",), b"GET", 5),
        (b"HTTP/1.1 200", (b"content-length:0",), b"GET", 0),
        (b"HTTP/1.1 200 ", (b"Transfer-Encoding: chunked",), b"GET", CHUNKED),
        (b"HTTP/1.1 200 OK", (), b"GET", UNTIL_CLOSE),
        (b"HTTP/1.0 200 OK", (), b"POST", UNTIL_CLOSE),
        (b"HTTP/1.1 200 OK", (b"Content-Length: 5",), b"HEAD", 0),
        (b"HTTP/1.1 200 OK", (b"Transfer-Encoding: chunked",), b"HEAD", 0),
        (b"HTTP/1.1 200 OK", (), b"HEAD", 0),
        (b"HTTP/1.1 304 Not Modified", (b"Content-Length: 5",), b"GET", 0),
        (b"HTTP/1.1 304 Not Modified", (b"Transfer-Encoding: chunked",), b"GET", 0),
        (b"HTTP/1.1 204 No Content", (), b"GET", 0),
        (b"HTTP/1.1 204 No Content", (b"Content-Length: 0",), b"GET", 0),
        (b"HTTP/1.1 100 Continue", (), b"POST", 0),
        (b"HTTP/1.1 103 Early Hints", (b"Link: </a>",), b"GET", 0),
        (b"HTTP/1.1 205 Reset Content", (b"Content-Length: 0",), b"GET", 0),
        (b"HTTP/1.1 404 n\xe9ant", (b"Content-Length: 7",), b"GET", 7),
    ],
)
def test_knows_how_the_body_ends(line: bytes, lines: tuple[bytes, ...], method: bytes, length: int) -> None:
    assert response_length(read_response_head(head(*lines, line=line)), method=method) == length


@pytest.mark.parametrize(
    ("line", "lines", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK", (), True),
        (b"HTTP/1.1 200 OK", (b"Connection: Close",), False),
        (b"HTTP/1.1 200 OK", (b"Connection: x", b"Connection: y , close"), False),
        (b"HTTP/1.0 200 OK", (), False),
        (b"HTTP/1.0 200 OK", (b"Connection: keep-alive",), True),
    ],
)
def test_knows_whether_the_connection_stays(line: bytes, lines: tuple[bytes, ...], keep_alive: bool) -> None:
    assert read_response_head(head(*lines, line=line)).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("lines", "upgrade"),
    [
        ((b"Upgrade: WebSocket", b"Connection: Upgrade"), b"websocket"),
        ((b"Upgrade: h2c \t", b"Connection: keep-alive, upgrade"), b"h2c"),
        ((b"Upgrade: websocket",), b""),
        ((b"Connection: Upgrade",), b""),
        ((b"Upgrade: websocket", b"Upgrade: websocket", b"Connection: Upgrade"), b""),
        ((b"Upgrade: websocket, h2c", b"Connection: Upgrade"), b"websocket, h2c"),
    ],
)
def test_knows_the_protocol_that_it_switches_to(lines: tuple[bytes, ...], upgrade: bytes) -> None:
    assert read_response_head(head(*lines, line=b"HTTP/1.1 101 Switching Protocols")).upgrade == upgrade


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("lines", [(b"a: " + b"b" * 256,), (b"a: b",) * 4])
def test_the_limits_may_be_others(lines: tuple[bytes, ...], size: int) -> None:
    limits = HeadLimits(max_head_bytes=256, max_target_bytes=16, max_headers=3)
    raw = head(*lines)
    assert read_response_head(raw).status == 200
    buffer = HeadBuffer(check_response_prefix, limits)
    with pytest.raises(ProtocolError):  # noqa: PT012
        for start in range(0, len(raw), size):
            found, _ = buffer.cut(raw[start : start + size], 0)
            if found is not None:
                read_response_head(found, limits)
    assert buffer.pending <= 257
    assert read_response_head(head(*[b"a: b"] * 3), limits).size == len(head(*[b"a: b"] * 3))


REFUSED = [
    b"\r\n\r\n",
    head(line=b"HTTP/1.1 99 Low"),
    head(line=b"HTTP/1.1 0200 OK"),
    head(line=b"HTTP/1.1 2000 OK"),
    head(line=b"HTTP/1.1  200 OK"),
    head(line=b"HTTP/2 200 OK"),
    head(line=b"HTTP/1.1 200\tOK"),
    head(line=b"HTTP/1.1 200 O\rK"),
    head(line=b"http/1.1 200 OK"),
    head(line=b"ICY 200 OK"),
    b"\r\n" + head(),
    b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    head(b"Name : value"),
    head(b" folded"),
    head(b"nocolon"),
    head()[:-2] + b"\r\r\n\r\n",
    head(b"a: b\nc: d"),
    head(b"Content-Length: 5", b"Content-Length: 5"),
    head(b"Content-Length: 5", b"Content-Length: 6"),
    head(b"Content-Length: 5, 5"),
    head(b"Content-Length: 5", b"Transfer-Encoding: chunked"),
    head(b"Content-Length: x"),
    head(b"Transfer-Encoding: gzip, chunked"),
    head(b"Transfer-Encoding: xchunked"),
    head(b"Transfer-Encoding: chunked", line=b"HTTP/1.0 200 OK"),
    head(b"Content-Length: 5", line=b"HTTP/1.1 204 No Content"),
    head(b"Transfer-Encoding: chunked", line=b"HTTP/1.1 204 No Content"),
    head(b"Content-Length: 5", line=b"HTTP/1.1 100 Continue"),
    head(b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked"),
    head(b"Connection: close, Content-Length", b"Content-Length: 5"),
    head(b"Content-Length: 5", line=b"HTTP/1.1 101 Switching Protocols"),
    head(b"Content_Length: 5"),
    head(*[b"a: b"] * 101),
    head(b"a: " + b"b" * 65536),
]


@pytest.mark.parametrize("raw", REFUSED)
@pytest.mark.parametrize("size", [1, 7, 100000])
def test_refuses_what_is_in_doubt_however_it_is_cut(raw: bytes, size: int) -> None:
    size = max(size, len(raw) // 1000)
    buffer = HeadBuffer(check_response_prefix)
    with pytest.raises(ProtocolError) as caught:  # noqa: PT012
        for start in range(0, len(raw), size):
            found, _ = buffer.cut(raw[start : start + size], 0)
            if found is not None:
                read_response_head(found)
    assert caught.value.reason is Reason.HTTP_RESPONSE_MALFORMED
    with pytest.raises(ProtocolError) as whole:
        read_response_head(raw)
    assert caught.value.detail == whole.value.detail


def test_a_server_that_never_ends_its_lines_properly_is_refused_at_its_first() -> None:
    with pytest.raises(ProtocolError):
        HeadBuffer(check_response_prefix).cut(b"HTTP/1.1 200 OK\n", 0)


@pytest.mark.parametrize(("size", "is_read"), [(8192, True), (8193, False)])
def test_a_status_line_has_its_own_limit_however_it_is_cut(size: int, is_read: bool) -> None:
    line = b"HTTP/1.1 200 "
    line += b"a" * (size - len(line) - 2)
    whole = head(line=line)
    buffer = HeadBuffer(check_response_prefix)

    def byte_by_byte() -> bytes | None:
        found = None
        for index in range(len(whole)):
            found, _ = buffer.cut(whole[index : index + 1], 0)
        return found

    if is_read:
        assert byte_by_byte() == whole
        assert read_response_head(whole).status == 200
    else:
        for read in (byte_by_byte, lambda: read_response_head(whole)):
            with pytest.raises(ProtocolError, match="status line above 8192 bytes"):
                read()
        assert buffer.pending == 8192  # not read further


def test_a_status_line_that_does_not_end_is_not_matched_again_at_each_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    class Counter:
        matches = 0

        def match(self, _data: bytes) -> bool:
            Counter.matches += 1
            return True

    monkeypatch.setattr(heads, "_STATUS_LINES", Counter())
    buffer = HeadBuffer(check_response_prefix)
    for byte in head(line=b"HTTP/1.1 200 " + b"a" * 1000)[:-1]:
        buffer.cut(bytes([byte]), 0)
    assert Counter.matches == 1
