"""Requests that do not wait for their answers: each is judged in its turn, and answered in its turn."""

from dataclasses import replace

from http1_table.build import (
    APPLICANTS,
    HEALTH,
    HELLO,
    HOST,
    JOBS,
    NOTHING_MORE,
    OK,
    allowed,
    answer,
    chunked,
    cut_off,
    denied,
    dropped,
    goes_on,
    head,
    posted,
    raw,
    refused,
)
from http1_table.first_bytes import CLIENT_HELLO, GOAWAY, PREFACE, TLS_ALERT
from http1_table.model import Case, Group, Then, Turn, Verdict

_CHUNKED = chunked(b"5\r\nhello\r\n0\r\n\r\n")
_BAD = raw("GET /jobs HTTP/1.1", "Host : a.example")


def _next(at_origin: bytes, answered: bytes = OK) -> Turn:
    """A request that was sent in an earlier turn and is told to the server now."""
    return Turn(b"", Verdict.ALLOW, at_origin=at_origin, answer=answered, to_client=answered)


def _first(at_origin: bytes, behind: bytes, answered: bytes = OK) -> Turn:
    """A request, and in the same write what is behind it."""
    return Turn(at_origin + behind, Verdict.ALLOW, at_origin=at_origin, answer=answered, to_client=answered)


IN_TURN = Group(
    "one after the other",
    "RFC 9112 9.3, 9.3.2 (order of answers, what may be pipelined)",
    (
        Case("two allowed", (_first(JOBS, HEALTH), _next(HEALTH)), Then.OPEN),
        Case("equal ones", (_first(JOBS, JOBS * 2), _next(JOBS), _next(JOBS)), Then.OPEN),
        Case("ten", (_first(JOBS, HEALTH * 9), *(_next(HEALTH) for _ in range(9))), Then.OPEN),
        Case("not pipelined", (allowed(JOBS), allowed(HEALTH), denied(APPLICANTS), allowed(HELLO)), Then.OPEN),
        Case("behind a body", (_first(HELLO, JOBS), _next(JOBS)), Then.OPEN),
        Case("behind an empty body", (_first(posted(b""), JOBS), _next(JOBS)), Then.OPEN),
        Case("behind chunks", (_first(_CHUNKED, JOBS), _next(JOBS)), Then.OPEN),
        Case("a body behind", (_first(JOBS, HELLO), _next(HELLO)), Then.OPEN),
        Case("chunks behind", (_first(JOBS, _CHUNKED), _next(_CHUNKED)), Then.OPEN),
        Case(
            "behind HEAD",
            (_first(head("HEAD /jobs"), JOBS, answer("200 OK", "Content-Length: 2")), _next(JOBS)),
            Then.OPEN,
        ),
        Case(
            "HTTP/1.0 with keep-alive",
            (_first(head("GET /jobs HTTP/1.0", "Connection: keep-alive"), JOBS), _next(JOBS)),
            Then.OPEN,
        ),
        Case(
            "behind an interim answer", (_first(JOBS, HEALTH, answer("103 Early Hints") + OK), _next(HEALTH)), Then.OPEN
        ),
        Case(
            "behind a chunked answer",
            (
                _first(JOBS, HEALTH, answer("200 OK", "Transfer-Encoding: chunked", body=b"2\r\nok\r\n0\r\n\r\n")),
                _next(HEALTH),
            ),
            Then.OPEN,
        ),
        Case("behind 204", (_first(JOBS, HEALTH, answer("204 No Content")), _next(HEALTH)), Then.OPEN),
        Case(
            "a head that is not complete waits",
            (_first(JOBS, HEALTH[:20]), Turn(HEALTH[20:], Verdict.ALLOW, at_origin=HEALTH, answer=OK, to_client=OK)),
            Then.OPEN,
        ),
        Case(
            "a body that is not complete goes on later",
            (
                _first(JOBS, HELLO[:-2]),
                Turn(b"", Verdict.ALLOW, at_origin=HELLO[:-2]),
                goes_on(HELLO[-2:], OK),
            ),
            Then.OPEN,
        ),
    ),
)

DENIALS = Group(
    "denials in their turn",
    "RFC 9112 9.3.2; answers that are torn or swapped (response queue poisoning)",
    (
        Case("denied, then allowed", (denied(APPLICANTS + JOBS), _next(JOBS)), Then.OPEN),
        Case("allowed, then denied", (_first(JOBS, APPLICANTS), denied(b"")), Then.OPEN),
        Case("denied between", (_first(JOBS, APPLICANTS + HEALTH), denied(b""), _next(HEALTH)), Then.OPEN),
        Case("denied twice", (denied(APPLICANTS * 2), denied(b"")), Then.OPEN),
        Case("50 denied", (denied(APPLICANTS * 50), *(denied(b"") for _ in range(49))), Then.OPEN),
        Case("denied with a body", (denied(posted(b"hello", to="/applicants") + JOBS), _next(JOBS)), Then.OPEN),
        Case(
            "denied with a body that looks like a request",
            (denied(posted(JOBS, to="/applicants") + HEALTH), _next(HEALTH)),
            Then.OPEN,
        ),
        Case(
            "denied HEAD",
            (
                Turn(head("HEAD /applicants") + JOBS, Verdict.DENY, "HTTP_NO_RULE", status=403, bodiless=True),
                _next(JOBS),
            ),
            Then.OPEN,
        ),
        Case("denied behind a body", (_first(HELLO, APPLICANTS), denied(b"")), Then.OPEN),
        Case("denied behind chunks", (_first(_CHUNKED, APPLICANTS), denied(b"")), Then.OPEN),
        Case(
            "denied and closed: nothing behind it",
            (denied(head("GET /applicants", "Connection: close") + JOBS),),
            Then.CLOSED,
        ),
        Case(
            "denied chunks: nothing behind them",
            (denied(chunked(b"0\r\n\r\n", to="POST /applicants") + JOBS),),
            Then.CLOSED,
        ),
        Case(
            "denied with Expect: nothing behind it",
            (denied(head("POST /applicants", "Expect: 100-continue", "Content-Length: 5") + b"hello" + JOBS),),
            Then.CLOSED,
        ),
        Case("denied HTTP/1.0: nothing behind it", (denied(head("GET /applicants HTTP/1.0") + JOBS),), Then.CLOSED),
    ),
)

REFUSALS = Group(
    "malformed in their turn",
    "RFC 9112 2.2, 9.3.2, 9.6; request smuggling shows as a malformed next request",
    (
        Case("behind an allowed one", (_first(JOBS, _BAD), refused(b"")), Then.CLOSED),
        Case("and nothing behind that", (_first(JOBS, _BAD + HEALTH), refused(b"")), Then.CLOSED),
        Case("behind a denied one", (denied(APPLICANTS + _BAD + HEALTH), refused(b"")), Then.CLOSED),
        Case("garbage behind a body", (_first(HELLO, b"\0" + JOBS), refused(b"", "HTTP_NOT_HTTP")), Then.CLOSED),
        Case("CRLF behind a body", (_first(HELLO, b"\r\n" + JOBS), refused(b"", "HTTP_NOT_HTTP")), Then.CLOSED),
        Case("CRLF behind chunks", (_first(_CHUNKED, b"\r\n" + JOBS), refused(b"", "HTTP_NOT_HTTP")), Then.CLOSED),
        Case(
            "a chunk behind the last one",
            (_first(_CHUNKED, b"5\r\nhello\r\n"), refused(b"", "HTTP_NOT_HTTP")),
            Then.CLOSED,
        ),
        Case(
            "TE and CL behind an allowed one",
            (
                _first(
                    JOBS, head("POST /jobs", "Content-Length: 5", "Transfer-Encoding: chunked") + b"0\r\n\r\n" + HEALTH
                ),
                refused(b"", "HTTP_FRAMING"),
            ),
            Then.CLOSED,
        ),
        Case(
            "a letter too much makes another method",
            (_first(posted(b"hell"), b"o" + JOBS), Turn(b"", Verdict.DENY, "HTTP_NO_RULE", status=403)),
            Then.OPEN,
        ),
        Case(
            "HTTP/2 behind an allowed one",
            (_first(JOBS, PREFACE), Turn(b"", Verdict.REFUSE, "HTTP_HTTP2", to_client=GOAWAY)),
            Then.CLOSED,
        ),
        Case(
            "TLS behind an allowed one",
            (_first(JOBS, CLIENT_HELLO), Turn(b"", Verdict.REFUSE, "HTTP_TLS", to_client=TLS_ALERT)),
            Then.CLOSED,
        ),
        Case(
            "a malformed chunk behind an allowed one",
            (
                _first(JOBS, chunked(b"x\r\n\r\n")),
                replace(cut_off(chunked(b"x\r\n\r\n")), sent=b""),
            ),
            Then.CLOSED,
        ),
    ),
)

LAST = Group(
    "behind the last request of a connection",
    "RFC 9112 9.3.2, 9.6 (what is behind a close is not processed)",
    (
        Case("Connection: close", (_first(head("GET /jobs", "Connection: close"), HEALTH), dropped()), Then.CLOSED),
        Case(
            "Connection: close, denied behind",
            (_first(head("GET /jobs", "Connection: close"), APPLICANTS), dropped()),
            Then.CLOSED,
        ),
        Case("HTTP/1.0", (_first(head("GET /jobs HTTP/1.0"), HEALTH), dropped()), Then.CLOSED),
        Case("the server closes", (_first(JOBS, HEALTH, NOTHING_MORE), dropped()), Then.CLOSED),
        Case(
            "the server answers until the end",
            (
                Turn(
                    JOBS + HEALTH,
                    Verdict.ALLOW,
                    "NONE",
                    JOBS,
                    answer("200 OK", body=b"x"),
                    answer("200 OK", body=b"x"),
                    origin_ends=True,
                ),
                dropped(),
            ),
            Then.CLOSED,
        ),
        Case(
            "the server speaks HTTP/1.0",
            (_first(JOBS, HEALTH, answer("200 OK", "Content-Length: 0", version="HTTP/1.0")), dropped()),
            Then.CLOSED,
        ),
        Case(
            "the answer is malformed",
            (
                Turn(JOBS + HEALTH, Verdict.ALLOW, "HTTP_RESPONSE_MALFORMED", JOBS, b"nonsense\r\n\r\n", status=502),
                dropped(),
            ),
            Then.CLOSED,
        ),
        Case(
            "there is no answer",
            (Turn(JOBS + HEALTH, Verdict.ALLOW, "UPSTREAM_CLOSED", JOBS, origin_ends=True, status=502), dropped()),
            Then.CLOSED,
            alone=True,
        ),
    ),
)

_ABSOLUTE = head(f"GET http://{HOST}/jobs")

MIXED = Group(
    "smuggled by pipelining",
    "Request smuggling: each case would pass a request that is not allowed to a server that reads the bytes otherwise",
    (
        Case("in a body", (_first(posted(APPLICANTS), JOBS), _next(JOBS)), Then.OPEN),
        Case(
            "in chunks",
            (_first(chunked(b"%x\r\n%s\r\n0\r\n\r\n" % (len(APPLICANTS), APPLICANTS)), JOBS), _next(JOBS)),
            Then.OPEN,
        ),
        Case("behind an empty chunked body", (_first(chunked(b"0\r\n\r\n"), APPLICANTS), denied(b"")), Then.OPEN),
        Case("behind a length of zero", (_first(posted(b""), APPLICANTS), denied(b"")), Then.OPEN),
        Case("behind absolute-form", (_first(_ABSOLUTE, APPLICANTS), denied(b"")), Then.OPEN),
        Case("behind OPTIONS *", (_first(head("OPTIONS *"), APPLICANTS), denied(b"")), Then.OPEN),
        Case(
            "in a header's value",
            (_first(head("GET /jobs", "X-A: GET /applicants HTTP/1.1"), APPLICANTS), denied(b"")),
            Then.OPEN,
        ),
        Case(
            "behind a head of HTTP/0.9",
            (_first(JOBS, b"GET /applicants\r\n" + HEALTH), refused(b"")),
            Then.CLOSED,
        ),
    ),
)

GROUPS = (IN_TURN, DENIALS, REFUSALS, LAST, MIXED)
