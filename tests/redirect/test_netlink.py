"""What is asked of a network namespace: its own addresses, changes of routes, the end of a connection, `lo`."""

import contextlib
import ctypes
import errno
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TypeVar

import pytest

from racecar.redirect import netlink
from racecar.redirect.netlink import RouteWatch, bring_up_loopback, destroy_tcp, own_networks

T = TypeVar("T")


# --- Answers are checked before they are used -------------------------------------------------------------------------


def message(kind: int, payload: bytes) -> bytes:
    raw = struct.pack("=IHHII", 16 + len(payload), kind, 0, 1, 0) + payload
    return raw + b"\0" * (-len(raw) % 4)


def test_messages_are_cut_at_their_own_lengths() -> None:
    data = message(24, b"abc") + message(3, b"") + message(2, b"12345678")
    assert list(netlink._messages(data)) == [(24, b"abc"), (3, b""), (2, b"12345678")]


def test_attributes_are_cut_at_their_own_lengths() -> None:
    data = struct.pack("=HH", 7, 1) + b"abc\0" + struct.pack("=HH", 4, 2)
    assert list(netlink._attributes(data)) == [(1, b"abc"), (2, b"")]


@pytest.mark.parametrize("length", [0, 15, 17, 1 << 31])
def test_a_message_with_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(OSError, match="cut off"):
        list(netlink._messages(struct.pack("=IHHII", length, 24, 0, 1, 0)))


@pytest.mark.parametrize("length", [0, 3, 5, 65535])
def test_an_attribute_with_a_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(OSError, match="cut off"):
        list(netlink._attributes(struct.pack("=HH", length, 1)))


# --- In this namespace ------------------------------------------------------------------------------------------------


def test_loopback_is_ones_own() -> None:
    assert ip_network("127.0.0.0/8") in own_networks()


@pytest.mark.root
def test_a_connection_is_ended_for_both_sides() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname(), timeout=5)
        server, _ = listener.accept()
        with client, server:
            server.settimeout(5)
            cookie = struct.unpack("=Q", client.getsockopt(socket.SOL_SOCKET, 57, 8))[0]  # SO_COOKIE
            local, remote = ((ip_address(end[0]), end[1]) for end in (client.getsockname(), client.getpeername()))
            assert not destroy_tcp(socket.AF_INET, local, remote, cookie + 1), "another socket's cookie"
            client.sendall(b"x")
            assert server.recv(1) == b"x"
            assert destroy_tcp(socket.AF_INET, local, remote, cookie)
            with pytest.raises(ConnectionAbortedError):
                client.send(b"x")
            with pytest.raises(ConnectionResetError):
                server.recv(1)
            assert not destroy_tcp(socket.AF_INET, local, remote, cookie), "gone already"


@pytest.mark.root
@pytest.mark.parametrize("address", ["::1", "::ffff:127.0.0.1"])
def test_a_connection_of_an_ipv6_socket_is_ended(address: str) -> None:
    with socket.socket(socket.AF_INET6) as listener, socket.socket(socket.AF_INET6) as client:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
        listener.listen()
        client.settimeout(5)
        client.connect((address, listener.getsockname()[1]))
        cookie = struct.unpack("=Q", client.getsockopt(socket.SOL_SOCKET, 57, 8))[0]
        ends = []
        for end in (client.getsockname(), client.getpeername()):
            found = ip_address(end[0])
            ends.append((getattr(found, "ipv4_mapped", None) or found, end[1]))
        assert destroy_tcp(socket.AF_INET6, ends[0], ends[1], cookie)
        with pytest.raises(ConnectionAbortedError):
            client.send(b"x")


# --- In a namespace of its own ----------------------------------------------------------------------------------------


@pytest.fixture
def fresh(needs_root: None) -> Iterator[Callable[[Callable[[], T]], T]]:
    """Run functions in a network namespace in which nothing has been set up."""
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; read end"], stdin=-1, stdout=-1)
    assert holder.stdout is not None
    holder.stdout.readline()
    path = Path(f"/proc/{holder.pid}/ns/net")

    def run(function: Callable[[], T]) -> T:
        results: list[T] = []
        failures: list[BaseException] = []

        def inside() -> None:
            try:
                fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000):
                    raise OSError(ctypes.get_errno(), "setns")
                os.close(fd)
                results.append(function())
            except BaseException as failed:
                failures.append(failed)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return results[0]

    yield run
    holder.communicate(b"\n")


def connects() -> bool:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex(listener.getsockname()) == 0


@pytest.mark.root
def test_lo_is_brought_up_once(fresh: Callable[[Callable[[], object]], object]) -> None:
    def steps() -> list[object]:
        before: object = False
        with contextlib.suppress(OSError):
            before = connects()
        return [before, bring_up_loopback(), connects(), bring_up_loopback()]

    assert fresh(steps) == [False, True, True, False]


@pytest.mark.root
def test_a_change_of_addresses_is_announced_and_seen(fresh: Callable[[Callable[[], object]], object]) -> None:
    def steps() -> None:
        bring_up_loopback()
        watch = RouteWatch()
        watch.drain()
        poller = select.poll()
        poller.register(watch.fileno(), select.POLLIN)
        try:
            for address in ("192.0.2.77/32", "2001:db8::77/128"):
                assert ip_network(address) not in own_networks()
                for change, is_there in (("add", True), ("del", False)):
                    subprocess.run(["ip", "address", change, address, "dev", "lo"], check=True)
                    assert poller.poll(5000), f"{change} {address}"
                    watch.drain()
                    assert (ip_network(address) in own_networks()) is is_there
                    assert not poller.poll(0)
        finally:
            watch.close()

    fresh(steps)


@pytest.mark.root
def test_a_local_route_of_any_table_makes_an_address_ones_own(fresh: Callable[[Callable[[], object]], object]) -> None:
    def steps() -> None:
        bring_up_loopback()
        subprocess.run(["ip", "route", "add", "local", "198.51.100.0/24", "dev", "lo", "table", "77"], check=True)
        subprocess.run(["ip", "route", "add", "203.0.113.0/24", "dev", "lo"], check=True)
        assert ip_network("198.51.100.0/24") in own_networks()
        assert ip_network("203.0.113.0/24") not in own_networks()

    fresh(steps)


@pytest.mark.root
def test_without_ipv6_there_are_ipv4s_networks(fresh: Callable[[Callable[[], object]], object]) -> None:
    def steps() -> None:
        bring_up_loopback()
        subprocess.run(["sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1"], check=True)
        assert {network.version for network in own_networks()} == {4}

    fresh(steps)


@pytest.mark.root
def test_more_changes_than_the_socket_holds_are_one_reason_to_ask_again(
    fresh: Callable[[Callable[[], object]], object],
) -> None:
    def steps() -> None:
        bring_up_loopback()
        watch = RouteWatch()
        watch._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        batch = "".join(f"address {change} 192.0.2.{n}/32 dev lo\n" for change in ("add", "del") for n in range(1, 60))
        subprocess.run(["ip", "-batch", "-"], input=batch.encode(), check=True)
        with pytest.raises(OSError, match=str(errno.ENOBUFS)):
            watch._socket.recv(1)
        subprocess.run(["ip", "-batch", "-"], input=batch.encode(), check=True)
        watch.drain()
        with pytest.raises(BlockingIOError):
            watch._socket.recv(1)
        watch.close()

    fresh(steps)
