"""Time: what begins and does not go on. The cases name seconds, so they are for runners that own the clock."""

from dataclasses import replace

from http1_table.build import HELLO, JOBS, OK, allowed, answer, head
from http1_table.model import Case, Group, Then, Turn, Verdict

_HEAD_S, _IDLE_S = 10.5, 301.0  # just above the defaults
_HALF_HEAD = b"HTTP/1.1 200 OK\r\nX-A"


TIME = Group(
    "time",
    "RFC 9110 15.5.9 (408), 15.6.5 (504), RFC 9112 9.5 (idle connections); exhaustion by slow heads and bodies",
    (
        Case(
            "a head that stops",
            (Turn(b"GET /jobs HTT", Verdict.REFUSE, "HEAD_TIMEOUT", status=408, seconds=_HEAD_S),),
            Then.CLOSED,
        ),
        Case(
            "a head that trickles",
            (
                Turn(b"GET /jobs HTTP/1.1\r\n", seconds=4.0),
                Turn(b"Host: a.example\r\n", seconds=4.0),
                Turn(b"X-A: b\r\n", Verdict.REFUSE, "HEAD_TIMEOUT", status=408, seconds=4.0),
            ),
            Then.CLOSED,
        ),
        Case(
            "a method that stops",
            (Turn(b"G", Verdict.REFUSE, "HEAD_TIMEOUT", status=408, seconds=_HEAD_S),),
            Then.CLOSED,
        ),
        Case("a head in time", (Turn(JOBS[:30], seconds=9.0), replace(allowed(JOBS), sent=JOBS[30:])), Then.OPEN),
        Case(
            "a body that stops",
            (Turn(HELLO[:-1], Verdict.REFUSE, "IDLE_TIMEOUT", at_origin=HELLO[:-1], status=408, seconds=_IDLE_S),),
            Then.CLOSED,
        ),
        Case("no first byte", (Turn(seconds=_IDLE_S),), Then.CLOSED, alone=True),
        Case("no next request", (replace(allowed(JOBS), seconds=_IDLE_S),), Then.CLOSED),
        Case(
            "an answer that takes an hour",
            (Turn(JOBS, Verdict.ALLOW, at_origin=JOBS, seconds=3600.0), Turn(answer=OK, to_client=OK)),
            Then.OPEN,
        ),
        Case(
            "an answer's head that stops",
            (Turn(JOBS, Verdict.ALLOW, "HTTP_RESPONSE_TIMEOUT", JOBS, _HALF_HEAD, status=504, seconds=_HEAD_S),),
            Then.CLOSED,
        ),
        Case(
            "an answer's body that rests an hour",
            (
                replace(allowed(JOBS, answer("200 OK", "Content-Length: 2", body=b"o")), seconds=3600.0),
                Turn(answer=b"k", to_client=b"k"),
            ),
            Then.OPEN,
        ),
        Case(
            "a denied body that stops",
            (
                Turn(head("POST /applicants", "Content-Length: 5"), Verdict.DENY, "HTTP_NO_RULE", status=403),
                Turn(b"he", seconds=_HEAD_S),
            ),
            Then.CLOSED,
        ),
    ),
)

GROUPS = (TIME,)
