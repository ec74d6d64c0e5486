"""One HTTP/1.1 connection pair, client to server, judged request by request. No I/O, no clock.

The edge hands in what it read and what time it is and does what the returned commands say, in order:

    commands = conversation.client_bytes(data, now)      # or server_bytes
    if commands is FORWARD:      # usual: the whole read goes to the other side, the very object
        ...
    else:
        for command in commands: ...

Rules for the edge:
- `data` is never empty; the end of a stream is `client_eof`/`server_eof`. What comes after Close or Abort is ignored,
  and so is what the server sends after CloseServer or ResetServer.
- While bytes (or a filled pipe) wait to be sent to one side, the other side is not read; while bytes wait for the
  client, the client is not read either (else refusals without end would grow its buffer).
- Long bodies: as long as `client_unread` is above 0, that many bytes may go from the client to the server without
  being handed in; tell `client_moved(count, now)` at once, before anything else. `server_unread` and `server_moved`
  likewise towards the client. The last byte of a message is never among them, so that it ends in one place.
- `deadline` is on the clock of `now`, infinite for none, and may move with any call: call `timer(now)` once it has
  passed. Calling it early is harmless.
- What breaks outside (a reset, a failed dial, a limit) is told by `lost(reason, now)`, so that it is logged.
- A server's leg that stood and takes no more bytes is told by `server_deaf`: what it said before is still read.
"""

import sys
from math import inf

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    ChunkReader,
    HeadBuffer,
    check_request_prefix,
    check_response_prefix,
)
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_context import Answer, Call, HttpContext, status_of
from racecar.proxy.core.http1_types import (
    FORWARD,
    NOTHING,
    Abort,
    ClientState,
    Close,
    CloseServer,
    Command,
    Commands,
    EndClient,
    EndServer,
    HttpRecord,
    ResetServer,
    ServerState,
    ToClient,
    ToServer,
    Verdict,
)

_IDLE, _BODY, _ANSWER = ClientState.IDLE, ClientState.BODY, ClientState.ANSWER
_SILENT, _WAITED = ServerState.SILENT, ServerState.WAITED
MAX_LINGER_BYTES = 1 << 20  # read and dropped behind the last word; a client that sends on meets a reset


class HttpConversation:
    """The state of one connection pair: at most one request outstanding."""

    __slots__ = (
        "_answer",
        "_answered",
        "_call",
        "_chunks",
        "_client",
        "_client_left",
        "_continued",
        "_deaf",
        "_dropped",
        "_ended",
        "_head_due",
        "_held",
        "_last",
        "_request_bytes",
        "_request_head",
        "_response_bytes",
        "_response_head",
        "_server",
        "_server_left",
        "_started",
        "_surplus",
        "context",
        "deadline",
        "tag",
    )

    def __init__(self, context: HttpContext, now: float, tag: object = None) -> None:
        """`tag` is given to the context's log with each record: the edge's own record of the connection."""
        self.context = context  # may be exchanged at any time: the next request is judged by the new one
        self.tag = tag
        self.deadline = now + context.config.idle_timeout_s
        self._head_due = inf  # when the answer's head that has begun must be complete
        self._client = _IDLE
        self._server = _SILENT
        self._client_left = 0  # bytes of the request's body, while BODY or DRAIN
        self._server_left = 0  # bytes of the answer's body, while BODY
        self._continued = False  # the server has asked for the outstanding request's body
        self._request_head: HeadBuffer | None = None
        self._response_head: HeadBuffer | None = None
        self._chunks: ChunkReader | None = None
        self._held = b""  # half a size line or trailers of the answer
        self._call: Call | None = None  # the outstanding request
        self._answer: Answer | None = None  # its final answer, once its head is read
        self._started = self._answered = 0.0
        self._request_bytes = self._response_bytes = 0
        self._dropped = 0
        self._deaf = Reason.NONE  # why the server takes no more bytes
        self._surplus = False  # bytes came behind the outstanding request
        self._ended = False  # the client ended its half
        self._last = False  # the connection closes behind the outstanding request: any of the two, or a drain

    # --- what the edge asks

    @property
    def client_unread(self) -> int:
        """How many of the client's next bytes may go to the server without being handed in."""
        return self._client_left - 1 if self._client is _BODY else 0

    @property
    def server_unread(self) -> int:
        """How many of the server's next bytes may go to the client without being handed in."""
        if self._server is ServerState.BODY:
            return self._server_left - 1
        if self._server is ServerState.CHUNKS:
            assert self._chunks is not None
            return self._chunks.left  # the chunk's CRLF follows
        return sys.maxsize if self._server is ServerState.STREAM else 0

    @property
    def held(self) -> int:
        """How many bytes wait here for the rest of a head, a size line or trailers."""
        request, response = self._request_head, self._response_head
        held = len(self._held) if request is None else len(self._held) + request.pending
        return held if response is None else held + response.pending

    @property
    def is_idle(self) -> bool:
        """Nothing is outstanding and no request has begun."""
        return self._client is _IDLE

    @property
    def is_outstanding(self) -> bool:
        """A request was forwarded, and it or its answer is not complete."""
        return self._call is not None

    @property
    def is_over(self) -> bool:
        """Close or Abort was said."""
        return self._client is ClientState.OVER

    # --- bytes

    def client_bytes(self, data: bytes, now: float) -> Commands:
        """Take one read from the client."""
        if self._client is _IDLE:
            call = self.context.calls.new.get(data)
            if call is not None and call.plain:  # the whole read is a head that was allowed before
                self._call = call
                self._started = now
                self._request_bytes = len(data)
                self._client = _ANSWER
                self._server = _WAITED
                self.deadline = inf
                return FORWARD
        return self._client_bytes(data, now)

    def server_bytes(self, data: bytes, now: float) -> Commands:
        """Take one read from the server."""
        if self._server is _WAITED and not self._last:
            answer = self.context.answers.new.get(data[: data.find(b"\r\n\r\n") + 4])
            call = self._call
            # A plain call has no body: it was complete when it was forwarded.
            if answer is not None and answer.whole == len(data) and call is not None and call.plain:
                self._answer = answer
                self._answered = now
                self._response_bytes += len(data)
                self._log(Reason.NONE, now)
                self._client = _IDLE
                self._server = _SILENT
                self.deadline = now + self.context.config.idle_timeout_s
                return FORWARD
        return self._server_bytes(data, now)

    def client_moved(self, count: int, now: float) -> None:
        """Count bytes that went to the server unread; ValueError for more than `client_unread`."""
        if not 0 <= count <= self.client_unread:
            raise ValueError(f"{count} bytes moved, {self.client_unread} may go unread")
        self._client_left -= count
        self._request_bytes += count
        self.deadline = min(now + self.context.config.idle_timeout_s, self._head_due)

    def server_moved(self, count: int, now: float) -> None:
        """Count bytes that went to the client unread; ValueError for more than `server_unread`."""
        if not 0 <= count <= self.server_unread:
            raise ValueError(f"{count} bytes moved, {self.server_unread} may go unread")
        self._response_bytes += count
        if self._deaf:
            self.deadline = min(now + self.context.config.idle_timeout_s, self._head_due)
        if self._server is ServerState.BODY:
            self._server_left -= count
        elif self._chunks is not None:
            self._chunks.left -= count

    # --- ends and time

    def client_eof(self, now: float) -> Commands:
        """The client ended its half."""
        state = self._client
        if state is _ANSWER and not self._ended:
            self._ended = self._last = True
            return NOTHING if self._deaf else (EndServer(),)  # half a connection is enough for the answer
        if state is _BODY:
            reason, detail = Reason.DOWNSTREAM_CLOSED, "the client ended inside a request"
            if self._server is not ServerState.DONE:
                return self._abort(reason, detail, now)
            self._log(reason, now, detail)  # it has its answer
            self._ended = True
            return self._linger(now, ResetServer())
        if state is ClientState.SHED and self._call is not None:
            self._ended = True
            self._client, self._client_left = _ANSWER, 0
            return NOTHING
        if state is ClientState.HEAD:
            return self._close(Reason.DOWNSTREAM_CLOSED)
        return NOTHING if state in (_ANSWER, ClientState.OVER) else self._close(Reason.NONE)

    def server_eof(self, now: float) -> Commands:
        """The server ended its half."""
        if self._server is _SILENT:
            return self._close(Reason.NONE) if self._client is _IDLE else self._linger(now)
        if self._server is ServerState.STREAM:
            return tuple(self._complete(now))
        if self._server in (ServerState.DONE, ServerState.GONE):
            return NOTHING  # DONE: it may still read
        return self._abort(self._deaf or Reason.UPSTREAM_CLOSED, "the server ended inside an answer", now)

    def server_deaf(self, reason: Reason, now: float) -> Commands:
        """The server's leg failed while `is_outstanding`: it takes nothing more, what it sent may still be there.

        Hand that in, then its end: `server_eof` if its stream is known to be whole, else `server_cut`.
        """
        if self._server is ServerState.DONE:
            return self._shed(reason, "the server left inside the body, which it had answered", now)
        if self._deaf:
            return self.server_cut(now)
        self._deaf, self._last = reason, True
        if self._client is _BODY:
            self._client = ClientState.SHED
        self.deadline = min(now + self.context.config.idle_timeout_s, self._head_due)
        return NOTHING

    def server_cut(self, now: float) -> Commands:
        """The stream of a server that is deaf ended, not known to be whole."""
        if self._server is ServerState.GONE:
            return NOTHING
        return self._abort(self._deaf, "the server ended inside an answer", now)

    def timer(self, now: float) -> Commands:
        """Do what is due if `deadline` has passed."""
        if now < self.deadline:
            return NOTHING
        if now >= self._head_due:
            return self._abort(Reason.HEAD_TIMEOUT, "the answer's head did not come in time", now)
        if self._client is ClientState.HEAD:
            out: list[Command] = []
            self._request_bytes = self._request_head.pending if self._request_head is not None else 0
            self._refuse_head(ProtocolError(Reason.HEAD_TIMEOUT, "the head did not come in time"), now, out)
            return tuple(out)
        if self._client is _BODY:
            return self._abort(Reason.IDLE_TIMEOUT, "the request's body stopped", now)
        if self._call is not None:
            return self._abort(self._deaf or Reason.IDLE_TIMEOUT, "an answer of a server that left", now)
        return self._close(Reason.NONE if self._client is ClientState.LINGER else Reason.IDLE_TIMEOUT)

    def drain(self) -> Commands:
        """End soon: at once if nothing is outstanding, else behind the answer."""
        self._last = True
        return self._close(Reason.DRAINED) if self._client is _IDLE else NOTHING

    def lost(self, reason: Reason, now: float) -> None:
        """The edge gave up both legs: log what was outstanding."""
        if not self.is_over:
            self._abort(reason, "", now)

    # --- the client's side

    def _client_bytes(self, data: bytes, now: float) -> Commands:
        out: list[Command] = []
        held, first, pos, size = b"", -1, 0, len(data)  # to forward: held + data[first:last]
        last = 0
        while pos < size:
            state = self._client
            if state is _IDLE or state is ClientState.HEAD:
                start = pos
                head, pos = self._read_head(data, pos, now, out)
                if head is not None:
                    held, first = (head, pos) if state is ClientState.HEAD else (b"", start)
                    last = pos
            elif state is _BODY:
                first = pos if first < 0 else first
                pos = last = self._read_body(pos, size, now)
            elif state is ClientState.DRAIN:
                pos = self._drain_body(pos, size, now, out)
            elif state is ClientState.SHED:
                pos = self._shed_body(pos, size, now, out)
            elif self._server is ServerState.DONE:  # behind the body that was the last
                self._surplus, self._dropped = True, size - pos
                break
            else:
                out += self._drop(size - pos, now)
                break
        if self.is_over or first < 0:
            return tuple(out)
        over = self._client is _ANSWER and self._server is ServerState.DONE
        if first == 0 and last == size and not held and not out and not over:
            return FORWARD
        out.append(ToServer(held + data[first:last]))
        if over:
            out += self._body_followed(now)
        return tuple(out)

    def _read_head(self, data: bytes, pos: int, now: float, out: list[Command]) -> tuple[bytes | None, int]:
        """Return a head to forward, if one ends here and is allowed, and the position behind what was used."""
        buffer, start = self._request_head, pos
        if buffer is None:
            self._started = now
            buffer = HeadBuffer(check_request_prefix)
        try:
            head, pos = buffer.cut(data, pos)
            if head is None:
                if self._request_head is None:
                    self._request_head = buffer
                    self._client = ClientState.HEAD
                    self.deadline = now + self.context.config.head_timeout_s
                return None, pos
            self._request_head = None
            call = self.context.call(head)
        except ProtocolError as error:
            self._request_bytes = buffer.pending or len(data) - start
            self._refuse_head(error, now, out)
            return None, len(data)
        self._request_bytes = len(head)
        if not call.forward:
            self._refuse(call, now, out)
            return None, pos
        self._call = call
        self._server = _WAITED
        self._last = self._last or not call.head.keep_alive
        self._client_left = call.head.length
        self._continued = False
        self._client = _BODY if call.head.length else _ANSWER
        self.deadline = now + self.context.config.idle_timeout_s if call.head.length else inf
        return head, pos

    def _read_body(self, pos: int, size: int, now: float) -> int:
        take = min(self._client_left, size - pos)
        self._client_left -= take
        self._request_bytes += take
        if self._client_left:
            self.deadline = min(now + self.context.config.idle_timeout_s, self._head_due)
        else:
            self._client = _ANSWER
            self.deadline = self._head_due
        return pos + take

    def _drain_body(self, pos: int, size: int, now: float, out: list[Command]) -> int:
        take = min(self._client_left, size - pos)
        self._client_left -= take
        if not self._client_left:
            if self._last:
                out += self._linger(now)
            else:
                self._rest(now)
        return pos + take

    def _shed_body(self, pos: int, size: int, now: float, out: list[Command]) -> int:
        take = min(self._client_left, size - pos)
        self._client_left -= take
        self.deadline = min(now + self.context.config.idle_timeout_s, self._head_due)
        if not self._client_left:
            if self._call is not None:
                self._client = _ANSWER
            else:
                out += self._linger(now)
        return pos + take

    def _drop(self, count: int, now: float) -> Commands:
        """Bytes that belong to nothing: behind an outstanding request, or behind the last word."""
        if self._client is ClientState.OVER:
            return NOTHING
        if self._client is _ANSWER:
            self._surplus = self._last = True
        self._dropped += count
        if self._client is ClientState.LINGER:
            return self._close(Reason.NONE) if self._dropped > MAX_LINGER_BYTES else NOTHING
        if self._dropped > self.context.config.max_drain_bytes:
            return self._abort(Reason.HTTP_PIPELINED, "bytes behind an outstanding request", now)
        return NOTHING

    # --- refusals

    def _refuse(self, call: Call, now: float, out: list[Command]) -> None:
        """Answer a well-formed request that is not forwarded. Nothing is outstanding here."""
        head, config = call.head, self.context.config
        close = (
            self._last
            or not head.keep_alive
            or head.http_1_0  # would have to be told that the connection stays
            or status_of(call.reason) != 403
            or not 0 <= head.length <= config.max_drain_bytes
            or (head.length > 0 and head.expects_continue)  # the body may come or not (RFC 9110 10.1.1)
        )
        self._say(call.reason, call.rule, call.detail, call, close=close, now=now, out=out)
        if close:
            out += self._linger(now)
        elif head.length:
            self._client, self._client_left = ClientState.DRAIN, head.length
            self.deadline = now + config.head_timeout_s
        else:
            self._rest(now)

    def _refuse_head(self, error: ProtocolError, now: float, out: list[Command]) -> None:
        """Answer what is no request. Nothing is outstanding here."""
        self._say(error.reason, 0, error.detail, None, close=True, now=now, out=out)
        out += self._linger(now)

    def _say(
        self, reason: Reason, rule: int, detail: str, call: Call | None, *, close: bool, now: float, out: list[Command]
    ) -> None:
        event = self.context.new_event()
        head_only = call is not None and call.head.method == b"HEAD"
        text = self.context.refusal(reason, event, rule=rule, detail=detail, close=close, head_only=head_only)
        out.append(ToClient(text))
        self._record(call, Verdict.DROPPED, reason, rule, status_of(reason), len(text), now, now, event, detail)

    # --- the server's side

    def _server_bytes(self, data: bytes, now: float) -> Commands:
        if self._server is ServerState.GONE:
            return NOTHING
        if self._server is ServerState.DONE:  # it took part of the body for a request: no more of it may be sent
            return self._shed(Reason.UNEXPECTED_UPSTREAM_BYTES, "bytes behind the answer to an unfinished body", now)
        if self._deaf:
            self.deadline = min(now + self.context.config.idle_timeout_s, self._head_due)
        joined = self._held + data if self._held else data
        self._held = b""
        held, first, last, size = b"", 0, 0, len(joined)  # to forward: held + joined[first:last]
        done = False
        try:
            while last < size and not done:
                if self._server is _SILENT:
                    raise ProtocolError(Reason.UNEXPECTED_UPSTREAM_BYTES, "bytes with no request outstanding")
                if self._server is _WAITED or self._server is ServerState.HEAD:
                    begun = self._server is ServerState.HEAD
                    head, pos = self._read_answer(joined, last, now)
                    if head is None:
                        break
                    if begun:
                        held, first = head, pos
                    last = pos
                    done = self._server is _SILENT
                else:
                    last, done = self._read_answer_body(joined, last)
                    if not done and self._server is ServerState.CHUNKS and last < size:
                        self._held = joined[last:]
                        break
            if done and last < size and not self._last and self._client is not _BODY:  # else its leg closes
                raise ProtocolError(Reason.UNEXPECTED_UPSTREAM_BYTES, "bytes behind the answer")
        except ProtocolError as error:
            return self._abort(error.reason, error.detail, now)
        self._response_bytes += len(held) + last - first
        whole = first == 0 and last == size and not held and joined is data
        if whole and not done:
            return FORWARD
        out: list[Command] = []
        if held or last > first:
            out.append(ToClient(data if whole else held + joined[first:last]))
        if done:
            out += self._complete(now)
            if last < size and self.is_outstanding:  # answered before its body ended
                out += self._server_bytes(joined[last:], now)
            if whole and len(out) == 1:
                return FORWARD
        return tuple(out)

    def _read_answer(self, data: bytes, pos: int, now: float) -> tuple[bytes | None, int]:
        """Return the head that ends here, if any, and the position behind it. SILENT afterwards: no body follows."""
        buffer = self._response_head or HeadBuffer(check_response_prefix)
        head, pos = buffer.cut(data, pos)
        if head is None:
            if self._response_head is None:
                self._response_head, self._server = buffer, ServerState.HEAD
                self._head_due = now + self.context.config.head_timeout_s
                self.deadline = min(self.deadline, self._head_due)
            return None, pos
        if self._response_head is not None:
            self._response_head, self._head_due = None, inf
            waits = self._client is not _ANSWER or self._deaf
            self.deadline = now + self.context.config.idle_timeout_s if waits else inf
        answer, call = self.context.answer(head), self._call
        assert call is not None
        status = answer.head.status
        if status == 101:
            raise ProtocolError(Reason.HTTP_UPGRADE, "101 to a request without Upgrade")
        if call.head.http_1_0 and (status < 200 or answer.length == CHUNKED):
            raise ProtocolError(Reason.HTTP_RESPONSE_MALFORMED, "an answer that HTTP/1.0 cannot read")
        self._server = _WAITED
        self._continued = self._continued or status == 100
        if status >= 200:
            self._begin_answer(answer, 0 if call.head.method == b"HEAD" else answer.length, now)
        return head, pos

    def _begin_answer(self, answer: Answer, length: int, now: float) -> None:
        self._answer, self._answered = answer, now
        self._last = self._last or not answer.head.keep_alive or length == UNTIL_CLOSE
        if length == CHUNKED:
            self._server, self._chunks = ServerState.CHUNKS, ChunkReader(Reason.HTTP_RESPONSE_MALFORMED)
        elif length == UNTIL_CLOSE:
            self._server = ServerState.STREAM
        else:
            self._server, self._server_left = (ServerState.BODY if length else _SILENT), length

    def _read_answer_body(self, data: bytes, pos: int) -> tuple[int, bool]:
        if self._chunks is not None:
            return self._chunks.feed(data, pos)
        if self._server is ServerState.STREAM:
            return len(data), False
        take = min(self._server_left, len(data) - pos)
        self._server_left -= take
        return pos + take, not self._server_left

    # --- how things end

    def _complete(self, now: float) -> list[Command]:
        """The answer is complete."""
        call, answer = self._call, self._answer
        assert call is not None
        assert answer is not None
        stays = call.head.keep_alive and answer.head.keep_alive and self._server is not ServerState.STREAM
        self._chunks = None
        out: list[Command] = []
        if self._deaf:
            return list(self._shed(self._deaf, "the server left before it took all of the request", now))
        if self._client is _BODY:
            return list(self._answered_early(call, answer, now))
        self._log(Reason.NONE, now)
        if self._surplus:
            self._refuse_surplus(stays=stays, now=now, out=out)
            out += self._linger(now)
        elif self._last:
            out += self._linger(now)
        else:
            self._rest(now)
        return out

    def _refuse_surplus(self, *, stays: bool, now: float, out: list[Command]) -> None:
        """Answer what came behind the request whose answer is now complete; silently if that closes anyway."""
        reason, detail = Reason.HTTP_PIPELINED, "bytes behind an outstanding request"
        self._request_bytes, self._started = self._dropped, now
        if stays:
            self._say(reason, 0, detail, None, close=True, now=now, out=out)
        else:
            self._record(None, Verdict.DROPPED, reason, 0, 0, 0, 0.0, now, self.context.new_event(), detail)

    def _answered_early(self, call: Call, answer: Answer, now: float) -> Commands:
        """The answer is complete, the body is not: it goes on to its end, and no request is taken behind it."""
        unasked = not self._continued or answer.head.status >= 400
        if call.head.expects_continue and unasked and self._client_left == call.head.length:
            # RFC 9110 10.1.1: after a final status no body may follow, and this server may not wait for one: the
            # client's next bytes may be a request to it.
            return self._shed(Reason.NONE, "answered by the server before its body", now)
        self._server, self._last = ServerState.DONE, True
        return NOTHING

    def _body_followed(self, now: float) -> Commands:
        """The body that was answered before its end is complete."""
        self._log(Reason.NONE, now, "answered before the body was complete")
        if self._surplus:
            self._refuse_surplus(stays=False, now=now, out=[])
        return self._linger(now)

    def _shed(self, reason: Reason, detail: str, now: float) -> Commands:
        """The client has its whole answer, the server takes no more: the rest of the body is dropped as it comes."""
        self._log(reason, now, detail)
        if not self._client_left:
            return self._linger(now, ResetServer())
        self._client, self._server, self._last = ClientState.SHED, ServerState.GONE, True
        self.deadline = now + self.context.config.idle_timeout_s
        return (ResetServer(), EndClient())

    def _rest(self, now: float) -> None:
        """Wait for the next request."""
        self._client, self._server = _IDLE, _SILENT
        self.deadline = now + self.context.config.idle_timeout_s

    def _linger(self, now: float, server: Command | None = None) -> Commands:
        """The last word was said. The client's bytes are dropped for a while, so that no reset eats it."""
        if self._ended:  # no more bytes to wait for; a server's leg that is owed a reset still gets it
            return (server, *self._close(Reason.NONE)) if server is not None else self._close(Reason.NONE)
        self._client, self._server = ClientState.LINGER, ServerState.GONE
        self._request_head = None
        self._dropped = 0
        self.deadline = now + self.context.config.linger_timeout_s
        return (server or CloseServer(), EndClient())

    def _close(self, reason: Reason) -> Commands:
        if self._client is ClientState.OVER:
            return NOTHING
        self._end()
        return (Close(reason),)

    def _abort(self, reason: Reason, detail: str, now: float) -> Commands:
        if self._call is not None:
            self._log(reason, now, detail)
        self._end()
        return (Abort(reason),)

    def _end(self) -> None:
        self._client, self._server = ClientState.OVER, ServerState.GONE
        self._request_head = self._response_head = self._chunks = self._call = None
        self._held = b""
        self.deadline = self._head_due = inf

    # --- the log

    def _log(self, reason: Reason, now: float, detail: str = "") -> None:
        """Record the outstanding request, which is over."""
        call, answer, sent, answered = self._call, self._answer, self._response_bytes, self._answered
        assert call is not None
        self._call = self._answer = None
        self._answered = 0.0
        self._response_bytes = 0
        verdict = Verdict.AUDIT if call.audit else Verdict.FORWARDED
        status = 0 if answer is None else answer.head.status
        self._record(call, verdict, reason or call.reason, call.rule, status, sent, answered, now, "", detail)

    def _record(
        self, call: Call | None, verdict: Verdict, reason: Reason, rule: int, status: int, sent: int, answered: float,
        now: float, event: str, detail: str
    ) -> None:  # fmt: skip
        method, path, has_query, host = b"", b"", False, b""
        if call is not None:
            method, path, has_query, host = call.head.method, call.path, call.has_query, call.head.host
        times = (self._started, answered, now)
        sizes = (self._request_bytes, sent)
        record = HttpRecord(verdict, reason, rule, method, path, has_query, host, status, *sizes, *times, event, detail)
        self.context.log(self.tag, record)
