"""Whatever name an address goes by, it is judged as the address that the kernel dials, and the caller sees that one."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from calls import curling, host
from harness import CanCall, EchoServer, HttpServer, TcpServer, cidr, http, policy, relayed, run_exec, workload

pytestmark = [pytest.mark.root, pytest.mark.slow]

CURL_REFUSED = 7  # CURLE_COULDNT_CONNECT


@dataclass
class Site:
    """One server of each kind on one address, and the policy that tells them apart."""

    address: str
    api: HttpServer
    relay: EchoServer
    native: EchoServer
    closed: TcpServer

    @property
    def rules(self) -> list[dict[str, Any]]:
        return [
            http(self.address, self.api.port),
            relayed(self.address, self.relay.port),
            cidr(self.address, self.native.port),
        ]

    @property
    def ports(self) -> dict[str, int]:
        return {name: getattr(self, name).port for name in ("api", "relay", "native", "closed")}


@contextlib.contextmanager
def site(address: str, netns: CanCall | None = None) -> Iterator[Site]:
    with (
        HttpServer(address, netns) as api,
        EchoServer(address, netns) as relay,
        EchoServer(address, netns) as native,
        TcpServer(address, netns) as closed,
    ):
        yield Site(address, api, relay, native, closed)


CALLS = """
    base = "http://" + dialled + ":"
    say(curl(base + f"{api}/jobs"))
    say(curl(base + f"{api}/applicants"))
    say(curl(base + f"{closed}/jobs"))
    for port in (relay, native):
        s = dial(address, port)
        say(s.getpeername()[:2])
        say(exchange(s, b"hello"))
    say(attempt(dial, address, closed))
"""


def check_calls(site: Site, dialled: str, shown: str, **options: Any) -> Any:
    """Make one call of each kind to `dialled`; `shown` is what getpeername must say."""
    argv = curling(CALLS.replace("\n    ", "\n"), dialled=host(dialled), address=dialled, **site.ports)
    result = run_exec(policy(*site.rules), argv, **options)
    assert result.code == 0, result.stderr
    allowed, forbidden, refused, *raw = result.said
    assert allowed == {"exit": 0, "status": 200, "peer": [shown, site.api.port], "body": "/jobs"}
    assert (forbidden["exit"], forbidden["status"]) == (0, 403)
    assert "default deny" in forbidden["body"]
    assert (refused["exit"], refused["status"]) == (CURL_REFUSED, 0)
    assert raw == [[shown, site.relay.port], "hello", [shown, site.native.port], "hello", "EPERM"]
    assert site.api.requests == [("GET", "/jobs")]
    assert site.api.connections[1].data == b""
    assert site.relay.received == [b"hello"]
    assert site.native.received == [b"hello"]
    assert site.closed.connections == []
    assert sorted(result.reasons()) == ["DEFAULT_DENY", "DEFAULT_DENY", "HTTP_NO_RULE"]
    return result


# dialled, where the server listens and what the policy names, what getpeername says
NAMES_OF_LOOPBACK = [
    ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
    ("127.9.8.7", "127.9.8.7", "127.9.8.7"),
    ("::1", "::1", "::1"),
    ("::ffff:127.0.0.1", "127.0.0.1", "::ffff:127.0.0.1"),
    ("0.0.0.0", "127.0.0.1", "127.0.0.1"),
    ("::", "::1", "::1"),
    ("::ffff:0.0.0.0", "127.0.0.1", "::ffff:127.0.0.1"),
]


@pytest.mark.parametrize(("dialled", "address", "shown"), NAMES_OF_LOOPBACK)
def test_every_name_of_loopback_is_judged_as_loopback(dialled: str, address: str, shown: str) -> None:
    with site(address) as there:
        check_calls(there, dialled, shown)


@pytest.mark.parametrize(
    ("dialled", "address"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("::ffff:127.0.0.1", "127.0.0.1")]
)
def test_no_name_of_loopback_is_a_way_round_a_policy_without_it(dialled: str, address: str) -> None:
    code = "say(attempt(dial, address, port))"
    with TcpServer(address) as server:
        allowed_elsewhere = cidr("198.51.100.1", server.port), cidr("2001:db8::1", server.port)
        result = run_exec(policy(*allowed_elsewhere), workload(code, address=dialled, port=server.port))
        assert result.said == ["EPERM"]
        assert server.connections == []
    assert result.flows[0]["reason"] == "DEFAULT_DENY"


# --- Two namespaces joined by a veth ---------------------------------------------------------------------------------

ACROSS = [
    ("10.99.0.2", "10.99.0.2", "10.99.0.2"),
    ("fd99::2", "fd99::2", "fd99::2"),
    ("::ffff:10.99.0.2", "10.99.0.2", "::ffff:10.99.0.2"),
]


@pytest.mark.parametrize(("dialled", "address", "shown"), ACROSS)
def test_a_server_in_another_namespace_is_reached_as_policy_says(
    netns_pair: Any, dialled: str, address: str, shown: str
) -> None:
    with site(address, netns_pair.server) as there:
        check_calls(there, dialled, shown, netns=netns_pair.client)
        client = "fd99::1" if ":" in address else "10.99.0.1"
        sources = {one.peer[0] for server in (there.api, there.relay, there.native) for one in server.connections}
        assert sources == {client}


@pytest.mark.parametrize(
    ("dialled", "address", "shown"),
    [("10.99.0.1", "10.99.0.1", "10.99.0.1"), ("fd99::1", "fd99::1", "fd99::1"), *NAMES_OF_LOOPBACK[4:6]],
)
def test_the_namespaces_own_addresses_are_judged_like_any(
    netns_pair: Any, dialled: str, address: str, shown: str
) -> None:
    with site(address, netns_pair.client) as there:
        check_calls(there, dialled, shown, netns=netns_pair.client)


def test_a_wide_cidr_does_not_open_the_namespaces_own_addresses(netns_pair: Any) -> None:
    code = """
        say(attempt(dial, "10.99.0.1", own))
        say(attempt(dial, "10.99.0.2", other))
    """
    with TcpServer("10.99.0.1", netns_pair.client) as own, EchoServer("10.99.0.2", netns_pair.server) as other:
        result = run_exec(
            policy(cidr("10.99.0.0/24")), workload(code, own=own.port, other=other.port), netns=netns_pair.client
        )
        assert result.said == ["EPERM", "ok"]
        assert own.connections == []
        assert len(other.connections) == 1


# --- Sockets bound to a source or a device ---------------------------------------------------------------------------


def test_a_bound_source_address_goes_through_the_proxy_and_stays_on_native_connections() -> None:
    code = """
        for port in (relay, native, closed):
            s = socket.socket()
            s.settimeout(10)
            s.bind(("127.0.0.5", 0))
            refused = attempt(s.connect, ("127.0.0.1", port))
            say(refused if refused != "ok" else exchange(s, b"hello"))
    """
    with site("127.0.0.1") as there:
        result = run_exec(policy(*there.rules), workload(code, **there.ports))
        assert result.said == ["hello", "hello", "EPERM"]
        assert there.relay.received == there.native.received == [b"hello"]
        assert there.relay.connections[0].peer[0] == "127.0.0.1"
        assert there.native.connections[0].peer[0] == "127.0.0.5"
        assert there.closed.connections == []


@pytest.mark.parametrize(("source", "address"), [("10.99.0.1", "10.99.0.2"), ("fd99::1", "fd99::2")])
def test_a_socket_bound_to_the_veths_address_is_relayed_too(netns_pair: Any, source: str, address: str) -> None:
    code = """
        for port in (relay, native):
            s = socket.socket(socket.AF_INET6 if ":" in source else socket.AF_INET)
            s.settimeout(10)
            s.bind((source, 0))
            s.connect((address, port))
            say(s.getpeername()[0], exchange(s, b"hello"))
    """
    with site(address, netns_pair.server) as there:
        argv = workload(code, source=source, address=address, **there.ports)
        result = run_exec(policy(*there.rules), argv, netns=netns_pair.client)
        assert result.said == [[address, "hello"], [address, "hello"]]
        assert there.relay.received == there.native.received == [b"hello"]


def test_the_unspecified_address_from_a_bound_socket_is_judged_as_the_address_it_is_bound_to() -> None:
    code = """
        s = socket.socket()
        s.bind(("127.0.0.5", 0))
        say(attempt(s.connect, ("0.0.0.0", port)))
    """
    with TcpServer("0.0.0.0") as server:
        result = run_exec(policy(cidr("127.0.0.1", server.port)), workload(code, port=server.port))
        assert result.said == ["EPERM"]
        assert server.connections == []
        assert result.flows[0]["destination"]["labels"] == ["reserved:host"]


def test_a_socket_bound_to_a_device_is_refused_where_the_proxy_would_have_to_read() -> None:
    code = """
        for port in (relay, api, native):
            s = socket.socket()
            s.settimeout(10)
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo")
            say(attempt(s.connect, ("127.0.0.1", port)))
    """
    with site("127.0.0.1") as there:
        result = run_exec(policy(*there.rules), workload(code, **there.ports))
        assert result.said == ["EPERM", "EPERM", "ok"]
        assert there.relay.connections == there.api.connections == []
        assert len(there.native.connections) == 1
    assert result.reasons() == ["BOUND_DEVICE", "BOUND_DEVICE"]


@contextlib.contextmanager
def wire_of(pair: Any, address: str = "127.0.0.1") -> Iterator[list[bytes]]:
    """What goes from the client's veth to `address`, as a neighbour sees who claims that address."""
    claim = ("neigh", "add", address, "lladdr", "02:00:00:00:00:01", "dev", pair.client.device)
    subprocess.run(["ip", "-n", pair.client.name, *claim], check=True)
    every_protocol = socket.htons(3)
    seen: list[bytes] = []
    with pair.server.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, every_protocol)) as wire:
        wire.setblocking(False)
        yield seen
        with contextlib.suppress(BlockingIOError):
            while True:
                frame = wire.recv(65536)
                if frame[12:14] == b"\x08\x00" and frame[30:34] == socket.inet_aton(address):
                    seen.append(frame)


def test_binding_a_judged_connection_to_a_device_afterwards_takes_no_byte_off_the_host(netns_pair: Any) -> None:
    """SO_BINDTODEVICE needs no capability and drops the cached route: packets for the proxy would go to the wire."""
    code = """
        s = socket.socket()
        s.settimeout(10)
        s.bind(("10.99.0.1", 0))
        s.connect(("10.99.0.2", relay))
        s.sendall(b"before")
        say(attempt(s.recv, 100))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
        say(attempt(lambda: s.sendall(b"SMUGGLED") or s.recv(100)))  # whichever comes first has the socket's error
    """
    device = netns_pair.client.device.encode()
    with site("10.99.0.2", netns_pair.server) as there, wire_of(netns_pair) as seen:
        argv = workload(code, device=device, relay=there.relay.port)
        result = run_exec(policy(*there.rules), argv, netns=netns_pair.client, extra=("--drain-timeout", "0"))
        assert result.said == ["before", "ECONNABORTED"]
        assert there.relay.received == [b"before"]
    assert seen == []
    assert result.reasons()[0] == "BOUND_DEVICE"


@pytest.mark.parametrize("own", ["127.0.0.1", "10.98.0.1"])
def test_what_is_allowed_on_the_hosts_own_address_does_not_leave_by_another_device(netns_pair: Any, own: str) -> None:
    if own != "127.0.0.1":
        subprocess.run(["ip", "-n", netns_pair.client.name, "addr", "add", f"{own}/32", "dev", "lo"], check=True)
    code = """
        s = socket.socket()
        s.bind(("10.99.0.1", 0))
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
        s.settimeout(10)
        say(attempt(s.connect, (own, 4444)))
        u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        out = struct.pack("=i4s4s", socket.if_nametoindex(device.decode()), socket.inet_aton("10.99.0.1"), b"")
        say(attempt(u.sendmsg, [b"SMUGGLED"], [(socket.IPPROTO_IP, 8, out)], 0, (own, 4444)))
    """
    rules = cidr(own, 4444), cidr(own, 4444, protocol="UDP")
    with wire_of(netns_pair, own) as seen:
        argv = workload(code, device=netns_pair.client.device.encode(), own=own)
        result = run_exec(policy(*rules), argv, netns=netns_pair.client)
        assert result.said == ["ECONNABORTED", "EPERM"]
    assert seen == []
    assert result.reasons() == ["BOUND_DEVICE", "BOUND_DEVICE"]
