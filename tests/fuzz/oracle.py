"""Read with h11 what was said to both sides, and compare it with the log and with the rules."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import h11

from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_context import FOREIGN_ANSWERS
from racecar.proxy.core.http1_types import (
    Close,
    CloseServer,
    EndClient,
    EndServer,
    HttpRecord,
    ResetServer,
    Verdict,
)
from tests.fuzz.judges import asks_for_websocket, is_ever_forbidden
from tests.fuzz.talk import TLS_RULE, Mark, Talk

SWAPPED_RULE = 101  # of the policy that a talk may change to: GET of /jobs


# A server that merges trailers would frame or route by them, or see what the rule for X-Key did not.
_NEVER_TRAILERS = {b"content-length", b"transfer-encoding", b"host", b"x-key"}


@dataclass
class Message:
    """What h11 read. `head_end` is 0 without a whole head; `end` is where it ends, or the bytes do."""

    start: int
    end: int
    head_end: int = 0
    method: bytes = b""
    target: bytes = b""
    version: bytes = b""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    status: int = 0
    body: bytes = b""
    is_complete: bool = False
    trailers: tuple[tuple[bytes, bytes], ...] = ()


def read_request(data: bytes, start: int) -> Message:
    """Read one request with h11's default settings. Raises h11.RemoteProtocolError."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data[start:])
    message = Message(start, len(data))
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Request):
            message.method, message.target, message.version = event.method, event.target, event.http_version
            message.headers = tuple(event.headers)
            message.head_end = data.index(b"\r\n\r\n", start) + 4
        elif isinstance(event, h11.Data):
            message.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            message.is_complete = True
            message.trailers = tuple(event.headers)
            message.end = len(data) - len(connection.trailing_data[0])
            return message
        else:
            return message


def read_answer(data: bytes, start: int, method: bytes, *, upgrades: bool, ended: bool = False) -> Message:
    """Read the answer to a request, interim ones first. `ended`: the connection ends behind the data."""
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", "jobs"), *([("Upgrade", "websocket"), ("Connection", "upgrade")] if upgrades else [])]
    connection.send(h11.Request(method=method or b"GET", target=b"/jobs", headers=headers))
    connection.send(h11.EndOfMessage())
    connection.receive_data(data[start:])
    if ended:
        connection.receive_data(b"")
    message = Message(start, len(data))
    while True:
        event = connection.next_event()
        if isinstance(event, h11.InformationalResponse | h11.Response):
            message.head_end = data.index(b"\r\n\r\n", message.head_end or start) + 4
            message.status = event.status_code
            if event.status_code == 101 or (method == b"CONNECT" and 200 <= event.status_code < 300):
                message.is_complete = True
                message.end = message.head_end
                return message
        elif isinstance(event, h11.Data):
            message.body += event.data
        elif isinstance(event, h11.EndOfMessage):
            message.is_complete = True
            message.end = len(data) - len(connection.trailing_data[0])
            return message
        else:
            return message


def check(talk: Talk) -> None:
    """Raise AssertionError for what must never be, in a talk that is over."""
    try:
        answer_ends = _check_client(talk)
        _check_server(talk, answer_ends)
    except h11.RemoteProtocolError as error:
        raise AssertionError(f"h11 refuses what was passed on: {error}") from error


# --- what the server got


def _check_server(talk: Talk, answer_ends: list[int]) -> None:
    data = bytes(talk.to_server)
    pos = 0
    complete = True
    for number, record in enumerate(talk.records):
        assert complete or record.reason is Reason.HTTP_PIPELINED, "a request is judged behind one that is not complete"
        if record.verdict is Verdict.DROPPED:
            continue
        if record.opaque == "tls":
            _check_hello(talk, data, record)
            return
        forwarded = [later for later in talk.records[number:] if later.verdict is not Verdict.DROPPED]
        if pos == len(data) and len(forwarded) == 1 and _server_is_reset(talk):
            return  # what was on its way is dropped: nothing of the request may have been said
        request = read_request(data, pos)
        _check_request(talk, request, record)
        end = pos + record.request_bytes
        if record.opaque:
            assert request.is_complete
            assert request.end <= end, f"{end} bytes are logged, the handshake has {request.end}"
            _check_opaque(talk, request, record, answer_ends[number])
        elif request.is_complete or not _server_is_reset(talk):
            assert request.end == end, f"h11 ends the request at {request.end}, logged is {end}"
        for mark in talk.marks:
            assert not pos < mark.to_server < request.head_end, "half a head was forwarded"
        begun = _mark_at(talk, pos)
        before = max(answer_ends[:number], default=0)
        assert begun.to_client >= before, "a request was forwarded before the one in front of it was answered"
        assert (record.rule > 100) == bool(begun.context) or not record.rule, "judged by a policy that is not in force"
        pos, complete = end, request.is_complete
    assert pos >= len(data), f"{len(data) - pos} bytes were forwarded that are in no record"
    assert pos == len(data) or _server_is_reset(talk), f"{pos - len(data)} bytes are logged that were not forwarded"
    _check_server_end(talk, complete)


def _is_cut_off(talk: Talk) -> bool:
    """The conversation, or what was around it, gave up both legs."""
    return talk.aborted or talk.cut_off


def _server_is_reset(talk: Talk) -> bool:
    return talk.aborted or any(isinstance(command, ResetServer) for command, _, _ in talk.ends)


def _mark_at(talk: Talk, pos: int) -> Mark:
    return next(mark for mark in talk.marks if mark.to_server == pos)


def _check_request(talk: Talk, request: Message, record: HttpRecord) -> None:
    assert request.head_end, "what was forwarded is no whole head"
    path, mark, _ = request.target.partition(b"?")
    assert (request.method, path, bool(mark)) == (record.method, record.path, record.has_query)
    hosts = [value.lower() for name, value in request.headers if name == b"host"]
    if request.method == b"CONNECT":
        assert record.host == request.target.lower()
    else:
        assert hosts == ([record.host] if record.host or hosts else [])
    names = {name for name, _ in request.headers}
    framing = [value for name, value in request.headers if name == b"content-length"]
    has_body = b"transfer-encoding" in names or any(int(value) for value in framing)
    if record.rule == SWAPPED_RULE:
        forbidden = request.method != b"GET" or path.rpartition(b"//jobs")[2] not in (b"/jobs", b"")
    else:
        switches = not has_body and asks_for_websocket(request.method, request.version, request.headers)
        forbidden = is_ever_forbidden(
            request.method, request.target, request.headers, has_body=has_body, is_websocket=switches
        )
    hidden = {re.sub(rb"[^a-z0-9]", b"-", name) for name, _ in request.trailers} & _NEVER_TRAILERS
    assert not hidden, f"{hidden} was forwarded as a trailer"
    if record.verdict is Verdict.AUDIT:
        assert talk.setting.audit
    else:
        assert not forbidden, f"a forbidden request was forwarded: {request.method!r} {request.target!r}"
        assert record.rule, "forwarded by no rule"


def _check_opaque(talk: Talk, request: Message, record: HttpRecord, answered: int) -> None:
    """Nothing behind the handshake reaches the server before the answer that grants it reached the client."""
    for mark in talk.marks:
        if mark.to_server >= request.end:
            assert mark.to_client >= answered, "a byte was forwarded unread before the switch"
    assert (record.opaque == "websocket") == (record.status == 101)
    assert record.verdict is Verdict.AUDIT or record.rule in (5, 6), "opaque by a rule that does not grant it"


def _check_hello(talk: Talk, data: bytes, record: HttpRecord) -> None:
    assert talk.setting.tls
    assert record.rule == TLS_RULE
    others = {other.reason for other in talk.records if other is not record}
    assert others <= {Reason.HTTP_PIPELINED}, "a connection of TLS has one record, and one of what was dropped"
    if not data:
        assert _server_is_reset(talk), "a hello that was not forwarded"
        return
    size = 5 + int.from_bytes(data[3:5], "big")
    assert data[0] == 0x16
    assert data[5] == 1, "no ClientHello was forwarded"
    assert len(data) == record.request_bytes
    for mark in talk.marks[1:]:
        assert mark.to_server >= size, "half a ClientHello was forwarded"
        assert talk.to_client[:1] == b"\x16", "bytes behind the ClientHello, and no ServerHello"
        assert mark.to_client > 5


def _check_server_end(talk: Talk, complete: bool) -> None:
    """A server is not told in order that half a request is all of it."""
    if complete or _server_is_reset(talk):
        return
    in_order = [command for command, _, _ in talk.ends if isinstance(command, Close | CloseServer | EndServer)]
    assert not in_order, "half a request, and its end in order"


# --- what the client got


def _check_client(talk: Talk) -> list[int]:
    """Return where the answer to each record ends."""
    data = bytes(talk.to_client)
    ends = []
    pos = 0
    records = talk.records
    for number, record in enumerate(records):
        last = not any(later.response_bytes for later in records[number + 1 :])
        pos = _check_answer(talk, data, pos, record, last=last)
        ends.append(pos if not record.opaque else _switch_end(data, pos, record))
    assert pos == len(data), f"{len(data) - pos} bytes were said to the client that are in no record"
    return ends


def _switch_end(data: bytes, pos: int, record: HttpRecord) -> int:
    start = pos - record.response_bytes
    if record.opaque == "tls":
        return pos
    return read_answer(data[:pos], start, record.method, upgrades=record.opaque == "websocket").end


def _check_answer(talk: Talk, data: bytes, pos: int, record: HttpRecord, *, last: bool) -> int:
    """Check the answer at `pos`; return the position behind it."""
    end = pos + record.response_bytes
    assert end <= len(data), f"{record.response_bytes} bytes of an answer are logged, {len(data) - pos} were said"
    if record.reason in FOREIGN_ANSWERS and record.verdict is Verdict.DROPPED:
        assert data[pos:end] == FOREIGN_ANSWERS[record.reason]
        return end
    if record.opaque == "tls":
        return end
    if not record.response_bytes:
        assert not record.status, "a status without an answer"
        assert _is_cut_off(talk) or record.reason is not Reason.NONE, "no answer, and nothing that explains it"
        return end
    if record.verdict is Verdict.DROPPED:
        marks = [mark for mark in talk.client_marks if pos <= mark < end]
        assert marks[:1] == [pos], "a refusal that does not begin a word to the client"
    answer = read_answer(data[:end], pos, record.method, upgrades=record.opaque == "websocket", ended=False)
    if not answer.is_complete and answer.head_end and last and not _is_cut_off(talk):
        answer = read_answer(data[:end], pos, record.method, upgrades=False, ended=True)
        assert any(isinstance(command, EndClient | Close) for command, _, _ in talk.ends)
    if record.opaque:
        assert answer.is_complete
        assert answer.status == record.status
        return end
    if last and _is_cut_off(talk):
        return end
    assert answer.is_complete, f"half an answer: {data[pos:end]!r}"
    assert answer.status == record.status, f"status {answer.status} was said, {record.status} is logged"
    assert answer.end == end, f"h11 ends the answer at {answer.end}, logged is {end}"
    return end


def messages(data: bytes) -> Iterator[Message]:
    """The requests in a stream, as long as they are whole."""
    pos = 0
    while pos < len(data):
        request = read_request(data, pos)
        yield request
        if not request.is_complete:
            return
        pos = request.end
