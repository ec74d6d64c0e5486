"""Bodies are followed to their end by the length that the head declares."""

import sys

import pytest

from racecar.parsers.http1 import CHUNKED, ENDLESS, UNTIL_CLOSE, ChunkReader, CountedBody, HeadLimits, body_of
from racecar.policy.reasons import Reason

FAULT = Reason.HTTP_FRAMING


def test_a_length_says_which_body_it_is() -> None:
    assert body_of(0, fault=FAULT) is None
    assert body_of(UNTIL_CLOSE, fault=FAULT) is ENDLESS
    assert isinstance(body_of(CHUNKED, fault=FAULT), ChunkReader)
    body = body_of(7, fault=FAULT)
    assert isinstance(body, CountedBody)
    assert body.left == 7


@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_counted_body_ends_at_its_last_byte_however_it_is_cut(size: int) -> None:
    body = CountedBody(10)
    data = b"0123456789behind"
    at, done = 0, False
    while not done:
        assert body.unread == 10 - at - 1
        end, done = body.feed(data[: at + size], at)
        assert end == min(at + size, 10)
        at = end
    assert at == 10
    assert body.feed(b"behind", 0) == (0, True)


def test_all_but_its_last_byte_may_pass_unread() -> None:
    body = CountedBody(1000)
    assert body.feed(b"xxab", 2) == (4, False)
    assert body.unread == 997
    body.moved(997)
    assert body.unread == 0
    assert body.feed(b"zH", 0) == (1, True)


def test_an_endless_body_takes_all() -> None:
    assert ENDLESS.unread == sys.maxsize
    ENDLESS.moved(1 << 40)
    assert ENDLESS.unread == sys.maxsize
    assert ENDLESS.feed(b"HTTP/1.1 200 OK\r\n\r\n", 4) == (19, False)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"max_head_bytes": 255}, "max_head_bytes"),
        ({"max_head_bytes": (1 << 20) + 1}, "max_head_bytes"),
        ({"max_target_bytes": 15}, "max_target_bytes"),
        ({"max_target_bytes": 65536}, "max_target_bytes"),
        ({"max_headers": 0}, "max_headers"),
        ({"max_headers": 10001}, "max_headers"),
    ],
)
def test_limits_out_of_range_are_refused(fields: dict[str, int], name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is {fields[name]}; from "):
        HeadLimits(**fields)
    HeadLimits(256, 255, 1)
    HeadLimits(1 << 20, (1 << 20) - 1, 10000)
