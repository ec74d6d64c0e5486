"""A ClientHello is known by its whole record, a server's answer by its first bytes."""

import ssl

import pytest

from racecar.parsers.errors import ProtocolError
from racecar.parsers.tls import client_hello_size, is_server_hello
from racecar.policy.reasons import Reason

RANDOM = bytes(32)
SUITES = b"\x00\x04\x13\x01\x13\x02"


def hello(
    session: bytes = b"\x00",
    suites: bytes = SUITES,
    methods: bytes = b"\x01\x00",
    extensions: bytes = b"\x00\x04\x00\x2b\x00\x00",
    version: bytes = b"\x03\x03",
) -> bytes:
    body = version + RANDOM + session + suites + methods + extensions
    return record(b"\x01" + len(body).to_bytes(3, "big") + body)


def record(fragment: bytes, head: bytes = b"\x16\x03\x01") -> bytes:
    return head + len(fragment).to_bytes(2, "big") + fragment


def of_openssl(
    name: str | None = "jobs", *, least: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2, versions: int = 0
) -> bytes:
    """What this machine's OpenSSL says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.minimum_version = least
    if versions:
        context.maximum_version = least
    context.set_alpn_protocols(["h2", "http/1.1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


GOOD = {
    "smallest": hello(extensions=b""),
    "no extensions": hello(extensions=b"\x00\x00"),
    "session": hello(session=b"\x20" + bytes(32)),
    "many suites": hello(suites=b"\x01\x00" + bytes(256)),
    "methods": hello(methods=b"\x02\x01\x00"),
    "extensions": hello(extensions=b"\x00\x0c\x00\x00\x00\x04abcd\xff\xff\x00\x00"),
    "large": hello(extensions=b"\x3f\x04\x00\x15\x3f\x00" + bytes(0x3F00)),
    "SSL 3.0 record": b"\x16\x03\x00" + hello()[3:],
    "TLS 1.2 record": b"\x16\x03\x03" + hello()[3:],
    "OpenSSL": of_openssl(),
    "OpenSSL, no name": of_openssl(None),
    "OpenSSL, TLS 1.2": of_openssl(versions=1),
    "OpenSSL, TLS 1.3": of_openssl(least=ssl.TLSVersion.TLSv1_3),
}
BAD = {
    "another record": b"\x17" + hello()[1:],
    "SSL 2.0": b"\x80\x2e\x01\x03\x01",
    "version 2": b"\x16\x02" + hello()[2:],
    "version 3.5": b"\x16\x03\x05" + hello()[3:],
    "empty record": record(b""),
    "record too small": record(b"\x01\x00\x00\x00"),
    "record too large": b"\x16\x03\x01\x40\x01\x01",
    "a ServerHello": record(b"\x02" + hello()[6:]),
    "hello longer than its record": hello()[:8] + b"\xff" + hello()[9:],
    "hello of two records": record(hello()[5:40]) + record(hello()[40:]),
    "hello shorter than its record": record(hello()[5:] + b"\x00"),
    "two hellos in a record": record(hello()[5:] * 2),
    "inner version": hello(version=b"\x02\x03"),
    "session too long": hello(session=b"\x21" + bytes(33)),
    "no suites": hello(suites=b"\x00\x00"),
    "half a suite": hello(suites=b"\x00\x03\x13\x01\x13"),
    "no methods": hello(methods=b"\x00"),
    "cut in the random": record(b"\x01\x00\x00\x04\x03\x03\x00\x00"),
    "cut in the suites": record(b"\x01\x00\x00\x27\x03\x03" + RANDOM + b"\x00\x00\x04\x13\x01"),
    "cut behind the suites": hello(methods=b"", extensions=b""),
    "half an extension": hello(extensions=b"\x00\x03\x00\x2b\x00"),
    "extension too long": hello(extensions=b"\x00\x04\x00\x2b\x00\x01"),
    "extensions too long": hello(extensions=b"\x00\x05\x00\x2b\x00\x00"),
    "extensions too short": hello(extensions=b"\x00\x04\x00\x2b\x00\x00\x00"),
    "one byte of extensions": hello(extensions=b"\x00"),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "HTTP in a record": record(b"GET / HTTP/1.1\r\n\r\n"),
}


def refusal(data: bytes) -> Reason | None:
    """The reason that a piece is refused for; None as long as it may become a hello."""
    try:
        assert client_hello_size(data) is None
    except ProtocolError as error:
        return error.reason
    return None


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD)
def test_a_hello_is_known_at_its_last_byte_and_what_follows_is_not_looked_at(data: bytes) -> None:
    step = max(1, len(data) // 500)
    for size in (*range(0, len(data), step), len(data) - 1):
        assert client_hello_size(data[:size]) is None
    assert client_hello_size(data) == len(data)
    assert client_hello_size(bytearray(data) + b"\x17\x03\x03" + data) == len(data)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_anything_else_is_refused_and_a_longer_piece_is_not_believed_again(data: bytes) -> None:
    known_at = next(size for size in range(len(data) + 1) if refusal(data[:size]) is not None)
    for size in range(known_at, len(data) + 1):
        assert refusal(data[:size]) is Reason.HTTP_TLS


def test_no_more_is_waited_for_than_a_record_holds() -> None:
    assert client_hello_size(b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(16383 - 5)) is None
    for size in (2, 3, 5, 6, 9):
        with pytest.raises(ProtocolError):
            client_hello_size(b"\x16" + b"\xff" * (size - 1))


SERVER_HELLO = b"\x16\x03\x03\x00\x2c\x02\x00\x00\x28\x03\x03" + bytes(38)


@pytest.mark.parametrize(
    ("data", "expected"),
    [(SERVER_HELLO, True), (b"\x16\x03\x01" + SERVER_HELLO[3:], True), (b"\x15\x03\x03\x00\x02\x02\x28", False)],
)
def test_a_servers_answer_is_known_at_its_sixth_byte(data: bytes, expected: bool) -> None:
    for size in range(6):
        assert is_server_hello(data[:size]) is None
    for size in range(6, len(data) + 1):
        assert is_server_hello(data[:size]) is expected


@pytest.mark.parametrize(
    ("data", "known_at"),
    [
        (b"HTTP/1.1 400 Bad", 1),
        (b"\x17\x03\x03\x00\x05\x00", 1),
        (b"\x14\x03\x03\x00\x01\x01", 1),
        (b"\x16\x02\x03\x00\x05\x02", 2),
        (b"\x15\x02\x03\x00\x02\x02", 2),
        (b"\x16\x03\x03\x00\x05\x01", 6),
        (b"\x16\x03\x03\x00\x05\x0b", 6),
    ],
)
def test_another_answer_is_refused_as_soon_as_its_bytes_allow(data: bytes, known_at: int) -> None:
    for size in range(known_at):
        assert is_server_hello(data[:size]) is None
    for size in range(known_at, len(data) + 1):
        with pytest.raises(ProtocolError) as caught:
            is_server_hello(data[:size])
        assert caught.value.reason is Reason.HTTP_TLS
