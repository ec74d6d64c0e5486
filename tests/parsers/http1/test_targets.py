"""The forms of a target: what rules look at in each, and what is refused because servers differ over it."""

import pytest

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1 import RequestHead, read_request_head
from racecar.policy.reasons import Reason


def head(*lines: bytes, line: bytes = b"GET /jobs HTTP/1.1", host: bytes = b"Host: jobs\r\n") -> bytes:
    return line + b"\r\n" + host + b"".join(text + b"\r\n" for text in lines) + b"\r\n"


def target(method: bytes, text: bytes, host: bytes, minor: bytes = b"1") -> RequestHead:
    return read_request_head(
        head(line=method + b" " + text + b" HTTP/1." + minor, host=host and b"Host: " + host + b"\r\n")
    )


@pytest.mark.parametrize(
    ("method", "text", "host", "judged"),
    [
        (b"GET", b"/", b"a", b"/"),
        (b"GET", b"//b/c", b"a", b"//b/c"),
        (b"GET", b"http://a", b"a", b"/"),
        (b"GET", b"http://a/", b"a", b"/"),
        (b"GET", b"hTTp://A/b?c", b"a", b"/b?c"),
        (b"GET", b"http://a?b/c", b"a", b"/?b/c"),
        (b"GET", b"http://a#b", b"a", b"/#b"),  # refused by those who judge paths
        (b"GET", b"http://a:1/b", b"A:1", b"/b"),
        (b"GET", b"http://[::a]:1/b", b"[::A]:1", b"/b"),
        (b"OPTIONS", b"*", b"a", b"*"),
        (b"OPTIONS", b"http://a", b"a", b"*"),
        (b"OPTIONS", b"http://a/", b"a", b"/"),
        (b"OPTIONS", b"http://a?b", b"a", b"/?b"),
        (b"CONNECT", b"a:1", b"a:1", b"a:1"),
        (b"CONNECT", b"a:1", b"a", b"a:1"),
        (b"CONNECT", b"[::1]:65535", b"[::1]", b"[::1]:65535"),
    ],
)
def test_knows_what_rules_look_at_in_each_form(method: bytes, text: bytes, host: bytes, judged: bytes) -> None:
    read = target(method, text, host)
    assert (read.target, read.judged) == (text, judged)
    assert read.host == (text if method == b"CONNECT" else host.lower())


def test_a_tunnel_has_the_host_that_it_asks_for() -> None:
    assert target(b"CONNECT", b"Ab:1", b"aB").host == b"ab:1"
    assert target(b"CONNECT", b"Ab:1", b"", b"0").host == b"ab:1"


@pytest.mark.parametrize(
    ("method", "text", "host", "reason"),
    [
        (b"GET", b"a", b"a", Reason.HTTP_TARGET_FORM),
        (b"GET", b"a:1", b"a:1", Reason.HTTP_TARGET_FORM),
        (b"GET", b"*", b"a", Reason.HTTP_TARGET_FORM),
        (b"options", b"*", b"a", Reason.HTTP_TARGET_FORM),
        (b"OPTIONS", b"**", b"a", Reason.HTTP_TARGET_FORM),
        (b"GET", b"?a", b"a", Reason.HTTP_TARGET_FORM),
        (b"GET", b"https://a/", b"a", Reason.HTTP_TARGET_FORM),
        (b"GET", b"http:/a", b"a", Reason.HTTP_TARGET_FORM),
        (b"GET", b"http://", b"a", Reason.HTTP_TARGET_FORM),
        (b"GET", b"http:///a", b"a", Reason.HTTP_TARGET_FORM),
        (b"GET", b"http://a:1/", b"a", Reason.HTTP_HOST),
        (b"GET", b"http://a/", b"a:80", Reason.HTTP_HOST),
        (b"GET", b"http://u@a/", b"a", Reason.HTTP_HOST),
        (b"GET", b"http://a@b/", b"a", Reason.HTTP_HOST),
        (b"GET", b"http://b\\.a/", b"b", Reason.HTTP_HOST),
        (b"CONNECT", b"a", b"a", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b"a:", b"a", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b"a:123456", b"a", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b":1", b"a", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b"/", b"a", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b"*", b"a", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b"http://a:1", b"a", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b"u@a:1", b"a", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b"a:1/b", b"a", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b"::1:1", b"[::1]", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b"a:1", b"b", Reason.HTTP_HOST),
        (b"CONNECT", b"a:1", b"a:2", Reason.HTTP_HOST),
        (b"CONNECT", b"a:1", b"", Reason.HTTP_HOST),
    ],
)
def test_refuses_forms_in_doubt(method: bytes, text: bytes, host: bytes, reason: Reason) -> None:
    with pytest.raises(ProtocolError) as caught:
        target(method, text, host)
    assert caught.value.reason is reason


@pytest.mark.parametrize("line", [b"Content-Length: 1", b"Transfer-Encoding: chunked"])
def test_a_tunnel_has_no_body(line: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        read_request_head(head(line, line=b"CONNECT jobs:1 HTTP/1.1"))
    assert caught.value.reason is Reason.HTTP_FRAMING
    assert read_request_head(head(b"Content-Length: 0", line=b"CONNECT jobs:1 HTTP/1.1")).length == 0
