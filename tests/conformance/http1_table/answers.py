"""Answers of servers: whose they are, where they end, and what no client may be handed."""

from dataclasses import replace

from http1_table.build import (
    HEAD_OK,
    HELLO,
    JOBS,
    OK,
    allow,
    allowed,
    answer,
    bad_gateway,
    chunked,
    denied,
    goes_on,
    head,
    posted,
    torn,
)
from http1_table.model import Case, Group, Then, Turn, Verdict

_HEAD = head("HEAD /jobs")
_CHUNKS = b"2\r\nok\r\n0\r\n\r\n"
_CHUNKED = "Transfer-Encoding: chunked"


def _passes(name: str, answered: bytes, sent: bytes = JOBS, then: Then = Then.OPEN) -> Case:
    return allow(name, sent, answered, then)


def _to_the_end(name: str, answered: bytes, sent: bytes = JOBS) -> Case:
    return allow(name, sent, answered, Then.CLOSED, origin_ends=True)


LENGTHS = Group(
    "answers and where they end",
    "RFC 9112 6.3 (message body length), 7.1, RFC 9110 6.4.1, 8.6, 9.3.2, 15.3.5, 15.4.5",
    (
        _passes("Content-Length", OK),
        _passes("Content-Length 0", answer("200 OK", "Content-Length: 0")),
        _passes("letter case of the names", answer("200 OK", "content-length: 2", body=b"ok")),
        _passes("100 KB", answer("200 OK", "Content-Length: 100000", body=b"x" * 100_000)),
        _passes("a body that looks like an answer", answer("200 OK", f"Content-Length: {len(OK)}", body=OK)),
        _passes("chunks", answer("200 OK", _CHUNKED, body=_CHUNKS)),
        _passes("no chunk but the last", answer("200 OK", _CHUNKED, body=b"0\r\n\r\n")),
        _passes("many chunks", answer("200 OK", _CHUNKED, body=b"1\r\nx\r\n" * 300 + b"0\r\n\r\n")),
        _passes("chunks with extensions", answer("200 OK", _CHUNKED, body=b'2;a=b;c="d"\r\nok\r\n0;e\r\n\r\n')),
        _passes("chunks with trailers", answer("200 OK", _CHUNKED, body=b"2\r\nok\r\n0\r\nX-Sum: 1\r\nY: z\r\n\r\n")),
        _passes("a chunk of 20 KB", answer("200 OK", _CHUNKED, body=b"4e20\r\n" + b"x" * 20_000 + b"\r\n0\r\n\r\n")),
        _to_the_end("no length: until the connection ends", answer("200 OK", body=b"until the end")),
        _to_the_end("no length, close", answer("200 OK", "Connection: close", body=b"until the end")),
        _to_the_end("no length, no byte", answer("200 OK")),
        _to_the_end("no length, what looks like an answer", answer("200 OK", body=OK + OK)),
        _to_the_end("no length, HTTP/1.0", answer("200 OK", body=b"until the end", version="HTTP/1.0")),
        _to_the_end("no length to POST", answer("200 OK", body=b"until the end"), HELLO),
        _to_the_end("no length, 100 KB", answer("200 OK", body=b"x" * 100_000)),
        _passes("204", answer("204 No Content")),
        _passes("204 with length 0", answer("204 No Content", "Content-Length: 0")),
        _passes("304", answer("304 Not Modified", 'ETag: "x"')),
        _passes("304 with a length that is not sent", answer("304 Not Modified", "Content-Length: 5000")),
        _passes("304 with chunks that are not sent", answer("304 Not Modified", _CHUNKED)),
        _passes("205 with length 0", answer("205 Reset Content", "Content-Length: 0")),
        _passes("HEAD with a length that is not sent", HEAD_OK, _HEAD),
        _passes("HEAD with chunks that are not sent", answer("200 OK", _CHUNKED), _HEAD),
        _passes("HEAD without a length", answer("200 OK"), _HEAD),
        _passes("HEAD, 404", answer("404 Not Found", "Content-Length: 9"), _HEAD),
        _passes("HEAD, close", answer("200 OK", "Connection: close", "Content-Length: 9"), _HEAD, Then.CLOSED),
        _passes("close", answer("200 OK", "Connection: close", "Content-Length: 2", body=b"ok"), then=Then.CLOSED),
        _passes("close, chunks", answer("200 OK", "Connection: close", _CHUNKED, body=_CHUNKS), then=Then.CLOSED),
        allow(
            "the client's half has ended", JOBS, answer("200 OK", _CHUNKED, body=_CHUNKS), Then.CLOSED, client_ends=True
        ),
    ),
)

HEADS = Group(
    "heads of answers",
    "RFC 9112 4 (status line), 5 (header lines), RFC 9110 15 (statuses)",
    (
        _passes("201", answer("201 Created", "Location: /jobs/1", "Content-Length: 0")),
        _passes("206", answer("206 Partial Content", "Content-Range: bytes 0-1/9", "Content-Length: 2", body=b"ok")),
        _passes("302", answer("302 Found", "Location: http://b.example/", "Content-Length: 0")),
        _passes("401", answer("401 Unauthorized", "WWW-Authenticate: Basic", "Content-Length: 0")),
        _passes("404", answer("404 Not Found", "Content-Length: 2", body=b"no")),
        _passes("500", answer("500 Internal Server Error", "Content-Length: 2", body=b"no")),
        _passes("a status that nobody knows", answer("299 Odd", "Content-Length: 0")),
        _passes("599", answer("599 Odd", "Content-Length: 0")),
        _passes("empty reason", answer("200 ", "Content-Length: 0")),
        _passes("no reason", answer("200", "Content-Length: 0")),
        _passes("reason of many words", answer("200 it is all fine: really, (yes)", "Content-Length: 0")),
        _passes("reason in Latin 1", answer("200 D\xe9j\xe0 vu", "Content-Length: 0")),
        _passes("many cookies", answer("200 OK", *(f"Set-Cookie: c{n}=v" for n in range(20)), "Content-Length: 0")),
        _passes("values with tabs and obs-text", answer("200 OK", "X-A: \ta\tb\xe9 ", "Content-Length: 0")),
        _passes("empty value", answer("200 OK", "X-A:", "Content-Length: 0")),
        _passes("Keep-Alive", answer("200 OK", "Keep-Alive: timeout=5", "Connection: keep-alive", "Content-Length: 0")),
        _passes("Upgrade is offered", answer("200 OK", "Upgrade: h2,h2c", "Connection: Upgrade", "Content-Length: 0")),
        _passes("a head of 30 KB", answer("200 OK", "X-A: " + "a" * 30_000, "Content-Length: 0")),
        _passes("100 headers", answer("200 OK", *(f"X-{n}: y" for n in range(99)), "Content-Length: 0")),
    ),
)

INTERIM = Group(
    "interim answers",
    "RFC 9110 15.2 (any number of 1xx before the final answer; a client must cope), RFC 8297 (103)",
    (
        _passes("100 that nobody asked for", answer("100 Continue") + OK),
        _passes("102", answer("102 Processing") + OK),
        _passes("103 with headers", answer("103 Early Hints", "Link: </a>; rel=preload") + OK),
        _passes("several", answer("100 Continue") + answer("102 Processing") + answer("103 Early Hints") * 3 + OK),
        _passes("one that nobody knows", answer("150 Odd") + OK),
        _passes("before 204", answer("103 Early Hints") + answer("204 No Content")),
        _passes("before an answer to HEAD", answer("103 Early Hints") + HEAD_OK, _HEAD),
        _to_the_end("before an answer without a length", answer("103 Early Hints") + answer("200 OK", body=b"x")),
        Case("the final answer later", (allowed(JOBS, answer("103 Early Hints")), goes_on(b"", OK)), Then.OPEN),
        bad_gateway(
            "then a malformed one", answer("103 Early Hints") + b"nonsense\r\n\r\n", passed=answer("103 Early Hints")
        ),
        bad_gateway(
            "then nothing",
            answer("103 Early Hints"),
            "UPSTREAM_CLOSED",
            passed=answer("103 Early Hints"),
            origin_ends=True,
        ),
        bad_gateway("with a length", answer("103 Early Hints", "Content-Length: 5") + b"hello" + OK),
        bad_gateway("with chunks", answer("103 Early Hints", _CHUNKED) + _CHUNKS + OK),
        bad_gateway("100 with a length", answer("100 Continue", "Content-Length: 5") + b"hello" + OK, sent=HELLO),
    ),
)


def _bad(name: str, answered: bytes) -> Case:
    return bad_gateway(name, answered)


def _line(name: str, line: bytes) -> Case:
    return bad_gateway(name, line + b"\r\nContent-Length: 2\r\n\r\nok")


def _lines(name: str, *lines: str | bytes) -> Case:
    return bad_gateway(name, answer("200 OK", *lines, body=b"ok"))


MALFORMED = Group(
    "malformed answers",
    "RFC 9112 4, 5.1, 5.2, 6.1, 6.3 (a proxy answers 502), RFC 9110 8.6; response splitting and response smuggling",
    (
        _bad("garbage", b"nonsense\r\n\r\n"),
        _bad("NUL", b"\0"),
        _bad("TLS", b"\x15\x03\x01\0\x02\x02\x28"),
        _bad("HTTP/2 SETTINGS", b"\0\0\0\4\0\0\0\0\0"),
        _bad("SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
        _bad("a body alone", b"<html></html>"),
        _bad("CRLF in front", b"\r\n" + OK),
        _line("HTTP/2.0", b"HTTP/2.0 200 OK"),
        _line("HTTP/0.9", b"HTTP/0.9 200 OK"),
        _line("HTTP/1.2", b"HTTP/1.2 200 OK"),
        _line("lower case", b"http/1.1 200 OK"),
        _line("ICY", b"ICY 200 OK"),
        _line("no status", b"HTTP/1.1"),
        _line("status of letters", b"HTTP/1.1 abc OK"),
        _line("two digits", b"HTTP/1.1 20 OK"),
        _line("four digits", b"HTTP/1.1 2000 OK"),
        _line("status 099", b"HTTP/1.1 099 OK"),
        _line("status 000", b"HTTP/1.1 000 OK"),
        _line("sign", b"HTTP/1.1 +20 OK"),
        _line("two spaces", b"HTTP/1.1  200 OK"),
        _line("tab", b"HTTP/1.1\t200 OK"),
        _line("a space in front", b" HTTP/1.1 200 OK"),
        _line("NUL in the reason", b"HTTP/1.1 200 O\0K"),
        _line("bare CR in the reason", b"HTTP/1.1 200 O\rK"),
        _line("DEL in the reason", b"HTTP/1.1 200 O\x7fK"),
        _bad("bare LF", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok"),
        _bad("a bare LF in the head", b"HTTP/1.1 200 OK\r\nX: y\nContent-Length: 2\r\n\r\nok"),
        _lines("space before the colon", "Content-Length : 2"),
        _lines("space in front", " X: y", "Content-Length: 2"),
        _lines("folded", "X: y\r\n z", "Content-Length: 2"),
        _lines("no colon", "nonsense", "Content-Length: 2"),
        _lines("no name", ": y", "Content-Length: 2"),
        _lines("NUL in a value", "X: \0", "Content-Length: 2"),
        _lines("bare CR in a value", "X: y\rSet-Cookie: z", "Content-Length: 2"),
        _lines("not a token", "X(Y): z", "Content-Length: 2"),
        _lines("two lengths, equal", "Content-Length: 2", "Content-Length: 2"),
        _lines("two lengths, different", "Content-Length: 2", "Content-Length: 0"),
        _lines("a list of lengths", "Content-Length: 2, 2"),
        _lines("negative", "Content-Length: -2"),
        _lines("length with a sign", "Content-Length: +2"),
        _lines("hexadecimal", "Content-Length: 0x2"),
        _lines("empty length", "Content-Length:"),
        _lines("length of letters", "Content-Length: two"),
        _lines("64 bits over", "Content-Length: 18446744073709551618"),
        _lines("underscore", "Content_Length: 2"),
        _lines("dot", "Content.Length: 2"),
        _lines("length and chunks", "Content-Length: 2", _CHUNKED),
        _lines("chunks and length", _CHUNKED, "Content-Length: 2"),
        _lines("gzip, chunked", "Transfer-Encoding: gzip, chunked"),
        _lines("gzip", "Transfer-Encoding: gzip"),
        _lines("identity", "Transfer-Encoding: identity"),
        _lines("chunked twice", _CHUNKED, _CHUNKED),
        _lines("chunked, chunked", "Transfer-Encoding: chunked, chunked"),
        _lines("empty coding", "Transfer-Encoding:"),
        _lines("vertical tab", "Transfer-Encoding: \x0bchunked"),
        _lines("underscored coding", "Transfer_Encoding: chunked"),
        _bad("chunks in HTTP/1.0", answer("200 OK", _CHUNKED, body=_CHUNKS, version="HTTP/1.0")),
        _bad("204 with a length", answer("204 No Content", "Content-Length: 2", body=b"ok")),
        _bad("204 with chunks", answer("204 No Content", _CHUNKED, body=_CHUNKS)),
        _bad("a head of more than 64 KB", answer("200 OK", "X-A: " + "a" * 70_000, "Content-Length: 0")),
        _bad("a head without an end", b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 70_000),
        _bad("a status line without an end", b"HTTP/1.1 200 " + b"a" * 70_000),
        _bad("101 headers", answer("200 OK", *(f"X-{n}: y" for n in range(101)), "Content-Length: 0")),
        bad_gateway("to HEAD", b"nonsense\r\n\r\n", sent=_HEAD),
        bad_gateway("to POST", b"nonsense\r\n\r\n", sent=HELLO),
    ),
)

_HALF = answer("200 OK", "Content-Length: 9", body=b"half")


def _bad_chunk(name: str, body: bytes) -> Case:
    return torn(name, answer("200 OK", _CHUNKED, body=body))


BROKEN = Group(
    "answers that break",
    "RFC 9112 6.3, 7.1, 8 (incomplete messages must be seen as such), 9.6; truncation and response smuggling",
    (
        torn("ends inside a body", _HALF, "UPSTREAM_CLOSED", origin_ends=True),
        torn("ends inside a chunk", answer("200 OK", _CHUNKED, body=b"9\r\nhalf"), "UPSTREAM_CLOSED", origin_ends=True),
        torn(
            "ends before the last chunk",
            answer("200 OK", _CHUNKED, body=b"2\r\nok\r\n"),
            "UPSTREAM_CLOSED",
            origin_ends=True,
        ),
        torn(
            "ends inside the trailers",
            answer("200 OK", _CHUNKED, body=b"0\r\nX: y\r\n"),
            "UPSTREAM_CLOSED",
            origin_ends=True,
        ),
        torn("is reset inside a body", _HALF, "UPSTREAM_RESET", origin_resets=True),
        torn("is reset, and has no length", answer("200 OK", body=b"half"), "UPSTREAM_RESET", origin_resets=True),
        bad_gateway("ends inside the head", b"HTTP/1.1 200 OK\r\nContent-Le", "UPSTREAM_CLOSED", origin_ends=True),
        bad_gateway("is reset inside the head", b"HTTP/1.1 200 OK\r\nContent-Le", "UPSTREAM_RESET", origin_resets=True),
        replace(bad_gateway("does not come: the server ends", b"", "UPSTREAM_CLOSED", origin_ends=True), alone=True),
        replace(bad_gateway("does not come: the server resets", b"", "UPSTREAM_RESET", origin_resets=True), alone=True),
        replace(
            bad_gateway("does not come, to HEAD", b"", "UPSTREAM_CLOSED", sent=_HEAD, origin_ends=True), alone=True
        ),
        Case(
            "does not come to a later request: closed as the server did, so that the client repeats it",
            (allowed(JOBS), Turn(JOBS, Verdict.ALLOW, "UPSTREAM_CLOSED", at_origin=JOBS, origin_ends=True)),
            Then.CLOSED,
        ),
        _bad_chunk("a chunk of no size", b"2\r\nok\r\nx\r\n"),
        _bad_chunk("a chunk without its CRLF", b"2\r\nokX"),
        _bad_chunk("a chunk with bare LF", b"2\r\nok\r\n0\n\n"),
        _bad_chunk("a chunk of 64 bits", b"2\r\nok\r\nffffffffffffffff\r\n"),
        _bad_chunk("an extension that does not end", b"2\r\nok\r\n0;a=" + b"b" * 5000),
        _bad_chunk("a trailer with NUL", b"2\r\nok\r\n0\r\nX: \0\r\n\r\n"),
        _bad_chunk("a trailer that frames", b"2\r\nok\r\n0\r\nContent-Length: 5\r\n\r\n"),
        _bad_chunk("trailers without an end", b"2\r\nok\r\n0\r\n" + b"X: y\r\n" * 2000),
    ),
)


def _stray(name: str, answered: bytes, behind: bytes, sent: bytes = JOBS) -> Case:
    """The answer is passed on whole, what is behind it is not, and the server is asked nothing more."""
    return Case(
        name,
        (Turn(sent, Verdict.ALLOW, at_origin=sent, answer=answered + behind, to_client=answered),),
        Then.CLOSED,
        at_once=True,
    )


STRAY = Group(
    "answers to nothing",
    "RFC 9112 9.2 (associating answers with requests), 6.3 (data behind an answer); response queue poisoning, the "
    "sign of a request that the server saw and the proxy did not",
    (
        _stray("a second answer", OK, OK),
        _stray("a byte", OK, b"\0"),
        _stray("CRLF", OK, b"\r\n"),
        _stray("behind chunks", answer("200 OK", _CHUNKED, body=_CHUNKS), OK),
        _stray("behind 204", answer("204 No Content"), b"ok"),
        _stray("behind 304", answer("304 Not Modified", "Content-Length: 2"), b"ok"),
        _stray("a body behind the answer to HEAD", HEAD_OK, b"ok", _HEAD),
        _stray("chunks behind the answer to HEAD", answer("200 OK", _CHUNKED), _CHUNKS, _HEAD),
        _stray("behind a length of 0", answer("200 OK", "Content-Length: 0"), b"ok"),
        _stray("an interim answer behind the final one", OK, answer("100 Continue")),
        _stray(
            "to a body that is taken for a request (CL.0)",
            OK,
            answer("404 Not Found", "Content-Length: 0"),
            posted(head("GET /applicants")),
        ),
        _stray("to chunks that are taken for a request", OK, OK, chunked(b"5\r\nhello\r\n0\r\n\r\n")),
        Case("later", (allowed(JOBS), Turn(answer=OK)), Then.CLOSED, extends=False),
        Case("later, a byte", (allowed(JOBS), Turn(answer=b"\0")), Then.CLOSED, extends=False),
        Case("behind a denied call", (denied(head("GET /applicants")), Turn(answer=OK)), Then.CLOSED, extends=False),
        Case("before the first request", (Turn(answer=OK),), Then.CUT, alone=True),
        Case("a server that speaks first", (Turn(answer=b"220 mail.example ESMTP\r\n"),), Then.CUT, alone=True),
        Case("inside a head of the client", (allowed(JOBS), Turn(b"GET /hea", answer=OK)), Then.CLOSED, extends=False),
    ),
)

GROUPS = (LENGTHS, HEADS, INTERIM, MALFORMED, BROKEN, STRAY)
