"""HTTP/1.1: the head by an allow-grammar, the body by its length.

Words: a *head* is everything up to and with the blank line; the *target* is what stands behind the method, query
included; a *declared* length is what a head's framing header says, the length of a response also depends on its
status and on the request's method.
"""

from racecar.parsers.http1.bodies import ENDLESS, Body, CountedBody, EndlessBody, body_of
from racecar.parsers.http1.chunks import ChunkReader
from racecar.parsers.http1.fields import CHUNKED, UNTIL_CLOSE, header_values
from racecar.parsers.http1.heads import (
    HeadBuffer,
    check_request_prefix,
    check_response_prefix,
    first_bytes,
)
from racecar.parsers.http1.limits import DEFAULT_LIMITS, HeadLimits
from racecar.parsers.http1.requests import OTHER_UPGRADE, WEBSOCKET, RequestHead, read_request_head
from racecar.parsers.http1.responses import ResponseHead, read_response_head, response_length

__all__ = [
    "CHUNKED",
    "DEFAULT_LIMITS",
    "ENDLESS",
    "OTHER_UPGRADE",
    "UNTIL_CLOSE",
    "WEBSOCKET",
    "Body",
    "ChunkReader",
    "CountedBody",
    "EndlessBody",
    "HeadBuffer",
    "HeadLimits",
    "RequestHead",
    "ResponseHead",
    "body_of",
    "check_request_prefix",
    "check_response_prefix",
    "first_bytes",
    "header_values",
    "read_request_head",
    "read_response_head",
    "response_length",
]
