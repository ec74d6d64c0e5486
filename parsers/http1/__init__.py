"""HTTP/1.1: the head by an allow-grammar, the body by its length.

Words: a *head* is everything up to and with the blank line; the *target* is what stands behind the method, query
included; a *declared* length is what a head's framing header says, the length of a response also depends on its
status and on the request's method.
"""

from racecar.parsers.http1.chunks import ChunkReader
from racecar.parsers.http1.fields import CHUNKED, UNTIL_CLOSE
from racecar.parsers.http1.heads import (
    MAX_HEAD_BYTES,
    MAX_HEADERS,
    MAX_TARGET_BYTES,
    HeadBuffer,
    check_request_prefix,
    check_response_prefix,
    first_bytes,
)
from racecar.parsers.http1.requests import RequestHead, read_request_head
from racecar.parsers.http1.responses import ResponseHead, read_response_head, response_length

__all__ = [
    "CHUNKED",
    "MAX_HEADERS",
    "MAX_HEAD_BYTES",
    "MAX_TARGET_BYTES",
    "UNTIL_CLOSE",
    "ChunkReader",
    "HeadBuffer",
    "RequestHead",
    "ResponseHead",
    "check_request_prefix",
    "check_response_prefix",
    "first_bytes",
    "read_request_head",
    "read_response_head",
    "response_length",
]
