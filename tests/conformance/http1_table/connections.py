"""Connection options, HTTP/1.0, and how connections end."""

from dataclasses import replace

from http1_table.build import (
    HELLO,
    HOST,
    JOBS,
    NOTHING_MORE,
    OK,
    allow,
    allowed,
    answer,
    bad_gateway,
    chunked,
    denied,
    deny,
    head,
    refuse,
    refused,
)
from http1_table.model import Case, Group, Then, Turn, Verdict


def _named(name: str, value: str) -> Case:
    return refuse(name, head("GET /jobs", f"Connection: {value}", "X-A: b"))


OPTIONS = Group(
    "Connection",
    "RFC 9110 7.6.1 (options, names of hop-by-hop headers), RFC 9112 9.3, 9.6; abuse of hop-by-hop headers: the next "
    "hop would drop what a rule has read",
    (
        allow("none", JOBS),
        allow("keep-alive", head("GET /jobs", "Connection: keep-alive")),
        allow("Keep-Alive beside it", head("GET /jobs", "Connection: keep-alive", "Keep-Alive: timeout=5, max=9")),
        allow("empty", head("GET /jobs", "Connection:")),
        allow("empty members", head("GET /jobs", "Connection: , keep-alive ,")),
        allow("TE", head("GET /jobs", "Connection: TE", "TE: trailers")),
        allow("Proxy-Connection is passed on", head("GET /jobs", "Proxy-Connection: keep-alive")),
        allow("close", head("GET /jobs", "Connection: close"), then=Then.CLOSED),
        allow("close, and the server says so", head("GET /jobs", "Connection: close"), NOTHING_MORE, then=Then.CLOSED),
        allow("close, letter case", head("GET /jobs", "cONNECTION: cLOSE"), then=Then.CLOSED),
        allow("close and keep-alive", head("GET /jobs", "Connection: keep-alive, close"), then=Then.CLOSED),
        allow("in two lines", head("GET /jobs", "Connection: keep-alive", "Connection: close"), then=Then.CLOSED),
        allow(
            "close on POST", head("POST /jobs", "Connection: close", "Content-Length: 5") + b"hello", then=Then.CLOSED
        ),
        Case("close on a denied call", (denied(head("GET /applicants", "Connection: close")),), Then.CLOSED),
        allow("the server closes", JOBS, NOTHING_MORE, then=Then.CLOSED),
        allow("the server ends behind its answer", JOBS, then=Then.CLOSED, origin_ends=True),
        allow("the server's keep-alive", JOBS, answer("200 OK", "Connection: keep-alive", "Content-Length: 0")),
        _named("names a header", "X-A"),
        _named("names a header beside others", "keep-alive, x-a"),
        _named("names Host", "Host"),
        _named("names Content-Length", "Content-Length"),
        _named("names Transfer-Encoding", "Transfer-Encoding"),
        _named("names Authorization", "close, Authorization"),
        _named("names Cookie", "Cookie"),
        _named("names X-Forwarded-For", "close, X-Forwarded-For"),
        _named("names what is not there", "X-Nothing"),
        _named("a parameter", "close;a=b"),
        _named("quotes", '"close"'),
        _named("close with letters behind", "closed"),
        _named("a space inside", "keep alive"),
    ),
)

_HALF_CHUNK = chunked(b"5\r\nhel")
_NO_LAST = chunked(b"5\r\nhello\r\n")

HALF_CLOSE = Group(
    "half close",
    "RFC 9112 9.6, 9.7 (half-closed connections), 8 (incomplete messages)",
    (
        allow("the client ends behind its request", JOBS, then=Then.CLOSED, client_ends=True),
        allow("behind a body", HELLO, then=Then.CLOSED, client_ends=True),
        allow("and the server closes", JOBS, NOTHING_MORE, then=Then.CLOSED, client_ends=True),
        Case(
            "the client ends behind two requests",
            (
                Turn(JOBS + JOBS, Verdict.ALLOW, at_origin=JOBS, answer=OK, to_client=OK, client_ends=True),
                replace(allowed(JOBS), sent=b""),
            ),
            Then.CLOSED,
            extends=False,
        ),
        Case(
            "behind a denied call",
            (replace(denied(head("GET /applicants")), client_ends=True),),
            Then.CLOSED,
            extends=False,
        ),
        Case(
            "behind a malformed one",
            (replace(refused(b"GET\t/ HTTP/1.1\r\n\r\n", "HTTP_NOT_HTTP"), client_ends=True),),
            Then.CLOSED,
        ),
        Case("before a first byte", (Turn(client_ends=True),), Then.CLOSED, alone=True, extends=False),
        Case("inside a head", (Turn(b"GET /jobs HTT", client_ends=True),), Then.CLOSED, extends=False),
        Case(
            "behind the request line", (Turn(b"GET /jobs HTTP/1.1\r\n", client_ends=True),), Then.CLOSED, extends=False
        ),
        Case("before the blank line", (Turn(JOBS[:-2], client_ends=True),), Then.CLOSED, extends=False),
        Case(
            "inside a body: the server must not take it for whole",
            (Turn(HELLO[:-1], Verdict.REFUSE, "DOWNSTREAM_CLOSED", HELLO[:-1], client_ends=True),),
            Then.CUT,
            extends=False,
        ),
        Case(
            "inside a chunk",
            (Turn(_HALF_CHUNK, Verdict.REFUSE, "DOWNSTREAM_CLOSED", _HALF_CHUNK, client_ends=True),),
            Then.CUT,
            extends=False,
        ),
        Case(
            "before the last chunk",
            (Turn(_NO_LAST, Verdict.REFUSE, "DOWNSTREAM_CLOSED", _NO_LAST, client_ends=True),),
            Then.CUT,
            extends=False,
        ),
    ),
)

_KEEP = "Connection: keep-alive"


OLD = Group(
    "HTTP/1.0",
    "RFC 9112 9.3 (persistence), C.2.2, 3.2 (Host), 6.1 (no Transfer-Encoding); downgrade and keep-alive confusion",
    (
        allow("without Host", head("GET /jobs HTTP/1.0", host=None), then=Then.CLOSED),
        allow("with Host", head("GET /jobs HTTP/1.0"), then=Then.CLOSED),
        allow("keep-alive", head("GET /jobs HTTP/1.0", _KEEP), answer("200 OK", _KEEP, "Content-Length: 0")),
        allow("keep-alive, letter case", head("GET /jobs HTTP/1.0", "Connection: Keep-Alive")),
        allow("keep-alive and close", head("GET /jobs HTTP/1.0", "Connection: keep-alive, close"), then=Then.CLOSED),
        allow("keep-alive, the server closes", head("GET /jobs HTTP/1.0", _KEEP), NOTHING_MORE, then=Then.CLOSED),
        allow(
            "keep-alive, the server speaks 1.0",
            head("GET /jobs HTTP/1.0", _KEEP),
            answer("200 OK", "Content-Length: 2", body=b"ok", version="HTTP/1.0"),
            then=Then.CLOSED,
        ),
        allow(
            "keep-alive, the server speaks 1.0 and keeps it",
            head("GET /jobs HTTP/1.0", _KEEP),
            answer("200 OK", "Content-Length: 2", _KEEP, body=b"ok", version="HTTP/1.0"),
        ),
        allow("POST", head("POST /jobs HTTP/1.0", "Content-Length: 5") + b"hello", then=Then.CLOSED),
        allow("POST, keep-alive", head("POST /jobs HTTP/1.0", _KEEP, "Content-Length: 5") + b"hello"),
        allow("HEAD", head("HEAD /jobs HTTP/1.0"), then=Then.CLOSED),
        allow("absolute-form", head(f"GET http://{HOST}/jobs HTTP/1.0"), then=Then.CLOSED),
        allow(
            "answered until the connection ends",
            head("GET /jobs HTTP/1.0"),
            answer("200 OK", body=b"until the end"),
            then=Then.CLOSED,
            origin_ends=True,
        ),
        deny("denied", head("GET /applicants HTTP/1.0"), then=Then.CLOSED),
        deny("denied, keep-alive", head("GET /applicants HTTP/1.0", _KEEP), then=Then.CLOSED),
        refuse("Host twice", head("GET /jobs HTTP/1.0", "Host: b.example"), "HTTP_HOST"),
        refuse("Host bad", head("GET /jobs HTTP/1.0", host="a b"), "HTTP_HOST"),
        refuse("chunked", chunked(b"0\r\n\r\n", to="POST /jobs HTTP/1.0"), "HTTP_FRAMING"),
        refuse("version alone", b"GET /jobs HTTP/1.0 \r\n\r\n"),
        bad_gateway(
            "answered in chunks that it cannot read",
            answer("200 OK", "Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n"),
            sent=head("GET /jobs HTTP/1.0"),
        ),
        bad_gateway(
            "answered with an interim answer that it cannot read",
            answer("103 Early Hints") + OK,
            sent=head("GET /jobs HTTP/1.0"),
        ),
        allow(
            "a server of 1.0 and a client of 1.1",
            JOBS,
            answer("200 OK", "Content-Length: 2", body=b"ok", version="HTTP/1.0"),
            then=Then.CLOSED,
        ),
        allow(
            "a server of 1.0 that keeps the connection",
            JOBS,
            answer("200 OK", "Content-Length: 2", _KEEP, body=b"ok", version="HTTP/1.0"),
        ),
    ),
)

GROUPS = (OPTIONS, HALF_CLOSE, OLD)
