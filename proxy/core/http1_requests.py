"""The client's half of a conversation: heads are judged, bodies followed, what is refused is answered."""

from math import inf

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1 import HeadBuffer, body_of, check_request_prefix
from racecar.parsers.tls import client_hello_size
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_context import Call, status_of, tls_call
from racecar.proxy.core.http1_state import HttpState
from racecar.proxy.core.http1_types import (
    FORWARD,
    NOTHING,
    ClientState,
    Command,
    Commands,
    ServerState,
    ToServer,
)

TLS_HANDSHAKE = 0x16  # RFC 8446 5.1
_IDLE, _HEAD, _BODY, _ANSWER = ClientState.IDLE, ClientState.HEAD, ClientState.BODY, ClientState.ANSWER


class RequestSide(HttpState):
    """Takes the client's bytes."""

    __slots__ = ()

    def _client_bytes(self, data: bytes, now: float) -> Commands:
        """Take bytes of the client. At most one request is forwarded: what lies behind it waits for its answer."""
        if self._pipelined:
            self._pipelined += data
            return NOTHING
        text = self._request_held + data if self._request_held else data
        self._request_held = b""
        out: list[Command] = []
        held, first, last, pos, size = b"", -1, 0, 0, len(text)  # to forward: held + text[first:last]
        while pos < size:
            state = self._client
            if state is _IDLE or state is _HEAD:
                if self._fresh and self._is_tls(text[pos], now):
                    continue
                start = pos
                head, pos = self._read_head(text, pos, now, out)
                if head is not None:
                    if self._unreachable:
                        return (*out, *self._tell_unreachable(text[pos:], now))
                    held, first = (head, pos) if state is _HEAD else (b"", start)
                    last = pos
            elif state is _BODY:
                begun = first < 0  # its head is forwarded
                first = pos if begun else first
                try:
                    pos = last = self._read_body(text, pos, now)
                except ProtocolError as error:
                    return (*out, *self._fail(error.reason, error.detail, now, begun=begun))
                if self._client is _BODY:
                    self._request_held = text[pos:]
                    break
            elif state is _ANSWER:
                self._pipelined = text[pos:]
                break
            elif state is ClientState.DRAIN:
                pos = self._drain_body(text, pos, now, out)
            elif state is ClientState.HELLO:
                self._read_hello(text[pos:], now, out)
                break
            else:
                self._drop(now)
                break
        if self._client is ClientState.OVER or first < 0:
            return tuple(out)
        followed = self._client is _ANSWER and self._server is ServerState.DONE
        if first == 0 and last == size and text is data and not (held or out or followed):
            return FORWARD
        if held or last > first:
            out.append(ToServer(held + text[first:last]))
        if followed:
            out += self._body_followed(now)
        return tuple(out)

    def _take_pipelined(self, now: float) -> list[Command]:
        """Judge what waited behind the request that is answered now."""
        data, self._pipelined = self._pipelined, b""
        if not data:
            return []
        commands = self._client_bytes(data, now)
        return [ToServer(data)] if commands is FORWARD else list(commands)

    def _read_head(self, data: bytes, pos: int, now: float, out: list[Command]) -> tuple[bytes | None, int]:
        """Return a head to forward, if one ends here and is allowed, and the position behind what was used."""
        buffer, start = self._request_head, pos
        self._fresh = False
        if buffer is None:
            self._started = now
            buffer = HeadBuffer(check_request_prefix, self.context.limits)
        try:
            head, pos = buffer.cut(data, pos)
            if head is None:
                if self._request_head is None:
                    self._request_head = buffer
                    self._client = _HEAD
                    self.deadline = now + self.context.config.head_timeout_s
                return None, pos
            self._request_head = None
        except ProtocolError as error:
            self._request_bytes = buffer.pending or len(data) - start
            self._refuse_head(error, now, out)
            return None, len(data)
        self._request_bytes = len(head)
        try:
            call = self.context.call(head)
        except ProtocolError as error:
            self._refuse_head(error, now, out)
            return None, len(data)
        if not call.forward:
            self._refuse(call, now, out)
            return None, pos
        self._await_answer(call, now)
        return head, pos

    def _tell_unreachable(self, behind: bytes, now: float) -> Commands:
        """Answer a request that would be forwarded if there was a server, whatever came behind its head."""
        if self._client is _ANSWER:
            self._pipelined += behind
        return self._fail(self._unreachable, "the server cannot be reached", now)

    def _await_answer(self, call: Call, now: float) -> None:
        """The head of `call` is forwarded."""
        self._call = call
        self._server = ServerState.WAITED
        self._last = self._last or not call.head.keep_alive
        self._request_body = body_of(
            call.head.length, fault=Reason.HTTP_FRAMING, forbidden_trailers=self.context.forbidden_trailers
        )
        self._continued = False
        self._client = _ANSWER if self._request_body is None else _BODY
        self.deadline = inf if self._request_body is None else now + self.context.config.idle_timeout_s

    def _read_body(self, data: bytes, pos: int, now: float) -> int:
        """Return the position up to which the body is judged. Raises ProtocolError for a malformed chunk."""
        assert self._request_body is not None
        end, done = self._request_body.feed(data, pos)
        self._request_bytes += end - pos
        if done:
            self._request_body = None
            self._client = _ANSWER
            self.deadline = self._head_due
        else:
            self.deadline = min(now + self.context.config.idle_timeout_s, self._head_due)
        return end

    def _drain_body(self, data: bytes, pos: int, now: float, out: list[Command]) -> int:
        assert self._request_body is not None
        end, done = self._request_body.feed(data, pos)
        if done:
            self._request_body = None
            if self._last:
                out += self._linger(now)
            else:
                self._rest(now)
        return end

    def _drop(self, now: float) -> None:
        """Bytes behind the last word, or for a server that takes no more."""
        if self._client is ClientState.LINGER:
            self.deadline = min(now + self.context.config.linger_timeout_s, self._linger_end)
        elif self._client is ClientState.SHED:
            self.deadline = min(now + self.context.config.idle_timeout_s, self._head_due)

    def _body_followed(self, now: float) -> Commands:
        """The body that was answered before its end is complete, and the server said nothing meanwhile."""
        self._log(Reason.NONE, now, "answered before the body was complete")
        self._served = True
        if self._last:
            return self._linger(now)
        self._rest(now)
        return tuple(self._take_pipelined(now))

    # --- TLS that a rule passes through

    def _is_tls(self, byte: int, now: float) -> bool:
        """True if the connection begins with a TLS record and a rule grants that: it is read as a ClientHello now."""
        if byte != TLS_HANDSHAKE or not self.context.tls_rule:
            return False
        self._fresh = False
        self._client, self._hello = ClientState.HELLO, bytearray()
        self._started = now
        self.deadline = now + self.context.config.head_timeout_s
        return True

    def _read_hello(self, data: bytes, now: float, out: list[Command]) -> None:
        """Forward the ClientHello alone; what comes with it waits for the server's hello."""
        hello = self._hello
        assert hello is not None
        hello += data
        self._request_bytes = len(hello)
        try:
            size = client_hello_size(hello)
        except ProtocolError as error:
            self._refuse_head(error, now, out)
            return
        if size is None:
            return
        self._hello = None
        self._await_answer(tls_call(self.context.tls_rule), now)
        self._server = ServerState.HELLO
        self._request_bytes = size
        self._pipelined = bytes(hello[size:])
        if self._unreachable:
            out += self._tell_unreachable(b"", now)
            return
        out.append(ToServer(bytes(hello[:size])))

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
            self._client, self._request_body = ClientState.DRAIN, body_of(head.length, fault=Reason.HTTP_FRAMING)
            self.deadline = now + config.head_timeout_s
        else:
            self._rest(now)

    def _refuse_head(self, error: ProtocolError, now: float, out: list[Command]) -> None:
        """Answer what is no request. Nothing is outstanding here."""
        self._say(error.reason, 0, error.detail, None, close=True, now=now, out=out)
        out += self._linger(now)
