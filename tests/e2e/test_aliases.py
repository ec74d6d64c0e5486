"""Addresses that are the host's own whatever they look like, and addresses that mean nothing without an interface."""

import os
import signal
import subprocess
from typing import Any

import pytest
from harness import HttpServer, TcpServer, UdpServer, cidr, http, policy, run_exec, start_exec, wait_until, workload

pytestmark = [pytest.mark.root, pytest.mark.slow]

# TCP and UDP to one place; what the caller was told.
TRY = """
        def call(address, port, datagrams=0, scope=0):
            where = (address, port, 0, scope) if ":" in address else (address, port)
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            s = socket.socket(family)
            s.settimeout(10)
            told = [attempt(s.connect, where)]
            if told == ["ok"]: told = [exchange(s, b"GET /secret HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")[:12]]
            if datagrams:
                where = (address, datagrams) + where[2:]
                told.append(attempt(socket.socket(family, socket.SOCK_DGRAM).sendto, b"leak", where))
            return told
"""


def ip(netns: Any, *arguments: str) -> None:
    subprocess.run(["ip", "-n", netns.name, *arguments], check=True, capture_output=True)


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.2", "127.255.255.254", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::"]
)
def test_a_rule_for_the_whole_world_does_not_mean_this_host(address: str) -> None:
    code = TRY + "\n        say(call(address, port, datagrams))"
    v4 = "." in address
    with TcpServer("0.0.0.0" if v4 else "::") as server, UdpServer("0.0.0.0" if v4 else "::") as datagrams:
        argv = workload(code, address=address, port=server.port, datagrams=datagrams.port)
        result = run_exec(policy(cidr("0.0.0.0/0"), cidr("::/0")), argv)
        assert result.said == [["EPERM", "EPERM"]]
        assert server.connections == []
        assert datagrams.close() == []


@pytest.mark.parametrize("kind", ["address", "peer address", "any address of a local route"])
def test_own_addresses_are_the_host_whatever_they_look_like(netns_pair: Any, kind: str) -> None:
    """A rule for everything does not open them; also those that are added while the command runs."""
    client = netns_pair.client
    code = (
        TRY
        + """
        say(call(address, port, datagrams)); listen()
        say(call("198.51.100.7", port, datagrams))
    """
    )
    address = str(client.address4)
    with TcpServer("0.0.0.0", client) as server, UdpServer("0.0.0.0", client) as datagrams:
        argv = workload(code, address=address, port=server.port, datagrams=datagrams.port)
        with start_exec(policy(cidr("0.0.0.0/0")), argv, netns=client) as running:
            assert running.heard() == ["EPERM", "EPERM"]
            added = {
                "address": ("address", "add", "198.51.100.7/24", "dev", client.device),
                "peer address": ("address", "add", "198.51.100.7", "peer", "198.51.100.8", "dev", client.device),
                "any address of a local route": ("route", "add", "local", "198.51.100.0/24", "dev", "lo"),
            }
            before = own_table(running)
            ip(client, *added[kind])
            wait_until(lambda: own_table(running) != before, "the loader has seen the new address")
            assert running.ask() == ["EPERM", "EPERM"]
            running.wait()
        assert server.connections == []


def own_table(running: Any) -> str:
    pin = running.pins / "map_own"
    return subprocess.run(
        ["bpftool", "map", "dump", "pinned", str(pin)], capture_output=True, check=True, text=True
    ).stdout


@pytest.mark.parametrize("version", [4, 6])
def test_an_own_address_that_the_loader_has_not_seen_yet_is_looked_up_again(netns_pair: Any, version: int) -> None:
    """The route is known by then: what leaves by loopback is the host's, whatever the table says."""
    client = netns_pair.client
    everywhere, address, added = (
        ("0.0.0.0", "198.51.100.7", "198.51.100.7/24") if version == 4 else ("::", "2001:db8::7", "2001:db8::7/64")
    )
    code = """
        say("ready"); listen()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        dialled = socket.socket(family, socket.SOCK_DGRAM)
        say(attempt(lambda: dialled.connect((address, datagrams)) or dialled.send(b"leak")))
        say(attempt(socket.socket(family, socket.SOCK_DGRAM).sendto, b"leak", (address, datagrams)))
        s = socket.socket(family)
        s.settimeout(10)
        say(attempt(s.connect, (address, port)))
        say(attempt(lambda: s.sendall(b"leak") or s.recv(1)))  # whichever comes first has the socket's error
    """
    with TcpServer(everywhere, client) as server, UdpServer(everywhere, client) as datagrams:
        argv = workload(code, address=address, port=server.port, datagrams=datagrams.port)
        with start_exec(policy(cidr("0.0.0.0/0"), cidr("::/0")), argv, netns=client) as running:
            assert running.heard() == "ready"
            os.kill(running.pid, signal.SIGSTOP)
            try:
                ip(client, "address", "add", added, "dev", client.device, *(["nodad"] if version == 6 else []))
                assert running.ask() == "EPERM"
                assert running.heard() == "EPERM"
                assert running.heard() == "ok"
            finally:
                os.kill(running.pid, signal.SIGCONT)
            assert running.heard() == "ECONNABORTED"
            assert "OWN_ADDRESS" in running.wait().reasons()
        assert server.connections == []
        assert datagrams.close() == []


@pytest.mark.parametrize("rule", [http, cidr])
def test_a_link_local_address_is_judged_with_its_interface(netns_pair: Any, rule: Any) -> None:
    """The proxy cannot dial it as the workload would: refused where it must read, native where a rule allows it."""
    client, server = netns_pair.client, netns_pair.server
    address = link_local(server)
    code = (
        TRY
        + """
        scope = socket.if_nametoindex(device)
        say(call(address, port, 0, scope))
        say(call(own, port, 0, scope))
    """
    )
    with HttpServer("::", server) as there, TcpServer("::", client, port=there.port) as here:
        argv = workload(code, address=address, own=link_local(client), device=client.device, port=there.port)
        result = run_exec(policy(rule("fe80::/10", there.port)), argv, netns=client)
        assert here.connections == []
        if rule is http:
            assert result.said == [["EPERM"], ["EPERM"]]
            assert result.reasons() == ["SCOPED_ADDRESS", "DEFAULT_DENY"]
            assert there.connections == []
        else:
            assert result.said == [["HTTP/1.1 200"], ["EPERM"]]
            assert there.requests == [("GET", "/secret")]


def link_local(netns: Any) -> str:
    show = ["ip", "-n", netns.name, "-6", "-o", "address", "show", "dev", netns.device, "scope", "link"]

    def words() -> list[str]:
        return subprocess.run(show, check=True, capture_output=True, text=True).stdout.split()

    wait_until(lambda: "inet6" in words() and "tentative" not in words(), "a link-local address")
    return words()[words().index("inet6") + 1].partition("/")[0]
