"""`racecar run --no-bpf` as its users have it: the real program, real sockets, signals, exit codes and messages."""

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE_S = 30.0
RACECAR = (sys.executable, "-W", "error", "-m", "racecar.proxy.cli")
SELECTED = ("--labels", "app=tweeter")
GET = b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
HTTP_RULES = 'rules: {http: [{method: GET, path: "/jobs"}]}'

pytestmark = pytest.mark.slow


def egress(port: int, *, cidr: str = "127.0.0.1/32", rules: str = HTTP_RULES, more: str = "") -> str:
    return f"""\
apiVersion: racecar.io/v1
kind: RacecarPolicy
metadata: {{name: tweeter}}
spec:
  endpointSelector: {{matchLabels: {{app: tweeter}}}}
  {more}
  egress:
  - toCIDR: ["{cidr}"]
    toPorts:
    - ports: [{{port: "{port}", protocol: TCP}}]
      {rules}
"""


def ingress(port: int, *, cidr: str = "127.0.0.2/32", rules: str = HTTP_RULES) -> str:
    return egress(port, cidr=cidr, rules=rules).replace("egress", "ingress").replace("toCIDR", "fromCIDR")


class Run:
    """A running `racecar run`. Its stderr is collected as it comes."""

    def __init__(self, *arguments: str | Path, stdout: int | None = subprocess.DEVNULL) -> None:
        self.process = subprocess.Popen(
            [*RACECAR, "run", "--no-bpf", *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._has_ended = False
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def line(self, pattern: str, count: int = 1) -> re.Match[str]:
        """The `count`-th line that matches, as soon as it is there."""

        def found() -> list[re.Match[str]]:
            return [match for text in self.lines if (match := re.search(pattern, text))]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= count or self._has_ended, PATIENCE_S)
            assert len(found()) >= count, self.lines
            return found()[count - 1]

    def dial(self, source: str = "") -> socket.socket:
        host, port = self.line(r"racecar: listening on (.+):(\d+)$").groups()
        client = socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S, (source, 0) if source else None)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def workers(self) -> list[int]:
        self.line("listening on")
        pid = self.process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def ended(self) -> int:
        """The exit code, once all of it has ended."""
        code = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.ended()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Pytest's own lies below directories whose owners policy files may not have."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def origin() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.settimeout(PATIENCE_S)
        yield listener


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., Run]]:
    """Start with a policy and where its upstream is."""
    runs: list[Run] = []

    def begin(policy: str, upstream: socket.socket, *options: str | Path, **keywords: Any) -> Run:
        path = folder / f"{len(runs)}.yaml"
        path.write_text(policy)
        host, port = upstream.getsockname()[:2]
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        listen = () if "--listen" in options else ("--listen", "127.0.0.1:0")
        run = Run(*listen, "--upstream", where, "--policy", path, *SELECTED, *options, **keywords)
        runs.append(run)
        return run

    yield begin
    for run in runs:
        run.stop()


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part, data
        data += part
    return data


def read_answer(sock: socket.socket) -> bytes:
    """One answer that has a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(4096)
        assert part, data
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length is not None
    return data + read(sock, int(length[1]) - len(body))


def is_reset(sock: socket.socket) -> bool:
    try:
        assert sock.recv(4096) == b"", "there is more to come"
    except ConnectionResetError:
        return True
    return False


def is_denied(run: Run, source: str = "") -> bool:
    """True if a connection is reset; that may come before connect(2) has returned."""
    try:
        with run.dial(source) as client:
            return is_reset(client)
    except ConnectionResetError:
        return True


@contextlib.contextmanager
def serving(origin: socket.socket) -> Iterator[None]:
    """Answer every request on every connection meanwhile."""
    servers: list[socket.socket] = []

    def answer(server: socket.socket) -> None:
        with server, contextlib.suppress(OSError):
            tail = b""
            while data := server.recv(65536):
                tail = (tail + data)[-4:]
                if tail == b"\r\n\r\n" or data == b"anything":
                    server.sendall(ANSWER)

    def accept() -> None:
        threads = []
        with contextlib.suppress(OSError):
            while True:
                servers.append(origin.accept()[0])
                threads.append(threading.Thread(target=answer, args=servers[-1:]))
                threads[-1].start()
        for server in servers:  # of a test that failed
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield
    finally:
        origin.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def busy_origin(origin: socket.socket) -> Iterator[socket.socket]:
    """An origin that answers by itself."""
    with serving(origin):
        yield origin


def flows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- Verdicts --------------------------------------------------------------------------------------------------------


def test_http_is_judged_request_by_request(start: Callable[..., Run], busy_origin: socket.socket, folder: Path) -> None:
    log = folder / "flows.json"
    run = start(egress(port_of(busy_origin)), busy_origin, "--access-log", log, "--instance", "front")
    with run.dial() as client:
        source = client.getsockname()[1]
        client.sendall(GET)
        assert read_answer(client) == ANSWER
        client.sendall(GET.replace(b"/jobs", b"/applicants"))
        denial = read_answer(client)
        assert denial.startswith(b"HTTP/1.1 403 ")
        assert b"denied by policy: default deny (default/tweeter)" in denial
        client.sendall(GET)
        assert read_answer(client) == ANSWER
    assert run.line(r"denied GET /applicants on 127\.0\.0\.1:\d+ .*default deny \(default/tweeter\)")
    run.process.terminate()
    assert run.ended() == 0
    requests = [flow for flow in flows(log) if flow["Type"] == "L7"]
    assert sorted(flow["verdict"] for flow in requests) == ["DROPPED", "FORWARDED", "FORWARDED"]
    for flow in flows(log):
        assert flow["racecar"]["instance"] == "front"
        assert flow["l4"]["TCP"] == {"destination_port": port_of(busy_origin), "source_port": source}
        assert flow["IP"]["source"] == "127.0.0.1"


def test_what_l4_allows_is_relayed_unread(start: Callable[..., Run], origin: socket.socket) -> None:
    run = start(egress(port_of(origin), rules=""), origin)
    with run.dial() as client:
        client.sendall(b"\x16not HTTP at all")
        server, _ = origin.accept()
        with server:
            assert read(server, 16) == b"\x16not HTTP at all"
            server.sendall(b"nor this")
            assert read(client, 8) == b"nor this"
            client.shutdown(socket.SHUT_WR)
            assert server.recv(1) == b""


def test_what_l4_denies_is_reset(start: Callable[..., Run], origin: socket.socket, folder: Path) -> None:
    log = folder / "flows.json"
    run = start(egress(1), origin, "--access-log", log)
    assert is_denied(run)
    assert run.line(rf"denied TCP 127\.0\.0\.1:{port_of(origin)} .*DEFAULT_DENY")
    run.process.terminate()
    assert run.ended() == 0
    (flow,) = flows(log)
    assert (flow["verdict"], flow["reason"]) == ("DROPPED", "DEFAULT_DENY")
    origin.settimeout(0)
    with pytest.raises(BlockingIOError):
        origin.accept()


def test_loopback_is_not_the_world(start: Callable[..., Run], origin: socket.socket) -> None:
    """A rule for everywhere does not mean the host itself, as in the kernel."""
    run = start(egress(port_of(origin), cidr="0.0.0.0/0", rules=""), origin)
    assert is_denied(run)


def test_audit_lets_pass_and_says_so(start: Callable[..., Run], busy_origin: socket.socket, folder: Path) -> None:
    log = folder / "flows.json"
    for number, policy in enumerate((egress(1), egress(port_of(busy_origin)))):
        run = start(policy, busy_origin, "--audit", "--access-log", log)
        with run.dial() as client:
            client.sendall(GET.replace(b"/jobs", b"/applicants"))
            assert read_answer(client) == ANSWER, number
        run.process.terminate()
        assert run.ended() == 0
    told = [(flow["Type"], flow["reason"]) for flow in flows(log) if flow["verdict"] == "AUDIT"]
    assert told == [("L3_L4", "DEFAULT_DENY"), ("L7", "HTTP_NO_RULE")]


def test_ingress_is_judged_by_who_calls(start: Callable[..., Run], busy_origin: socket.socket) -> None:
    run = start(ingress(port_of(busy_origin)), busy_origin, "--direction", "ingress")
    assert is_denied(run, "127.0.0.3")
    with run.dial("127.0.0.2") as client:
        client.sendall(GET)
        assert read_answer(client) == ANSWER
        client.sendall(GET.replace(b"/jobs", b"/applicants"))
        denial = read_answer(client)
        assert re.search(rb"\r\n\r\ndenied by policy\nevent [^\n]+\n$", denial), "a stranger learns no rule's name"


def test_ipv6_is_served_and_dialled(start: Callable[..., Run]) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as origin:
        run = start(egress(port_of(origin), cidr="::1/128"), origin, "--listen", "[::1]:0")
        assert run.line(r"listening on \[::1\]:[1-9]\d*$")
        with serving(origin), run.dial() as client:
            client.sendall(GET)
            assert read_answer(client) == ANSWER


def test_flows_go_to_stdout(start: Callable[..., Run], busy_origin: socket.socket) -> None:
    run = start(egress(port_of(busy_origin)), busy_origin, "--access-log", "-", stdout=subprocess.PIPE)
    assert run.process.stdout is not None
    with run.dial() as client:
        client.sendall(GET)
        read_answer(client)
        assert json.loads(run.process.stdout.readline())["l7"]["http"]["code"] == 200


def test_a_killed_proxy_resets(start: Callable[..., Run], origin: socket.socket) -> None:
    """A FIN would pass for the end of an answer that ends with its connection."""
    run = start(egress(port_of(origin), rules=""), origin)
    with run.dial() as client:
        server, _ = origin.accept()
        with server:
            server.sendall(b"half of an answer")
            read(client, 17)
            run.process.kill()
            assert is_reset(client)
            assert is_reset(server)


# --- Arguments -------------------------------------------------------------------------------------------------------


def ends(*arguments: str | Path) -> tuple[int, str]:
    done = subprocess.run([*RACECAR, "run", *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"--listen": "nothing"}, "--listen nothing: HOST:PORT is wanted"),
        ({"--listen": ":80"}, "--listen :80: HOST:PORT is wanted"),
        ({"--listen": "::1:80"}, "[ADDRESS]:PORT for IPv6"),
        ({"--listen": "[]:80"}, "HOST:PORT is wanted"),
        ({"--listen": "127.0.0.1:65536"}, "the port is a number from 0 to 65535"),
        ({"--listen": "127.0.0.1:-1"}, "the port is a number from 0 to 65535"),
        ({"--listen": "127.0.0.1:http"}, "the port is a number from 0 to 65535"),
        ({"--listen": "192.0.2.1:0"}, "--listen 192.0.2.1:0: Cannot assign requested address"),
        ({"--upstream": "127.0.0.1:0"}, "the port is a number from 1 to 65535"),
        ({"--upstream": "no..name:80"}, "--upstream no..name:80: no..name does not resolve"),
        ({"--upstream": "name.invalid:80"}, "name.invalid does not resolve"),
        ({"--policy": "/nonexistent.yaml"}, "/nonexistent.yaml:1:1: error: cannot read"),
        ({"--labels": "app=other"}, "no policy selects this workload for egress (labels: app=other"),
        ({"--namespace": "elsewhere"}, "namespace: elsewhere"),
        ({"--direction": "ingress"}, "no policy selects this workload for ingress"),
        ({"--direction": "sideways"}, "invalid choice: 'sideways'"),
        ({"--access-log": "/nonexistent/log"}, "cannot open access log /nonexistent/log: No such file"),
        ({"--workers": "0"}, "a number of processes from 1 to 256"),
        ({"--workers": "many"}, "a number of processes from 1 to 256"),
        ({"--drain-timeout": "-1"}, "a number of seconds from 0 to 3600"),
        ({"--instance": "../x"}, "instance name '../x'"),
        ({"--config": "/nonexistent.yaml"}, "/nonexistent.yaml:1:1: error: cannot read"),
    ],
)
def test_a_bad_argument_is_2_and_says_which(options: dict[str, str], said: str, folder: Path) -> None:
    policy = folder / "policy.yaml"
    policy.write_text(egress(80))
    arguments = {"--listen": "127.0.0.1:0", "--upstream": "127.0.0.1:80", "--policy": str(policy)} | options
    arguments.setdefault("--labels", "app=tweeter")
    code, text = ends("--no-bpf", *(part for pair in arguments.items() for part in pair))
    assert code == 2
    assert said in text
    assert "Traceback" not in text


def test_without_no_bpf_it_says_what_is_there(folder: Path) -> None:
    policy = folder / "policy.yaml"
    policy.write_text(egress(80))
    code, text = ends("--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:80", "--policy", policy, *SELECTED)
    assert code == 2
    assert text.startswith("racecar: run needs --no-bpf for now")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_address_in_use_is_an_error(start: Callable[..., Run], origin: socket.socket, workers: str) -> None:
    """With workers too: the kernel would let a second one of the same user share the port."""
    run = start(egress(port_of(origin)), origin, "--workers", workers)
    host, port = run.line(r"listening on (.+):(\d+)$").groups()
    second = start(egress(port_of(origin)), origin, "--workers", workers, "--listen", f"{host}:{port}")
    assert second.ended() == 2
    assert second.lines == [f"racecar: --listen {host}:{port}: Address already in use"]


@pytest.mark.parametrize(("listen", "upstream"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.9")])
def test_a_proxy_does_not_dial_itself(folder: Path, listen: str, upstream: str) -> None:
    policy = folder / "policy.yaml"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = port_of(free)
    policy.write_text(egress(port))
    places = ("--listen", f"{listen}:{port}", "--upstream", f"{upstream}:{port}")
    code, text = ends("--no-bpf", *places, "--policy", policy, *SELECTED)
    assert (code, text) == (2, f"racecar: --upstream {upstream}:{port} is where this proxy itself listens\n")


def test_nothing_selected_may_be_meant_but_not_under_strict(
    start: Callable[..., Run], busy_origin: socket.socket
) -> None:
    options = ("--labels", "role=other", "--namespace", "other", "--allow-unselected")
    run = start(egress(1), busy_origin, *options)
    with run.dial() as client:
        client.sendall(b"anything")
        assert read(client, len(ANSWER)) == ANSWER
    assert run.lines[0] == (
        "racecar: warning: no policy selects this workload for egress (labels: app=tweeter,role=other; "
        "namespace: other): nothing is enforced (--allow-unselected)"
    )
    strict = start(egress(1), busy_origin, *options, "--strict")
    assert strict.ended() == 2
    assert "pass --allow-unselected without --strict" in strict.lines[0]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_too_few_descriptors_are_a_line_and_2(folder: Path, workers: str) -> None:
    """Whoever notices: the first look at them, or the process that serves, which has more of them open."""
    policy = folder / "policy.yaml"
    policy.write_text(egress(80))
    places = ("--listen", "127.0.0.1:0", "--upstream", "127.0.0.1:80")
    command = [*RACECAR, "run", "--no-bpf", *places, "--policy", str(policy), *SELECTED, "--workers", workers]
    for limit in (70, 74, 78):
        done = subprocess.run(
            ["/bin/sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", *command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 2, limit
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"racecar: descriptor limit {limit} leaves no room: ")
        assert line.endswith("lower descriptorHeadroom (--config)")


def test_a_policy_that_selects_and_denies_nothing_is_named(start: Callable[..., Run], origin: socket.socket) -> None:
    policy = egress(port_of(origin), more="enableDefaultDeny: {egress: false}")
    run = start(policy, origin)
    assert run.ended() == 2
    assert run.lines == [
        "racecar: default/tweeter selects this workload for egress, without default deny: nothing would be enforced. "
        "Take enableDefaultDeny out of one, or pass --allow-unselected"
    ]


def test_strict_refuses_audit(start: Callable[..., Run], origin: socket.socket) -> None:
    run = start(egress(port_of(origin)), origin, "--strict", "--audit")
    assert run.ended() == 2
    assert run.lines == ["racecar: --strict: in audit mode what the rules deny passes"]


def test_a_configuration_is_in_force(start: Callable[..., Run], busy_origin: socket.socket, folder: Path) -> None:
    config = folder / "config.yaml"
    config.write_text("apiVersion: racecar.io/v1\nkind: RacecarConfig\nspec: {limits: {targetBytes: 16}}\n")
    run = start(egress(port_of(busy_origin)), busy_origin, "--config", config)
    with run.dial() as client:
        client.sendall(GET.replace(b"/jobs", b"/jobs/of/this/company"))
        assert read_answer(client).startswith(b"HTTP/1.1 414 ")


# --- The end ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_signal_lets_requests_end_and_closes_idle_connections(
    start: Callable[..., Run], origin: socket.socket, number: signal.Signals, workers: str
) -> None:
    run = start(egress(port_of(origin)), origin, "--drain-timeout", "3600", "--workers", workers)
    with run.dial() as idle, run.dial() as waiting:
        idle.sendall(GET)
        first, _ = origin.accept()
        second, _ = origin.accept()
        with first, second:
            (asked,), _, _ = select.select((first, second), (), (), PATIENCE_S)
            read(asked, len(GET))
            asked.sendall(ANSWER)
            read_answer(idle)
            other = second if asked is first else first
            waiting.sendall(GET)
            read(other, len(GET))
            run.process.send_signal(number)
            assert idle.recv(1) == b""
            other.sendall(ANSWER)
            assert read_answer(waiting) == ANSWER
            assert waiting.recv(1) == b""
    assert run.ended() == 0
    with pytest.raises(ConnectionRefusedError):
        run.dial()


def stuck(run: Run, origin: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A request that is never answered."""
    client = run.dial()
    client.sendall(GET)
    server, _ = origin.accept()
    read(server, len(GET))
    return client, server


@pytest.mark.parametrize("workers", ["1", "2"])
def test_what_is_stuck_is_reset_when_time_is_up(start: Callable[..., Run], origin: socket.socket, workers: str) -> None:
    run = start(egress(port_of(origin)), origin, "--drain-timeout", "0.1", "--workers", workers)
    client, server = stuck(run, origin)
    with client, server:
        run.process.terminate()
        assert is_reset(client)
        assert is_reset(server)
    assert run.ended() == 0
    assert "racecar: 1 connection was reset: still open when time was up" in run.lines


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_signal_ends_at_once(start: Callable[..., Run], origin: socket.socket, workers: str) -> None:
    run = start(egress(port_of(origin)), origin, "--drain-timeout", "3600", "--workers", workers)
    client, server = stuck(run, origin)
    with client, server:
        with run.dial() as idle:
            run.process.terminate()
            assert idle.recv(1) == b"", "it drains"
        run.process.send_signal(signal.SIGINT)
        assert is_reset(client)
    assert run.ended() == 0


# --- Signals that do not end it --------------------------------------------------------------------------------------


def status(client: socket.socket, path: bytes) -> int:
    client.sendall(GET.replace(b"/jobs", path))
    return int(read_answer(client).split()[1])


def until_judged(run: Run, path: bytes, wanted: int) -> None:
    """Workers take a policy one by one: until all have it, which 64 connections in a row show."""
    deadline, count = time.monotonic() + PATIENCE_S, 0
    while count < 64:
        assert time.monotonic() < deadline
        with run.dial() as client:
            count = count + 1 if status(client, path) == wanted else 0


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sighup_puts_another_policy_in_force_for_new_connections(
    start: Callable[..., Run], busy_origin: socket.socket, folder: Path, workers: str
) -> None:
    log = folder / "flows.json"
    first = egress(port_of(busy_origin))
    run = start(first, busy_origin, "--workers", workers, "--access-log", log)
    with run.dial() as client:
        assert (status(client, b"/jobs"), status(client, b"/people")) == (200, 403)
        for number, path in enumerate((b"/people", b"/teams", b"/rooms"), 1):
            text = first.replace("name: tweeter", f"name: tweeter{number}").replace("/jobs", path.decode())
            (folder / "0.yaml").write_text("# a line more\n" * number + text)
            run.process.send_signal(signal.SIGHUP)
            run.line("the policy was read again: new connections are judged by it", number)
            until_judged(run, path, 200)
            until_judged(run, b"/jobs", 403)
            assert (status(client, b"/jobs"), status(client, path)) == (200, 403), "it keeps its policy"
        client.sendall(GET.replace(b"/jobs", b"/last"))
        assert b"default deny (default/tweeter)" in read_answer(client)
    run.process.terminate()
    assert run.ended() == 0
    seen: dict[tuple[str, str], set[str]] = {}
    for flow in flows(log):
        if flow["Type"] == "L7":
            judge = flow["rule"]["policy"] if flow["rule"] else flow["racecar"]["policies"][0].partition("/")[2]
            seen.setdefault((flow["verdict"], flow["l7"]["http"]["url"]), set()).add(judge)
    assert {path: seen["FORWARDED", path] for path in ("/jobs", "/people", "/teams", "/rooms")} == {
        "/jobs": {"tweeter"},
        "/people": {"tweeter1"},
        "/teams": {"tweeter2"},
        "/rooms": {"tweeter3"},
    }
    assert seen["DROPPED", "/last"] == {"tweeter"}
    assert seen["DROPPED", "/jobs"] >= {"tweeter1", "tweeter2", "tweeter3"}


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_policy_that_is_no_good_changes_nothing(
    start: Callable[..., Run], busy_origin: socket.socket, folder: Path, workers: str
) -> None:
    policy = egress(port_of(busy_origin))
    run = start(policy, busy_origin, "--workers", workers)
    run.line("listening on")
    bad = {
        policy.replace("egress:", "exit:"): r": the policy does not load$",
        policy.replace("app: tweeter", "app: other"): r": no policy selects this workload for egress ",
    }
    for number, (text, said) in enumerate(bad.items(), 1):
        (folder / "0.yaml").write_text(text)
        run.process.send_signal(signal.SIGHUP)
        match = run.line("the policy was not read again, the one in force stays", number)
        assert re.search(said, match.string)
        until_judged(run, b"/jobs", 200)
        until_judged(run, b"/people", 403)
    assert run.line(r"racecar: .*/0\.yaml:\d+:\d+: error: unknown field")


def test_a_worker_that_is_started_later_has_the_policy_in_force(
    start: Callable[..., Run], busy_origin: socket.socket, folder: Path
) -> None:
    policy = egress(port_of(busy_origin))
    run = start(policy, busy_origin, "--workers", "2")
    run.line("listening on")
    (folder / "0.yaml").write_text(policy.replace("/jobs", "/people"))
    run.process.send_signal(signal.SIGHUP)
    run.line("the policy was read again")
    for count, pid in enumerate(run.workers(), 1):
        for number in (signal.SIGHUP, signal.SIGUSR1):  # pkill sends them to all; the parent says what they mean
            os.kill(pid, number)
        os.kill(pid, signal.SIGKILL)
        run.line("was ended by signal 9 and is started again", count)
    until_judged(run, b"/people", 200)
    until_judged(run, b"/jobs", 403)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_log_that_is_renamed_is_made_anew_and_no_line_is_lost(
    start: Callable[..., Run], busy_origin: socket.socket, folder: Path, workers: str
) -> None:
    log = folder / "flows.json"
    run = start(egress(port_of(busy_origin)), busy_origin, "--workers", workers, "--access-log", log)
    run.line("listening on")
    asked = 0
    for number in range(3):
        log.rename(folder / f"old{number}.json")
        run.process.send_signal(signal.SIGUSR1)
        deadline = time.monotonic() + PATIENCE_S
        while not log.exists() or not log.stat().st_size:
            assert time.monotonic() < deadline
            with run.dial() as client:
                assert status(client, b"/jobs") == 200
            asked += 1
    run.process.terminate()
    assert run.ended() == 0
    files = [*folder.glob("old*.json"), log]
    assert len(files) == 4
    assert sum(flow["Type"] == "L7" for path in files for flow in flows(path)) == asked
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_a_log_that_cannot_be_made_anew_goes_on_where_it_was(
    start: Callable[..., Run], busy_origin: socket.socket, folder: Path
) -> None:
    log = folder / "flows.json"
    run = start(egress(port_of(busy_origin)), busy_origin, "--access-log", log)
    run.line("listening on")
    log.rename(folder / "old.json")
    log.symlink_to("old.json")
    run.process.send_signal(signal.SIGUSR1)
    assert run.line("cannot open access log .*, it goes on where it was: .* is a symbolic link")
    with run.dial() as client:
        assert status(client, b"/jobs") == 200
    run.process.terminate()
    assert run.ended() == 0
    assert [flow["Type"] for flow in flows(folder / "old.json")][:1] == ["L7"]


# --- Workers ---------------------------------------------------------------------------------------------------------


def test_workers_share_the_load_and_the_log(start: Callable[..., Run], busy_origin: socket.socket) -> None:
    """The log is a pipe that is full, and takes no line whole. Each process names its lines by a prefix of its own."""
    policy = egress(port_of(busy_origin)).replace("/jobs", "/jobs.*")
    run = start(policy, busy_origin, "--workers", "2", "--access-log", "-", stdout=subprocess.PIPE)
    assert len(run.workers()) == 2
    connections, requests = 64, 10
    long = GET.replace(b"/jobs", b"/jobs" + b"x" * 6000)
    got: list[dict[str, Any]] = []
    assert run.process.stdout is not None
    stdout = run.process.stdout
    reader = threading.Thread(target=lambda: got.extend(json.loads(line) for line in stdout))
    clients = [run.dial() for _ in range(connections)]
    for _ in range(requests):
        for client in clients:
            client.sendall(long)
        for client in clients:
            assert read_answer(client) == ANSWER
    for client in clients:
        client.close()
    reader.start()
    run.process.terminate()
    assert run.ended() == 0
    reader.join(PATIENCE_S)
    lines = [flow for flow in got if flow["Type"] == "L7"]
    assert len(lines) == connections * requests
    assert len({flow["uuid"] for flow in lines}) == len(lines)
    assert len({flow["uuid"].partition("-")[0] for flow in lines}) == 2


def test_a_worker_that_dies_is_replaced(start: Callable[..., Run], busy_origin: socket.socket) -> None:
    run = start(egress(port_of(busy_origin)), busy_origin, "--workers", "2")
    before = run.workers()
    os.kill(before[0], signal.SIGKILL)
    run.line("a worker was ended by signal 9 and is started again")
    for _ in range(32):  # some of them wait in the queue of the one that died
        with run.dial() as client:
            client.sendall(GET)
            assert read_answer(client) == ANSWER
    after = run.workers()
    assert len(after) == 2
    assert before[0] not in after
    assert before[1] in after


def test_workers_that_die_again_and_again_are_given_up(start: Callable[..., Run], origin: socket.socket) -> None:
    run = start(egress(port_of(origin)), origin, "--workers", "2")
    for count in range(1, 6):
        os.kill(run.workers()[-1], signal.SIGKILL)
        run.line("is started again", count)
    os.kill(run.workers()[-1], signal.SIGKILL)
    assert run.ended() == 1
    assert run.lines[-1] == "racecar: a worker was ended by signal 9; workers died 6 times in 10 s: giving up"


def test_workers_end_with_their_parent(start: Callable[..., Run], origin: socket.socket) -> None:
    run = start(egress(port_of(origin)), origin, "--workers", "2")
    client, server = stuck(run, origin)
    with client, server:
        run.process.kill()
        assert is_reset(client)
    run.ended()  # stderr is at its end: no process has it any more
    with pytest.raises(ConnectionRefusedError):
        run.dial()


@pytest.mark.parametrize(
    ("drain_timeout_s", "signals"), [("0.1", [signal.SIGTERM]), ("3600", [signal.SIGTERM, signal.SIGINT])]
)
def test_a_worker_that_is_stuck_does_not_hold_up_the_end(
    start: Callable[..., Run], origin: socket.socket, drain_timeout_s: str, signals: list[signal.Signals]
) -> None:
    run = start(egress(port_of(origin)), origin, "--workers", "2", "--drain-timeout", drain_timeout_s)
    client, server = stuck(run, origin)
    with client, server:
        for pid in run.workers():
            os.kill(pid, signal.SIGSTOP)
        for number in signals:
            run.process.send_signal(number)
        assert is_reset(client)
    assert run.ended() == 0
    assert run.lines[-1] == "racecar: a worker does not end and is killed; its connections are reset"


def test_a_stopped_worker_ends_with_its_parent_all_the_same(start: Callable[..., Run], origin: socket.socket) -> None:
    run = start(egress(port_of(origin)), origin, "--workers", "2")
    client, server = stuck(run, origin)
    with client, server:
        for pid in run.workers():
            os.kill(pid, signal.SIGSTOP)
        run.process.kill()
        assert is_reset(client)
        assert is_reset(server)
    run.ended()
