"""What a workload leaves in others' hands stays judged, and nobody can be made to speak in another's name."""

import contextlib
import errno
import os
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import HttpServer, TcpServer, UdpServer, cidr, closing_all, http, policy, run_exec, start_exec, workload

from racecar.redirect.libbpf import Map, open_pin

pytestmark = [pytest.mark.root, pytest.mark.slow]

LOCAL = "127.0.0.1"
GIVER = """
    taker = socket.socket(socket.AF_UNIX)
    taker.connect(name)
    given = [socket.socket(), socket.socket(socket.AF_INET6), socket.socket(socket.AF_INET, socket.SOCK_DGRAM)]
    socket.send_fds(taker, [b"x"], [s.fileno() for s in given])
    say("given")
    listen()
"""


@contextlib.contextmanager
def taker() -> Iterator[tuple[str, socket.socket]]:
    """An unenforced process's end: the abstract name to send sockets to."""
    name = "\0racecar-" + secrets.token_hex(8)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(name)
        listener.listen()
        yield name, listener


def wait_until_gone(path: Path) -> None:
    """The guardian works on when the loader is dead."""
    deadline = time.monotonic() + 20
    while path.exists():
        assert time.monotonic() < deadline, f"{path} is still there"
        threading.Event().wait(0.005)


def attempt(call: Any, *arguments: Any) -> str:
    try:
        call(*arguments)
    except OSError as failed:
        return errno.errorcode[failed.errno or 0]
    return "ok"


@pytest.mark.parametrize("end", ["in order", "loader killed"])
def test_a_socket_that_outlives_its_exec_is_still_judged(end: str) -> None:
    with (
        taker() as (name, listener),
        TcpServer() as denied,
        TcpServer("::1") as denied6,
        UdpServer() as datagrams,
        HttpServer() as api,
    ):
        with start_exec(policy(http(LOCAL, api.port)), workload(GIVER, name=name)) as running:
            peer, _ = listener.accept()
            _, fds, _, _ = socket.recv_fds(peer, 10, 3)
            sockets = [socket.socket(fileno=fd) for fd in fds]
            assert running.heard() == "given"
            if end == "loader killed":
                os.kill(running.pid, signal.SIGKILL)
                running.process.wait()
            else:
                running.wait()
            assert peer.recv(1) == b""
            wait_until_gone(running.pins)
        with closing_all(peer, *sockets):
            assert attempt(sockets[0].connect, (LOCAL, denied.port)) == "EPERM"
            assert attempt(sockets[1].connect, ("::1", denied6.port)) == "EPERM"
            assert attempt(sockets[2].sendto, b"leak", (LOCAL, datagrams.port)) == "EPERM"
            assert attempt(sockets[2].connect, (LOCAL, datagrams.port)) == "EPERM"
            # What was allowed is refused too: there is no proxy to judge it, and its port may be anybody's.
            assert attempt(sockets[0].connect, (LOCAL, api.port)) == "EPERM"
        assert (denied.received, denied6.received, datagrams.close(), api.requests) == ([], [], [], [])


def test_nobody_is_answered_who_did_not_write() -> None:
    """IP_PKTINFO lends any of the host's own addresses; over loopback the licence to answer could be forged with it."""
    code = """
        own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        own.bind(("127.0.0.1", 0))
        allowed = own.getsockname()
        liar = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        liar.bind(("127.0.0.9", victim))
        say(allowed[1])
        listen()
        lent = struct.pack("=i4s4s", 0, socket.inet_aton("127.0.0.1"), b"")
        say(attempt(liar.sendmsg, [b"as if"], [(socket.IPPROTO_IP, 8, lent)], 0, allowed))
        say(attempt(own.sendto, b"forged", ("127.0.0.1", victim)))
    """
    with UdpServer() as victim:
        # Everything on 127.0.0.1 that is not the victim's port.
        ports = [
            {"port": "1", "endPort": victim.port - 1, "protocol": "UDP"},
            {"port": str(victim.port + 1), "endPort": 65535, "protocol": "UDP"},
        ]
        rule = {"toCIDR": [f"{LOCAL}/32"], "toPorts": [{"ports": ports}]}
        with start_exec(policy(rule), workload(code, victim=victim.port)) as running:
            running.heard()
            running.tell()
            assert running.heard() == "EPERM"
            assert running.heard() == "EPERM"
            assert "SOURCE_ADDRESS" in running.wait().reasons()
        assert victim.close() == []


def test_who_shares_anothers_port_gets_no_licence_to_write_to_it() -> None:
    """SO_REUSEADDR lends a port to any user: a datagram's source does not say which of two sockets sent it."""
    code = """
        own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        own.bind(("127.0.0.1", 0))
        own.settimeout(10)
        say(own.getsockname()[1])
        allowed = "127.0.0.1", int(listen())
        liar = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        liar.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        liar.bind(("127.0.0.1", victim))
        say(attempt(liar.sendto, b"as if", own.getsockname()), attempt(own.recv, 100))
        liar.close()
        say(attempt(own.sendto, b"forged", ("127.0.0.1", victim)))
    """
    with UdpServer() as victim:
        ports = [
            {"port": "1", "endPort": victim.port - 1, "protocol": "UDP"},
            {"port": str(victim.port + 1), "endPort": 65535, "protocol": "UDP"},
        ]
        rule = {"toCIDR": [f"{LOCAL}/32"], "toPorts": [{"ports": ports}]}
        with start_exec(policy(rule), workload(code, victim=victim.port)) as running:
            running.tell(str(running.heard()))
            assert running.heard() == [5, "as if"]
            assert running.heard() == "EPERM"
            running.wait()
        assert victim.close() == []


def test_a_socket_bound_to_a_group_may_send() -> None:
    code = """
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("224.0.0.251", 0))
        say(attempt(s.sendto, b"from a group", ("127.0.0.1", port)), attempt(s.connect, ("127.0.0.1", port)))
    """
    with UdpServer() as server:
        rules = policy(cidr(LOCAL, server.port, protocol="UDP"))
        assert run_exec(rules, workload(code, port=server.port)).said == [[12, "ok"]]
        assert server.close() == [b"from a group"]


def test_who_has_no_address_yet_may_ask_for_one(netns_pair: Any) -> None:
    code = """
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        say(attempt(s.sendto, b"discover", ("255.255.255.255", 67)))
    """
    device = netns_pair.client.device
    subprocess.run(["ip", "-n", netns_pair.client.name, "-4", "address", "flush", "dev", device], check=True)
    argv = workload(code, device=device)
    assert run_exec(policy(cidr("255.255.255.255/32")), argv, netns=netns_pair.client).said == [8]
    assert run_exec(policy(cidr("0.0.0.0/0")), argv, netns=netns_pair.client).said == ["EPERM"]


@pytest.mark.parametrize("trick", ["none", "send elsewhere", "connect elsewhere"])
def test_the_licence_to_answer_ends_also_for_a_connected_socket(trick: str) -> None:
    code = """
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.bind(("127.0.0.1", 0))
        s.settimeout(10)
        say(s.getsockname()[1])
        s.connect(s.recvfrom(100)[1])
        say(attempt(s.send, b"in time"))
        listen()
        if trick == "send elsewhere": say(attempt(s.sendto, b"elsewhere", ("127.0.0.1", allowed)))
        if trick == "connect elsewhere": say(attempt(s.connect, ("240.0.0.1", 1)))
        say(attempt(s.send, b"too late"))
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller, UdpServer() as allowed:
        caller.bind((LOCAL, 0))
        caller.settimeout(10)
        rules = policy(cidr("240.0.0.1", 1, protocol="UDP"), cidr(LOCAL, allowed.port, protocol="UDP"))
        with start_exec(rules, workload(code, trick=trick, allowed=allowed.port)) as running:
            caller.sendto(b"hello", (LOCAL, running.heard()))
            assert running.heard() == 7
            assert caller.recv(100) == b"in time"
            licences = Map(open_pin(running.pins / "map_udp_replies"), 8, "udp_replies", key_size=32)
            for key in licences.keys():  # noqa: SIM118  (no dict)
                licences.put(key, b"\0" * 8)  # given when the machine started
            running.tell()
            if trick != "none":
                assert running.heard() == (9 if trick == "send elsewhere" else "EINVAL")
            assert running.heard() == "EPERM"
            os.close(licences.fd)
            running.wait()
        caller.setblocking(False)
        assert attempt(caller.recv, 100) == "EAGAIN"


def test_no_address_is_borrowed(netns_pair: Any) -> None:
    """IPV6_FREEBIND lends any address: the server would take the workload for somebody else, and answer that one."""
    code = """
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            s = socket.socket(socket.AF_INET6, kind)
            s.setsockopt(41, 78, 1)  # IPV6_FREEBIND
            s.bind(("fd99::77", 0))
            say(attempt(s.sendto, b"borrowed", (address, port)) if kind == socket.SOCK_DGRAM else
                attempt(s.connect, (address, port)))
            say(attempt(s.connect, (address, port)))
    """
    pair = netns_pair
    address = str(pair.server.address6)
    with UdpServer(address, pair.server) as server:
        argv = workload(code, address=address, port=server.port)
        result = run_exec(policy(cidr(address)), argv, netns=pair.client)
        assert result.said == ["EPERM"] * 4
        assert set(result.reasons()) == {"SOURCE_ADDRESS"}
        assert server.close() == []


def test_a_rule_for_the_world_does_not_reach_the_host_by_broadcast_or_multicast(netns_pair: Any) -> None:
    code = """
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
        for address in (broadcast, "255.255.255.255", "224.0.0.1"):
            say(attempt(s.sendto, b"to all", (address, port)))
        v6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        for address in ("ff02::1%" + device, "ff01::1%" + device):
            say(attempt(v6.sendto, b"to all", (address, port)))
    """
    pair = netns_pair
    own, device = str(pair.client.address4), pair.client.device
    broadcast = "10.99.0.255"
    with UdpServer("0.0.0.0", pair.client) as server:
        argv = workload(code, own=own, broadcast=broadcast, device=device, port=server.port)
        wide = policy(cidr("0.0.0.0/0"), cidr("::/0"))
        assert run_exec(wide, argv, netns=pair.client).said == ["EPERM"] * 5
        assert server.received == []
        named = policy(cidr(f"{broadcast}/32"), cidr("224.0.0.0/4"), cidr("ff00::/8"), cidr("255.255.255.255/32"))
        assert run_exec(named, argv, netns=pair.client).said == [6, "ENETUNREACH", 6, 6, 6]
