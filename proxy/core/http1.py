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
  client, the client is not read either (else refusals without end would grow its buffer), and not while
  `client_paused`: a request waits here for the answer before it.
- Long bodies: as long as `client_unread` is above 0, that many bytes may go from the client to the server without
  being handed in; tell `client_moved(count, now)` at once, before anything else. `server_unread` and `server_moved`
  likewise towards the client. The last byte of a message is never among them, so that it ends in one place.
- `deadline` is on the clock of `now`, infinite for none, and may move with any call: call `timer(now)` once it has
  passed. Calling it early is harmless.
- What breaks outside (a reset, a limit) is told by `lost(reason, now)`, so that it is logged; a dial that failed, or a
  server's leg that failed while nothing was outstanding, by `server_failed`.
- A server's leg that stood and takes no more bytes is told by `server_deaf`: what it said before is still read.
"""

from math import inf

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1 import ENDLESS, WEBSOCKET, HeadBuffer, body_of, check_response_prefix
from racecar.parsers.http1.fields import CHUNKED, UNTIL_CLOSE
from racecar.parsers.tls import is_server_hello, warning_size
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_context import Answer, Call
from racecar.proxy.core.http1_requests import RequestSide
from racecar.proxy.core.http1_types import (
    FORWARD,
    NOTHING,
    ClientState,
    Close,
    Command,
    Commands,
    EndClient,
    EndServer,
    ResetServer,
    ServerState,
    ToClient,
    ToServer,
)

_CLOSE = Close()
_IDLE, _BODY, _ANSWER = ClientState.IDLE, ClientState.BODY, ClientState.ANSWER
_SILENT, _WAITED, _DONE, _GONE = ServerState.SILENT, ServerState.WAITED, ServerState.DONE, ServerState.GONE
_NO_ANSWER = "the server ended without an answer"
_HALF_ANSWER = "the server ended inside an answer"
_DEAF_SWITCH = "the server left before it switched"


class _SwitchError(ProtocolError):
    """A server switched to a protocol that was not granted, or takes no more bytes: both sides are cut off."""


class HttpConversation(RequestSide):
    """One connection pair. The server's half, the ends, and what the edge asks."""

    __slots__ = ()

    # --- what the edge asks

    @property
    def client_unread(self) -> int:
        """How many of the client's next bytes may go to the server without being handed in."""
        if self._client is _BODY and not self._request_held:
            assert self._request_body is not None
            return self._request_body.unread
        return ENDLESS.unread if self._client is ClientState.OPAQUE else 0

    @property
    def server_unread(self) -> int:
        """How many of the server's next bytes may go to the client without being handed in."""
        if self._server is ServerState.BODY and not self._answer_held:
            assert self._answer_body is not None
            return self._answer_body.unread
        return ENDLESS.unread if self._server is ServerState.OPAQUE else 0

    @property
    def client_paused(self) -> bool:
        """A request waits here until the one before it is answered: the client is not to be read."""
        return bool(self._pipelined)

    @property
    def held(self) -> int:
        """How many bytes wait here for the rest of a head, a size line or trailers, or for an answer."""
        held = len(self._request_held) + len(self._answer_held) + len(self._pipelined)
        if self._hello is not None:
            held += len(self._hello)
        for head in (self._request_head, self._response_head):
            if head is not None:
                held += head.pending
        return held

    @property
    def is_idle(self) -> bool:
        """Nothing is outstanding and no request has begun."""
        return self._client is _IDLE

    @property
    def is_reading_head(self) -> bool:
        """A request's head has begun."""
        return self._client is ClientState.HEAD

    @property
    def is_outstanding(self) -> bool:
        """A request was forwarded, and it or its answer is not complete."""
        return self._call is not None

    @property
    def is_opaque(self) -> bool:
        """Both sides speak what is not read."""
        return self._client is ClientState.OPAQUE

    @property
    def is_over(self) -> bool:
        """Close or Abort was said."""
        return self._client is ClientState.OVER

    # --- bytes

    def client_bytes(self, data: bytes, now: float) -> Commands:
        """Take one read from the client."""
        if self._client is _IDLE:
            call = self.context.calls.new.get(data)
            # The whole read is a head that was allowed before.
            if call is not None and call.plain and not self._unreachable:
                self._call = call
                self._started = now
                self._request_bytes = len(data)
                self._client = _ANSWER
                self._server = _WAITED
                self._fresh = False
                self._last = self._last or not call.head.keep_alive
                self.deadline = inf
                return FORWARD
        elif self._client is ClientState.OPAQUE:
            self._request_bytes += len(data)
            return FORWARD
        return self._client_bytes(data, now)

    def server_bytes(self, data: bytes, now: float) -> Commands:
        """Take one read from the server."""
        if self._server is _WAITED and not self._pipelined:
            answer = self.context.answers.new.get(data[: data.find(b"\r\n\r\n") + 4])
            call = self._call
            # A plain call has no body: it was complete when it was forwarded.
            if answer is None or answer.whole != len(data) or call is None or not call.plain or self._deaf:
                return self._server_bytes(data, now)
            last = self._last or not answer.head.keep_alive
            if not last or not (call.head.keep_alive or self._ended):
                self._answer = answer
                self._answered = now
                self._response_bytes += len(data)
                self._said = self._served = True
                self._log(Reason.NONE, now)
                if last:
                    self._end()
                    return (ToClient(data), _CLOSE)
                self._client = _IDLE
                self._server = _SILENT
                self.deadline = now + self.context.config.idle_timeout_s
                return FORWARD
        elif self._server is ServerState.OPAQUE:
            self._response_bytes += len(data)
            return FORWARD
        return self._server_bytes(data, now)

    def client_moved(self, count: int, now: float) -> None:
        """Count bytes that went to the server unread; ValueError for more than `client_unread`."""
        if not 0 <= count <= self.client_unread:
            raise ValueError(f"{count} bytes moved, {self.client_unread} may go unread")
        self._request_bytes += count
        if self._request_body is not None:
            self._request_body.moved(count)
            self.deadline = min(now + self.context.config.idle_timeout_s, self._head_due)

    def server_moved(self, count: int, now: float) -> None:
        """Count bytes that went to the client unread; ValueError for more than `server_unread`."""
        if not 0 <= count <= self.server_unread:
            raise ValueError(f"{count} bytes moved, {self.server_unread} may go unread")
        self._response_bytes += count
        if self._deaf:
            self.deadline = min(now + self.context.config.idle_timeout_s, self._head_due)
        if self._answer_body is not None:
            self._answer_body.moved(count)

    # --- ends and time

    def client_eof(self, now: float) -> Commands:
        """The client ended its half."""
        state = self._client
        if state is _ANSWER and not self._ended:
            self._ended = self._last = True
            return NOTHING if self._deaf else (EndServer(),)  # half a connection is enough for the answer
        if state is ClientState.OPAQUE:
            self._ended = True
            return self._opaque_over(now) if self._server_ended else (EndServer(),)
        if state is _BODY:
            reason, detail = Reason.DOWNSTREAM_CLOSED, "the client ended inside a request"
            if self._server is not _DONE:
                return self._abort(reason, detail, now)
            self._log(reason, now, detail)  # it has its answer
            self._ended = True
            return self._linger(now, ResetServer())
        if state is ClientState.SHED and self._call is not None:
            self._ended = True
            self._client = _ANSWER
            return NOTHING
        if state in (ClientState.HEAD, ClientState.HELLO):
            return self._close(Reason.DOWNSTREAM_CLOSED)
        return NOTHING if state in (_ANSWER, ClientState.OVER) else self._close(self._reason)

    def server_eof(self, now: float) -> Commands:
        """The server ended its half."""
        state = self._server
        if state is _SILENT:
            return self._close(self._reason) if self._client is _IDLE else self._linger(now)
        if state is ServerState.BODY and self._answer_body is ENDLESS:
            return tuple(self._complete(now, ends=True))
        if state is ServerState.OPAQUE:
            self._server_ended = True
            return self._opaque_over(now) if self._ended else (EndClient(),)
        if state is _DONE:  # it may still read the body, and answers no more
            self._last = True
            return NOTHING
        if state is _GONE:
            return NOTHING
        reason, detail = self._deaf or Reason.UPSTREAM_CLOSED, _NO_ANSWER if state is _WAITED else _HALF_ANSWER
        if state is _WAITED and self._served and not self._deaf and not self._response_bytes:
            self._log(reason, now, detail)  # a client repeats a request that met the end of a kept connection
            return self._linger(now, reason=reason)
        return self._fail(reason, detail, now)

    def server_failed(self, reason: Reason, now: float) -> Commands:
        """The server's leg failed: the dial, or while nothing was outstanding."""
        if self._call is not None:
            return self._fail(reason, "the server cannot be reached", now)
        if self.context.answers_dial_failures and not self._served and self._server is _SILENT:
            self._unreachable = self._reason = reason  # nothing was ever asked of it: the next request is answered
            return (ResetServer(),)
        if not self._said:
            return self._abort(reason, "", now)
        return self._linger(now, ResetServer(), reason)

    def server_deaf(self, reason: Reason, now: float) -> Commands:
        """The server's leg failed while `is_outstanding`: it takes nothing more, what it sent may still be there.

        Hand that in, then its end: `server_eof` if its stream is known to be whole, else `server_cut`.
        """
        if self._client is ClientState.OPAQUE:
            return self._abort(reason, "", now)
        if self._server is _DONE:
            return self._shed(reason, "the server left inside the body, which it had answered", now)
        if self._deaf:
            return self.server_cut(now)
        self._deaf, self._last = reason, True
        if self._client is _BODY:
            self._client, self._request_body, self._request_held = ClientState.SHED, None, b""
        self.deadline = min(now + self.context.config.idle_timeout_s, self._head_due)
        return NOTHING

    def server_cut(self, now: float) -> Commands:
        """The stream of a server that is deaf ended, not known to be whole."""
        if self._server is _GONE:
            return NOTHING
        if self._server is not _WAITED:
            return self._fail(self._deaf, _HALF_ANSWER, now)
        if self._served:  # a kept connection ended: as the client would have met it
            return self._abort(self._deaf, _NO_ANSWER, now)
        return self._fail(self._deaf, _NO_ANSWER, now)

    @property
    def is_reading_answer_head(self) -> bool:
        """An answer's head has begun."""
        return self._server is ServerState.HEAD

    def extend_head(self, now: float) -> None:
        """Give the client's head that has begun its time again: it was not the client that let it pass."""
        self.deadline = now + self.context.config.head_timeout_s

    def extend_answer_head(self, now: float) -> None:
        """Likewise for an answer's head: the server was not read meanwhile."""
        self._head_due = now + self.context.config.head_timeout_s
        self.deadline = min(self._head_due, self.deadline) if self.deadline > now else self._head_due

    def timer(self, now: float) -> Commands:
        """Do what is due if `deadline` has passed."""
        if now < self.deadline:
            return NOTHING
        if now >= self._head_due:
            return self._fail(Reason.HTTP_RESPONSE_TIMEOUT, "the answer's head did not come in time", now)
        state = self._client
        if state is ClientState.HEAD:
            out: list[Command] = []
            self._request_bytes = self._request_head.pending if self._request_head is not None else 0
            self._refuse_head(ProtocolError(Reason.HEAD_TIMEOUT, "the head did not come in time"), now, out)
            return tuple(out)
        if state is ClientState.HELLO:
            self._drop_silently(Reason.HEAD_TIMEOUT, "the ClientHello did not come in time", now)
            return self._close(Reason.HEAD_TIMEOUT)
        if state is _BODY:
            return self._fail(Reason.IDLE_TIMEOUT, "the request's body stopped", now)
        if self._call is not None:
            return self._fail(self._deaf or Reason.IDLE_TIMEOUT, "an answer of a server that left", now)
        if state is ClientState.DRAIN:
            return self._linger(now, reason=Reason.IDLE_TIMEOUT)
        return self._close(self._reason if state is ClientState.LINGER else self._reason or Reason.IDLE_TIMEOUT)

    def drain(self) -> Commands:
        """End soon: at once if nothing is outstanding, else behind the answer."""
        self._last = True
        return self._close(Reason.DRAINED) if self._client is _IDLE else NOTHING

    def lost(self, reason: Reason, now: float) -> None:
        """The edge gave up both legs: log what was outstanding."""
        if not self.is_over:
            self._abort(reason, "", now)

    # --- the server's side

    def _server_bytes(self, data: bytes, now: float) -> Commands:
        state = self._server
        if state is _GONE:
            return NOTHING
        if state is _SILENT:
            return self._stray(now)
        if state is _DONE:  # it took part of the body for a request: no more of it may be sent
            return self._shed(Reason.UNEXPECTED_UPSTREAM_BYTES, "bytes behind the answer to an unfinished body", now)
        if state is ServerState.HELLO:
            return self._read_server_hello(data, now)
        if self._deaf:
            self.deadline = min(now + self.context.config.idle_timeout_s, self._head_due)
        text = self._answer_held + data if self._answer_held else data
        self._answer_held = b""
        held, first, last, size = b"", 0, 0, len(text)  # to forward: held + text[first:last]
        done, failure = False, None
        try:
            while last < size and not done and self._client is not ClientState.OPAQUE:
                if self._server is _WAITED or self._server is ServerState.HEAD:
                    begun = self._server is ServerState.HEAD
                    head, pos = self._read_answer(text, last, now)
                    if head is None:
                        break
                    if begun:
                        held, first = head, pos
                    last = pos
                    done = self._server is _SILENT
                else:
                    last, done = self._read_answer_body(text, last)
                    if not done and last < size:
                        self._answer_held = text[last:]
                        break
        except ProtocolError as error:
            failure = error
        if self._client is ClientState.OPAQUE:
            return self._open(held + text[first:])
        return self._pass_on(data, text, held, first, last, done, failure, now)

    def _pass_on(
        self,
        data: bytes,
        text: bytes,
        held: bytes,
        first: int,
        last: int,
        done: bool,
        failure: ProtocolError | None,
        now: float,
    ) -> Commands:
        """Forward the judged part of what was read, `held + text[first:last]`, then do what follows from it."""
        size = len(text)
        count = len(held) + last - first
        self._response_bytes += count
        self._said = self._said or count > 0
        whole = first == 0 and last == size and not held and text is data
        if whole and not done and failure is None:
            return FORWARD
        out: list[Command] = []
        if count:
            out.append(ToClient(data if whole else held + text[first:last]))
        if failure is not None:
            out += self._answer_failed(failure, now)
        elif done:
            early = self._client is _BODY
            out += self._complete(now, stray=last < size and not early)
            if early and last < size and self.is_outstanding:
                out += self._server_bytes(text[last:], now)
            if whole and len(out) == 1:
                return FORWARD
        return tuple(out)

    def _answer_failed(self, error: ProtocolError, now: float) -> Commands:
        if isinstance(error, _SwitchError):
            return self._abort(error.reason, error.detail, now)
        return self._fail(error.reason, error.detail, now)

    def _read_answer(self, data: bytes, pos: int, now: float) -> tuple[bytes | None, int]:
        """Return the head that ends here, if any, and the position behind it. SILENT afterwards: no body follows."""
        buffer = self._response_head or HeadBuffer(check_response_prefix, self.context.limits)
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
        if call.head.http_1_0 and (status < 200 or answer.length == CHUNKED):
            raise ProtocolError(Reason.HTTP_RESPONSE_MALFORMED, "an answer that HTTP/1.0 cannot read")
        if status == 101 or (call.opaque == "connect" and 200 <= status < 300):
            self._switch(call, answer, now)
            return head, pos
        self._server = _WAITED
        self._continued = self._continued or status == 100
        if status >= 200:
            self._begin_answer(answer, 0 if call.head.method == b"HEAD" else answer.length, now)
        return head, pos

    def _begin_answer(self, answer: Answer, length: int, now: float) -> None:
        self._answer, self._answered = answer, now
        self._last = self._last or not answer.head.keep_alive or length == UNTIL_CLOSE
        self._answer_body = body_of(length, fault=Reason.HTTP_RESPONSE_MALFORMED)
        self._server = _SILENT if self._answer_body is None else ServerState.BODY

    def _read_answer_body(self, data: bytes, pos: int) -> tuple[int, bool]:
        assert self._answer_body is not None
        end, done = self._answer_body.feed(data, pos)
        if done:
            self._answer_body = None
        return end, done

    # --- opaque

    def _switch(self, call: Call, answer: Answer, now: float) -> None:
        """The answer makes the connection opaque, if it answers a request that a rule granted that."""
        head = answer.head
        if head.status == 101:
            if call.opaque != "websocket" or head.upgrade != WEBSOCKET:
                raise _SwitchError(Reason.HTTP_UPGRADE, "101 to a request that was granted no other protocol")
        elif head.declared:
            raise ProtocolError(Reason.HTTP_RESPONSE_MALFORMED, "a tunnel with a body")  # RFC 9110 9.3.6
        if self._deaf:
            raise _SwitchError(self._deaf, _DEAF_SWITCH)
        self._answer, self._answered = answer, now
        self._client, self._server = ClientState.OPAQUE, ServerState.OPAQUE
        self.deadline = self._head_due = inf

    def _open(self, data: bytes) -> Commands:
        """Both sides speak what is not read from here on: `data` is the server's, what waited is the client's."""
        self._said = True
        self._response_bytes += len(data)
        waiting, self._pipelined = self._pipelined, b""
        self._request_bytes += len(waiting)
        return (ToClient(data), ToServer(waiting)) if waiting else (ToClient(data),)

    def _opaque_over(self, now: float) -> Commands:
        """Both ended their half in order."""
        self._log(Reason.NONE, now)
        return self._close(Reason.NONE)

    def _read_server_hello(self, data: bytes, now: float) -> Commands:
        """Passed on unread from the server's hello on. Alerts pass too; a fatal one is the end."""
        start = self._answer_held + data
        out: list[Command] = []
        try:
            while (alert := warning_size(start)) > 0:
                out.append(ToClient(start[:alert]))
                self._said = True
                self._response_bytes += alert
                start = start[alert:]
            accepted = is_server_hello(start) if start else None
        except ProtocolError as error:
            return (*out, *self._abort(error.reason, error.detail, now))
        self._answer_held = b""
        if accepted is None:
            self._answer_held = start
            return tuple(out)
        if accepted and self._deaf:
            return (*out, *self._abort(self._deaf, _DEAF_SWITCH, now))
        self._answered = now
        if accepted:
            self._client, self._server = ClientState.OPAQUE, ServerState.OPAQUE
            self.deadline = inf
            return (*out, *self._open(start))
        self._said = self._last = True
        self._response_bytes += len(start)
        self._server, self._answer_body = ServerState.BODY, ENDLESS
        return (*out, ToClient(start))

    # --- how answers end

    def _complete(self, now: float, *, stray: bool = False, ends: bool = False) -> list[Command]:
        """The answer is complete. `stray`: more bytes came behind it; `ends`: with the server's half."""
        self._answer_body = None
        if self._deaf:
            return list(self._shed(self._deaf, "the server left before it took all of the request", now))
        if self._client is _BODY:
            out = list(self._answered_early(now))
            return [EndClient(), *out] if ends and self._client is _BODY else out
        keeps = self._call is not None and self._call.head.keep_alive
        self._log(Reason.NONE, now)
        self._served = True
        if self._last and not keeps and not self._pipelined:
            return list(self._close(self._reason))  # it said that it would not go on: nothing comes to reset its answer
        if stray:
            return list(self._linger(now, ResetServer(), Reason.UNEXPECTED_UPSTREAM_BYTES))
        if self._last:
            return list(self._linger(now))
        self._rest(now)
        return self._take_pipelined(now)

    def _answered_early(self, now: float) -> Commands:
        """The answer is complete, the body is not: it goes on to its end."""
        call, answer = self._call, self._answer
        assert call is not None
        assert answer is not None
        unasked = not self._continued or answer.head.status >= 400
        if call.head.expects_continue and unasked and self._request_bytes == call.head.size and not self._request_held:
            # RFC 9110 10.1.1: after a final status no body may follow, and this server may not wait for one: the
            # client's next bytes may be a request to it.
            return self._shed(Reason.NONE, "answered by the server before its body", now)
        self._server = _DONE
        return NOTHING

    def _shed(self, reason: Reason, detail: str, now: float) -> Commands:
        """The client has its whole answer, the server takes no more: the rest of the body is dropped as it comes."""
        self._log(reason, now, detail)
        return self._linger(now, ResetServer())

    def _stray(self, now: float) -> Commands:
        """Bytes of a server with no request outstanding: nobody knows what they answer."""
        reason = Reason.UNEXPECTED_UPSTREAM_BYTES
        if not self._said:
            return self._abort(reason, "", now)
        return self._linger(now, ResetServer(), reason)
