"""Bodies where no server expects them, and bodies that wait to be asked for."""

from http1_table.build import (
    APPLICANTS,
    HEALTH,
    OK,
    allow,
    allowed,
    answer,
    chunked,
    denied,
    deny,
    goes_on,
    head,
    refuse,
)
from http1_table.model import Case, Group, Then, Turn, Verdict

_NOT_GRANTED = "HTTP_BODY_NOT_ALLOWED"
_CHUNKS = b"5\r\nhello\r\n0\r\n\r\n"


def _body(start: str, body: bytes = b"hello", *lines: str) -> bytes:
    return head(start, *lines, f"Content-Length: {len(body)}") + body


FAT = Group(
    "bodies on GET, HEAD and DELETE",
    "RFC 9110 9.3.1, 9.3.2, 9.3.5 (no defined meaning; may be taken for smuggling); request smuggling of the kind CL.0",
    (
        deny("GET", _body("GET /jobs"), _NOT_GRANTED),
        deny("HEAD", _body("HEAD /jobs"), _NOT_GRANTED),
        deny("DELETE", _body("DELETE /jobs/1"), _NOT_GRANTED),
        deny("GET, a body that is a request", _body("GET /jobs", APPLICANTS), _NOT_GRANTED),
        deny("GET, a body that is an allowed request", _body("GET /jobs", HEALTH), _NOT_GRANTED),
        deny("GET, no rule for the path", _body("GET /applicants")),
        # How much is left to drop is not known in advance: the connection ends.
        deny("GET, chunked", chunked(_CHUNKS, to="GET /jobs"), _NOT_GRANTED, Then.CLOSED),
        deny("GET, chunked and empty", chunked(b"0\r\n\r\n", to="GET /jobs"), _NOT_GRANTED, Then.CLOSED),
        deny("DELETE, chunked", chunked(_CHUNKS, to="DELETE /jobs/1"), _NOT_GRANTED, Then.CLOSED),
        allow("GET, granted", _body("GET /query")),
        allow("HEAD, granted", _body("HEAD /query")),
        allow("DELETE, granted", _body("DELETE /query")),
        allow("GET, granted, chunked", chunked(_CHUNKS, to="GET /query")),
        allow("GET, granted, a body that is a request", _body("GET /query", APPLICANTS)),
        allow("GET, granted, no body", head("GET /query")),
        allow("GET, length 0", head("GET /jobs", "Content-Length: 0")),
        allow("HEAD, length 0", head("HEAD /jobs", "Content-Length: 0")),
        allow("DELETE, length 0", head("DELETE /jobs/1", "Content-Length: 0")),
        refuse("GET, malformed length", head("GET /query", "Content-Length: 5, 5") + b"hello", "HTTP_FRAMING"),
        deny("a denied method", _body("PATCH /jobs")),
    ),
)

_EXPECTS = head("POST /jobs", "Content-Length: 5", "Expect: 100-continue")
_CONTINUE = answer("100 Continue")
_UNAUTHORIZED = answer("401 Unauthorized", "Content-Length: 2", body=b"no")


def _expectation(name: str, *lines: str) -> Case:
    return refuse(name, head("POST /jobs", "Content-Length: 5", *lines) + b"hello", "HTTP_EXPECT", 417)


EXPECT = Group(
    "Expect",
    "RFC 9110 10.1.1 (100-continue, 417, a final answer in place of 100); desynchronisation by Expect",
    (
        Case("the server asks for the body", (allowed(_EXPECTS, _CONTINUE), goes_on(b"hello", OK)), Then.OPEN),
        Case(
            "letter case",
            (
                allowed(head("POST /jobs", "Content-Length: 5", "eXPECT: 100-Continue"), _CONTINUE),
                goes_on(b"hello", OK),
            ),
            Then.OPEN,
        ),
        Case(
            "asked for, chunked",
            (allowed(chunked(b"", "Expect: 100-continue"), _CONTINUE), goes_on(_CHUNKS, OK)),
            Then.OPEN,
        ),
        Case(
            "asked for, then refused by the server",
            (allowed(_EXPECTS, _CONTINUE), goes_on(b"hello", _UNAUTHORIZED)),
            Then.OPEN,
        ),
        allow("the body is sent at once", _EXPECTS + b"hello"),
        allow("the body is sent at once, and asked for", _EXPECTS + b"hello", _CONTINUE + OK),
        allow("no body", head("GET /jobs", "Expect: 100-continue")),
        # Whether the client now sends its body is not known: what follows may be a request or not.
        Case("a final answer in place of 100", (allowed(_EXPECTS, _UNAUTHORIZED),), Then.CLOSED, extends=False),
        Case("a final 200 in place of 100", (allowed(_EXPECTS, OK),), Then.CLOSED, extends=False),
        Case(
            "behind a final answer the body goes nowhere",
            (allowed(_EXPECTS, _UNAUTHORIZED), Turn(b"hello")),
            Then.CLOSED,
        ),
        Case(
            "denied, the body may come or not",
            (denied(head("POST /applicants", "Content-Length: 5", "Expect: 100-continue")),),
            Then.CLOSED,
        ),
        Case(
            "denied, the body is sent",
            (denied(head("POST /applicants", "Content-Length: 5", "Expect: 100-continue") + b"hello"),),
            Then.CLOSED,
        ),
        Case("denied without a body", (denied(head("GET /applicants", "Expect: 100-continue")),), Then.OPEN),
        Case(
            "HTTP/1.0",
            (allowed(head("POST /jobs HTTP/1.0", "Content-Length: 5", "Expect: 100-continue") + b"hello"),),
            Then.CLOSED,
        ),
        _expectation("another expectation", "Expect: 200-ok"),
        _expectation("empty", "Expect:"),
        _expectation("a list", "Expect: 100-continue, x"),
        _expectation("twice", "Expect: 100-continue", "Expect: 100-continue"),
        _expectation("a parameter", "Expect: 100-continue;a=b"),
        _expectation("letters in front", "Expect: x100-continue"),
        _expectation("letters behind", "Expect: 100-continue1"),
        refuse("obfuscated", head("POST /jobs", "Expect : 100-continue")),
    ),
)

_LONG = head("POST /jobs", "Content-Length: 10")
_CLOSES = answer("200 OK", "Content-Length: 2", "Connection: close", body=b"ok")


EARLY = Group(
    "answers before the body is complete",
    "RFC 9112 9.3.2, 9.5 and RFC 9110 7.5 (a server may answer early); desynchronisation by early answers",
    (
        Case(
            "the body goes on to its end, and the connection with it",
            (allowed(_LONG + b"hello", OK), goes_on(b"hello")),
            Then.OPEN,
        ),
        Case(
            "the client closes, the body goes on",
            (allowed(head("POST /jobs", "Content-Length: 10", "Connection: close") + b"hello", OK), goes_on(b"hello")),
            Then.CLOSED,
        ),
        Case(
            "the server closes, the body goes on",
            (allowed(_LONG + b"hello", _CLOSES), goes_on(b"hello")),
            Then.CLOSED,
        ),
        Case(
            "chunked",
            (allowed(chunked(b"5\r\nhello"), OK), goes_on(b"\r\n0\r\n\r\n")),
            Then.OPEN,
        ),
        Case(
            "the rest of the body looks like a request",
            (
                allowed(head("POST /jobs", f"Content-Length: {5 + len(APPLICANTS)}") + b"hello", OK),
                goes_on(APPLICANTS),
            ),
            Then.OPEN,
        ),
        Case(
            "an interim answer, then the rest",
            (allowed(_LONG + b"hello", answer("102 Processing")), goes_on(b"hello", OK)),
            Then.OPEN,
        ),
        Case(
            "a malformed chunk behind it cuts both",
            (
                Turn(chunked(b"5\r\nhello"), Verdict.ALLOW, "HTTP_FRAMING", chunked(b"5\r\nhello"), OK, OK),
                Turn(b"\r\nx\r\n"),
            ),
            Then.CUT,
        ),
        Case(
            "bytes behind it: the server is not to be trusted with the rest",
            (
                Turn(_LONG + b"hello", Verdict.ALLOW, "UNEXPECTED_UPSTREAM_BYTES", _LONG + b"hello", OK + OK, OK),
                Turn(b"hello"),
            ),
            Then.CLOSED,
        ),
    ),
)

GROUPS = (FAT, EXPECT, EARLY)
