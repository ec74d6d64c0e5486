"""What a curious caller tries: bytes that no client library sends, and what must become of each.

One command makes all of them, one connection after the other, and prints a line for each: the answers' status codes,
or how the connection ended.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from racecar.proxy.demo_services import GREETING, Service

FORWARDED = "FORWARDED"
DROPPED = "DROPPED"
PYTHON = "/usr/bin/python3"  # the system's: a workload's uid may not be able to read the one that runs the demo

# Each connection: say a part, wait for the end of a head before the next, then read to the end.
CLIENT = r"""
import json, re, socket, sys
place, tries, greeting = json.loads(sys.argv[1])
def answers(parts):
    got = b""
    with socket.create_connection(tuple(place), 5) as s:
        try:
            for number, part in enumerate(parts):
                while number and b"\r\n\r\n" not in got:
                    piece = s.recv(65536)
                    if not piece:
                        return got, ["closed"]
                    got += piece
                s.sendall(part.encode("latin-1"))
            while piece := s.recv(65536):
                got += piece
        except ConnectionError:
            return got, ["reset"]
        except TimeoutError:
            return got, ["no answer"]
    return got, []
for parts in tries:
    got, end = answers(parts)
    words = [code.decode() for code in re.findall(rb"HTTP/1\.[01] ([0-9]{3})", got)]
    if got[:2] == b"\x15\x03":
        words.append("TLS alert")
    if got[3:4] == b"\x04" and b"\x00\x00\x0d" in got[9:]:
        words.append("GOAWAY")
    if words == ["101"] and greeting.encode() in got:
        words.append(greeting)
    print(*(words + end or ["closed"]), flush=True)
"""


@dataclass(frozen=True, slots=True)
class Judged:
    """One request of a try, as it must stand in the log. Without a method it is known by its place alone."""

    verdict: str
    method: str = ""
    path: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Try:
    """One connection. `received` is what the service must get of it; `maybe` what it may get before it is cut."""

    title: str
    parts: tuple[str, ...]
    answers: tuple[str, ...]  # any of these
    judged: tuple[Judged, ...]
    received: tuple[str, ...] = ()
    maybe: tuple[str, ...] = ()


def command(service: Service, tries: Sequence[Try]) -> tuple[str, ...]:
    """The command that makes all of them."""
    said = json.dumps([[service.address, service.port], [one.parts for one in tries], GREETING])
    return (PYTHON, "-I", "-S", "-c", CLIENT, said)


def tries(service: Service) -> tuple[Try, ...]:
    """All of them, in order."""
    authority = f"{service.address}:{service.port}"
    return (
        *_other_calls(authority),
        *_smuggling(authority),
        *_pairs(authority),
        *_other_protocols(authority),
    )


def _head(authority: str, line: str, *fields: str, close: bool = True) -> str:
    last = ("Connection: close",) if close else ()
    return "".join(f"{text}\r\n" for text in (f"{line} HTTP/1.1", f"Host: {authority}", *fields, *last, ""))


def _denied(title: str, head: str, reason: str, status: str = "403", *, named: bool = True) -> Try:
    """A call that is refused and of which nothing arrives."""
    method, path = head.split(" ")[:2] if named else ("", "")
    shown = path.split("?")[0] + "?redacted" if "?" in path else path
    return Try(title, (head,), (status,), (Judged(DROPPED, method, shown, reason),))


def _other_calls(authority: str) -> tuple[Try, ...]:
    """Other methods, and other names for what is forbidden."""
    absolute = f"http://{authority}"
    hidden = ("/jobs/../applicants", "/%61pplicants", "//applicants", "/applicants?x")
    return (
        _denied("POST /jobs", _head(authority, "POST /jobs", "Content-Length: 5") + "a job", "HTTP_NO_RULE"),
        _denied("DELETE /jobs", _head(authority, "DELETE /jobs"), "HTTP_NO_RULE"),
        _denied(
            "POST /jobs, X-HTTP-Method-Override: GET",
            _head(authority, "POST /jobs", "X-HTTP-Method-Override: GET", "Content-Length: 0"),
            "HTTP_NO_RULE",
        ),
        *(_denied(f"GET {path}", _head(authority, f"GET {path}"), "HTTP_NO_RULE") for path in hidden),
        _denied("GET /jobs%2f..%2fapplicants", _head(authority, "GET /jobs%2f..%2fapplicants"), "HTTP_PATH_ENCODING"),
        Try(
            "GET http://.../jobs (absolute form)",
            (_head(authority, f"GET {absolute}/jobs"),),
            ("200",),
            (Judged(FORWARDED),),
            (f"GET {absolute}/jobs",),
        ),
        _denied(
            "GET http://.../applicants",
            _head(authority, f"GET {absolute}/applicants"),
            "HTTP_NO_RULE",
            named=False,
        ),
        _denied(
            "GET /jobs with two Hosts",
            _head(authority, "GET /jobs", "Host: other.example"),
            "HTTP_HOST",
            "400",
            named=False,
        ),
    )


def _smuggling(authority: str) -> tuple[Try, ...]:
    """A request inside another, for a server that sees its end elsewhere."""
    inner = _head(authority, "GET /applicants")
    sized = f"Content-Length: {len(inner)}"
    click, chunked = "POST /clicks/smuggled", "Transfer-Encoding: chunked"
    malformed = (
        ("both lengths", _head(authority, click, sized, chunked), "HTTP_FRAMING"),
        ("two Content-Lengths", _head(authority, click, "Content-Length: 0", sized), "HTTP_FRAMING"),
        ("a folded Transfer-Encoding", _head(authority, click, "Transfer-Encoding:\r\n chunked"), "HTTP_MALFORMED"),
        ("a bare LF in the head", _head(authority, click, f"X: y\n{chunked}"), "HTTP_MALFORMED"),
        ("a space before the colon", _head(authority, click, "Transfer-Encoding : chunked"), "HTTP_MALFORMED"),
    )
    in_body = _head(authority, "GET /jobs", sized) + inner
    return (
        *(
            _denied(f"POST /clicks with {title}", f"{head}0\r\n\r\n{inner}", reason, "400", named=False)
            for title, head, reason in malformed
        ),
        _denied("GET /jobs with another request as body", in_body, "HTTP_BODY_NOT_ALLOWED"),
        Try(
            "POST /clicks, chunked",
            (_head(authority, "POST /clicks/chunked", chunked) + "5;a=b\r\nclick\r\n0\r\n\r\n",),
            ("201",),
            (Judged(FORWARDED, "POST", "/clicks/chunked"),),
            ("POST /clicks/chunked",),
        ),
        *(
            Try(
                f"POST /clicks, chunk of size {shown} (cut)",
                (f"{_head(authority, 'POST /clicks/cut', chunked)}{size}\r\n{inner}\r\n0\r\n\r\n",),
                ("400", "reset", "closed"),
                (Judged(DROPPED, "POST", "/clicks/cut", "HTTP_FRAMING"),),
                maybe=("POST /clicks/cut",),
            )
            for shown, size in (("0x0", "0x0"), ("2^64", "10000000000000000"), ("0;\\n", "0;\n"))
        ),
    )


def _pairs(authority: str) -> tuple[Try, ...]:
    """Two requests in one segment: each has its own verdict, and answers come in order."""
    jobs, applicants = (_head(authority, f"GET {path}", close=False) for path in ("/jobs", "/applicants"))
    last_jobs, last_applicants = (_head(authority, f"GET {path}") for path in ("/jobs", "/applicants"))
    allowed = Judged(FORWARDED, "GET", "/jobs")
    denied = Judged(DROPPED, "GET", "/applicants", "HTTP_NO_RULE")
    return (
        Try("pipelined", (jobs + last_applicants,), ("200 403",), (allowed, denied), ("GET /jobs",)),
        Try("pipelined", (applicants + last_jobs,), ("403 200",), (denied, allowed), ("GET /jobs",)),
    )


def _other_protocols(authority: str) -> tuple[Try, ...]:
    upgrade = (
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: cmFjZWNhciBkZW1vIGtleQ==",
    )
    no_mask = "\0\0\0\0"
    frames = f"\x81{chr(0x80 | len(GREETING))}{no_mask}{GREETING}\x88\x80{no_mask}"
    switched = _head(authority, "GET /jobs", *upgrade, close=False)
    hello = "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03"
    preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    return (
        Try(
            "WebSocket at /feed",
            (_head(authority, "GET /feed", *upgrade, close=False), frames),
            (f"101 {GREETING}",),
            (Judged(FORWARDED, "GET", "/feed"),),
            ("GET /feed", GREETING),
        ),
        Try(
            "WebSocket at /jobs",
            (switched, _head(authority, "GET /jobs")),
            ("403 200",),
            (Judged(DROPPED, "GET", "/jobs", "HTTP_UPGRADE"), Judged(FORWARDED, "GET", "/jobs")),
            ("GET /jobs",),
        ),
        Try("TLS on the HTTP port", (hello,), ("TLS alert",), (Judged(DROPPED, reason="HTTP_TLS"),)),
        Try("HTTP/2 on the HTTP port", (preface,), ("GOAWAY",), (Judged(DROPPED, reason="HTTP_HTTP2"),)),
    )
