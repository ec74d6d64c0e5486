"""What all HTTP/1.1 connections under one rule set share: verdicts by raw head, the refusals' texts, the log's sink."""

import itertools
import secrets
from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus

from racecar.parsers.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    WEBSOCKET,
    RequestHead,
    ResponseHead,
    header_values,
    read_request_head,
    read_response_head,
    response_length,
)
from racecar.parsers.http1.chunks import REQUEST_TRAILERS
from racecar.parsers.http1.fields import plain_name
from racecar.parsers.http1.second_opinion import check_request, check_response
from racecar.policy.engine import HttpCall, Near
from racecar.policy.generations import Generations
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import HttpConfig, HttpRecord, Judge, Notes

# What a refused caller is answered; 400 for a reason that is not here. Only a 403 leaves the connection usable.
STATUS = {
    Reason.HTTP_NO_RULE: HTTPStatus.FORBIDDEN,
    Reason.HTTP_DENY_RULE: HTTPStatus.FORBIDDEN,
    Reason.HTTP_PATH_ENCODING: HTTPStatus.FORBIDDEN,
    Reason.HTTP_BODY_NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    Reason.HTTP_UPGRADE: HTTPStatus.FORBIDDEN,
    Reason.HTTP_CONNECT: HTTPStatus.FORBIDDEN,
    Reason.HTTP_HEAD_TOO_LARGE: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    Reason.HTTP_TOO_MANY_HEADERS: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    Reason.HTTP_TARGET_TOO_LONG: HTTPStatus.REQUEST_URI_TOO_LONG,
    Reason.HTTP_EXPECT: HTTPStatus.EXPECTATION_FAILED,
    Reason.HEAD_TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    Reason.IDLE_TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    Reason.DIAL_FAILED: HTTPStatus.BAD_GATEWAY,
    Reason.UPSTREAM_RESET: HTTPStatus.BAD_GATEWAY,
    Reason.UPSTREAM_CLOSED: HTTPStatus.BAD_GATEWAY,
    Reason.HTTP_RESPONSE_MALFORMED: HTTPStatus.BAD_GATEWAY,
    Reason.DIAL_TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
    Reason.HTTP_RESPONSE_TIMEOUT: HTTPStatus.GATEWAY_TIMEOUT,
}
# A caller that speaks another protocol is told so in that protocol.
FOREIGN_ANSWERS = {
    Reason.HTTP_TLS: b"\x15\x03\x01\x00\x02\x02\x31",  # RFC 8446 6: a fatal alert, access_denied
    # RFC 9113 6.5, 6.8: empty SETTINGS, then GOAWAY with HTTP_1_1_REQUIRED.
    Reason.HTTP_HTTP2: b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x08\7\0\0\0\0\0" + b"\0\0\0\0" + b"\0\0\0\x0d",
}
# Denials that audit mode lets pass: the request is well-formed and was judged. All else is refused in audit too.
_AUDITED = frozenset(reason for reason, status in STATUS.items() if status == HTTPStatus.FORBIDDEN)
_NOT_GRANTED = {
    Reason.HTTP_PATH_ENCODING: "an encoding in the path that servers read in different ways",
    Reason.HTTP_BODY_NOT_ALLOWED: "a body on GET, HEAD or DELETE is not granted",
    Reason.HTTP_UPGRADE: "WebSocket is not granted",
    Reason.HTTP_CONNECT: "CONNECT is not granted",
}


class Call:
    """A request's head with its verdict. Shared by all requests with the same bytes: never changed."""

    __slots__ = (
        "audit",
        "detail",
        "forward",
        "has_query",
        "head",
        "nearest",
        "notes",
        "opaque",
        "path",
        "plain",
        "reason",
        "rule",
    )

    def __init__(
        self,
        head: RequestHead,
        reason: Reason,
        rule: int,
        *,
        audit: bool,
        detail: str = "",
        nearest: tuple[Near, ...] = (),
        opaque: str = "",
    ) -> None:
        self.head = head
        self.reason = reason  # NONE if allowed
        self.rule = rule
        self.detail = detail
        self.nearest = nearest
        self.notes = Notes()
        self.opaque = opaque  # what its answer may switch to: websocket, connect, tls
        self.audit = audit and reason in _AUDITED
        self.forward = reason is Reason.NONE or self.audit
        self.path, question, _ = head.target.partition(b"?")
        self.has_query = bool(question)
        # Forwarded, nothing follows the head, and the answer's head alone says how the answer ends.
        follows = head.length or head.upgrade or opaque or head.method == b"HEAD"
        self.plain = self.forward and not follows


def tls_call(rule: int) -> Call:
    """What stands for a TLS connection that `rule` passes through."""
    head = RequestHead(b"", b"", b"", b"", False, 0, False, False, b"", 0)
    return Call(head, Reason.NONE, rule, audit=False, opaque="tls")


class Answer:
    """A response's head and how its body ends if the request was not HEAD. Shared like Call."""

    __slots__ = ("head", "length", "whole")

    def __init__(self, head: ResponseHead) -> None:
        self.head = head
        self.length = response_length(head, method=b"")
        counted = head.status >= 200 and self.length not in (CHUNKED, UNTIL_CLOSE)
        self.whole = head.size + self.length if counted else 0  # size of a message that the head alone tells


class HttpContext:
    """One rule set in force. Make a new one for a new policy and give it to the conversations: caches go with it."""

    __slots__ = (
        "_audit",
        "_events",
        "_judge",
        "_rule_name",
        "_tells_rules",
        "answers",
        "answers_dial_failures",
        "calls",
        "config",
        "forbidden_trailers",
        "limits",
        "log",
        "tls_rule",
    )

    def __init__(
        self,
        judge: Judge,
        log: Callable[[object, HttpRecord], None],
        *,
        rule_name: Callable[[int], str] = lambda rule: f"rule {rule}" if rule else "default deny",
        tells_rules: bool = True,
        audit: bool = False,
        tls_rule: int = 0,
        header_names: frozenset[bytes] = frozenset(),
        answers_dial_failures: bool = False,
        config: HttpConfig = HttpConfig(),  # noqa: B008 (frozen)
        event_prefix: str | None = None,
    ) -> None:
        """`log` gets the conversation's tag and the record of each request once it is over; it must not raise.

        `rule_name` names rule 0 too: what denies when no rule allows. Without `tells_rules` a denied caller is told
        an event's name only. `tls_rule` is the number of the rule that passes TLS through, 0 for none.
        `header_names` are the headers that the rules read, in lower case: none of them may come as a trailer.
        `answers_dial_failures`: a client whose server cannot be reached is answered once it has asked for something;
        else it is reset at once, as it would have been without a proxy.
        """
        self.log = log
        self.config = config
        self.limits = config.head_limits()
        self.tls_rule = tls_rule
        self.answers_dial_failures = answers_dial_failures
        self.forbidden_trailers = REQUEST_TRAILERS | {plain_name(name) for name in header_names}
        self.calls: Generations[bytes, Call] = Generations(config.max_cached_heads)
        self.answers: Generations[bytes, Answer] = Generations(config.max_cached_heads)
        self._judge = judge
        self._rule_name = rule_name
        self._tells_rules = tells_rules
        self._audit = audit
        prefix = secrets.token_hex(4) if event_prefix is None else event_prefix
        self._events: Iterator[str] = (f"{prefix}-{number}" for number in itertools.count(1))

    def call(self, raw: bytes) -> Call:
        """Return what is to be done with the request whose head is `raw`. Raises ProtocolError if it is malformed."""
        call = self.calls.get(raw)
        if call is None:
            head = read_request_head(raw, self.limits)
            check_request(raw, head)
            call = self._decide(head, raw)
            if len(raw) <= self.config.max_cached_head_bytes:
                self.calls.put(raw, call)
        return call

    def answer(self, raw: bytes) -> Answer:
        """Return what the response's head `raw` says. Raises ProtocolError if it is malformed."""
        answer = self.answers.get(raw)
        if answer is None:
            head = read_response_head(raw, self.limits)
            check_response(raw, head)
            answer = Answer(head)
            if len(raw) <= self.config.max_cached_head_bytes:
                self.answers.put(raw, answer)
        return answer

    def new_event(self) -> str:
        """Return a name for one refusal, told to the caller and logged."""
        return next(self._events)

    def _decide(self, head: RequestHead, raw: bytes) -> Call:
        is_websocket = head.upgrade == WEBSOCKET
        verdict = self._judge.judge(
            HttpCall(
                head.method,
                head.judged,
                head.host,
                partial(header_values, raw),
                has_body=bool(head.length),
                is_websocket=is_websocket,
            )
        )
        opaque = "websocket" if is_websocket else "connect" if head.method == b"CONNECT" else ""
        if verdict.allow:
            return Call(head, Reason.NONE, verdict.rule, audit=False, opaque=opaque)
        reason = verdict.reason or Reason.HTTP_NO_RULE
        detail = _NOT_GRANTED.get(reason, "")
        return Call(
            head, reason, verdict.rule, audit=self._audit, detail=detail, nearest=verdict.nearest, opaque=opaque
        )

    def refusal(self, reason: Reason, event: str, *, rule: int, detail: str, close: bool, head_only: bool) -> bytes:
        """Return the bytes that tell a caller it was refused. They quote nothing of the request."""
        foreign = FOREIGN_ANSWERS.get(reason)
        if foreign is not None:
            return foreign
        status = status_of(reason)
        if status == HTTPStatus.FORBIDDEN:
            text = "denied by policy"
            if self._tells_rules:
                text += f": {self._rule_name(rule)}{f': {detail}' if detail else ''}"
        else:
            text = f"refused: {reason.name.lower().replace('_', '-')}{f' ({detail})' if detail else ''}"
        body = f"{text}\nevent {event}\n".encode("utf-8", "replace")
        lines = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        lines += f"Content-Length: {len(body)}\r\n{'Connection: close' + chr(13) + chr(10) if close else ''}\r\n"
        return lines.encode("ascii") + (b"" if head_only else body)


def status_of(reason: Reason) -> int:
    """Return the status of a refusal for `reason`; 0 if it is not told in HTTP."""
    return 0 if reason in FOREIGN_ANSWERS else int(STATUS.get(reason, HTTPStatus.BAD_REQUEST))
