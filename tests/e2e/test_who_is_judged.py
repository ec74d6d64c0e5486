"""No way out of being judged: marks, raw sockets, inherited sockets, other cgroups, labels that select nothing."""

import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from harness import (
    HttpServer,
    TcpServer,
    UdpServer,
    cidr,
    closing_all,
    http,
    policy,
    relayed,
    run_exec,
    start_exec,
    workload,
)

from racecar.redirect.libbpf import open_pin
from racecar.redirect.scratch import bpf_call

pytestmark = [pytest.mark.root, pytest.mark.slow]

LOCAL = "127.0.0.1"
PROG_DETACH, CGROUP_INET_SOCK_CREATE = 9, 2
KEEP = ("--keep-privileges",)


# --- Marks -----------------------------------------------------------------------------------------------------------


def test_a_packet_mark_gives_nothing() -> None:
    """SO_MARK, SO_PRIORITY and the like are known to other proxies as the sign of their own sockets."""
    code = """
        def marked(kind=socket.SOCK_STREAM):
            s = socket.socket(socket.AF_INET, kind)
            s.settimeout(10)
            for option, value in ((36, mark), (12, 7), (75, 1)):  # SO_MARK, SO_PRIORITY, SO_RCVMARK
                attempt(s.setsockopt, socket.SOL_SOCKET, option, struct.pack("=I", value))
            return s
        for mark in (0, 1, 0x539, 0x0A00, 0x0B00, 0x0200, 0xFFFF, 0xFFFFFFFF):
            s = marked()
            s.connect(("127.0.0.1", port))
            say(s.getsockopt(socket.SOL_SOCKET, 36) & 0xFFFFFFFF == mark,
                exchange(s, b"GET /secret HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")[:12],
                attempt(marked().connect, ("127.0.0.1", denied)),
                attempt(marked(socket.SOCK_DGRAM).sendto, b"leak", ("127.0.0.1", datagrams)))
    """
    with HttpServer() as server, TcpServer() as denied, UdpServer() as datagrams:
        argv = workload(code, port=server.port, denied=denied.port, datagrams=datagrams.port)
        result = run_exec(policy(http(LOCAL, server.port)), argv, extra=KEEP)
        assert result.said == [[True, "HTTP/1.1 403", "EPERM", "EPERM"]] * 8
        assert "".join(map(str, server.received)).count("/secret") == 0
        assert server.requests == []
        assert denied.connections == []
        assert datagrams.close() == []


# --- Raw and packet sockets ------------------------------------------------------------------------------------------

SOCKETS = """
        for family, kind, protocol in (
            (2, 3, 1), (2, 3, 6), (2, 3, 17), (2, 3, 255), (2, 3, 2), (10, 3, 58), (10, 3, 6), (10, 3, 255),
            (2, 3 | 0o2000000, 6), (17, 3, 0), (17, 2, 0), (17, 3, 0x0300), (2, 10, 0x0300), (44, 3, 0), (40, 1, 0)):
            say(attempt(socket.socket, family, kind, protocol))
"""


@pytest.mark.parametrize("extra", [(), KEEP])
def test_raw_and_packet_sockets_are_refused(extra: tuple[str, ...]) -> None:
    result = run_exec(policy(cidr(LOCAL, 1)), workload(SOCKETS), extra=extra)
    # AF_PACKET, SOCK_PACKET, AF_XDP and AF_VSOCK do not exist for a workload.
    assert result.said == ["EPERM"] * 9 + ["EAFNOSUPPORT"] * 6
    if extra:  # without capabilities the kernel refuses before the hook is asked
        assert result.reasons() == ["RAW_SOCKET"] * 9
        assert "refused a raw socket to python3" in result.stderr


RAW_SENDER = """
        say("ready"); listen()
        def checksum(data):
            data += b"\\0" * (len(data) % 2)
            total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
            while total >> 16: total = (total & 0xFFFF) + (total >> 16)
            return ~total & 0xFFFF
        def tcp(port, flags, data=b""):
            head = struct.pack("!HHIIBBHHH", 4242, port, 0x1ea4, 0, 5 << 4, flags, 1000, 0, 0)
            ends = socket.inet_aton("127.0.0.1") * 2
            whole = checksum(ends + struct.pack("!BBH", 0, 6, len(head + data)) + head + data)
            return head[:16] + struct.pack("!H", whole) + head[18:] + data
        def udp(port, data):
            return struct.pack("!HHHH", 4242, port, 8 + len(data), 0) + data
        raw = attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, 6)
        say(raw)
        if raw == "ok":
            s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 6)
            for port in ports:
                for flags in (2, 0x10, 0x18, 1, 4):
                    say(attempt(s.sendto, tcp(port, flags, b"leaked" if flags & 8 else b""), ("127.0.0.1", 0)))
            s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 17)
            say(attempt(s.sendto, udp(datagrams, b"judged by the table"), ("127.0.0.1", 0)))
            say(attempt(s.sendto, udp(denied, b"leaked"), ("127.0.0.1", 0)))
            s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 255)
            ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, 17, 0, *[socket.inet_aton("127.0.0.1")] * 2)
            say(attempt(s.sendto, ip + udp(denied, b"leaked"), ("127.0.0.1", 0)))
            options = struct.pack("!BBHHHBBH4s4s", 0x46, 0, 0, 0, 0, 64, 17, 0, *[socket.inet_aton("127.0.0.1")] * 2)
            say(attempt(s.sendto, options + b"\\1\\1\\1\\0" + udp(datagrams, b"leaked"), ("127.0.0.1", 0)))
            piece = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 0, 0, 1, 64, 17, 0, *[socket.inet_aton("127.0.0.1")] * 2)
            say(attempt(s.sendto, piece + b"leaked", ("127.0.0.1", 0)))
"""


def test_packets_of_a_raw_socket_are_stopped_by_the_gate_alone() -> None:
    """With the hook that refuses raw sockets taken away: a private TCP stack gets no segment out, not even where a rule
    allows a connection; other protocols are judged by the table.
    """
    sniffer = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
    native, relay, closed = TcpServer(), TcpServer(), TcpServer()
    allowed, denied = UdpServer(), UdpServer()
    with closing_all(sniffer, native, relay, closed, allowed, denied):
        ports = native.port, relay.port, closed.port
        rules = policy(cidr(LOCAL, native.port), relayed(LOCAL, relay.port), cidr(LOCAL, allowed.port, protocol="UDP"))
        argv = workload(RAW_SENDER, ports=ports, datagrams=allowed.port, denied=denied.port)
        with start_exec(rules, argv, extra=KEEP) as running:
            assert running.heard() == "ready"
            program = open_pin(running.pins / "prog_rc_sock_create")
            cgroup = os.open(running.cgroup(), os.O_RDONLY)
            bpf_call(PROG_DETACH, struct.pack("=III", cgroup, program, CGROUP_INET_SOCK_CREATE))
            os.close(program)
            os.close(cgroup)
            assert running.ask() == "ok"
            assert [running.heard() for _ in range(3 * 5)] == ["EPERM"] * 15
            assert [running.heard() for _ in range(2)] == [27, "EPERM"]
            assert [running.heard() for _ in range(3)] == ["EPERM"] * 3
            reasons = running.wait().reasons()
        assert reasons[:15] == ["UNKNOWN_SOCKET"] * 15
        assert reasons[15:] == ["DEFAULT_DENY", "DEFAULT_DENY", "IP_OPTIONS", "FRAGMENT"]
        sniffer.setblocking(False)
        assert not [packet for packet in everything(sniffer) if struct.pack("!I", 0x1EA4) in packet]
        assert allowed.close() == [b"judged by the table"]
        assert denied.close() == []


def everything(sniffer: socket.socket) -> list[bytes]:
    packets = []
    while True:
        try:
            packets.append(sniffer.recv(65536))
        except BlockingIOError:
            return packets


def test_a_connection_made_by_repair_has_no_handshake_and_shows_the_server_nothing() -> None:
    """TCP_REPAIR makes an established socket out of nothing; it is judged like any other, and its bytes are reset."""
    code = """
        def repaired(place):
            s = socket.socket()
            s.settimeout(10)
            s.setsockopt(socket.IPPROTO_TCP, 19, 1)  # TCP_REPAIR
            told = attempt(s.connect, ("127.0.0.1", place))
            s.setsockopt(socket.IPPROTO_TCP, 19, 0)
            return [told, told if told != "ok" else exchange(s, b"GET /secret HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")]
        say(repaired(port)); say(repaired(denied))
    """
    with HttpServer() as server, TcpServer() as denied:
        argv = workload(code, port=server.port, denied=denied.port)
        result = run_exec(policy(http(LOCAL, server.port)), argv, extra=KEEP)
        assert result.said == [["ok", "ECONNRESET"], ["EPERM", "EPERM"]]
        assert b"".join(server.received) == b""
        assert denied.connections == []


# --- What a command is born with -------------------------------------------------------------------------------------


def test_sockets_made_outside_do_not_reach_the_command() -> None:
    """They belong to the cgroup that made them: no hook would judge them."""
    code = """
        say([name for name in os.listdir("/proc/self/fd") if name not in "012" and
             os.path.exists("/proc/self/fd/" + name)])
        for fd in given:
            say(attempt(os.write, fd, b"leak"))
    """
    with TcpServer() as server, socket.socket() as connected, socket.socket() as fresh, UdpServer() as datagrams:
        connected.connect((LOCAL, server.port))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as dialled:
            dialled.connect((LOCAL, datagrams.port))
            given = (connected.fileno(), fresh.fileno(), dialled.fileno())
            result = run_exec(policy(cidr(LOCAL, 1)), workload(code, given=given), pass_fds=given)
        assert result.said == [[], "EBADF", "EBADF", "EBADF"]
        connected.close()
        assert [one.data for one in server.wait_ended()] == [b""]
        assert datagrams.close() == []


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_network_socket_as_standard_stream_is_refused(stream: str, tmp_path: Path) -> None:
    with TcpServer() as server, socket.create_connection((LOCAL, server.port)) as given:
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | {stream: given}
        argv = [sys.executable, "-m", "racecar.proxy.cli", "exec", "--policy", str(policy(cidr(LOCAL, 1)))]
        command = workload(f"os.write({['stdin', 'stdout', 'stderr'].index(stream)}, b'leak')")
        done = subprocess.run([*argv, "--labels", "app=client", "--", *command], **streams, check=False)  # type: ignore[call-overload]
        assert done.returncode == 125
        given.close()
        [connection] = server.wait_ended()
        assert b"leak" not in connection.data


def test_the_command_and_its_children_cannot_leave_their_cgroup() -> None:
    code = """
        say("ready")
        parent, proxy = json.loads(listen())
        def join(place):
            return [attempt(lambda: os.write(os.open(f"{place}/{name}", os.O_WRONLY), b"0"))
                    for name in ("cgroup.procs", "cgroup.threads")]
        say(join(parent), join(proxy), join(os.path.dirname(parent)), attempt(os.mkdir, f"{parent}/app/mine"))
        libc.unshare(0x10000000 | 0x02000000 | 0x00020000)  # user, cgroup and mount namespace: root in there
        say(join(parent), join(proxy))
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                say(attempt(dial, "127.0.0.1", denied))
                say(exchange(dial("127.0.0.1", port), b"GET /secret HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")[:12])
            os._exit(0)
        listen()
    """
    refused = ["EACCES", "EACCES"]
    with HttpServer() as server, TcpServer() as denied:
        argv = workload(code, port=server.port, denied=denied.port)
        with start_exec(policy(http(LOCAL, server.port)), argv) as running:
            assert running.heard() == "ready"
            parent = running.cgroup().parent
            places = json.dumps([str(parent), str(running.cgroup("proxy"))])
            assert running.ask(places) == [refused, refused, refused, "EACCES"]
            assert running.heard() == [refused, refused]
            assert running.heard() == "EPERM"
            assert running.heard() == "HTTP/1.1 403"
            running.wait()
        assert server.requests == []
        assert denied.connections == []


# --- Nothing that enforces -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", ["app=clent", "role=client", None])
def test_a_command_that_no_policy_selects_is_not_started(labels: str | None) -> None:
    with TcpServer() as server:
        argv = workload('say("started"); dial("127.0.0.1", port)', port=server.port)
        result = run_exec(policy(cidr(LOCAL, 1)), argv, labels=labels)
        assert (result.code, result.stdout) == (125, "")
        assert "no policy selects this command" in result.stderr
        assert "--allow-unselected" in result.stderr
        assert server.connections == []


def test_a_namespace_of_another_name_selects_nothing() -> None:
    result = run_exec(policy(cidr(LOCAL, 1)), workload('say("started")'), extra=("--namespace", "other"))
    assert (result.code, result.stdout) == (125, "")
    assert "namespace: other" in result.stderr


def test_an_unselected_command_runs_when_it_is_asked_for() -> None:
    with TcpServer() as server:
        argv = workload('say(exchange(dial("127.0.0.1", port), b"hello"))', port=server.port)
        result = run_exec(policy(cidr(LOCAL, 1)), argv, labels="app=other", extra=("--allow-unselected",))
        assert (result.code, result.said) == (0, [""])
        assert [one.data for one in server.wait_ended()] == [b"hello"]


@pytest.mark.parametrize("content", [None, "", "spec: [", "kind: CiliumNetworkPolicy\napiVersion: cilium.io/v2\n"])
def test_with_a_policy_that_does_not_load_the_command_is_not_started(content: str | None, tmp_path: Path) -> None:
    broken = tmp_path / "policy.yaml"
    if content is not None:
        broken.write_text(content)
    argv = workload('say("started")')
    alone = run_exec(broken, argv)
    assert (alone.code, alone.stdout) == (125, "")
    if content != "":
        beside = run_exec([policy(cidr(LOCAL, 1)), broken], argv)
        assert (beside.code, beside.stdout) == (125, "")
        assert str(broken) in beside.stderr
