"""The redirect target is the proxy's alone: while it lives, stands still or is gone, and whoever else dials it."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator

import pytest
from harness import (
    HttpServer,
    Running,
    TcpServer,
    cidr,
    http,
    listener_port,
    policy,
    relayed,
    start_exec,
    wait_until,
    workload,
)

from racecar.redirect.abi import WORKLOAD_STRUCT
from racecar.redirect.libbpf import Map, open_pin

pytestmark = [pytest.mark.root, pytest.mark.slow]

LOCAL = "127.0.0.1"
FAMILIES = [(LOCAL, socket.AF_INET), ("::1", socket.AF_INET6)]

# One call a line: what the workload was told.
CALLER = """
        say("ready")
        while target := listen():
            try:
                s = dial(address, port)
                s.sendall(b"GET " + target.encode() + b" HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
                say(s.recv(65536)[:12].decode())
            except OSError as failed:
                say(errno.errorcode[failed.errno])
"""


def stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] == "T"


@contextlib.contextmanager
def standing_still(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: stopped(pid), "the process stands still")
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def is_gone(pid: int) -> bool:
    """Dead, if not yet waited for."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@contextlib.contextmanager
def without_proxy(running: Running) -> Iterator[None]:
    """The proxy killed, and the loader kept from starting another until the block's end."""
    worker = running.worker_pid
    with standing_still(running.pid):
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: is_gone(worker), "the proxy is dead")
        yield
    running.wait_for_other_worker(worker)


# --- No proxy --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("address", "family"), FAMILIES)
def test_while_the_proxy_is_gone_calls_are_refused_and_its_port_is_nobodys(
    address: str, family: socket.AddressFamily
) -> None:
    """Whoever binds the port meanwhile, as any user, receives nothing of the workload."""
    with (
        HttpServer(address) as server,
        start_exec(policy(http(address, server.port)), workload(CALLER, address=address, port=server.port)) as running,
    ):
        assert running.heard() == "ready"
        assert running.ask("/jobs") == "HTTP/1.1 200"
        port = listener_port(running, family)
        with without_proxy(running):
            assert running.ask("/jobs") == "ECONNREFUSED"
            with TcpServer(address, port=port) as squatter:
                assert squatter.port == port
                assert running.ask("/jobs") == "ECONNREFUSED"
                assert running.ask("/jobs") == "ECONNREFUSED"
                assert squatter.connections == []
            assert server.requests == [("GET", "/jobs")]
        wait_until(lambda: running.ask("/jobs") == "HTTP/1.1 200", "the next proxy serves")
        assert set(server.requests) == {("GET", "/jobs")}
        running.wait()


def test_a_workload_that_squats_the_port_itself_receives_nothing() -> None:
    """It may bind the port, and be reached by others there only by its other addresses."""
    code = CALLER.replace(
        'say("ready")',
        """
        squatter = socket.socket()
        say("ready")
        place = int(listen())
        say(attempt(squatter.bind, ("127.0.0.1", place)), attempt(squatter.listen))
        squatter.setblocking(False)
    """,
    ).replace(
        "say(errno.errorcode[failed.errno])",
        """
                say(errno.errorcode[failed.errno])
                say(attempt(lambda: squatter.accept() and "accepted"))
    """.rstrip(),
    )
    with (
        HttpServer() as server,
        start_exec(policy(http(LOCAL, server.port)), workload(code, address=LOCAL, port=server.port)) as running,
    ):
        assert running.heard() == "ready"
        port = listener_port(running)
        with without_proxy(running):
            assert running.ask(str(port)) == ["ok", "ok"]
            assert running.ask("/jobs") == "ECONNREFUSED"
            assert running.heard() == "EAGAIN"
        running.stop()
        assert server.connections == []


def test_a_connection_through_a_killed_proxy_is_reset_and_what_it_held_back_is_lost() -> None:
    code = """
        s = dial("127.0.0.1", port)
        s.sendall(b"one,"); say("sent")
        listen()
        say(attempt(s.recv, 1)); say(attempt(s.sendall, b"two"))
        say(attempt(dial, "127.0.0.1", port))
        listen()
    """
    with (
        TcpServer() as server,
        start_exec(policy(relayed(LOCAL, server.port)), workload(code, port=server.port)) as running,
    ):
        assert running.heard() == "sent"
        server.wait_for(lambda all_: bool(all_) and all_[0].data == b"one,")
        with without_proxy(running):
            assert running.ask() == "ECONNRESET"
            assert running.heard() == "EPIPE"
            assert running.heard() == "ECONNREFUSED"
            assert [one.data for one in server.wait_ended()] == [b"one,"]
        running.stop()


def test_while_everything_of_racecar_stands_still_nothing_is_passed_natively() -> None:
    """Neither what the proxy must read nor what is denied; what is native goes on."""
    code = """
        say("ready"); listen()
        s = dial("127.0.0.1", port)
        s.sendall(b"GET /secret HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        say(attempt(dial, "127.0.0.1", denied))
        say(exchange(dial("127.0.0.1", native), b"hello"))
        listen()
        say(attempt(s.recv, 65536)[:12])
    """
    with HttpServer() as server, TcpServer() as denied, TcpServer() as native:
        rules = policy(http(LOCAL, server.port), cidr(LOCAL, native.port))
        argv = workload(code, port=server.port, denied=denied.port, native=native.port)
        with start_exec(rules, argv) as running:
            assert running.heard() == "ready"
            with standing_still(running.pid), standing_still(running.worker_pid):
                assert running.ask() == "EPERM"
                assert running.heard() == ""
                assert server.connections == denied.connections == []
            assert running.ask() == "HTTP/1.1 403"
            running.wait()
        assert server.requests == []
        assert native.received == [b"hello"]


def test_a_signal_that_the_command_ignores_ends_no_enforcement() -> None:
    code = (
        """
        import signal
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP): signal.signal(number, lambda *_: say("ignored"))
        """
        + CALLER
    )
    with (
        HttpServer() as server,
        start_exec(policy(http(LOCAL, server.port)), workload(code, address=LOCAL, port=server.port)) as running,
    ):
        assert running.heard() == "ready"
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(running.pid, number)
            assert running.heard() == "ignored"
            assert running.ask("/secret") == "HTTP/1.1 403"
            assert running.ask("/jobs") == "HTTP/1.1 200"
        running.wait()
        assert server.requests == [("GET", "/jobs")] * 3


def test_while_the_proxy_stands_still_its_port_cannot_be_taken() -> None:
    with (
        HttpServer() as server,
        start_exec(policy(http(LOCAL, server.port)), workload(CALLER, address=LOCAL, port=server.port)) as running,
    ):
        assert running.heard() == "ready"
        port, worker = listener_port(running), running.worker_pid
        with standing_still(worker):
            for address in (LOCAL, "0.0.0.0"):
                with socket.socket() as squatter:
                    squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                    with pytest.raises(OSError, match="Address already in use"):
                        squatter.bind((address, port))
            running.tell("/jobs")
        assert running.heard() == "HTTP/1.1 200"
        running.wait()
        assert server.requests == [("GET", "/jobs")]


# --- Who else dials it -----------------------------------------------------------------------------------------------


def is_reset(address: str, port: int) -> bool:
    """Dial as a process that no policy covers and call; True if nothing came back but a reset."""
    try:
        with socket.create_connection((address, port), timeout=10) as dialled:
            dialled.sendall(b"GET /jobs HTTP/1.1\r\nHost: a\r\n\r\n")
            dialled.recv(1)
            return False
    except (BrokenPipeError, ConnectionResetError):
        return True


@pytest.mark.parametrize(("address", "family"), FAMILIES)
@pytest.mark.parametrize("rule", [http, relayed])
def test_a_stranger_who_dials_the_listener_is_reset(address: str, family: socket.AddressFamily, rule: object) -> None:
    assert callable(rule)
    with (
        HttpServer(address) as server,
        start_exec(policy(rule(address, server.port)), workload(CALLER, address=address, port=server.port)) as running,
    ):
        assert running.heard() == "ready"
        assert running.ask("/jobs") == "HTTP/1.1 200"
        assert is_reset(address, listener_port(running, family))
        assert running.ask("/jobs") == "HTTP/1.1 200"
        result = running.wait()
        assert result.reasons() == ["NO_RECORD"]
        assert len(server.connections) == 2


def test_a_workload_cannot_dial_its_own_proxy() -> None:
    code = """
        say("ready")
        place = int(listen())
        for name in ("127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0"): say(attempt(dial, name, place))
        say(attempt(dial, "::1", int(listen())))
    """
    rules = policy(cidr(LOCAL), cidr("::1"))
    with start_exec([rules, policy(relayed("10.99.0.9", 1), name="other")], workload(code)) as running:
        assert running.heard() == "ready"
        running.tell(str(listener_port(running)))
        assert [running.heard() for _ in range(3)] == ["EPERM"] * 3
        assert running.ask(str(listener_port(running, socket.AF_INET6))) == "EPERM"
        assert running.wait().reasons() == ["PROXY_ADDRESS"] * 4


def test_a_workload_that_dials_anothers_proxy_gets_nothing_in_its_name() -> None:
    """Its rules allow the whole of 127.0.0.1; the other proxy knows no record of this connection."""
    with HttpServer() as server:
        victim_rules = policy(http(LOCAL, server.port), name="victim")
        with (
            start_exec(victim_rules, workload(CALLER, address=LOCAL, port=server.port)) as victim,
            start_exec(policy(cidr(LOCAL)), workload(CALLER, address=LOCAL, port=listener_port_of(victim))) as other,
        ):
            assert other.heard() == "ready"
            assert other.ask("/jobs") in ("ECONNRESET", "EPIPE")
            assert victim.ask("/jobs") == "HTTP/1.1 200"
            other.wait()
            assert victim.wait().reasons() == ["NO_RECORD"]
        assert server.requests == [("GET", "/jobs")] * 2


def listener_port_of(running: Running) -> int:
    """Of a proxy that has served a call."""
    assert running.heard() == "ready"
    assert running.ask("/jobs") == "HTTP/1.1 200"
    return listener_port(running)


def test_a_tuple_that_is_used_again_gives_no_record_to_its_next_owner() -> None:
    """Sent and reset before the proxy accepted; then a stranger takes the same addresses and ports."""
    code = """
        say("ready"); listen()
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        s.bind(("127.0.0.1", 0))
        s.connect(("127.0.0.1", port))
        own = s.getsockname()[1]
        s.sendall(b"GET /jobs HTTP/1.1\\r\\nHost: first\\r\\n\\r\\n")
        s.close()
        say(own); listen()
    """
    with (
        HttpServer() as server,
        start_exec(policy(http(LOCAL, server.port)), workload(code, port=server.port)) as running,
    ):
        assert running.heard() == "ready"
        port = listener_port(running)
        with standing_still(running.worker_pid):
            own = running.ask()
            stranger = socket.socket()
            stranger.settimeout(10)
            stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            stranger.bind((LOCAL, own))
            stranger.connect((LOCAL, port))
            stranger.sendall(b"GET /jobs HTTP/1.1\r\nHost: stranger\r\n\r\n")
        with stranger, pytest.raises(ConnectionResetError):
            stranger.recv(1)
        result = running.wait()
        assert "NO_RECORD" in result.reasons()
        assert b"stranger" not in b"".join(server.received)


def test_a_record_does_not_outlive_a_connection_that_was_never_accepted() -> None:
    """The table of connections on their way is empty after each of them, however it ended."""
    code = """
        say("ready")
        while listen():
            for _ in range(50):
                s = socket.socket()
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                s.connect(("127.0.0.1", port))
                s.close()
            say("done")
    """
    with (
        HttpServer() as server,
        start_exec(policy(http(LOCAL, server.port)), workload(code, port=server.port)) as running,
    ):
        assert running.heard() == "ready"
        with standing_still(running.worker_pid):
            assert running.ask("go") == "done"
            table = Map(open_pin(running.pins / "map_workloads"), WORKLOAD_STRUCT.size, "workloads")
            entry = table.get(bytes(4))
            os.close(table.fd)
            assert entry is not None
            assert WORKLOAD_STRUCT.unpack(entry)[-1] == 0
        running.stop()
        assert b"".join(server.received) == b""
