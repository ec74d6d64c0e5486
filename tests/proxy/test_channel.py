"""Messages between loader and proxy: whole or not at all, and no descriptor is ever left behind."""

import array
import json
import os
import socket
from collections.abc import Callable, Iterator

import pytest

from racecar.proxy.channel import MAX_DESCRIPTORS, MAX_MESSAGE_BYTES, Channel, ChannelClosed


@pytest.fixture
def pair() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = Channel.pair()
    ours.set_timeout(5)
    theirs.set_timeout(5)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def raw() -> Iterator[tuple[socket.socket, Channel]]:
    """The sender's bare socket: it may be in hostile hands."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(receiver)
    channel.set_timeout(5)
    yield sender, channel
    sender.close()
    channel.close()


def open_descriptors() -> set[str]:
    """Without the one that lists them, which is closed when this returns."""
    return {name for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


def send_rights(sender: socket.socket, data: bytes, count: int) -> None:
    """`count` descriptors beside `data`; the sender keeps none."""
    fds = [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(count)]
    sender.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])
    for fd in fds:
        os.close(fd)


def test_messages_arrive_whole_and_in_order(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    for number in range(3):
        assert ours.send({"number": number, "text": "\udcff\n\0"})
    assert [theirs.receive() for _ in range(3)] == [({"number": n, "text": "\udcff\n\0"}, []) for n in range(3)]


def test_descriptors_arrive_as_the_same_open_files_and_close_on_exec(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    reader, writer = os.pipe()
    assert ours.send({"go": True}, (writer,))
    os.close(writer)
    received = theirs.receive()
    assert received is not None
    message, (fd,) = received
    assert message == {"go": True}
    assert not os.get_inheritable(fd)
    os.write(fd, b"x")
    assert os.read(reader, 1) == b"x"
    os.close(fd)
    os.close(reader)


def test_all_the_descriptors_that_may_come_do(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    ours.send({}, (0,) * MAX_DESCRIPTORS)
    received = theirs.receive()
    assert received is not None
    assert len(received[1]) == MAX_DESCRIPTORS
    for fd in received[1]:
        os.close(fd)


def test_nothing_there_is_none_when_not_blocking(pair: tuple[Channel, Channel]) -> None:
    ours, _theirs = pair
    ours.set_blocking(False)
    assert ours.receive() is None


def test_a_timeout_is_told_from_an_end(pair: tuple[Channel, Channel]) -> None:
    ours, _theirs = pair
    ours.set_timeout(0.01)
    with pytest.raises(TimeoutError):
        ours.receive()


def test_a_reader_that_does_not_read_is_not_waited_for(pair: tuple[Channel, Channel]) -> None:
    ours, _theirs = pair
    ours.set_blocking(False)
    sent = 0
    while ours.send({"text": "x" * 1000}):
        sent += 1
        assert sent < 100_000
    assert sent > 0


def test_a_peer_that_is_gone_is_an_end_both_ways(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(ChannelClosed):
        ours.send({})
    with pytest.raises(ChannelClosed):
        ours.receive()


def test_what_was_sent_before_the_end_still_arrives(pair: tuple[Channel, Channel]) -> None:
    ours, theirs = pair
    theirs.send({"last": 1})
    theirs.close()
    assert ours.receive() == ({"last": 1}, [])
    with pytest.raises(ChannelClosed):
        ours.receive()


def test_a_message_too_long_to_send_is_an_end_not_a_hang(pair: tuple[Channel, Channel]) -> None:
    ours, _theirs = pair
    with pytest.raises(ChannelClosed):
        ours.send({"text": "x" * (1 << 22)})


def nested() -> bytes:
    return b'{"a":' + b"[" * 50_000


@pytest.mark.parametrize(
    "make",
    [
        lambda: b"{",
        lambda: b"\xff\xfe",
        lambda: b"\0",
        lambda: b"[]",
        lambda: b'"text"',
        lambda: b"1",
        lambda: b"null",
        lambda: b'{"a":' + b"9" * 5000 + b"}",
        nested,
        lambda: json.dumps({"text": "x" * MAX_MESSAGE_BYTES}).encode(),
    ],
    ids=["cut", "no text", "zero", "list", "string", "number", "null", "long number", "nested", "oversize"],
)
def test_what_is_no_message_is_a_value_error_and_leaks_nothing(
    raw: tuple[socket.socket, Channel], make: Callable[[], bytes]
) -> None:
    sender, channel = raw
    before = open_descriptors()
    send_rights(sender, make(), 3)
    with pytest.raises(ValueError):
        channel.receive()
    assert open_descriptors() == before
    sender.send(b'{"next":1}')
    assert channel.receive() == ({"next": 1}, [])


def test_more_descriptors_than_may_come_are_all_closed(raw: tuple[socket.socket, Channel]) -> None:
    sender, channel = raw
    before = open_descriptors()
    send_rights(sender, b"{}", MAX_DESCRIPTORS + 12)
    with pytest.raises(ValueError, match="descriptors"):
        channel.receive()
    assert open_descriptors() == before


def test_descriptors_beside_an_end_are_closed(raw: tuple[socket.socket, Channel]) -> None:
    """An empty packet reads like an end of stream; what came with it must not stay."""
    sender, channel = raw
    before = open_descriptors()
    send_rights(sender, b"", 2)
    with pytest.raises(ChannelClosed):
        channel.receive()
    assert open_descriptors() == before


def test_credentials_beside_a_message_are_no_descriptors(raw: tuple[socket.socket, Channel]) -> None:
    sender, channel = raw
    with socket.socket(fileno=os.dup(channel.fileno())) as twin:
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    sender.send(b"{}")
    assert channel.receive() == ({}, [])
