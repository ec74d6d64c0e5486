"""No byte before its verdict: urgent data, data with the SYN, sockets that cannot hold a record, states of TCP."""

import ctypes
import errno
import os
import socket
from collections.abc import Callable
from typing import Any

import pytest
from foreign import losing_packets
from harness import (
    EchoServer,
    HttpServer,
    Received,
    Running,
    TcpServer,
    bound,
    cidr,
    http,
    policy,
    relayed,
    run_exec,
    start_exec,
    workload,
)

from racecar.redirect.abi import WORKLOAD_STRUCT, ConnectionRecord, ConnectionState
from racecar.redirect.instance import ConnectionRecords
from racecar.redirect.libbpf import Map, open_pin

pytestmark = [pytest.mark.root, pytest.mark.slow]

PIDFD_GETFD = 438
LOCAL = "127.0.0.1"


class HalfCloser(TcpServer):
    """Ends its own direction at the first bytes and goes on reading."""

    def _serve(self, accepted: socket.socket, connection: Received) -> None:
        self.first = accepted
        super()._serve(accepted, connection)

    def answer(self, connection: Received, data: bytes) -> bytes:
        self.first.shutdown(socket.SHUT_WR)
        return b""


# --- Urgent data (MSG_OOB) -------------------------------------------------------------------------------------------


def test_urgent_data_ends_a_relayed_connection_and_never_shifts_the_stream() -> None:
    code = """
        s = dial("127.0.0.1", port)
        s.sendall(b"abc")
        say(attempt(s.recv, 3))
        s.send(b"X", socket.MSG_OOB)
        say(attempt(s.recv, 1))
        say(attempt(s.send, b"def"))
        listen()
    """
    with (
        EchoServer() as server,
        start_exec(policy(relayed(LOCAL, server.port)), workload(code, port=server.port)) as running,
    ):
        assert [running.heard(), running.heard(), running.heard()] == ["abc", "ECONNABORTED", "EPIPE"]
        assert [(one.data, one.ended) for one in server.wait_ended()] == [(b"abc", "reset")]
        result = running.wait()
        assert "URGENT_DATA" in result.reasons()
        assert f"denied TCP 127.0.0.1:{server.port} to python3" in result.stderr
        assert "URGENT_DATA" in result.stderr


def test_urgent_data_in_a_body_never_becomes_the_head_of_a_request() -> None:
    """The urgent byte is counted by a judge that reads it and missing in what the server reads: framing shifts."""
    code = """
        s = dial("127.0.0.1", port)
        s.sendall(b"POST /jobs HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: 4\\r\\n\\r\\nab")
        s.send(b"X", socket.MSG_OOB)
        say(attempt(lambda: s.sendall(b"cGET /secret HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n") or s.recv(1)))
    """
    with HttpServer() as server:
        rules = http(LOCAL, server.port, calls=[("POST", "/jobs")])
        result = run_exec(policy(rules), workload(code, port=server.port))
        assert result.said == ["ECONNABORTED"]
        [connection] = server.wait_ended()
        assert connection.data.partition(b"\r\n\r\n")[2] in (b"", b"a", b"ab")
        assert ("GET", "/secret") not in server.requests
        assert "URGENT_DATA" in result.reasons()


def test_urgent_data_of_a_native_connection_is_its_own_business() -> None:
    code = """
        s = dial("127.0.0.1", port)
        s.sendall(b"abc"); s.send(b"X", socket.MSG_OOB); s.sendall(b"def")
        say(exchange(s, b""))
    """
    with TcpServer() as server:
        result = run_exec(policy(cidr(LOCAL, server.port)), workload(code, port=server.port))
        assert result.said == [""]
        assert [one.data for one in server.wait_ended()] == [b"abcdef"]
        assert result.reasons() == []


# --- Data before there is a connection -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["relayed", "http", "denied"])
@pytest.mark.parametrize(("address", "server_address"), [(LOCAL, LOCAL), ("::1", "::1"), ("::ffff:127.0.0.1", LOCAL)])
def test_fast_open_to_what_the_proxy_must_read_is_refused(kind: str, address: str, server_address: str) -> None:
    code = """
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        s = socket.socket(family)
        say(attempt(s.sendto, b"GET /secret HTTP/1.1\\r\\n\\r\\n", socket.MSG_FASTOPEN, (address, port)))
        say(attempt(s.send, b"GET /secret HTTP/1.1\\r\\n\\r\\n"))
        s = socket.socket(family)
        s.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
        say(attempt(s.connect, (address, port)))
        say(attempt(s.send, b"GET /secret HTTP/1.1\\r\\n\\r\\n"))
    """
    with HttpServer(server_address) as server:
        port = server.port
        rules = {"relayed": relayed(server_address, port), "http": http(server_address, port)}
        result = run_exec(policy(rules.get(kind, cidr(server_address, 1))), workload(code, port=port, address=address))
        assert result.said == ["EPERM", "EPIPE", "EPERM", "EPIPE"]
        assert server.connections == []
        assert result.reasons() == (["DEFAULT_DENY"] if kind == "denied" else ["FAST_OPEN"]) * 2


def test_fast_open_to_a_native_destination_works() -> None:
    code = """
        s = socket.socket()
        say(attempt(s.sendto, b"hello", socket.MSG_FASTOPEN, ("127.0.0.1", port)))
        say(exchange(s, b" there"))
        s = socket.socket()
        s.setsockopt(socket.IPPROTO_TCP, 30, 1)
        say(attempt(s.connect, ("127.0.0.1", port)))
        say(exchange(s, b"again"))
    """
    with EchoServer() as server:
        result = run_exec(policy(cidr(LOCAL, server.port)), workload(code, port=server.port))
        assert result.said == [5, "hello there", "ok", "again"]
        assert [one.data for one in server.wait_ended(2)] == [b"hello there", b"again"]


def test_a_sender_that_waits_in_syn_sent_is_judged_like_any_other() -> None:
    """With the handshake delayed: the bytes are in the kernel before the connection has a route."""
    code = """
        say("ready"); listen()
        s = socket.socket()
        s.setblocking(False)
        say(attempt(s.connect, ("127.0.0.1", port)))
        s.setblocking(True)
        sender = threading.Thread(target=s.sendall, args=(b"GET /secret HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n",))
        sender.start()
        calls = {"x86_64": "44", "aarch64": "206"}  # sendto(2)
        while open(f"/proc/self/task/{sender.native_id}/syscall").read().split()[0] != calls[os.uname().machine]:
            pass
        say("sleeps in send"); listen()
        sender.join()
        say(attempt(s.recv, 65536)[:22])
        s.sendall(b"GET /jobs HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        say(attempt(s.recv, 65536)[:15])
    """
    with (
        HttpServer() as server,
        start_exec(policy(http(LOCAL, server.port)), workload(code, port=server.port)) as running,
    ):
        assert running.heard() == "ready"
        with losing_packets(running.cgroup()):
            assert running.ask() == "EINPROGRESS"
            assert running.heard() == "sleeps in send"
            assert server.connections == []
        assert running.ask() == "HTTP/1.1 403 Forbidden"
        assert running.heard() == "HTTP/1.1 200 OK"
        assert running.wait().reasons() == ["HTTP_NO_RULE"]
        assert server.requests == [("GET", "/jobs")]


# --- Sockets that cannot hold a record -------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [relayed, http, cidr])
def test_a_socket_whose_option_memory_is_full_is_refused(rule: Callable[..., dict[str, Any]]) -> None:
    """TCP_MD5SIG keys need no capability; when they fill the memory, no storage can be added to the socket."""
    code = """
        s = socket.socket()
        keys = 0
        while True:
            place = struct.pack("=H2sI120x", socket.AF_INET, b"\\0\\0", keys + 0x01000001)
            key = place + struct.pack("=BBHI80s", 0, 0, 1, 0, b"k")
            if attempt(s.setsockopt, socket.IPPROTO_TCP, 14, key) != "ok":
                break
            keys += 1
        say(keys > 100)
        say(attempt(s.connect, ("127.0.0.1", port)))
        say(attempt(s.send, b"GET /secret HTTP/1.1\\r\\n\\r\\n"))
    """
    with HttpServer() as server:
        result = run_exec(policy(rule(LOCAL, server.port)), workload(code, port=server.port))
        assert result.said == [True, "EPERM", "EPIPE"]
        assert server.connections == []
        assert result.reasons() == ["NO_STATE"]


def test_a_multipath_socket_goes_through_the_proxy() -> None:
    code = """
        s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
        say(attempt(s.connect, ("127.0.0.1", port)))
        for target in (b"/secret", b"/jobs"):
            s.sendall(b"GET " + target + b" HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
            say(attempt(s.recv, 65536)[:12])
    """
    with HttpServer() as server:
        result = run_exec(policy(http(LOCAL, server.port)), workload(code, port=server.port))
        assert result.said == ["ok", "HTTP/1.1 403", "HTTP/1.1 200"]
        assert server.requests == [("GET", "/jobs")]
        assert result.reasons() == ["HTTP_NO_RULE"]


@pytest.mark.parametrize("protocol", ["tls", "espintcp", "mptcp", "smc"])
def test_an_upper_layer_protocol_shows_the_server_nothing_unjudged(protocol: str) -> None:
    """TCP_ULP: what it makes of the bytes is what the proxy reads, or it is not there at all."""
    code = """
        s = dial("127.0.0.1", port)
        s.sendall(b"GET /jobs HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        s.recv(65536)
        if attempt(s.setsockopt, socket.IPPROTO_TCP, 31, name) == "ok":  # TCP_ULP
            key = struct.pack("=HH8s16s4s8s", 0x0303, 51, b"i" * 8, b"k" * 16, b"salt", b"s" * 8)
            attempt(s.setsockopt, 282, 1, key)  # SOL_TLS, TLS_TX, AES-GCM-128
        attempt(s.sendall, b"GET /secret HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        say(attempt(s.recv, 65536)[9:12])
    """
    with HttpServer() as server:
        argv = workload(code, port=server.port, name=protocol.encode())
        result = run_exec(policy(http(LOCAL, server.port)), argv)
        assert result.said[0] in ("403", "400", "")
        assert server.requests == [("GET", "/jobs")]
        assert [one.error for one in server.connections] == [""]


def test_with_no_room_for_its_record_a_connection_is_refused_and_not_passed() -> None:
    """As many connections on their way to the proxy as the workload may have; another workload's are its own."""
    code = """
        def call():
            try:
                s = dial("127.0.0.1", port)
                s.sendall(b"GET /jobs HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
                return s.recv(65536)[:12].decode()
            except OSError as failed:
                return errno.errorcode[failed.errno]
        while listen():
            say(call())
    """
    with HttpServer() as server:
        rules, argv = policy(http(LOCAL, server.port)), workload(code, port=server.port)
        with start_exec(rules, argv) as full, start_exec(rules, argv) as other:
            assert full.ask("call") == other.ask("call") == "HTTP/1.1 200"
            table = Map(open_pin(full.pins / "map_workloads"), WORKLOAD_STRUCT.size, "workloads")
            entry = table.get(bytes(4))
            assert entry is not None
            number, generation, enforce, audit, limit, pending = WORKLOAD_STRUCT.unpack(entry)
            assert (enforce, pending) == (1, 0)
            table.put(bytes(4), WORKLOAD_STRUCT.pack(number, generation, enforce, audit, limit, limit))
            assert full.ask("call") in ("ECONNABORTED", "ECONNRESET", "EPERM", "ECONNREFUSED")
            assert other.ask("call") == "HTTP/1.1 200"
            assert len(server.requests) == 3
            table.put(bytes(4), WORKLOAD_STRUCT.pack(number, generation, enforce, audit, limit, 0))
            assert full.ask("call") == "HTTP/1.1 200"
            os.close(table.fd)
            assert full.wait().reasons()[0] == "PENDING_LIMIT"
            assert other.wait().reasons() == []


# --- Sockets used again ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mapped", [False, True])
def test_a_socket_used_again_is_judged_anew(mapped: bool) -> None:
    """connect(AF_UNSPEC) ends a connection and keeps the socket, with its cookie and its storage."""
    code = """
        address = "::ffff:127.0.0.1" if mapped else "127.0.0.1"
        s = socket.socket(socket.AF_INET6 if mapped else socket.AF_INET)
        s.settimeout(10)
        def call(port, target):
            told = attempt(s.connect, (address, port))
            if told == "ok":
                s.sendall(b"GET " + target + b" HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
                told = s.recv(65536)[:12].decode()
                say(told, s.getpeername()[1] == port)
                libc.connect(s.fileno(), bytes(28), 28)
            else:
                say(told)
        for target in (b"/jobs", b"/secret"):
            call(native, target); call(read, target); call(denied, target); call(read, target); call(native, target)
    """
    with HttpServer() as native, HttpServer() as read, HttpServer() as denied:
        ports = {"native": native.port, "read": read.port, "denied": denied.port}
        rules = policy(cidr(LOCAL, native.port), http(LOCAL, read.port))
        result = run_exec(rules, workload(code, mapped=mapped, **ports))
        passed, refused = ["HTTP/1.1 200", True], ["HTTP/1.1 403", True]
        assert result.said[:5] == [passed, passed, "EPERM", passed, passed]
        assert result.said[5:] == [passed, refused, "EPERM", refused, passed]
        assert read.requests == [("GET", "/jobs")] * 2
        assert len(native.requests) == 4
        assert denied.connections == []


def test_a_mapped_socket_that_becomes_ipv4_is_judged_like_before() -> None:
    """IPV6_ADDRFORM changes the family under a connection."""
    code = """
        s = socket.socket(socket.AF_INET6)
        s.settimeout(10)
        s.connect(("::ffff:127.0.0.1", read))
        say(attempt(s.setsockopt, socket.IPPROTO_IPV6, 1, socket.AF_INET))
        for target in (b"/secret", b"/jobs"):
            s.sendall(b"GET " + target + b" HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
            say(s.recv(65536)[:12].decode())
        v4 = socket.socket(fileno=s.detach())
        say(v4.family == socket.AF_INET, v4.getpeername() == ("127.0.0.1", read))
        libc.connect(v4.fileno(), bytes(16), 16)
        say(attempt(v4.connect, ("127.0.0.1", denied)))
    """
    with HttpServer() as read, TcpServer() as denied:
        argv = workload(code, read=read.port, denied=denied.port)
        result = run_exec(policy(http(LOCAL, read.port)), argv)
        assert result.said == ["ok", "HTTP/1.1 403", "HTTP/1.1 200", [True, True], "EPERM"]
        assert read.requests == [("GET", "/jobs")]
        assert denied.connections == []


# --- States of TCP ---------------------------------------------------------------------------------------------------


def test_after_the_servers_end_a_connection_is_still_judged() -> None:
    """CLOSE_WAIT may send for ever."""
    code = """
        s = dial("127.0.0.1", port)
        s.sendall(b"one,")
        say(attempt(s.recv, 1))
        s.sendall(b"two")
        listen()
        s.send(b"X", socket.MSG_OOB)
        poller = select.poll(); poller.register(s, 0)
        while not poller.poll(10000)[0][1] & select.POLLERR: pass
        say(attempt(s.getsockopt, socket.SOL_SOCKET, socket.SO_ERROR)); listen()
    """
    with (
        HalfCloser() as server,
        start_exec(policy(relayed(LOCAL, server.port)), workload(code, port=server.port)) as running,
    ):
        assert running.heard() == ""
        server.wait_for(lambda all_: all_[0].data == b"one,two")
        assert running.ask() == errno.ECONNABORTED
        assert [one.data for one in server.wait_ended()] == [b"one,two"]
        assert running.wait().reasons()[0] == "URGENT_DATA"


def test_after_its_servers_end_a_request_is_still_judged() -> None:
    code = """
        s = dial("127.0.0.1", port)
        s.sendall(b"GET /jobs HTTP/1.0\\r\\nHost: a\\r\\n\\r\\n")
        answer = b""
        while piece := s.recv(65536): answer += piece
        say(answer[:12].decode())
        say(s.getsockopt(socket.IPPROTO_TCP, 11, 1)[0])  # TCP_INFO: the state
        attempt(s.sendall, b"GET /secret HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        attempt(s.sendall, b"GET /secret HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
    """
    with HttpServer() as server:
        result = run_exec(policy(http(LOCAL, server.port)), workload(code, port=server.port))
        assert result.said == ["HTTP/1.1 200", 8]
        assert server.requests == [("GET", "/jobs")]


def record_of(running: Running, fd: int) -> ConnectionRecord | None:
    """What the kernel's storage says of a descriptor of the workload, whose pid it has said."""
    pidfd = os.pidfd_open(int(running.heard()))
    socket_fd = ctypes.CDLL(None).syscall(PIDFD_GETFD, pidfd, fd, 0)
    records = open_pin(running.pins / "map_conns", read_only=True)
    try:
        return ConnectionRecords(records).lookup(socket_fd)
    finally:
        for opened in (pidfd, socket_fd, records):
            os.close(opened)


def test_a_connection_to_itself_is_classified_by_its_record() -> None:
    """The kernel reports it as accepted; as such no packet of it would be judged."""
    code = """
        s = socket.socket()
        os.dup2(s.fileno(), 50)
        s.bind(("127.0.0.1", port))
        say(attempt(s.connect, ("127.0.0.1", port)))
        s.sendall(b"me"); say(attempt(s.recv, 2))
        say(os.getpid()); listen()
        s.close(); os.close(50)
        s = socket.socket()
        s.bind(("127.0.0.1", denied))
        say(attempt(s.connect, ("127.0.0.1", denied)))
        s = socket.socket()
        s.bind(("127.0.0.1", read))
        say(attempt(exchange, s, b"me") if attempt(s.connect, ("127.0.0.1", read)) == "ok" else "refused")
    """
    with bound(LOCAL, socket.SOCK_STREAM) as a, bound(LOCAL, socket.SOCK_STREAM) as b, bound(LOCAL, 1) as c:
        port, denied, read = (one.getsockname()[1] for one in (a, b, c))
    rules = cidr(LOCAL, port), relayed(LOCAL, read)
    with start_exec(policy(*rules), workload(code, port=port, denied=denied, read=read)) as running:
        assert running.heard() == "ok"
        assert running.heard() == "me"
        record = record_of(running, 50)
        assert record is not None
        assert (record.state, record.port) == (ConnectionState.NATIVE, port)
        assert running.ask() == "EPERM"
        assert running.heard() in ("ECONNRESET", "refused", "EPIPE")
        running.wait()


def test_a_simultaneous_open_is_classified_by_its_record() -> None:
    code = """
        a, b = socket.socket(), socket.socket()
        os.dup2(a.fileno(), 50)
        for s, place in ((a, left), (b, right)):
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", place))
            s.setblocking(False)
        say("ready"); listen()
        say(attempt(a.connect, ("127.0.0.1", right)))
        say(attempt(b.connect, ("127.0.0.1", left)))
        listen()
        for s in (a, b): s.settimeout(10)
        a.sendall(b"hello"); say(attempt(b.recv, 5))
        say(os.getpid()); listen()
    """
    with bound(LOCAL, socket.SOCK_STREAM) as one, bound(LOCAL, socket.SOCK_STREAM) as two:
        left, right = one.getsockname()[1], two.getsockname()[1]
    with start_exec(policy(cidr(LOCAL, left, right)), workload(code, left=left, right=right)) as running:
        assert running.heard() == "ready"
        with losing_packets(running.cgroup()):
            assert running.ask() == "EINPROGRESS"
            assert running.heard() == "EINPROGRESS"
        assert running.ask() == "hello"
        record = record_of(running, 50)
        assert record is not None
        assert (record.state, record.port) == (ConnectionState.NATIVE, right)
        running.tell()
        running.wait()
