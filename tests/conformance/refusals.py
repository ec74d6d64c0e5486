"""What the client got, read as what the table expects: bytes of the server, and answers of the proxy itself."""

import re
from dataclasses import dataclass

from http1_table import Case, Then

_HEAD = re.compile(
    rb"HTTP/1\.1 (\d\d\d) [A-Za-z -]+\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: (\d+)\r\n"
    rb"(Connection: close\r\n)?\r\n"
).match


@dataclass(frozen=True)
class Told:
    """One answer of the proxy."""

    status: int
    body: bytes
    closes: bool


def read_refusal(data: bytes, *, bodiless: bool) -> tuple[Told, int] | None:
    """The answer of the proxy at the start of `data`, and its size; None if there is no whole one."""
    match = _HEAD(data)
    if match is None:
        return None
    end = match.end() + (0 if bodiless else int(match[2]))
    if len(data) < end:
        return None
    return Told(int(match[1]), data[match.end() : end], match[3] is not None), end


def check_client(case: Case, got: bytes) -> None:
    """Compare all that a client got with the case."""
    pos = 0
    turns = [turn for turn in case.turns if turn.to_client or turn.status]
    for number, turn in enumerate(turns, 1):
        end = pos + len(turn.to_client)
        if case.then is Then.CUT and number == len(turns) and not turn.status:
            assert turn.to_client.startswith(got[pos:]), "the client got what the server did not say"
            return
        assert got[pos:end] == turn.to_client, f"at byte {pos} the client got another answer"
        pos = end
        if not turn.status:
            continue
        read = read_refusal(got[pos:], bodiless=turn.bodiless)
        assert read is not None, f"no answer of the proxy's own at byte {pos}: {got[pos : pos + 200]!r}"
        told, size = read
        pos += size
        assert told.status == turn.status
        if turn is case.turns[-1] and not turn.client_ends:
            assert told.closes == (case.then is Then.CLOSED), (
                "an answer that says of the connection what does not happen"
            )
        assert not told.closes or number == len(turns), "an answer behind the last one"
        assert turn.bodiless or re.search(rb"^event \S+\n\Z", told.body, re.MULTILINE), told.body
        assert b"applicants" not in told.body, "an answer that quotes the request"
    assert got[pos:] == b"", "the client got more than it should"
