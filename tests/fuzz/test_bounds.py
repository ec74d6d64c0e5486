"""Every limit is exact, and the same however the bytes are cut."""

from collections.abc import Callable

import pytest

from racecar.policy.reasons import Reason
from tests.fuzz import targets
from tests.fuzz.pieces import REQUESTS
from tests.fuzz.talk import Setting, Step

pytestmark = pytest.mark.slow
SMALL = Setting(small=True)
CHUNKED = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNKED_ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
REST = b"x\r\n0\r\n\r\n"


def _head(line: bytes, size: int) -> bytes:
    """A head of exactly `size` bytes, few headers."""
    left = size - len(line) - 2
    out = line
    while left:
        now = left if left <= 1000 else min(1000, left - 6)
        out += b"X:" + b"a" * (now - 4) + b"\r\n"
        left -= now
    return out + b"\r\n"


def _of_client(make: Callable[[int], bytes]) -> Callable[[int], list[Step]]:
    return lambda size: [Step("client", make(size))]


def _of_server(make: Callable[[int], bytes]) -> Callable[[int], list[Step]]:
    return lambda size: [Step("client", REQUESTS[0]), Step("server", make(size))]


def _request(size: int) -> bytes:
    return _head(b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n", size)


def _target(size: int) -> bytes:
    return b"GET /jobs/" + b"a" * (size - 6) + b" HTTP/1.1\r\nHost: jobs\r\n\r\n"


LIMITS: dict[str, tuple[int, Reason, Setting, Callable[[int], list[Step]]]] = {
    "head": (65536, Reason.HTTP_HEAD_TOO_LARGE, Setting(), _of_client(_request)),
    "small head": (256, Reason.HTTP_HEAD_TOO_LARGE, SMALL, _of_client(_request)),
    "target": (8192, Reason.HTTP_TARGET_TOO_LONG, Setting(), _of_client(_target)),
    "small target": (48, Reason.HTTP_TARGET_TOO_LONG, SMALL, _of_client(_target)),
    "method": (
        32, Reason.HTTP_NOT_HTTP, Setting(), _of_client(lambda n: b"G" * n + b" /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n")
    ),
    "headers": (
        99, Reason.HTTP_TOO_MANY_HEADERS, Setting(),
        _of_client(lambda n: b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n" + b"X: y\r\n" * n + b"\r\n"),
    ),
    "size line": (
        1024, Reason.HTTP_FRAMING, Setting(), _of_client(lambda n: CHUNKED + b"1;" + b"a" * (n - 4) + b"\r\n" + REST)
    ),
    "later size line": (
        1024, Reason.HTTP_FRAMING, Setting(),
        _of_client(lambda n: CHUNKED + b"1\r\nx\r\n1;" + b"a" * (n - 6) + b"\r\n" + REST),
    ),
    "trailers": (
        8192, Reason.HTTP_FRAMING, Setting(), _of_client(lambda n: CHUNKED + b"0\r\nX:" + b"a" * (n - 6) + b"\r\n\r\n")
    ),
    "answer's head": (
        65536, Reason.HTTP_RESPONSE_MALFORMED, Setting(), _of_server(lambda n: _head(b"HTTP/1.1 204 OK\r\n", n))
    ),
    "status line": (
        8192, Reason.HTTP_RESPONSE_MALFORMED, Setting(),
        _of_server(lambda n: b"HTTP/1.1 204 " + b"a" * (n - 15) + b"\r\n\r\n"),
    ),
    "answer's headers": (
        100, Reason.HTTP_RESPONSE_MALFORMED, Setting(),
        _of_server(lambda n: b"HTTP/1.1 204 OK\r\n" + b"X: y\r\n" * n + b"\r\n"),
    ),
    "answer's size line": (
        1024, Reason.HTTP_RESPONSE_MALFORMED, Setting(),
        _of_server(lambda n: CHUNKED_ANSWER + b"1;" + b"a" * (n - 4) + b"\r\n" + REST),
    ),
    "answer's trailers": (
        8192, Reason.HTTP_RESPONSE_MALFORMED, Setting(),
        _of_server(lambda n: CHUNKED_ANSWER + b"0\r\nX:" + b"a" * (n - 6) + b"\r\n\r\n"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_is_exact_however_the_bytes_are_cut(name: str) -> None:
    most, reason, setting, make = LIMITS[name]
    for size in range(most - 2, most + 4):
        steps = make(size)
        quick = sum(len(step.data) for step in steps) < 2000
        for sizes in ((1,) if quick else (997, 3), (most, 1), (most - 1, 1, 1), (4096, 7)):
            talk = targets.check_talk(setting, sizes, steps)
            assert (talk.records[0].reason is reason) == (size > most), f"{size} bytes: {talk.records[0].reason.name}"


@pytest.mark.parametrize("size", range(6, 11))
def test_a_refused_body_is_dropped_up_to_its_limit_and_the_connection_goes_on(size: int) -> None:
    denied = b"POST /applicants HTTP/1.1\r\nHost: jobs\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size
    talk = targets.check_talk(SMALL, (1,), [Step("client", denied + REQUESTS[0])])
    assert (bytes(talk.to_server) == REQUESTS[0]) == (size <= 8)
