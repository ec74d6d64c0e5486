"""Our readers of heads beside llhttp and h11: wherever they disagree, the class of it stands here with who is right.

Ours may only be stricter: what it takes, both others take, and read alike. And it takes what ordinary clients and
servers send.
"""

from dataclasses import dataclass, field
from typing import Any

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1 import CHUNKED, read_request_head, read_response_head
from racecar.parsers.http1.second_opinion import check_request, check_response
from tests.fuzz import oracle
from tests.fuzz.pieces import ANSWERS, DENIED_REQUESTS, FRAGMENTS, OPEN_ANSWERS, REQUESTS
from tests.fuzz.real_heads import REFUSED_HEADS, REQUEST_HEADS, RESPONSE_HEADS

HEAD_END = b"\r\n\r\n"

# What we refuse though another parser takes it, by what our refusal says: and why we are right, or need not be wrong.
STRICTER_REQUESTS = {
    "header lines": "h11 takes control bytes in values; RFC 9110 5.5 calls for refusal or replacement",
    "a line that does not end in CRLF": "h11 takes a bare LF (RFC 9112 2.2: may); servers that do not see one line",
    "request line": "llhttp takes HTTP/0.9, h11 any digit as version: only 1.0 and 1.1 are spoken here",
    "the first bytes are no request of HTTP/1.x": "llhttp skips empty lines before a request (RFC 9112 2.2: should)",
    "a target that is neither a path nor http://": "both leave the form to the application (RFC 9112 3.2: four forms)",
    "* with a method other than OPTIONS": "RFC 9112 3.2.4: for OPTIONS alone; llhttp knows M-SEARCH of UPnP",
    "CONNECT with a target other than host:port": "RFC 9112 3.2.3",
    "CONNECT with a body": "RFC 9110 9.3.6: has no defined meaning, servers differ",
    "0 Host headers": "llhttp leaves it to the application; RFC 9112 3.2: 400",
    "2 Host headers": "llhttp leaves it to the application; RFC 9112 3.2: 400",
    "3 Host headers": "llhttp leaves it to the application; RFC 9112 3.2: 400",
    "Host is no authority": "both leave it to the application; RFC 9112 3.2: 400 for an invalid value",
    "Host is not the authority of the target": "RFC 9112 3.2.2: the target wins; servers differ, rules read the host",
    "Connection names another header": "the next hop would drop a header that a rule may have read",
    "Expect other than 100-continue": "RFC 9110 10.1.1: 417",
    "Content-Length is no number in range": "h11 takes equal lengths in a list (RFC 9110 8.6: may)",
    "Content-Length with leading zeros": "octal for some servers",
    "more than one framing header": "h11 lets Transfer-Encoding win, both take an underscore for another header",
    "a framing header in another spelling": "for both another header, for CGI the same one",
    "Transfer-Encoding other than chunked": "llhttp takes other codings before it; capitals: servers differ",
    "Transfer-Encoding in HTTP/1.0": "RFC 9112 6.1: faulty framing",
    "above 100 headers": "a limit",
}
STRICTER_RESPONSES = {
    "header lines": "h11 takes control bytes in values; RFC 9110 5.5 calls for refusal or replacement",
    "status line": "h11 takes control bytes and a bare LF, llhttp control bytes in the phrase and 0xx",
    "a line that does not end in CRLF": "h11 takes a bare LF (RFC 9112 2.2: may)",
    "Connection names a framing header": "the next hop would drop it: whose answer the rest is would be in doubt",
    "Content-Length is no number in range": "h11 takes equal lengths in a list",
    "Transfer-Encoding other than chunked": "for llhttp the body is then until the end; a client may see none",
    "Content-Length with leading zeros": "octal for some servers",
    "more than one framing header": "h11 lets Transfer-Encoding win (RFC 9112 6.3), a client may not",
    "a framing header in another spelling": "for both another header, for CGI the same one",
    "Transfer-Encoding in HTTP/1.0": "RFC 9112 6.1: faulty framing",
    "status 101 with a body": "RFC 9110 8.6, RFC 9112 6.1: must not be sent",
    "status 204 with a body": "RFC 9110 8.6, RFC 9112 6.1: must not be sent",
    **{f"status {status} with a body": "RFC 9112 6.1: must not be sent" for status in (100, 102, 103)},
}
# What we take though llhttp does not, as it is in httptools.
LOOSER_REQUESTS = {
    "Invalid method encountered": "a token that llhttp has not in its list; the second opinion reads it as a POST",
    "Expected space after method": "a token that begins with a method of its list",
}
LOOSER_RESPONSES = {
    "Pause on CONNECT/Upgrade": "a 101 that names no protocol: llhttp stops there, the second opinion refuses it",
}


@dataclass
class Reading:
    """What one parser made of a head."""

    refusal: str = ""
    values: tuple[Any, ...] = ()
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


class _Seen:
    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_whole = False

    def on_url(self, data: bytes) -> None:
        self.target += data

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.is_whole = True


def _llhttp(head: bytes, *, is_request: bool) -> Reading:
    seen = _Seen()
    parser: Any = (httptools.HttpRequestParser if is_request else httptools.HttpResponseParser)(seen)
    try:
        parser.feed_data(head)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        return Reading(str(error))
    if not seen.is_whole:
        return Reading("more must come")
    values = (parser.get_method(), seen.target) if is_request else (parser.get_status_code(),)
    return Reading("", values, seen.headers)


def _h11(head: bytes, *, is_request: bool) -> Reading:
    try:
        if is_request:
            request = oracle.read_request(head, 0)
            values: tuple[Any, ...] = (request.method, request.target)
            return Reading("" if request.head_end else "more must come", values, list(request.headers))
        answer = oracle.read_answer(head, 0, b"GET", upgrades=True)
        return Reading("" if answer.head_end else "more must come", (answer.status,))
    except h11.RemoteProtocolError as error:
        return Reading(str(error) or "refused")


def _ours(head: bytes, *, is_request: bool) -> Reading:
    try:
        if is_request:
            request = read_request_head(head)
            return Reading("", (request.method, request.target))
        return Reading("", (read_response_head(head).status,))
    except ProtocolError as error:
        return Reading(error.detail)


def compare(head: bytes, *, is_request: bool) -> str:
    """Return the class of disagreement, empty if there is none; AssertionError for one that is not known."""
    ours = _ours(head, is_request=is_request)
    llhttp, other = _llhttp(head, is_request=is_request), _h11(head, is_request=is_request)
    if ours.refusal:
        if llhttp.refusal and other.refusal:
            return ""
        known = STRICTER_REQUESTS if is_request else STRICTER_RESPONSES
        assert ours.refusal in known, f"refused as {ours.refusal!r}, taken by {'h11' if llhttp.refusal else 'llhttp'}"
        return ours.refusal
    assert not other.refusal, f"h11 refuses what we take: {other.refusal}"
    assert other.values == ours.values
    if llhttp.refusal:
        assert llhttp.refusal in (LOOSER_REQUESTS if is_request else LOOSER_RESPONSES), (
            f"llhttp refuses: {llhttp.refusal}"
        )
        return llhttp.refusal
    assert llhttp.values == ours.values
    if is_request:
        assert llhttp.headers == other.headers
    return ""


@st.composite
def bent_heads(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    """A head with a few places bent, up to its first blank line."""
    head = draw(st.sampled_from(messages))
    for _ in range(draw(st.integers(1, 2))):
        start = draw(st.integers(0, len(head) - 3))
        end = min(len(head) - 4, start + draw(st.integers(0, 3)))
        piece = draw(st.sampled_from(FRAGMENTS) | st.integers(0, 255).map(lambda byte: bytes((byte,))))
        head = head[:start] + piece + head[max(start, end) :]
        head = head[: head.index(HEAD_END) + 4] if HEAD_END in head else head + HEAD_END
    return head


def _cut(messages: list[bytes]) -> list[bytes]:
    return [message[: message.index(HEAD_END) + 4] for message in messages]


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(bent_heads(_cut([*REQUESTS, *DENIED_REQUESTS, *REQUEST_HEADS.values()])))
def test_requests_that_others_read_otherwise_are_of_a_known_class(head: bytes) -> None:
    compare(head, is_request=True)


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(bent_heads(_cut([*ANSWERS, *OPEN_ANSWERS, *RESPONSE_HEADS.values()])))
def test_responses_that_others_read_otherwise_are_of_a_known_class(head: bytes) -> None:
    compare(head, is_request=False)


# One head for each class: what is listed is what happens.
EXAMPLES = [
    (b"GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", "header lines"),
    (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", "a line that does not end in CRLF"),
    (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "request line"),
    (b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "the first bytes are no request of HTTP/1.x"),
    (b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", "a target that is neither a path nor http://"),
    (b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", "* with a method other than OPTIONS"),
    (b"CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT with a target other than host:port"),
    (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", "CONNECT with a body"),
    (b"GET / HTTP/1.1\r\n\r\n", "0 Host headers"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", "2 Host headers"),
    (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", "Host is no authority"),
    (b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", "Host is not the authority of the target"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nConnection: x-key\r\n\r\n", "Connection names another header"),
    (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", "Expect other than 100-continue"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5,5\r\n\r\n", "Content-Length is no number in range"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 05\r\n\r\n", "Content-Length with leading zeros"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent_Length: 6\r\n\r\n", "more than one framing header"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n", "a framing header in another spelling"),
    (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", "Transfer-Encoding other than chunked"),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding in HTTP/1.0"),
    (b"FOO / HTTP/1.1\r\nHost: a\r\n\r\n", "Invalid method encountered"),
    (b"GETS / HTTP/1.1\r\nHost: a\r\n\r\n", "Expected space after method"),
    (b"HTTP/1.1 200 OK\x01\r\nContent-Length: 0\r\n\r\n", "status line"),
    (b"HTTP/1.1 200 OK\r\nX: \x01\r\nContent-Length: 0\r\n\r\n", "header lines"),
    (b"HTTP/1.1 200 OK\r\nConnection: content-length\r\n\r\n", "Connection names a framing header"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 5,5\r\n\r\n", "Content-Length is no number in range"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "Transfer-Encoding other than chunked"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", "more than one framing header"),
    (b"HTTP/1.1 200 OK\r\nContent_Length: 1\r\n\r\n", "a framing header in another spelling"),
    (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding in HTTP/1.0"),
    (b"HTTP/1.1 204 No Content\r\nContent-Length: 1\r\n\r\n", "status 204 with a body"),
    (b"HTTP/1.1 103 Early Hints\r\nContent-Length: 1\r\n\r\n", "status 103 with a body"),
    (b"HTTP/1.1 101\r\n\r\n", "Pause on CONNECT/Upgrade"),
]


@pytest.mark.parametrize(("head", "expected"), EXAMPLES)
def test_each_class_of_disagreement_has_its_example(head: bytes, expected: str) -> None:
    assert compare(head, is_request=not head.startswith(b"HTTP/")) == expected


def test_every_class_that_is_listed_has_an_example() -> None:
    listed = {*STRICTER_REQUESTS, *STRICTER_RESPONSES, *LOOSER_REQUESTS, *LOOSER_RESPONSES}
    rare = {"3 Host headers", "above 100 headers", "status 101 with a body", "status 100 with a body"}
    assert listed - rare - {"status 102 with a body"} == {expected for _, expected in EXAMPLES}


# --- What must be taken


@pytest.mark.parametrize("name", [name for name in REQUEST_HEADS if name not in REFUSED_HEADS])
def test_heads_of_ordinary_clients_are_taken(name: str) -> None:
    head = REQUEST_HEADS[name]
    read = read_request_head(head)
    check_request(head, read)
    assert compare(head, is_request=True) == ""
    assert read.size == len(head)
    request = oracle.read_request(head, 0)
    has_body = any(header in (b"transfer-encoding",) for header, _ in request.headers)
    lengths = [int(value) for header, value in request.headers if header == b"content-length"]
    assert read.length == (CHUNKED if has_body else sum(lengths))
    assert read.expects_continue == (b"Expect: 100-continue" in head)
    assert bool(read.upgrade) == (b"\nUpgrade: " in head)
    assert read.keep_alive == ((b" HTTP/1.1" in head or b"Connection: Keep-Alive" in head) and b": close" not in head)


@pytest.mark.parametrize("name", sorted(REFUSED_HEADS))
def test_heads_of_other_protocols_in_the_form_of_requests_are_not(name: str) -> None:
    with pytest.raises(ProtocolError, match="a method other than OPTIONS"):
        read_request_head(REQUEST_HEADS[name])


@pytest.mark.parametrize("name", RESPONSE_HEADS)
def test_heads_of_ordinary_servers_are_taken(name: str) -> None:
    head = RESPONSE_HEADS[name]
    read = read_response_head(head)
    check_response(head, read)
    assert compare(head, is_request=False) == ""
    assert str(read.status).encode() == head[9:12]
