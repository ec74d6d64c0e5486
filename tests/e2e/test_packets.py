"""Packets that hide where they go, and sockets that make none that the gate could see."""

import socket
from typing import Any

import pytest
from harness import EchoServer, TcpServer, UdpServer, cidr, policy, relayed, run_exec, wait_until, workload

pytestmark = [pytest.mark.root, pytest.mark.slow]

OPTIONS = """
def headers(*segments):
    "IPV6_RTHDR of type 4 (segment routing); the last segment comes first"
    hops = b"".join(socket.inet_pton(socket.AF_INET6, one) for one in segments)
    return struct.pack("!BBBBBBH", 0, len(hops) // 8, 4, len(segments) - 1, len(segments) - 1, 0, 0) + hops
PADDING = struct.pack("!BB", 0, 0) + bytes([1, 4, 0, 0, 0, 0])  # hop-by-hop or destination options: padding alone
"""


def with_options(code: str, **values: Any) -> list[str]:
    *python, source = workload(code, **values)
    imports, rest = source.split("\nlibc =", 1)
    return [*python, f"{imports}{OPTIONS}\nlibc ={rest}"]


# --- IPv4 options ----------------------------------------------------------------------------------------------------

# By a loose source route a packet goes elsewhere than its destination says. Kernels differ in who may ask for one; any
# user may ask for a record of the route, and the gate lets neither out.
LOOSE_ROUTE, RECORD_ROUTE = "8307047f00000100", "0707040000000000"
PRIVILEGED = ("--keep-privileges",)
EVERY_OPTION = pytest.mark.parametrize(("option", "extra"), [(LOOSE_ROUTE, PRIVILEGED), (RECORD_ROUTE, ())])


@EVERY_OPTION
def test_options_let_no_packet_of_a_tcp_socket_out(option: str, extra: tuple[str, ...]) -> None:
    code = """
        for port in (native, relay):
            s = socket.socket()
            s.settimeout(10)
            s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes.fromhex(option))
            say(attempt(s.connect, ("127.0.0.1", port)))
    """
    with TcpServer() as native, TcpServer() as relay:
        rules = cidr("127.0.0.1", native.port), relayed("127.0.0.1", relay.port)
        argv = workload(code, native=native.port, relay=relay.port, option=option)
        result = run_exec(policy(*rules), argv, extra=extra)
        assert result.said == ["ECONNABORTED"] * 2
        assert native.connections == relay.connections == []
    assert set(result.reasons()) == {"IP_OPTIONS"}


@EVERY_OPTION
def test_options_on_an_established_connection_let_no_more_bytes_out(option: str, extra: tuple[str, ...]) -> None:
    code = """
        for port in (native, relay):
            s = dial("127.0.0.1", port)
            say(attempt(s.send, b"before"), attempt(s.recv, 100))
            s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, bytes.fromhex(option))
            say(attempt(lambda: s.sendall(b"AFTER") or s.recv(100)))  # whichever comes first has the socket's error
    """
    with EchoServer() as native, EchoServer() as relay:
        rules = cidr("127.0.0.1", native.port), relayed("127.0.0.1", relay.port)
        argv = workload(code, native=native.port, relay=relay.port, option=option)
        result = run_exec(policy(*rules), argv, extra=("--drain-timeout", "0", *extra))
        assert result.said == [[6, "before"], "ECONNABORTED"] * 2
        assert native.received == relay.received == [b"before"]
    assert "IP_OPTIONS" in result.reasons()


@EVERY_OPTION
def test_options_let_no_datagram_out_sticky_or_by_message(option: str, extra: tuple[str, ...]) -> None:
    code = """
        def fresh():
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        IP_RETOPTS = 7
        to = ("127.0.0.1", port)
        options = bytes.fromhex(option)
        s = fresh()
        s.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
        say(attempt(s.sendto, b"sticky", to))
        s.connect(to)
        say(attempt(s.send, b"sticky, connected"))
        say(attempt(fresh().sendmsg, [b"message"], [(socket.IPPROTO_IP, IP_RETOPTS, options)], 0, to))
        say(attempt(fresh().sendto, b"plain", to))
    """
    with UdpServer() as server:
        rules = policy(cidr("127.0.0.1", server.port, protocol="UDP"))
        result = run_exec(rules, workload(code, port=server.port, option=option), extra=extra)
        assert result.said == ["EPERM", "EPERM", "EPERM", 5]
        assert server.close() == [b"plain"]
    assert result.reasons() == ["IP_OPTIONS"] * 3


# --- IPv6 extension headers ------------------------------------------------------------------------------------------


def test_a_routing_header_lets_no_datagram_out_sticky_or_by_message() -> None:
    code = """
        def fresh():
            return socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        to = ("::1", port)
        route = headers("::1", "::1")
        s = fresh()
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, route)
        say(attempt(s.sendto, b"sticky", to))
        s.connect(to)
        say(attempt(s.send, b"sticky, connected"))
        say(attempt(fresh().sendmsg, [b"message"], [(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, route)], 0, to))
        say(attempt(fresh().sendto, b"plain", to))
    """
    with UdpServer("::1") as server:
        rules = policy(cidr("::1", server.port, protocol="UDP"))
        result = run_exec(rules, with_options(code, port=server.port))
        # By message the kernel takes routes of mobile hosts alone, where it is built for them (EINVAL).
        assert result.said == ["EPERM", "EPERM", "EINVAL", 5]
        assert server.close() == [b"plain"]
    assert result.reasons() == ["EXTENSION_HEADER"] * 2


def test_a_routing_header_lets_no_packet_of_a_tcp_socket_out() -> None:
    code = """
        s = socket.socket(socket.AF_INET6)
        s.settimeout(10)
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RTHDR, headers("::1", "::1"))
        say(attempt(s.connect, ("::1", port)))
    """
    with TcpServer("::1") as server:
        result = run_exec(policy(cidr("::1", server.port)), with_options(code, port=server.port))
        assert result.said == ["ECONNABORTED"]
        assert server.connections == []
    assert set(result.reasons()) == {"EXTENSION_HEADER"}


OTHER_HEADERS = """
    for option in (socket.IPV6_HOPOPTS, socket.IPV6_DSTOPTS):
        s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        by_message = attempt(s.sendmsg, [b"message"], [(socket.IPPROTO_IPV6, option, PADDING)], 0, ("::1", port))
        sticky = attempt(s.setsockopt, socket.IPPROTO_IPV6, option, PADDING)
        say(by_message, sticky, attempt(s.sendto, b"sticky", ("::1", port)) if sticky == "ok" else "")
"""


def test_hop_by_hop_and_destination_options_need_a_capability_that_exec_takes_away() -> None:
    with UdpServer("::1") as server:
        rules = policy(cidr("::1", server.port, protocol="UDP"))
        result = run_exec(rules, with_options(OTHER_HEADERS, port=server.port))
        assert result.said == [["EPERM", "EPERM", ""]] * 2
        assert server.close() == []
    assert result.reasons() == []  # the kernel's own refusal: no packet was made


def test_hop_by_hop_and_destination_options_are_dropped_from_those_who_keep_the_capability() -> None:
    with UdpServer("::1") as server:
        rules = policy(cidr("::1", server.port, protocol="UDP"))
        result = run_exec(rules, with_options(OTHER_HEADERS, port=server.port), extra=("--keep-privileges",))
        assert result.said == [["EPERM", "ok", "EPERM"]] * 2
        assert server.close() == []
    assert result.reasons() == ["EXTENSION_HEADER"] * 4


# --- Fragments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["10.99.0.2", "fd99::2"])
def test_a_datagram_longer_than_a_packet_is_judged_as_a_whole(netns_pair: Any, address: str) -> None:
    code = """
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        say(attempt(s.sendto, b"a" * 20000, (address, allowed)), attempt(s.sendto, b"d" * 20000, (address, denied)))
    """
    with UdpServer(address, netns_pair.server) as allowed, UdpServer(address, netns_pair.server) as denied:
        rules = policy(cidr(address, allowed.port, protocol="UDP"))
        argv = workload(code, address=address, allowed=allowed.port, denied=denied.port)
        result = run_exec(rules, argv, netns=netns_pair.client)
        assert result.said == [[20000, "EPERM"]]
        wait_until(lambda: allowed.received == [b"a" * 20000], "the datagram, after neighbour discovery")
        assert denied.close() == []


def test_packets_of_ones_own_making_have_no_socket_to_leave_by() -> None:
    code = """
        for kind, protocol in ((socket.SOCK_RAW, 255), (socket.SOCK_RAW, 6), (socket.SOCK_RAW, 17)):
            for family in (socket.AF_INET, socket.AF_INET6):
                say(attempt(socket.socket, family, kind, protocol))
    """
    result = run_exec(policy(cidr("127.0.0.1")), workload(code), extra=("--keep-privileges",))
    assert result.said == ["EPERM"] * 6
    assert set(result.reasons()) == {"RAW_SOCKET"}


# --- Other families --------------------------------------------------------------------------------------------------


def test_only_the_families_that_are_judged_exist() -> None:
    code = """
        names = {}
        for family in range(64):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET):
                names.setdefault(attempt(lambda: socket.socket(family, kind)), set()).add(family)
        say({name: sorted(values) for name, values in names.items()})
        say(attempt(socket.socket, socket.AF_VSOCK, socket.SOCK_STREAM))
        say(attempt(socket.socket, socket.AF_INET, 10))  # SOCK_PACKET
        say(attempt(socket.socket, socket.AF_INET, socket.SOCK_STREAM, 256))  # SMC
    """
    result = run_exec(policy(cidr("127.0.0.1")), workload(code))
    families, vsock, packet, smc = result.said
    judged = [socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK]
    assert families["ok"] == judged
    assert families["EAFNOSUPPORT"] == [family for family in range(64) if family not in judged]
    assert [vsock, packet, smc] == ["EAFNOSUPPORT", "EAFNOSUPPORT", "EPROTONOSUPPORT"]
