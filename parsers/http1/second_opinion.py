"""Have llhttp, an independent parser, read a head that ours accepted: where the two disagree, nobody knows what a
server would read.

It is asked for the head alone: method, target, version, every name and value, and whether a body follows. Framing is
read by `bodies` and not by llhttp, which cannot be told what an answer answers.
"""

import re

import httptools

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1.requests import RequestHead
from racecar.parsers.http1.responses import ResponseHead
from racecar.policy.reasons import Reason

_LINES = re.compile(rb"\n([^:\r\n]++):[\t ]*+([^\r]*+)").findall
# Methods that llhttp does not know, or knows with a meaning of their own, are read as a POST: the grammar has proved
# that they are tokens.
_PLAIN_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT"))
_STAND_IN = b"POST"


class _Seen:
    """What llhttp reports of one head."""

    __slots__ = ("is_complete", "is_head_complete", "lines", "target")

    def __init__(self) -> None:
        self.target = b""
        self.lines: list[tuple[bytes, bytes]] = []
        self.is_head_complete = self.is_complete = False

    def on_url(self, data: bytes) -> None:
        self.target += data

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append((name, value))

    def on_headers_complete(self) -> None:
        self.is_head_complete = True

    def on_message_complete(self) -> None:
        self.is_complete = True


def check_request(raw: bytes, head: RequestHead) -> None:
    """Raise ProtocolError(HTTP_SECOND_OPINION) if llhttp reads the head `raw` otherwise than as `head`."""
    seen = _Seen()
    parser = httptools.HttpRequestParser(seen)
    method = head.method
    text = raw
    if method not in _PLAIN_METHODS:
        method = _STAND_IN
        text = method + raw[len(head.method) :]
    switches = bool(head.upgrade) or method == b"CONNECT"
    _feed(parser, text, seen, Reason.HTTP_SECOND_OPINION)
    agrees = (
        seen.is_head_complete
        and parser.get_method() == method
        and seen.target == head.target
        and parser.get_http_version() == ("1.0" if head.http_1_0 else "1.1")
        and seen.lines == _LINES(raw)
        and (switches or seen.is_complete == (head.length == 0))
    )
    if not agrees:
        raise ProtocolError(Reason.HTTP_SECOND_OPINION, "two parsers read the head in different ways")


def check_response(raw: bytes, head: ResponseHead) -> None:
    """Raise ProtocolError(HTTP_RESPONSE_MALFORMED) if llhttp reads the head `raw` otherwise than as `head`."""
    seen = _Seen()
    parser = httptools.HttpResponseParser(seen)
    _feed(parser, raw, seen, Reason.HTTP_RESPONSE_MALFORMED)
    has_body = head.status >= 200 and head.status not in (204, 304) and head.declared != 0
    agrees = (
        seen.is_head_complete
        and parser.get_status_code() == head.status
        and parser.get_http_version() == ("1.0" if head.http_1_0 else "1.1")
        and seen.lines == _LINES(raw)
        and (bool(head.upgrade) or head.status == 101 or seen.is_complete != has_body)
    )
    if not agrees:
        raise ProtocolError(Reason.HTTP_RESPONSE_MALFORMED, "two parsers read the head in different ways")


def _feed(
    parser: "httptools.HttpRequestParser | httptools.HttpResponseParser", text: bytes, seen: _Seen, fault: Reason
) -> None:
    try:
        parser.feed_data(text)
    except httptools.HttpParserUpgrade:
        pass  # it stops behind the head
    except httptools.HttpParserError as error:
        if not seen.is_complete:  # it stops so too, behind the head of a 101 that names no protocol
            raise ProtocolError(fault, f"a second parser refuses the head: {type(error).__name__}") from None
