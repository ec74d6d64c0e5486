"""UDP and ICMP: each datagram is judged by where it is sent, whatever call sends it; answers go to who has asked."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from foreign import translating
from harness import (
    EchoServer,
    HttpServer,
    UdpServer,
    cidr,
    http,
    listener_port,
    policy,
    relayed,
    run_exec,
    start_exec,
    workload,
)

pytestmark = [pytest.mark.root, pytest.mark.slow]

LOCAL = "127.0.0.1"
UDP_LITE = 136

# Every way to send one datagram; `where` is the allowed or the forbidden place.
WAYS = """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        def fresh():
            return socket.socket(family, socket.SOCK_DGRAM)
        def connect_send(data, port):
            s = fresh(); s.connect((address, port)); s.send(data)
        def connect_write(data, port):
            s = fresh(); s.connect((address, port)); os.write(s.fileno(), data)
        def sendto(data, port):
            fresh().sendto(data, (address, port))
        def sendmsg(data, port):
            fresh().sendmsg([data], [], 0, (address, port))
        def sendto_from_connected(data, port):
            s = fresh(); s.connect((address, allowed)); s.sendto(data, (address, port))
        def reconnect(data, port):
            s = fresh(); s.connect((address, allowed)); s.connect((address, port)); s.send(data)
        def after_refusal(data, port):
            s = fresh(); attempt(s.connect, (address, 1)); s.sendto(data, (address, port))
        def after_disconnect(data, port):
            s = fresh(); s.connect((address, allowed))
            libc.connect(s.fileno(), bytes(16), 16)  # AF_UNSPEC
            s.sendto(data, (address, port))
        def corked(data, port):
            s = fresh(); s.setsockopt(socket.IPPROTO_UDP, 1, 1); s.sendto(data, (address, port))
            s.setsockopt(socket.IPPROTO_UDP, 1, 0)
        def segmented(data, port):
            s = fresh(); s.sendmsg([data], [(socket.IPPROTO_UDP, 103, struct.pack("=H", 100))], 0, (address, port))
        WAYS = (connect_send, connect_write, sendto, sendmsg, sendto_from_connected, reconnect, after_refusal,
                after_disconnect, corked, segmented)
"""


@pytest.mark.parametrize(("address", "server"), [(LOCAL, LOCAL), ("::1", "::1"), ("::ffff:127.0.0.1", LOCAL)])
def test_every_way_to_send_a_datagram_is_judged(address: str, server: str) -> None:
    code = (
        WAYS
        + """
        for way in WAYS:
            say(way.__name__, attempt(way, way.__name__.encode(), allowed), attempt(way, b"leak", denied))
    """
    )
    with UdpServer(server) as allowed, UdpServer(server) as denied:
        argv = workload(code, address=address, allowed=allowed.port, denied=denied.port)
        result = run_exec(policy(cidr(server, allowed.port, protocol="UDP")), argv)
        assert [said[1:] for said in result.said] == [["ok", "EPERM"]] * 10
        assert denied.close() == []
        assert allowed.close() == [said[0].encode() for said in result.said]
        assert set(result.reasons()) == {"DEFAULT_DENY"}


def test_an_address_of_another_family_than_its_socket_is_judged_too() -> None:
    """UDP takes AF_UNSPEC for AF_INET, and IPv6 sockets take IPv4 addresses as they are."""
    code = """
        def raw(call, made_of, address_of, *places):
            s = socket.socket(made_of, socket.SOCK_DGRAM)
            for port, data in places:
                place = struct.pack("=H", address_of) + struct.pack("!HI20x", port, 0x7F000001)
                ctypes.set_errno(0)
                if call == "connect":
                    done = libc.connect(s.fileno(), place, 28) or libc.send(s.fileno(), data, len(data), 0)
                else:
                    done = libc.sendto(s.fileno(), data, len(data), 0, place, 28)
                yield "ok" if done >= 0 else errno.errorcode[ctypes.get_errno()]
        both = (allowed, b"hello"), (denied, b"leak")
        say(*raw("sendto", socket.AF_INET, socket.AF_UNSPEC, *both))
        say(*raw("sendto", socket.AF_INET6, socket.AF_INET, *both))
        say(*raw("connect", socket.AF_INET6, socket.AF_INET, *both))
    """
    with UdpServer() as allowed, UdpServer() as denied:
        argv = workload(code, allowed=allowed.port, denied=denied.port)
        result = run_exec(policy(cidr(LOCAL, allowed.port, protocol="UDP")), argv)
        assert result.said == [["ok", "EPERM"]] * 3
        assert allowed.close() == [b"hello"] * 3
        assert denied.close() == []


def test_what_is_corked_goes_where_its_first_piece_was_judged() -> None:
    code = """
        s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        s.sendto(b"one,", socket.MSG_MORE, ("127.0.0.1", allowed))
        say(attempt(s.sendto, b"two", ("127.0.0.1", denied)))
    """
    with UdpServer() as allowed, UdpServer() as denied:
        argv = workload(code, allowed=allowed.port, denied=denied.port)
        result = run_exec(policy(cidr(LOCAL, allowed.port, protocol="UDP")), argv)
        assert result.said == [3]
        assert allowed.close() == [b"one,two"]
        assert denied.close() == []


def test_a_rule_for_tcp_that_needs_reading_lets_no_datagram_pass() -> None:
    """QUIC speaks to the same port."""
    code = (
        WAYS
        + """
        for way in WAYS: say(attempt(way, b"GET /jobs", port))
    """
    )
    with UdpServer() as server:
        argv = workload(code, address=LOCAL, port=server.port, allowed=server.port)
        result = run_exec(policy(http(LOCAL, server.port)), argv)
        assert result.said == ["EPERM"] * 10
        assert server.close() == []


def test_another_protocol_of_datagrams_is_not_covered_by_rules_for_udp() -> None:
    """UDP-Lite shares UDP's hooks and ports, but not its rules; a rule without ports means every protocol."""
    code = """
        def lite():
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 136)
        s = lite()
        say(attempt(lambda: s.connect(("127.0.0.1", port)) or s.send(b"hello")))
        say(attempt(lite().sendto, b"hello", ("127.0.0.1", port)))
    """
    try:
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, UDP_LITE)
    except OSError:
        pytest.skip("needs UDP-Lite")
    with receiver:
        receiver.bind((LOCAL, 0))
        receiver.setblocking(False)
        argv = workload(code, port=receiver.getsockname()[1])
        denied = run_exec(policy(cidr(LOCAL, receiver.getsockname()[1], protocol="UDP")), argv)
        assert denied.said == ["EPERM", "EPERM"]
        with pytest.raises(BlockingIOError):
            receiver.recv(100)
        allowed = run_exec(policy(cidr(LOCAL)), argv)
        assert allowed.said == [5, 5]
        assert [receiver.recv(100), receiver.recv(100)] == [b"hello", b"hello"]


# --- Answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", [LOCAL, "::1"])
def test_a_server_under_default_deny_answers_who_has_asked_and_nobody_else(address: str) -> None:
    code = """
        s = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        s.settimeout(10)
        s.bind((address, 0)); say(s.getsockname()[1])
        data, peer = s.recvfrom(100)
        say(attempt(s.sendto, b"answer", peer))
        say(attempt(s.sendto, b"leak", (address, other)))
        say(attempt(s.connect, (address, other)))
        say(attempt(s.connect, peer))
        say(attempt(s.send, b"more"))
        another = socket.socket(s.family, socket.SOCK_DGRAM)
        say(attempt(another.sendto, b"leak", peer))
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with UdpServer(address) as other, socket.socket(family, socket.SOCK_DGRAM) as asker:
        asker.settimeout(10)
        asker.bind((address, 0))
        rules, argv = policy(cidr("10.99.0.9", 1)), workload(code, address=address, other=other.port)
        with start_exec(rules, argv) as running:
            asker.sendto(b"question", (address, running.heard()))
            assert [running.heard() for _ in range(6)] == [6, "EPERM", "EPERM", "ok", 4, "EPERM"]
            running.wait()
        assert [asker.recv(100), asker.recv(100)] == [b"answer", b"more"]
        asker.setblocking(False)
        with pytest.raises(BlockingIOError):
            asker.recv(100)
        assert other.close() == []


@pytest.mark.parametrize("version", [4, 6])
def test_a_workload_cannot_ask_itself_in_the_name_of_others(netns_pair: Any, version: int) -> None:
    """IP_FREEBIND needs no capability: over loopback, a datagram may claim to come from anywhere."""
    code = """
        server, liar = (socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM) for _ in "ab")
        server.bind(("::" if v6 else "0.0.0.0", 0))
        server.settimeout(10)
        liar.setsockopt(41 if v6 else 0, 78 if v6 else 15, 1)  # IPV6_FREEBIND, IP_FREEBIND
        liar.bind((target, port))
        spoofed = attempt(liar.sendto, b"as if", ("::1" if v6 else "127.0.0.1", server.getsockname()[1]))
        say(spoofed)
        if spoofed == 5: say(server.recvfrom(100)[1][:2])
        say(attempt(server.sendto, b"leak", (target, port)))
        say(attempt(server.connect, (target, port)))
    """
    pair = netns_pair
    with UdpServer(str(pair.server.address4 if version == 4 else pair.server.address6), pair.server) as target:
        argv = workload(code, target=target.address, port=target.port, v6=version == 6)
        rules = policy(cidr("127.0.0.1"), cidr("::1"))
        result = run_exec(rules, argv, netns=pair.client)
        # IPv4 wants IP_TRANSPARENT for a foreign source when it looks for a route. IPv6 takes it, the gate does not.
        assert result.said == ["ENETUNREACH" if version == 4 else "EPERM", "EPERM", "EPERM"]
        assert target.close() == []


# --- ICMP ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def echo_requests(family: int, netns: Any) -> Iterator[list[bytes]]:
    """Every ICMP message that reached the namespace; complete when the block is left."""
    protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
    raw = netns.call(lambda: socket.socket(family, socket.SOCK_RAW, protocol))
    received: list[bytes] = []
    with raw:
        yield received
        raw.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                received.append(raw.recv(65536))


def may_ping(netns: Any) -> None:
    """Ping sockets are closed to all groups in a new namespace."""
    write = ("sysctl", "-qw", "net.ipv4.ping_group_range=0 2147483647")
    done = subprocess.run(["nsenter", f"--net={netns.path}", *write], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"needs ping_group_range: {done.stderr.decode()}")


PING = """
        v6 = ":" in address
        def ping():
            s = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM, 58 if v6 else 1)
            s.settimeout(10)
            return s
        echo = bytes([128 if v6 else 8, 0, 0, 0, 0, 1, 0, 1]) + b"leaked by ping"
        say(attempt(ping().sendto, echo, (address, 0)))
        s = ping()
        say(attempt(s.connect, (address, 0)))
        say(attempt(s.send, echo) if allowed else attempt(s.sendmsg, [echo], [], 0, (address, 0)))
        if allowed: say(attempt(s.recv, 100)[8:])
"""


@pytest.mark.parametrize("version", [4, 6])
def test_a_ping_is_judged_like_a_datagram(netns_pair: Any, version: int) -> None:
    client, server = netns_pair.client, netns_pair.server
    may_ping(client)
    address = str(server.address4 if version == 4 else server.address6)
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with echo_requests(family, server) as received:
        denied = run_exec(policy(cidr(address, 80)), workload(PING, address=address, allowed=False), netns=client)
    # icmpv6_push_pending_frames keeps the error of a dropped packet to itself: the caller sees a datagram sent.
    assert denied.said == (["EPERM", "EPERM", "EPERM"] if version == 4 else [22, "EPERM", 22])
    assert b"leaked by ping" not in b"".join(received)
    assert set(denied.reasons()) == {"DEFAULT_DENY"}
    with echo_requests(family, server) as received:
        allowed = run_exec(policy(cidr(address)), workload(PING, address=address, allowed=True), netns=client)
    assert allowed.said == [22, "ok", 22, "leaked by ping"]
    assert b"".join(received).count(b"leaked by ping") == 2


# --- Translation of addresses (DNAT) ---------------------------------------------------------------------------------

SERVICE = "192.0.2.1"  # of nobody; a hook of a parent cgroup translates it, after the workload's own hooks have judged


@pytest.mark.parametrize(
    ("way", "hook"), [("sendto", "sendmsg4"), ("sendmsg", "sendmsg4"), ("connect_send", "connect4")]
)
def test_a_translated_datagram_is_released_by_its_record(way: str, hook: str) -> None:
    """The hook judged the service's address; the gate sees the backend's, which no rule of its own allows."""
    code = (
        WAYS
        + """
        say("ready"); listen()
        say(attempt(globals()[way], b"hello", 53))
        say(attempt(sendto, b"leak", 54))
    """
    )
    with UdpServer() as backend, UdpServer() as denied:
        rules = policy(cidr(SERVICE, 53, protocol="UDP"))
        with start_exec(rules, workload(code, address=SERVICE, allowed=53, way=way)) as running:
            assert running.heard() == "ready"
            parent = running.cgroup().parent
            with (
                translating(parent, hook, 53, (LOCAL, backend.port)),
                translating(parent, hook, 54, (LOCAL, denied.port)),
            ):
                assert running.ask() == "ok"
                assert running.heard() == "EPERM"
            assert running.wait().reasons() == ["DEFAULT_DENY"]
        assert backend.close() == [b"hello"]
        assert denied.close() == []


def test_a_translated_connection_is_released_by_its_record() -> None:
    code = """
        say("ready"); listen()
        say(exchange(dial(SERVICE, 80), b"hello"))
    """
    with EchoServer() as backend, start_exec(policy(cidr(SERVICE, 80)), workload(code, SERVICE=SERVICE)) as running:
        assert running.heard() == "ready"
        with translating(running.cgroup().parent, "connect4", 80, (LOCAL, backend.port)):
            assert running.ask() == "hello"
        assert running.wait().reasons() == []
        assert backend.received == [b"hello"]


@pytest.mark.parametrize("rule", [relayed, http])
def test_a_connection_that_is_translated_to_what_the_proxy_must_read_is_refused(rule: Any) -> None:
    code = """
        say("ready"); listen()
        say(attempt(dial, SERVICE, 80))
    """
    with HttpServer() as backend:
        rules = policy(cidr(SERVICE, 80), rule(LOCAL, backend.port))
        with start_exec(rules, workload(code, SERVICE=SERVICE)) as running:
            assert running.heard() == "ready"
            with translating(running.cgroup().parent, "connect4", 80, (LOCAL, backend.port)):
                assert running.ask() == "ECONNABORTED"
            assert running.wait().reasons()[0] == "TRANSLATED"
        assert backend.connections == []


def test_a_redirected_connection_that_is_translated_once_more_is_refused() -> None:
    """Another owner's hook, run after ours, must not lead it past the proxy."""
    code = """
        say("ready"); listen()
        say(attempt(dial, SERVICE, 80))
        say(attempt(dial, SERVICE, 80))
    """
    with HttpServer() as backend:
        with start_exec(policy(http(SERVICE, 80)), workload(code, SERVICE=SERVICE)) as running:
            assert running.heard() == "ready"
            listener = listener_port(running)
            with translating(running.cgroup().parent, "connect4", listener, (LOCAL, backend.port)):
                assert running.ask() == "ECONNABORTED"
                assert running.heard() == "ECONNABORTED"
            assert set(running.wait().reasons()) == {"NOT_REDIRECTED"}
        assert backend.connections == []
