"""Request heads: what the allow-grammar takes, and the reason for what it does not."""

import pytest

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1 import (
    CHUNKED,
    DEFAULT_LIMITS,
    OTHER_UPGRADE,
    WEBSOCKET,
    HeadBuffer,
    HeadLimits,
    check_request_prefix,
    header_values,
    read_request_head,
)
from racecar.policy.reasons import Reason

HOST = b"Host: jobs\r\n"


def head(*lines: bytes, line: bytes = b"GET /jobs HTTP/1.1", host: bytes = HOST) -> bytes:
    return line + b"\r\n" + host + b"".join(text + b"\r\n" for text in lines) + b"\r\n"


def reason_of(raw: bytes) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        read_request_head(raw)
    return caught.value.reason


def read_cut(raw: bytes, size: int) -> Reason | bytes:
    """What becomes of bytes that come in pieces: the head, or the reason it is refused for."""
    buffer = HeadBuffer(check_request_prefix)
    try:
        for start in range(0, len(raw), size):
            found, _ = buffer.cut(raw[start : start + size], 0)
            if found is not None:
                read_request_head(found)
                return found
    except ProtocolError as error:
        return error.reason
    return b""


def test_reads_what_a_head_says() -> None:
    raw = head(b"X-A: \t b \xe9", b"Content-Length:  12 ", line=b"POST /jobs?q=1 HTTP/1.1", host=b"hOST:\tJobs:80 \r\n")
    read = read_request_head(raw)
    # The host is matched without regard to case.
    assert (read.method, read.target, read.host, read.length) == (b"POST", b"/jobs?q=1", b"jobs:80", 12)
    assert (read.http_1_0, read.keep_alive, read.expects_continue, read.upgrade) == (False, True, False, b"")
    assert (read.judged, read.size) == (b"/jobs?q=1", len(raw))


@pytest.mark.parametrize(
    ("lines", "minor", "keep_alive"),
    [
        ((), b"1", True),
        ((b"Connection: close",), b"1", False),
        ((b"Connection: keep-alive, CLOSE",), b"1", False),
        ((b"Connection: keep-alive", b"Connection: close"), b"1", False),
        ((), b"0", False),
        ((b"Connection: Keep-Alive",), b"0", True),
    ],
)
def test_knows_whether_the_connection_stays(lines: tuple[bytes, ...], minor: bytes, keep_alive: bool) -> None:
    assert read_request_head(head(*lines, line=b"GET / HTTP/1." + minor)).keep_alive is keep_alive


@pytest.mark.parametrize("value", [b"100-continue", b"100-Continue"])
def test_knows_an_expectation(value: bytes) -> None:
    assert read_request_head(head(b"Expect: " + value)).expects_continue


@pytest.mark.parametrize(
    ("line", "lines", "upgrade"),
    [
        (b"GET / HTTP/1.1", (b"Upgrade: websocket", b"Connection: Upgrade"), WEBSOCKET),
        (b"GET / HTTP/1.1", (b"upgrade:WebSocket \t", b"Connection: keep-alive,upgrade"), WEBSOCKET),
        (b"GET / HTTP/1.1", (b"Upgrade: websocket", b"Connection: close"), OTHER_UPGRADE),
        (b"GET / HTTP/1.1", (b"Upgrade: websocket", b"Connection: Upgrade", b"Content-Length: 0"), WEBSOCKET),
        (b"GET / HTTP/1.1", (b"Upgrade: websocket", b"Connection: Upgrade", b"Content-Length: 1"), OTHER_UPGRADE),
        (
            b"GET / HTTP/1.1",
            (b"Upgrade: websocket", b"Connection: Upgrade", b"Transfer-Encoding: chunked"),
            OTHER_UPGRADE,
        ),
        (b"GET / HTTP/1.0", (b"Upgrade: websocket", b"Connection: Upgrade"), OTHER_UPGRADE),
        (b"POST / HTTP/1.1", (b"Upgrade: websocket", b"Connection: Upgrade"), OTHER_UPGRADE),
        (b"get / HTTP/1.1", (b"Upgrade: websocket", b"Connection: Upgrade"), OTHER_UPGRADE),
        (b"GET / HTTP/1.1", (b"Upgrade: websocket",), OTHER_UPGRADE),
        (b"GET / HTTP/1.1", (b"Upgrade: websocket, h2c", b"Connection: Upgrade"), OTHER_UPGRADE),
        (b"GET / HTTP/1.1", (b"Upgrade: websocket/13", b"Connection: Upgrade"), OTHER_UPGRADE),
        (b"GET / HTTP/1.1", (b"Upgrade: websocket", b"Upgrade: websocket", b"Connection: Upgrade"), OTHER_UPGRADE),
        (b"GET / HTTP/1.1", (b"Upgrade:", b"Connection: Upgrade"), OTHER_UPGRADE),
        (b"GET / HTTP/1.1", (b"Upgrade: h2c",), OTHER_UPGRADE),
        (b"GET / HTTP/1.1", (b"Connection: Upgrade",), OTHER_UPGRADE),
        (b"GET / HTTP/1.1", (b"Connection: keep-alive,upgrade",), OTHER_UPGRADE),
        (b"GET / HTTP/1.1", (b"X-Upgrade: websocket", b"Upgrade-Insecure-Requests: 1"), b""),
    ],
)
def test_knows_an_upgrade(line: bytes, lines: tuple[bytes, ...], upgrade: bytes) -> None:
    assert read_request_head(head(*lines, line=line)).upgrade == upgrade


def test_knows_a_chunked_body() -> None:
    assert read_request_head(head(b"Transfer-Encoding: chunked")).length == CHUNKED
    assert read_request_head(head(b"transfer-ENCODING:  chunked")).length == CHUNKED


def test_http_1_0_needs_no_host() -> None:
    assert read_request_head(head(line=b"GET / HTTP/1.0", host=b"")).host == b""


@pytest.mark.parametrize("host", [b"a", b"a.b-c_d:8080", b"10.0.0.1", b"[::1]", b"[fe80::1]:80"])
def test_takes_hosts_that_are_authorities(host: bytes) -> None:
    assert read_request_head(head(host=b"Host: " + host + b"\r\n")).host == host


MALFORMED = [
    b"GET /jobs HTTP/1.2",
    b"GET /jobs HTTP/2.0",
    b"GET /jobs HTTP/0.9",
    b"GET /jobs http/1.1",
    b"GET /jobs HTTP/1.1 ",
    b"GET  /jobs HTTP/1.1",
    b"GET\t/jobs HTTP/1.1",
    b"GET /jobs\tHTTP/1.1",
    b"GET /jo bs HTTP/1.1",
    b"GET /j\x00 HTTP/1.1",
    b"GET /j\x7f HTTP/1.1",
    b"GET /j\xc3\xa9 HTTP/1.1",
    b"GET /jobs",
    b"GET  HTTP/1.1",
]


@pytest.mark.parametrize("line", MALFORMED)
def test_refuses_request_lines_outside_the_grammar(line: bytes) -> None:
    assert reason_of(head(line=line)) in (Reason.HTTP_MALFORMED, Reason.HTTP_NOT_HTTP)


@pytest.mark.parametrize(
    "line",
    [
        b"Name : value",
        b" folded: value",
        b"\tfolded",
        b": no name",
        b"no colon",
        b"nocolon",
        b"na me: value",
        b"na\xefme: value",
        b"name: va\x00lue",
        b"name: va\x0blue",
        b"name: va\x7flue",
        b"name: va\rlue",
        b"name: va\nlue: x",
        b"(x): y",
        b"Connection: content-length",
        b"Connection: authorization, close",
        b'Connection: "close"',
    ],
)
def test_refuses_header_lines_outside_the_grammar(line: bytes) -> None:
    assert reason_of(head(line)) is Reason.HTTP_MALFORMED


@pytest.mark.parametrize("end", [b"", b"nocolon\r\n", b"a:\r\nnocolon\r\n", b"a: b\r\n"])
def test_refuses_a_head_without_its_blank_line(end: bytes) -> None:
    assert reason_of(head()[:-2] + end) is Reason.HTTP_MALFORMED


@pytest.mark.parametrize(
    "lines",
    [
        (b"Content-Length: 5", b"Content-Length: 5"),
        (b"Content-Length: 5, 5",),
        (b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
        (b"Transfer-Encoding: gzip, chunked",),
        (b"Transfer-Encoding: xchunked",),
        (b"Transfer-Encoding: Chunked",),
        (b"Transfer-Encoding:\tchunked",),
        (b"Transfer-Encoding: chunked\t",),
        (b"Transfer-Encoding: chunked ",),
        (b"Transfer-Encoding: chunked;q=1",),
        (b"Transfer-Encoding: \xa0chunked",),
        (b"Transfer-Encoding: chunked, identity",),
        (b"Transfer-Encoding: identity",),
        (b"Transfer-Encoding:",),
        (b'Transfer-Encoding: "chunked"',),
        (b"Content-Length:",),
        (b"Content-Length: +5",),
        (b"Content-Length: -5",),
        (b"Content-Length: 5_0",),
        (b"Content-Length: 0x5",),
        (b"Content-Length: 5 5",),
        (b"Content-Length: \xb2",),
        (b"Content-Length: 1000000000000000",),
        (b"Content-Length: 05",),
        (b"Content-Length: 00",),
        (b"Content_Length: 5",),
        (b"Content.Length: 5",),
        (b"Content-Length: 5", b"Transfer~Encoding: chunked"),
        (b"transfer_encoding: chunked",),
    ],
)
def test_refuses_framing_that_two_servers_could_read_in_two_ways(lines: tuple[bytes, ...]) -> None:
    assert reason_of(head(*lines)) is Reason.HTTP_FRAMING


def test_refuses_chunks_in_http_1_0() -> None:
    assert reason_of(head(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0")) is Reason.HTTP_FRAMING


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"Host: a\r\nHost: a\r\n",
        b"Host: a\r\nhost: b\r\n",
        b"Host:\r\n",
        b"Host: a b\r\n",
        b"Host: u@a\r\n",
        b"Host: a/b\r\n",
        b"Host: a,b\r\n",
        b"Host: a:port\r\n",
        b"Host: [::1\r\n",
    ],
)
def test_refuses_all_but_one_host(host: bytes) -> None:
    assert reason_of(head(host=host)) is Reason.HTTP_HOST


@pytest.mark.parametrize("lines", [(b"Expect: x",), (b"Expect: 100-continue, x",), (b"Expect: 100-continue",) * 2])
def test_refuses_expectations_other_than_continue(lines: tuple[bytes, ...]) -> None:
    assert reason_of(head(*lines)) is Reason.HTTP_EXPECT


def test_the_limits_are_exact() -> None:
    read_request_head(head(line=b"GET /" + b"a" * 8191 + b" HTTP/1.1"))
    assert reason_of(head(line=b"GET /" + b"a" * 8192 + b" HTTP/1.1")) is Reason.HTTP_TARGET_TOO_LONG
    read_request_head(head(*[b"a: b"] * 99))
    assert reason_of(head(*[b"a: b"] * 100)) is Reason.HTTP_TOO_MANY_HEADERS
    room = DEFAULT_LIMITS.max_head_bytes - len(head(b"a: "))
    read_request_head(head(b"a: " + b"b" * room))
    assert reason_of(head(b"a: " + b"b" * (room + 1))) is Reason.HTTP_HEAD_TOO_LARGE
    read_request_head(head(line=b"M" * 32 + b" / HTTP/1.1"))
    assert reason_of(head(line=b"M" * 33 + b" / HTTP/1.1")) is Reason.HTTP_NOT_HTTP


# --- limits


def test_the_limits_may_be_others() -> None:
    limits = HeadLimits(max_head_bytes=256, max_target_bytes=16, max_headers=3)
    raw = head(b"a: b", b"c: d", line=b"GET /" + b"a" * 15 + b" HTTP/1.1")
    read_request_head(raw, limits)
    for refused, reason in (
        (head(line=b"GET /" + b"a" * 16 + b" HTTP/1.1"), Reason.HTTP_TARGET_TOO_LONG),
        (head(b"a: b", b"c: d", b"e: f"), Reason.HTTP_TOO_MANY_HEADERS),
        (head(b"a: " + b"b" * (257 - len(head(b"a: ")))), Reason.HTTP_HEAD_TOO_LARGE),
    ):
        for size in (1, 7, 1000):
            buffer = HeadBuffer(check_request_prefix, limits)
            with pytest.raises(ProtocolError) as caught:  # noqa: PT012
                for start in range(0, len(refused), size):
                    found, _ = buffer.cut(refused[start : start + size], 0)
                    if found is not None:
                        read_request_head(found, limits)
            assert caught.value.reason is reason
            assert buffer.pending <= 257
        read_request_head(refused)


def test_finds_all_values_of_a_header() -> None:
    raw = head(b"A: b", b"xA: n", b"a:\t c \t", b"Aa: n", b"X: a: n", b"A:", b"a-b: \xe9")
    assert header_values(raw, b"a") == [b"b", b"c", b""]
    assert header_values(raw, b"host") == [b"jobs"]
    assert header_values(raw, b"a-b") == [b"\xe9"]
    assert header_values(raw, b"get /jobs http/1.1\r") == []
    assert header_values(raw, b"none") == []


@pytest.mark.parametrize("mark", [bytes((byte,)) for byte in b"!#$%&'*+-.^_`|~"])
def test_a_name_with_other_marks_counts_beside_the_right_one_and_never_for_it(mark: bytes) -> None:
    """CGI: HTTP_X_A_1 is all of them."""
    other = b"X" + mark + b"a-1: other"
    for name in (b"x-a-1", b"x_a-1", b"x.a_1"):
        assert header_values(head(name + b": one", other), name) == [b"one", b"other"]
        assert header_values(head(name + b": one", b"XA-1: n", b"X-A1: n", b"X--A-1: n"), name) == [b"one"]
        if other.lower().partition(b":")[0] != name:
            assert header_values(head(other), name) == []


CUT = [
    head(),
    head(b"A: b", line=b"POST /jobs HTTP/1.0"),
    head(b"bare\nfeed: x"),
    head(b"bare\rreturn: x"),
    head(b"Host: again"),
    head(b"Content-Length: x", b"bare\n"),
    head(b"Upgrade: websocket", b"Connection: Upgrade"),
    head(b"Transfer-Encoding: Chunked"),
    head(line=b"GET http://other/ HTTP/1.1"),
    head(line=b"CONNECT jobs HTTP/1.1"),
    head(line=b"GET /jobs HTTP/1.1\n"),
    head(line=b"GET /jobs\r"),
    head(line=b"M" * 40 + b" / HTTP/1.1"),
    b"\r\n" + head(),
    *(head(line=line) for line in MALFORMED),
]


@pytest.mark.parametrize("raw", CUT)
@pytest.mark.parametrize("size", [1, 2, 7])
def test_cuts_do_not_change_the_head_or_the_reason(raw: bytes, size: int) -> None:
    assert read_cut(raw, size) == read_cut(raw, len(raw))


@pytest.mark.parametrize(
    "raw", [head(b"a: " + b"b" * 70000 + b"\n"), head(line=b"GET /" + b"a" * 9000 + b"\n HTTP/1.1")]
)
def test_cuts_do_not_change_what_is_too_long(raw: bytes) -> None:
    assert read_cut(raw, 997) == read_cut(raw, len(raw))
    assert isinstance(read_cut(raw, 997), Reason)


def test_half_a_line_end_is_not_forgotten() -> None:
    buffer = HeadBuffer(check_request_prefix)
    buffer.cut(b"GET / HTTP/1.1\r\nA: b\r", 0)
    with pytest.raises(ProtocolError):
        buffer.cut(b"c", 0)


def test_trailing_bytes_are_left_alone() -> None:
    buffer = HeadBuffer(check_request_prefix)
    assert buffer.cut(b"xx" + head() + b"trailing", 2) == (head(), 2 + len(head()))
    assert buffer.is_empty
    assert buffer.cut(head()[:-3], 0) == (None, len(head()) - 3)
    assert buffer.pending == len(head()) - 3
    assert buffer.cut(head()[-3:] + b"trailing", 0) == (head(), 3)
    assert buffer.is_empty
