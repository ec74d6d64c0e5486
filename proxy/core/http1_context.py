"""What all HTTP/1.1 connections under one rule set share: verdicts by raw head, the refusals' texts, the log's sink."""

import itertools
import secrets
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Generic, TypeVar

from racecar.parsers.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    RequestHead,
    ResponseHead,
    read_request_head,
    read_response_head,
    response_length,
)
from racecar.policy.engine import HttpCall
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import HttpConfig, HttpRecord, Judge

Key = TypeVar("Key")
Value = TypeVar("Value")

# What a refused caller is answered; 400 for a reason that is not here. Only a 403 leaves the connection usable.
STATUS = {
    Reason.HTTP_NO_RULE: HTTPStatus.FORBIDDEN,
    Reason.HTTP_DENY_RULE: HTTPStatus.FORBIDDEN,
    Reason.HTTP_PATH_ENCODING: HTTPStatus.FORBIDDEN,
    Reason.HTTP_BODY_NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    Reason.HTTP_HEAD_TOO_LARGE: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    Reason.HTTP_TOO_MANY_HEADERS: HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    Reason.HTTP_TARGET_TOO_LONG: HTTPStatus.REQUEST_URI_TOO_LONG,
    Reason.HEAD_TIMEOUT: HTTPStatus.REQUEST_TIMEOUT,
    Reason.HTTP_CHUNKED_REQUEST: HTTPStatus.LENGTH_REQUIRED,
    Reason.HTTP_EXPECT: HTTPStatus.EXPECTATION_FAILED,
    Reason.HTTP_PIPELINED: HTTPStatus.NOT_IMPLEMENTED,
    Reason.HTTP_UPGRADE: HTTPStatus.NOT_IMPLEMENTED,
    Reason.HTTP_CONNECT: HTTPStatus.NOT_IMPLEMENTED,
}
# A caller that speaks another protocol is told so in that protocol.
FOREIGN_ANSWERS = {
    Reason.HTTP_TLS: b"\x15\x03\x01\x00\x02\x02\x31",  # RFC 8446 6: a fatal alert, access_denied
    # RFC 9113 6.5, 6.8: empty SETTINGS, then GOAWAY with HTTP_1_1_REQUIRED.
    Reason.HTTP_HTTP2: b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x08\7\0\0\0\0\0" + b"\0\0\0\0" + b"\0\0\0\x0d",
}
# Denials that audit mode lets pass: the request is well-formed and was judged. All else is refused in audit too.
_AUDITED = frozenset((Reason.HTTP_NO_RULE, Reason.HTTP_DENY_RULE))
_NO_BODY = frozenset((b"GET", b"HEAD", b"DELETE"))  # servers that ignore such a body run it as a request


class Generations(Generic[Key, Value]):
    """A bounded dict in two generations: no bookkeeping on a hit. Keys hold credentials: never log or dump them."""

    __slots__ = ("_limit", "new", "old")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.new: dict[Key, Value] = {}
        self.old: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """Find in both generations; what is found in the old one is young again."""
        value = self.new.get(key)
        if value is None:
            value = self.old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: Key, value: Value) -> None:
        if len(self.new) >= self._limit:
            self.new, self.old = {}, self.new
        self.new[key] = value


class Call:
    """A request's head with its verdict. Shared by all requests with the same bytes: never changed."""

    __slots__ = ("audit", "detail", "forward", "has_query", "head", "path", "plain", "reason", "rule")

    def __init__(self, head: RequestHead, reason: Reason, rule: int, *, audit: bool, detail: str = "") -> None:
        self.head = head
        self.reason = reason  # NONE if allowed
        self.rule = rule
        self.detail = detail
        self.audit = audit and reason in _AUDITED
        self.forward = reason is Reason.NONE or self.audit
        self.path, question, _ = head.target.partition(b"?")
        self.has_query = bool(question)
        # Forwarded, nothing follows the head, and the answer's head alone says how the answer ends.
        self.plain = self.forward and head.keep_alive and not head.length and head.method != b"HEAD"


class Answer:
    """A response's head and how its body ends if the request was not HEAD. Shared like Call."""

    __slots__ = ("head", "length", "whole")

    def __init__(self, head: ResponseHead) -> None:
        self.head = head
        self.length = response_length(head, method=b"")
        counted = head.status >= 200 and head.keep_alive and self.length not in (CHUNKED, UNTIL_CLOSE)
        self.whole = head.size + self.length if counted else 0  # size of a message that leaves the connection usable


class HttpContext:
    """One rule set in force. Make a new one for a new policy and give it to the conversations: caches go with it."""

    __slots__ = ("_audit", "_events", "_judge", "_rule_name", "answers", "calls", "config", "log")

    def __init__(
        self,
        judge: Judge,
        log: Callable[[object, HttpRecord], None],
        *,
        rule_name: Callable[[int], str] = lambda rule: f"rule {rule}" if rule else "default deny",
        audit: bool = False,
        config: HttpConfig = HttpConfig(),  # noqa: B008 (frozen)
        event_prefix: str | None = None,
    ) -> None:
        """`log` gets the conversation's tag and the record of each request once it is over; it must not raise.

        `rule_name` names rule 0 too: what denies when no rule allows.
        """
        self.log = log
        self.config = config
        self.calls: Generations[bytes, Call] = Generations(config.max_cached_heads)
        self.answers: Generations[bytes, Answer] = Generations(config.max_cached_heads)
        self._judge = judge
        self._rule_name = rule_name
        self._audit = audit
        prefix = secrets.token_hex(4) if event_prefix is None else event_prefix
        self._events: Iterator[str] = (f"{prefix}-{number}" for number in itertools.count(1))

    def call(self, raw: bytes) -> Call:
        """Return what is to be done with the request whose head is `raw`. Raises ProtocolError if it is malformed."""
        call = self.calls.get(raw)
        if call is None:
            call = self._decide(read_request_head(raw))
            if len(raw) <= self.config.max_cached_head_bytes:
                self.calls.put(raw, call)
        return call

    def answer(self, raw: bytes) -> Answer:
        """Return what the response's head `raw` says. Raises ProtocolError if it is malformed."""
        answer = self.answers.get(raw)
        if answer is None:
            answer = Answer(read_response_head(raw))
            if len(raw) <= self.config.max_cached_head_bytes:
                self.answers.put(raw, answer)
        return answer

    def new_event(self) -> str:
        """Return a name for one refusal, told to the caller and logged."""
        return next(self._events)

    def _decide(self, head: RequestHead) -> Call:
        unsupported = _unsupported(head)
        if unsupported is not None:
            return Call(head, unsupported[0], 0, audit=False, detail=unsupported[1])
        verdict = self._judge.judge(HttpCall(head.method, head.target, head.host))
        body = head.length and head.method in _NO_BODY
        if not verdict.allow and not (body and self._audit):
            return Call(head, verdict.reason or Reason.HTTP_NO_RULE, verdict.rule, audit=self._audit)
        if body:  # in audit too: what a server makes of it was not judged
            detail = "a body on GET, HEAD or DELETE"
            return Call(head, Reason.HTTP_BODY_NOT_ALLOWED, verdict.rule, audit=False, detail=detail)
        return Call(head, Reason.NONE, verdict.rule, audit=False)

    def refusal(self, reason: Reason, event: str, *, rule: int, detail: str, close: bool, head_only: bool) -> bytes:
        """Return the bytes that tell a caller it was refused. They quote nothing of the request."""
        foreign = FOREIGN_ANSWERS.get(reason)
        if foreign is not None:
            return foreign
        status = status_of(reason)
        if reason in _AUDITED:
            text = f"denied by policy: {self._rule_name(rule)}\nevent {event}\n"
        else:
            word = "denied" if status == HTTPStatus.FORBIDDEN else "refused"
            text = f"{word}: {reason.name.lower().replace('_', '-')}{f' ({detail})' if detail else ''}\nevent {event}\n"
        body = text.encode("utf-8", "replace")
        lines = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        lines += f"Content-Length: {len(body)}\r\n{'Connection: close' + chr(13) + chr(10) if close else ''}\r\n"
        return lines.encode("ascii") + (b"" if head_only else body)


def status_of(reason: Reason) -> int:
    """Return the status of a refusal for `reason`; 0 if it is not told in HTTP."""
    return 0 if reason in FOREIGN_ANSWERS else int(STATUS.get(reason, HTTPStatus.BAD_REQUEST))


def _unsupported(head: RequestHead) -> tuple[Reason, str] | None:
    """Say why a well-formed request is refused whatever the rules say."""
    if head.method == b"CONNECT":
        return Reason.HTTP_CONNECT, "CONNECT"
    if not head.target.startswith(b"/"):
        return Reason.HTTP_TARGET_FORM, "a target that is no path"
    if head.upgrades:
        return Reason.HTTP_UPGRADE, "Upgrade"
    if head.length == CHUNKED:
        return Reason.HTTP_CHUNKED_REQUEST, "a chunked request"
    return None
