"""First bytes that cannot be HTTP/1.x are known at once, for a blank line may never come."""

import pytest

from racecar.parsers.http1 import first_bytes
from racecar.policy.reasons import Reason

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def decided_at(data: bytes) -> tuple[int, Reason | None]:
    """The shortest prefix that decides, and what it decides; a longer prefix never changes its mind."""
    answers = [first_bytes(data[:size]) for size in range(len(data) + 1)]
    known = [size for size, answer in enumerate(answers) if answer is not None]
    if not known:
        return 0, None
    assert len(set(answers[known[0] :])) == 1
    return known[0], answers[-1]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (1, Reason.HTTP_TLS)),
        (PREFACE, (12, Reason.HTTP_HTTP2)),
        (b"\x80\x2e\x01\x03\x01", (1, Reason.HTTP_NOT_HTTP)),
        (b"SSH-2.0-OpenSSH_9\r\n", (18, Reason.HTTP_NOT_HTTP)),
        (b"\r\nGET / HTTP/1.1\r\n", (1, Reason.HTTP_NOT_HTTP)),
        (b" GET / HTTP/1.1\r\n", (1, Reason.HTTP_NOT_HTTP)),
        (b"\x00\x00\x00\x12\x00\x12", (1, Reason.HTTP_NOT_HTTP)),
        (b"*1\r\n$4\r\nPING\r\n", (3, Reason.HTTP_NOT_HTTP)),
        (b"A" * 40, (33, Reason.HTTP_NOT_HTTP)),
        (b"GET / HTTP/1.1\r\n\r\n", (0, None)),
        (b"PRIVATE / HTTP/1.1\r\n\r\n", (0, None)),
        (b"PRI * HTTP/1.1\r\n\r\n", (0, None)),
    ],
)
def test_names_a_protocol_as_soon_as_the_bytes_allow(data: bytes, expected: tuple[int, Reason | None]) -> None:
    assert decided_at(data) == expected
