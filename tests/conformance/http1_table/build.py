"""Short ways to write cases, and the messages that many of them use."""

from dataclasses import replace
from typing import TypedDict, Unpack

from http1_table.model import Case, Then, Turn, Verdict

HOST = "a.example"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
NOTHING_MORE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class Ends(TypedDict, total=False):
    """Of a Turn: how the peers end."""

    client_ends: bool
    origin_ends: bool
    origin_resets: bool


def head(start: str, *lines: str | bytes, host: str | None = HOST) -> bytes:
    """A request's head: its start line without the version if that is HTTP/1.1, Host first if there is one."""
    if " HTTP/" not in start:
        start += " HTTP/1.1"
    hosts = [] if host is None else [f"Host: {host}"]
    return raw(start, *hosts, *lines)


def raw(*lines: str | bytes) -> bytes:
    """A head with these lines."""
    encoded = (line if isinstance(line, bytes) else line.encode("latin-1") for line in lines)
    return b"".join(line + b"\r\n" for line in encoded) + b"\r\n"


def posted(body: bytes, *lines: str | bytes, to: str = "/jobs") -> bytes:
    """A POST with Content-Length."""
    return head(f"POST {to}", *lines, f"Content-Length: {len(body)}") + body


def chunked(body: bytes, *lines: str | bytes, to: str = "POST /jobs") -> bytes:
    """A request with Transfer-Encoding: chunked; `body` is the encoded one."""
    return head(to, *lines, "Transfer-Encoding: chunked") + body


def answer(status: str, *lines: str | bytes, body: bytes = b"", version: str = "HTTP/1.1") -> bytes:
    """An answer with exactly these headers."""
    return raw(f"{version} {status}", *lines) + body


def allow(name: str, sent: bytes, answered: bytes | None = None, then: Then = Then.OPEN, **ends: Unpack[Ends]) -> Case:
    """The server receives what was sent and its answer is passed on untouched."""
    # What is put behind a half that ends is read and answered before the end is, or meets a server that has ended.
    extends = not ends.get("client_ends") and not ends.get("origin_ends")
    return Case(name, (allowed(sent, answered, **ends),), then, extends=extends)


def allowed(sent: bytes, answered: bytes | None = None, **ends: Unpack[Ends]) -> Turn:
    """The turn of `allow`."""
    if answered is None:
        answered = HEAD_OK if sent.startswith(b"HEAD ") else OK
    return Turn(sent, Verdict.ALLOW, at_origin=sent, answer=answered, to_client=answered, **ends)


def goes_on(sent: bytes, answered: bytes = b"", **ends: Unpack[Ends]) -> Turn:
    """More of what was begun: it arrives, and what the server says to it too."""
    return Turn(sent, at_origin=sent, answer=answered, to_client=answered, **ends)


def deny(name: str, sent: bytes, reason: str = "HTTP_NO_RULE", then: Then = Then.OPEN) -> Case:
    """403."""
    return Case(name, (denied(sent, reason),), then)


def denied(sent: bytes, reason: str = "HTTP_NO_RULE") -> Turn:
    """The turn of `deny`."""
    return Turn(sent, Verdict.DENY, reason, status=403, bodiless=sent.startswith(b"HEAD "))


def refuse(name: str, sent: bytes, reason: str = "HTTP_MALFORMED", status: int = 400) -> Case:
    """Answered and closed."""
    return Case(name, (refused(sent, reason, status),), Then.CLOSED)


def refused(sent: bytes, reason: str = "HTTP_MALFORMED", status: int = 400) -> Turn:
    """The turn of `refuse`."""
    return Turn(sent, Verdict.REFUSE, reason, status=status)


def dropped(sent: bytes = b"") -> Turn:
    """What was sent behind the last request of a connection."""
    return Turn(sent, Verdict.REFUSE, "HTTP_PIPELINED")


def cut(name: str, sent: bytes, reason: str = "HTTP_FRAMING") -> Case:
    """A body that turns out to be malformed: answered, and the server must not take what it has for a whole request."""
    return Case(name, (cut_off(sent, reason),), Then.CLOSED)


def cut_off(sent: bytes, reason: str = "HTTP_FRAMING") -> Turn:
    """The turn of `cut`."""
    return Turn(sent, Verdict.REFUSE, reason, at_origin=sent, status=400)


def bad_gateway(
    name: str,
    answered: bytes,
    reason: str = "HTTP_RESPONSE_MALFORMED",
    sent: bytes = b"",
    passed: bytes = b"",
    status: int = 502,
    **ends: Unpack[Ends],
) -> Case:
    """The server is told the request, the client 502, behind the interim answers `passed`."""
    sent = sent or JOBS
    turn = replace(allowed(sent, answered, **ends), reason=reason, to_client=passed, status=status)
    return Case(name, (replace(turn, bodiless=sent.startswith(b"HEAD ")),), Then.CLOSED)


def torn(
    name: str, answered: bytes, reason: str = "HTTP_RESPONSE_MALFORMED", sent: bytes = b"", **ends: Unpack[Ends]
) -> Case:
    """An answer that turns out to be malformed, or ends early, when part of it was passed on."""
    return Case(name, (replace(allowed(sent or JOBS, answered, **ends), reason=reason),), Then.CUT)


JOBS = head("GET /jobs")
HEALTH = head("GET /healthz")
APPLICANTS = head("GET /applicants")
HELLO = posted(b"hello")
