"""What a conversation remembers, how its requests are recorded, and how it ends."""

from math import inf

from racecar.parsers.http1 import Body, HeadBuffer
from racecar.policy.engine import Near
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_context import Answer, Call, HttpContext, status_of
from racecar.proxy.core.http1_types import (
    NOTHING,
    Abort,
    ClientState,
    Close,
    CloseServer,
    Command,
    Commands,
    EndClient,
    HttpRecord,
    ResetServer,
    ServerState,
    ToClient,
    Verdict,
)

LINGER_ROUNDS = 15  # lingering may last this many times its timeout if the client goes on sending


class HttpState:
    """The state of one connection pair: at most one request is outstanding."""

    __slots__ = (
        "_answer",
        "_answer_body",
        "_answer_held",
        "_answered",
        "_call",
        "_client",
        "_continued",
        "_deaf",
        "_ended",
        "_fresh",
        "_head_due",
        "_hello",
        "_last",
        "_linger_end",
        "_pipelined",
        "_reason",
        "_request_body",
        "_request_bytes",
        "_request_head",
        "_request_held",
        "_response_bytes",
        "_response_head",
        "_said",
        "_served",
        "_server",
        "_server_ended",
        "_started",
        "_unreachable",
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
        self._linger_end = inf
        self._client = ClientState.IDLE
        self._server = ServerState.SILENT
        self._request_head: HeadBuffer | None = None
        self._request_body: Body | None = None  # while BODY or DRAIN
        self._request_held = b""  # half a size line or trailers of the request
        self._pipelined = b""  # what came behind the outstanding request
        self._hello: bytearray | None = None  # a TLS ClientHello that has begun, or the answer to it
        self._response_head: HeadBuffer | None = None
        self._answer_body: Body | None = None  # while BODY
        self._answer_held = b""
        self._call: Call | None = None  # the outstanding request
        self._answer: Answer | None = None  # its final answer, once its head is read
        self._started = self._answered = 0.0
        self._request_bytes = self._response_bytes = 0
        self._continued = False  # the server has asked for the outstanding request's body
        self._deaf = Reason.NONE  # why the server takes no more bytes
        self._unreachable = Reason.NONE  # why there is no server: the first request is answered with that
        self._reason = Reason.NONE  # why the connection ends, once that is settled
        self._fresh = True  # the client has not sent a byte
        self._said = False  # something was said to the client
        self._served = False  # an answer was passed on whole
        self._ended = False  # the client ended its half
        self._server_ended = False  # the server ended its half of an opaque connection
        self._last = False  # the connection closes behind the outstanding request: any of the two, or a drain

    # --- how things end

    def _rest(self, now: float) -> None:
        """Wait for the next request."""
        self._client, self._server = ClientState.IDLE, ServerState.SILENT
        self.deadline = now + self.context.config.idle_timeout_s

    def _linger(self, now: float, server: Command | None = None, reason: Reason = Reason.NONE) -> Commands:
        """The last word was said. The client's bytes are dropped for a while, so that no reset eats it."""
        self._reason = self._reason or reason
        self._forget_pipelined(now)
        last: Commands = () if self._unreachable else (server or CloseServer(),)  # else its leg is gone already
        if self._ended:  # no more bytes to wait for; a server's leg that is owed a reset still gets it
            return (*last, *self._close(self._reason)) if server is not None else self._close(self._reason)
        timeout_s = self.context.config.linger_timeout_s
        self._client, self._server = ClientState.LINGER, ServerState.GONE
        self._request_head = self._request_body = self._response_head = self._answer_body = self._hello = None
        self._request_held = self._answer_held = b""
        self._head_due = inf
        self._linger_end = now + LINGER_ROUNDS * timeout_s
        self.deadline = now + timeout_s
        return (*last, EndClient())

    def _forget_pipelined(self, now: float) -> None:
        """The connection ends: what was sent behind the outstanding request is not judged any more, and logged."""
        if not self._pipelined:
            return
        self._request_bytes, self._started = len(self._pipelined), now
        self._pipelined = b""
        self._drop_silently(Reason.HTTP_PIPELINED, "bytes behind the last request of a connection", now)

    def _drop_silently(self, reason: Reason, detail: str, now: float) -> None:
        """Record bytes that are no request that was judged, and are not answered."""
        self._record(None, Verdict.DROPPED, reason, status=0, answered=0.0, sent=0, now=now, detail=detail)

    def _close(self, reason: Reason) -> Commands:
        if self._client is ClientState.OVER:
            return NOTHING
        self._end()
        return (Close(reason),)

    def _abort(self, reason: Reason, detail: str, now: float) -> Commands:
        if self._call is not None:
            self._log(reason, now, detail)
        self._forget_pipelined(now)
        self._end()
        return (Abort(reason),)

    def _end(self) -> None:
        self._client, self._server = ClientState.OVER, ServerState.GONE
        self._request_head = self._response_head = self._request_body = self._answer_body = None
        self._call = self._hello = None
        self._request_held = self._answer_held = self._pipelined = b""
        self.deadline = self._head_due = inf

    # --- what is told to the client by us

    def _say(
        self, reason: Reason, rule: int, detail: str, call: Call | None, *, close: bool, now: float, out: list[Command]
    ) -> None:
        """Answer a request that is not forwarded. Nothing is outstanding here."""
        event = self.context.new_event()
        text = self._text(reason, rule, detail, call, event, close=close)
        out.append(ToClient(text))
        self._record(
            call, Verdict.DROPPED, reason, rule=rule, status=status_of(reason), sent=len(text), answered=now, now=now,
            event=event, detail=detail,
        )  # fmt: skip

    def _fail(self, reason: Reason, detail: str, now: float, *, begun: bool = True) -> Commands:
        """The outstanding request cannot be answered by the server: say so if no byte of an answer was passed on.

        Not `begun`: none of it was forwarded, and none will be.
        """
        call = self._call
        if call is None or call.opaque == "tls" or self._server not in (ServerState.WAITED, ServerState.HEAD):
            return self._abort(reason, detail, now)
        event = self.context.new_event()
        text = self._text(reason, call.rule, detail, call, event, close=True)
        self._response_bytes += len(text)
        self._answered = now
        self._log(reason, now, detail, status=status_of(reason), event=event, begun=begun)
        return (ToClient(text), *self._linger(now, ResetServer(), reason))

    def _text(self, reason: Reason, rule: int, detail: str, call: Call | None, event: str, *, close: bool) -> bytes:
        self._said = True
        head_only = call is not None and call.head.method == b"HEAD"
        return self.context.refusal(reason, event, rule=rule, detail=detail, close=close, head_only=head_only)

    # --- the log

    def _log(
        self, reason: Reason, now: float, detail: str = "", *, status: int = 0, event: str = "", begun: bool = True
    ) -> None:
        """Record the outstanding request, which is over."""
        call, answer, sent, answered = self._call, self._answer, self._response_bytes, self._answered
        assert call is not None
        self._call = self._answer = None
        self._answered = 0.0
        self._response_bytes = 0
        verdict = Verdict.AUDIT if call.audit else Verdict.FORWARDED
        if not begun:
            verdict = Verdict.DROPPED
        if answer is not None:
            status = answer.head.status
        if call.audit and reason:  # how it ended must not hide why the rules deny it
            detail = f"{detail}; denied for {call.reason.name}" if detail else f"denied for {call.reason.name}"
        self._record(
            call, verdict, reason or call.reason, rule=call.rule if begun else 0, status=status, sent=sent,
            answered=answered, now=now, event=event, detail=detail or call.detail,
        )  # fmt: skip

    def _record(
        self,
        call: Call | None,
        verdict: Verdict,
        reason: Reason,
        *,
        status: int,
        answered: float,
        sent: int,
        now: float,
        rule: int = 0,
        event: str = "",
        detail: str = "",
    ) -> None:
        method, path, has_query, host = b"", b"", False, b""
        nearest: tuple[Near, ...] = ()
        opaque = ""
        if call is not None:
            method, path, has_query, host = call.head.method, call.path, call.has_query, call.head.host
            nearest = call.nearest
            if call.opaque == "tls" or self._client is ClientState.OPAQUE:
                opaque = call.opaque
        self.context.log(
            self.tag,
            HttpRecord(
                verdict,
                reason,
                rule,
                method,
                path,
                has_query,
                host,
                status,
                self._request_bytes,
                sent,
                self._started,
                answered,
                now,
                event,
                detail,
                nearest,
                opaque,
                None if call is None else call.notes,
            ),
        )
