"""HTTP/1.1 against bytes that nobody would write: events or ProtocolError, the same however they are cut, and whatever
is forwarded is read by h11, with its default settings, as the same requests and answers.
"""

import contextlib
from collections.abc import Callable, Iterator

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1 import (
    ChunkReader,
    HeadBuffer,
    check_request_prefix,
    check_response_prefix,
    first_bytes,
    read_request_head,
    read_response_head,
)
from racecar.policy.engine import HttpCall, HttpVerdict
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1 import HttpConversation
from racecar.proxy.core.http1_context import HttpContext
from racecar.proxy.core.http1_types import FORWARD, Command, Commands, HttpRecord, ToClient, ToServer, Verdict

pytestmark = pytest.mark.slow
EXAMPLES = settings(max_examples=150, deadline=None)

REQUESTS = [
    b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n",
    b"HEAD /jobs HTTP/1.1\r\nHost: jobs:80\r\nAccept: */*\r\n\r\n",
    b"GET /applicants HTTP/1.1\r\nHost: jobs\r\n\r\n",
    b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /applicants HTTP/1.1\r\nHost: jobs\r\nContent-Length: 35\r\n\r\nGET /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n.",
    b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    b"GET /jobs HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /jobs HTTP/1.1\r\nHost: jobs\r\nConnection: close\r\n\r\n",
    b"PUT /jobs?a=b HTTP/1.1\r\nHost: [::1]\r\nExpect: 100-continue\r\nContent-Length: 2\r\nX-A: \xe9\r\n\r\nok",
]
ANSWERS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
]
PIECES = [
    *(b"\r\n \r \n \t :  ; , \r\n\r\n \0 \xff 0\r\n\r\n 5\r\nhello\r\n ffffffffffffffff\r\n -1 +5 0x5 5,5".split(b" ")),
    *(b"GET |/jobs| HTTP/1.1\r\n| HTTP/1.0\r\n|HTTP/1.1 200 OK\r\n|PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".split(b"|")),
    *(b"Host: jobs\r\n|Host: x\r\n|Content-Length: 5\r\n|content-length: 0\r\n|Content-Length".split(b"|")),
    *(b"Transfer-Encoding: chunked\r\n|Transfer-Encoding: gzip, chunked\r\n|X: a\r\n b\r\n|X : y\r\n".split(b"|")),
    *(b"Connection: close\r\n|Connection: content-length\r\n|Upgrade: h2c\r\n|Expect: 100-continue\r\n".split(b"|")),
    b"\x16\x03\x01",
]


@st.composite
def bent(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    """A message with a few places cut out, doubled or replaced."""
    data = draw(st.sampled_from(messages))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 6)))
        data = data[:start] + draw(st.sampled_from(PIECES) | st.binary(max_size=2)) + data[end:]
    return data


def streams(messages: list[bytes]) -> st.SearchStrategy[bytes]:
    pieces = st.lists(st.sampled_from(PIECES + messages), max_size=8).map(b"".join)
    return st.lists(bent(messages), min_size=1, max_size=3).map(b"".join) | pieces | st.binary(max_size=60)


CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=8)


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """Pieces of `data`, of these sizes in turn."""
    start = turn = 0
    while start < len(data):
        end = start + sizes[turn % len(sizes)]
        yield data[start:end]
        start, turn = end, turn + 1


class Judge:
    def judge(self, call: HttpCall) -> HttpVerdict:
        allow = call.target.partition(b"?")[0] == b"/jobs"
        return HttpVerdict(allow, 1 if allow else 0, Reason.NONE if allow else Reason.HTTP_NO_RULE)


class Talk:
    """A conversation, and what was said to each side of it."""

    def __init__(self) -> None:
        self.records: list[HttpRecord] = []
        context = HttpContext(Judge(), lambda _, record: self.records.append(record), event_prefix="e")
        self.conversation = HttpConversation(context, 0.0)
        self.to_server = b""
        self.to_client = b""
        self.rest: list[Command] = []

    def take(self, commands: Commands, whole: Command) -> None:
        for command in [whole] if commands is FORWARD else commands:
            if isinstance(command, ToServer):
                self.to_server += command.data
            elif isinstance(command, ToClient):
                self.to_client += command.data
            else:
                self.rest.append(command)

    def client(self, data: bytes) -> None:
        self.take(self.conversation.client_bytes(data, 0.0), ToServer(data))

    def server(self, data: bytes) -> None:
        self.take(self.conversation.server_bytes(data, 0.0), ToClient(data))

    def state(self) -> tuple[object, ...]:
        over = self.conversation.is_over
        # Aborted: what is still on its way is dropped, so how much of it was said does not matter.
        said = (self.conversation.client_unread, self.conversation.server_unread) if not over else ()
        return ([(r.reason, r.status, r.path) for r in self.records], self.rest, self.conversation.is_idle, said)


def read_by_h11(data: bytes, connection: h11.Connection) -> list[h11.Event | type[h11.NEED_DATA | h11.PAUSED]]:
    """Events without NEED_DATA; raises what h11 raises."""
    connection.receive_data(data)
    events = []
    while True:
        event = connection.next_event()
        if event in (h11.NEED_DATA, h11.PAUSED):
            return events
        events.append(event)
        if isinstance(event, h11.ConnectionClosed):
            return events


@EXAMPLES
@given(streams(REQUESTS + ANSWERS), CUTS)
def test_parsers_give_values_or_protocol_errors_and_nothing_else(data: bytes, sizes: list[int]) -> None:
    def attempt(step: Callable[[], object]) -> None:
        with contextlib.suppress(ProtocolError):
            step()

    first_bytes(data)
    attempt(lambda: read_request_head(data))
    attempt(lambda: read_response_head(data))
    attempt(lambda: ChunkReader(Reason.HTTP_RESPONSE_MALFORMED).feed(data, 0))
    for check in (check_request_prefix, check_response_prefix):
        buffer = HeadBuffer(check)
        attempt(lambda buffer=buffer: [buffer.cut(piece, 0) for piece in cut(data, sizes)])  # type: ignore[misc]


@EXAMPLES
@given(bent(REQUESTS))
def test_a_request_head_that_is_read_is_read_alike_by_h11(data: bytes) -> None:
    head = data[: data.find(b"\r\n\r\n") + 4]
    try:
        read = read_request_head(head)
    except ProtocolError:
        return
    request, *_ = read_by_h11(head, h11.Connection(h11.SERVER))
    assert isinstance(request, h11.Request)
    assert (request.method, request.target) == (read.method, read.target)
    hosts = [value.lower() for name, value in request.headers if name == b"host"]
    assert hosts == [read.host] or (hosts == [] and read.host == b"")


@EXAMPLES
@given(st.lists(st.tuples(streams(REQUESTS), st.sampled_from(ANSWERS[:5])), min_size=1, max_size=4), CUTS)
def test_what_is_forwarded_is_what_h11_reads_and_what_was_allowed(
    script: list[tuple[bytes, bytes]], sizes: list[int]
) -> None:
    talk = Talk()
    seen = 0
    for stream, answer in script:
        for piece in cut(stream, sizes):
            talk.client(piece)
        outstanding = talk.to_server[seen:]
        if not outstanding:
            continue
        if talk.conversation.is_over:
            return
        events = read_by_h11(outstanding, connection := h11.Connection(h11.SERVER))
        request = events[0]
        assert isinstance(request, h11.Request)
        assert Judge().judge(HttpCall(request.method, request.target)).allow
        assert connection.trailing_data[0] == b""
        complete = isinstance(events[-1], h11.EndOfMessage)
        # Without the last byte there is something left to send, and exactly then.
        assert complete == (talk.conversation._client.name == "ANSWER")
        if not complete:
            continue
        forwarded = len([record for record in talk.records if record.verdict is Verdict.FORWARDED])
        talk.server(answer if request.method != b"HEAD" else answer[: answer.rfind(b"\r\n\r\n") + 4])
        assert len([record for record in talk.records if record.verdict is Verdict.FORWARDED]) == forwarded + 1
        seen = len(talk.to_server)


@EXAMPLES
@given(st.sampled_from([b"GET", b"HEAD", b"POST"]), streams(ANSWERS), CUTS)
def test_an_answer_ends_where_h11_ends_it(method: bytes, stream: bytes, sizes: list[int]) -> None:
    talk = Talk()
    talk.client(method + b" /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n")
    for piece in cut(stream, sizes):
        talk.server(piece)
    if not talk.to_client:
        return
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/jobs", headers=[("Host", "jobs")]))
    connection.send(h11.EndOfMessage())
    events = read_by_h11(talk.to_client, connection)
    ended = any(isinstance(event, h11.EndOfMessage) for event in events)
    assert connection.trailing_data[0] == b"" or not ended
    if not talk.conversation.is_over:
        assert ended == (talk.conversation.is_idle or bool(talk.rest))


@EXAMPLES
@given(streams(REQUESTS), CUTS, CUTS)
def test_cuts_do_not_change_what_a_client_gets(stream: bytes, one: list[int], other: list[int]) -> None:
    talks = []
    for sizes in (one, other, [len(stream) or 1]):
        talk = Talk()
        for piece in cut(stream, sizes):
            talk.client(piece)
        talks.append((talk.to_server, talk.to_client, talk.state()))
    assert talks[0] == talks[1] == talks[2]


@EXAMPLES
@given(st.sampled_from(REQUESTS[:2] + REQUESTS[6:8]), streams(ANSWERS), CUTS, CUTS)
def test_cuts_do_not_change_what_a_server_does(request: bytes, stream: bytes, one: list[int], other: list[int]) -> None:
    talks = []
    for sizes in (one, other, [len(stream) or 1]):
        talk = Talk()
        talk.client(request)
        for piece in cut(stream, sizes):
            talk.server(piece)
        said = talk.to_client if not talk.conversation.is_over else b""
        talks.append((said, talk.state() if not talk.conversation.is_over else talk.rest))
    assert talks[0] == talks[1] == talks[2]


@EXAMPLES
@given(st.lists(st.tuples(st.booleans(), streams(REQUESTS + ANSWERS)), max_size=6), CUTS)
def test_a_conversation_never_raises_and_ends_only_once(script: list[tuple[bool, bytes]], sizes: list[int]) -> None:
    talk = Talk()
    for from_client, stream in script:
        for piece in cut(stream, sizes):
            (talk.client if from_client else talk.server)(piece)
    whole = ToClient(b"")
    talk.take(talk.conversation.client_eof(1.0), whole)
    talk.take(talk.conversation.server_eof(1.0), whole)
    talk.take(talk.conversation.timer(1e9), whole)
    talk.conversation.lost(Reason.DRAINED, 2.0)
    assert talk.conversation.is_over
    assert len([command for command in talk.rest if type(command).__name__ in ("Close", "Abort")]) <= 1
