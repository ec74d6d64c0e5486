"""An independent reader of what reached the server: h11 with its default settings."""

from dataclasses import dataclass

import h11
from http1_table import Case, Then, Verdict


@dataclass(frozen=True)
class Seen:
    """One request as h11 reads it."""

    method: bytes
    target: bytes
    complete: bool


def read_requests(data: bytes, *, switches: bool = False) -> list[Seen]:
    """All requests in `data`. `switches`: what is behind the last request that may open a tunnel is not read."""
    seen = []
    while data:
        connection = h11.Connection(h11.SERVER)
        connection.receive_data(data)
        request = connection.next_event()
        if request is h11.NEED_DATA:
            seen.append(Seen(b"", b"", False))
            break
        assert isinstance(request, h11.Request), request
        event = connection.next_event()
        while isinstance(event, h11.Data):
            event = connection.next_event()
        complete = isinstance(event, h11.EndOfMessage)
        assert complete or event is h11.NEED_DATA, event
        seen.append(Seen(request.method, request.target, complete))
        data, _ = connection.trailing_data
        if not complete:
            break
        headers = dict(request.headers)
        if switches and (request.method == b"CONNECT" or headers.get(b"upgrade", b"").lower() == b"websocket"):
            break
    return seen


def check_origin(case: Case, got: bytes, *, reset: bool) -> None:
    """What reached the server, by h11, is exactly what the table lets through. `reset`: its connection was."""
    expected = []
    for turn in case.turns:
        if turn.verdict in (Verdict.ALLOW, Verdict.REFUSE) and turn.at_origin:
            method, target, _ = turn.at_origin.split(b" ", 2)
            expected.append((method, target, turn.verdict is Verdict.ALLOW))
    is_opaque = any(turn.answer.startswith(b"HTTP/1.1 101") for turn in case.turns) or case.then is Then.OPAQUE
    seen = read_requests(got, switches=is_opaque)
    if case.is_torn and seen and not seen[-1].method:
        seen = seen[:-1]  # half a head
    calls = [(request.method, request.target) for request in seen]
    wanted = [(method, target) for method, target, _ in expected]
    assert calls == (wanted[: len(calls)] if case.is_torn else wanted)
    for request, (_, _, is_allowed) in zip(seen, expected, strict=False):
        assert is_allowed or not request.complete, "the server has the whole of what was refused"
    if seen and not seen[-1].complete:
        assert reset or case.then is Then.WAITING, "the server may take half a request for a whole one"
