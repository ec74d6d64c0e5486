"""Chunked bodies: followed exactly, strict in what they may look like."""

import pytest

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1 import ChunkReader
from racecar.policy.reasons import Reason

GOOD = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"05\r\nhello\r\n000\r\n\r\n",
    b"a\r\n0\r\n\r\n12345\r\nA\r\n1234567890\r\n0\r\n\r\n",
    b"1;a\r\nx\r\n0;b=c;d\r\n\r\n",
    b'1;a="q;\\"\t\\\\ \xff"\r\nx\r\n0\r\n\r\n',
    b'1;a="\\\\\\"";b;c="";d=e\r\nx\r\n0\r\n\r\n',
    b"1\r\nx\r\n0\r\nX-Sum: 1\r\nY:\r\n\r\n",
    b"0\r\nX-Host: 1\r\nHosts: host: x\r\nContent-Lengths: 3\r\n\r\n",
    b"1;" + b"a" * 1000 + b"\r\nx\r\n0;b\r\na: " + b"b" * 8000 + b"\r\n\r\n",
]
BAD = [
    b"\r\n0\r\n\r\n",
    b"g\r\n",
    b"-1\r\n",
    b"+1\r\nx\r\n",
    b"0x1\r\nx\r\n",
    b"1 \r\nx\r\n",
    b" 1\r\nx\r\n",
    b"1_0\r\n",
    b"1\nx\r\n0\r\n\r\n",
    b"1\r\nxx\r\n0\r\n\r\n",
    b"1\r\nx\n0\r\n\r\n",
    b"1\r\nx\r\r\n0\r\n\r\n",
    b"1\r\nx0\r\n\r\n",
    b"1;\r\nx\r\n",
    b"1;a=\r\nx\r\n",
    b"1; a\r\nx\r\n",
    b"1;a;\r\nx\r\n",
    b"1;a=b;\r\nx\r\n",
    b'1;a="b\\\r\nx\r\n0\r\n\r\n',
    b'1;a="b\r\nx\r\n0\r\n\r\n',
    b'1;a="b""\r\nx\r\n0\r\n\r\n',
    b'1;a=b"c"\r\nx\r\n0\r\n\r\n',
    b"1;a\x00\r\nx\r\n",
    b'1;a="\r\nx\r\n0\r\n\r\n',
    b"1;a\nb\r\nx\r\n",
    b"1" * 16 + b"\r\n",
    b"1;" + b"a" * 1100 + b"\r\nx",
    b"0\r\nno colon\r\n\r\n",
    b"0\r\nnocolon\r\n\r\n",
    b"0\r\na: b\r\nnocolon\r\n\r\n",
    b"0\r\nname : x\r\n\r\n",
    b"0\r\n folded: x\r\n\r\n",
    b"0\r\nx: y\nz: 1\r\n\r\n",
    b"0\r\nContent-Length: 3\r\n\r\n",
    b"0\r\na: b\r\ntransfer-encoding: chunked\r\n\r\n",
    b"0\r\nHost: x\r\n\r\n",
    b"0\r\nConnection: close\r\n\r\n",
    b"0\r\ntrailer: x\r\n\r\n",
    b"0\r\na: b\r\nContent_Length: 3\r\n\r\n",
    b"0\r\na: " + b"b" * 9000 + b"\r\n\r\n",
]


def follow(data: bytes, size: int) -> tuple[bytes, bytes] | Reason:
    """The judged bytes and what was left behind the end; or the reason."""
    reader, held, judged = ChunkReader(Reason.HTTP_RESPONSE_MALFORMED), b"", b""
    try:
        for start in range(0, len(data), size):
            piece = held + data[start : start + size]
            pos, done = reader.feed(piece, 0)
            judged, held = judged + piece[:pos], piece[pos:]
            if done:
                return judged, held + data[start + size :]
    except ProtocolError as error:
        return error.reason
    return judged, b"unfinished"


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("data", GOOD)
def test_follows_a_body_to_its_last_byte_however_it_is_cut(data: bytes, size: int) -> None:
    assert follow(data, size) == (data, b"")
    assert follow(data + b"HTTP/1.1", size) == (data, b"HTTP/1.1")


@pytest.mark.parametrize("size", [1, 3, 100000])
@pytest.mark.parametrize("data", BAD)
def test_refuses_anything_else_however_it_is_cut(data: bytes, size: int) -> None:
    assert follow(data, size) is Reason.HTTP_RESPONSE_MALFORMED


@pytest.mark.parametrize("data", GOOD)
def test_an_unfinished_body_is_not_done(data: bytes) -> None:
    for end in range(len(data)):
        result = follow(data[:end], 1000) if end else (b"", b"unfinished")
        assert isinstance(result, tuple)
        assert result[1] == b"unfinished"


def test_only_the_data_of_a_chunk_may_go_unread() -> None:
    reader = ChunkReader(Reason.HTTP_RESPONSE_MALFORMED)
    assert reader.unread == 0
    assert reader.feed(b"ff\r\nabc", 0) == (7, False)
    assert reader.unread == 252
    reader.moved(250)
    assert reader.unread == 2
    assert reader.feed(b"xx", 0) == (2, False)
    assert reader.unread == 0
    assert reader.feed(b"\r\n0\r\n\r\n", 0) == (7, True)


def test_the_fault_is_the_senders() -> None:
    for fault in (Reason.HTTP_FRAMING, Reason.HTTP_RESPONSE_MALFORMED):
        with pytest.raises(ProtocolError) as caught:
            ChunkReader(fault).feed(b"g\r\n", 0)
        assert caught.value.reason is fault


@pytest.mark.parametrize("name", [b"X-Token", b"x_token", b"X-TOKEN"])
def test_names_that_may_be_no_trailer_are_the_callers_matter(name: bytes) -> None:
    body = b"0\r\nA: b\r\n" + name + b": x\r\n\r\n"
    assert ChunkReader(Reason.HTTP_FRAMING).feed(body, 0) == (len(body), True)
    with pytest.raises(ProtocolError):
        ChunkReader(Reason.HTTP_FRAMING, frozenset((b"x-token",))).feed(body, 0)


def test_a_position_inside_a_read_is_where_it_goes_on() -> None:
    reader = ChunkReader(Reason.HTTP_FRAMING)
    assert reader.feed(b"before1\r\nx", 6) == (10, False)
    assert reader.feed(b"..\r\n0\r\n\r\nbehind", 2) == (9, True)
