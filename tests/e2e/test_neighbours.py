"""Other owners of the same hooks, nested cgroups, sockets that change hands: whose policy a connection is judged by."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import (
    EchoServer,
    HttpServer,
    TcpServer,
    cidr,
    http,
    policy,
    relayed,
    run_exec,
    start_exec,
    unique_name,
    workload,
)

pytestmark = [pytest.mark.root, pytest.mark.slow]

FOREIGN = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
char LICENSE[] SEC("license") = "GPL";
struct { __uint(type, BPF_MAP_TYPE_ARRAY); __uint(max_entries, 1); __type(key, __u32); __type(value, __u64); }
runs SEC(".maps");
static __always_inline int seen(struct bpf_sock_addr *ctx)
{
	__u32 zero = 0;
	__u64 *count = bpf_map_lookup_elem(&runs, &zero);
	if (count)
		__sync_fetch_and_add(count, 1);
	DO;
}
SEC("cgroup/connect4") int foreign4(struct bpf_sock_addr *ctx) { return seen(ctx); }
"""
LOOK, REFUSE = "return 1", "return 0"


def rewrite(port: int) -> str:
    """Everything goes to another server, as a careless load balancer would do it."""
    return f"ctx->user_ip4 = bpf_htonl(0x7f000001); ctx->user_port = bpf_htons({port}); return 1"


def tool(*command: str) -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


class Foreign:
    """A connect4 program of somebody else's on a cgroup above the workload's, attached by bpftool with `multi`."""

    def __init__(self, cgroup: Path, what: str) -> None:
        self.cgroup = cgroup
        self.pin = Path("/sys/fs/bpf") / unique_name()
        with tempfile.TemporaryDirectory() as folder:
            source, built = Path(folder) / "foreign.bpf.c", Path(folder) / "foreign.bpf.o"
            source.write_text(FOREIGN)
            includes = f"-I/usr/include/{os.uname().machine}-linux-gnu"
            tool("clang", "-O2", "-g", "-target", "bpf", f"-DDO={what}", includes, "-c", str(source), "-o", str(built))
            self.pin.mkdir()
            maps = self.pin / "maps"
            tool("bpftool", "prog", "loadall", str(built), str(self.pin), "pinmaps", str(maps))
        tool("bpftool", "cgroup", "attach", str(cgroup), "connect4", "pinned", str(self.pin / "foreign4"), "multi")

    @property
    def runs(self) -> int:
        dumped = tool("bpftool", "-j", "map", "dump", "pinned", str(self.pin / "maps" / "runs"))
        return int(json.loads(dumped)[0]["formatted"]["value"])

    def remove(self) -> None:
        tool("bpftool", "cgroup", "detach", str(self.cgroup), "connect4", "pinned", str(self.pin / "foreign4"), "multi")
        for pin in sorted(self.pin.rglob("*"), reverse=True):
            pin.rmdir() if pin.is_dir() else pin.unlink()
        self.pin.rmdir()


@pytest.fixture
def foreign(make_cgroup: Callable[[], Path]) -> Iterator[Callable[[str], Foreign]]:
    """Make a cgroup with a foreign program on it."""
    with contextlib.ExitStack() as stack:

        def make(what: str) -> Foreign:
            made = Foreign(make_cgroup(), what)
            stack.callback(made.remove)
            return made

        yield make


def inside(cgroup: Path) -> list[str]:
    """Start in that cgroup."""
    return ["/bin/sh", "-c", f'echo $$ > "{cgroup}/cgroup.procs" && exec "$@"', "sh"]


TRY_ALL = """
    def call(port):
        try:
            s = dial("127.0.0.1", port)
            s.sendall(b"GET /jobs HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n")
            got = s.recv(12).decode()
            peer = s.getpeername()[1] == port
            return [got, peer]
        except OSError as failed:
            return [errno.errorcode.get(failed.errno, str(failed)), False]
    say([call(port) for port in (api, relay, native, denied)])
"""


def try_all(owner: Foreign, **servers: Any) -> Any:
    rules = [
        http("127.0.0.1", servers["api"].port),
        relayed("127.0.0.1", servers["relay"].port),
        cidr("127.0.0.1", servers["native"].port),
    ]
    argv = workload(TRY_ALL, **{name: server.port for name, server in servers.items()})
    return run_exec(policy(*rules), argv, enter=inside(owner.cgroup))


# --- Another owner of connect4 ---------------------------------------------------------------------------------------


def test_another_owner_of_connect4_that_only_looks_changes_nothing(foreign: Callable[[str], Foreign]) -> None:
    owner = foreign(LOOK)
    with HttpServer() as api, EchoServer() as relay, EchoServer() as native, TcpServer() as denied:
        result = try_all(owner, api=api, relay=relay, native=native, denied=denied)
        answer = "GET /jobs HT"
        assert result.said == [[["HTTP/1.1 200", True], [answer, True], [answer, True], ["EPERM", False]]]
        assert api.requests == [("GET", "/jobs")]
        assert denied.connections == []
    assert owner.runs >= 3  # it ran beside ours, and stays when racecar goes
    attached = tool("bpftool", "cgroup", "show", str(owner.cgroup))
    assert "foreign4" in attached
    assert "rc_" not in attached


def test_another_owner_of_connect4_that_refuses_is_obeyed(foreign: Callable[[str], Foreign]) -> None:
    owner = foreign(REFUSE)
    with HttpServer() as api, EchoServer() as relay, EchoServer() as native, TcpServer() as denied:
        result = try_all(owner, api=api, relay=relay, native=native, denied=denied)
        assert result.said == [[["EPERM", False]] * 4]
        assert api.connections == relay.connections == native.connections == denied.connections == []


@pytest.mark.parametrize("target", ["api", "relay"])
def test_another_owner_that_rewrites_after_ours_leads_nothing_past_the_proxy(
    foreign: Callable[[str], Foreign], target: str
) -> None:
    """Redirected connections that go elsewhere, and native ones that go where the proxy must read, end at once."""
    with HttpServer() as api, HttpServer() as relay, EchoServer() as native, TcpServer() as denied:
        there = {"api": api, "relay": relay}[target]
        owner = foreign(rewrite(there.port))
        result = try_all(owner, api=api, relay=relay, native=native, denied=denied)
        assert result.said == [[["ECONNABORTED", False]] * 3 + [["EPERM", False]]]
        assert api.connections == relay.connections == native.connections == denied.connections == []
    assert set(result.reasons()) == {"NOT_REDIRECTED", "TRANSLATED", "DEFAULT_DENY"}


# --- Identity --------------------------------------------------------------------------------------------------------


def test_a_nested_cgroup_keeps_the_workloads_identity() -> None:
    code = TRY_ALL.replace("    say([call", "    say(os.getpid()); listen()\n    say([call")
    with HttpServer() as api, EchoServer() as relay, EchoServer() as native, TcpServer() as denied:
        rules = http("127.0.0.1", api.port), relayed("127.0.0.1", relay.port), cidr("127.0.0.1", native.port)
        ports = {"api": api.port, "relay": relay.port, "native": native.port, "denied": denied.port}
        with start_exec(policy(*rules), workload(code, **ports)) as running:
            pid = running.heard()
            nested = running.cgroup() / "made-by-root" / "twice"
            nested.mkdir(parents=True)
            (nested / "cgroup.procs").write_text(str(pid))
            answer = "GET /jobs HT"
            assert running.ask() == [["HTTP/1.1 200", True], [answer, True], [answer, True], ["EPERM", False]]
            base = running.cgroup().parent
            result = running.wait()
        assert api.requests == [("GET", "/jobs")]
        assert denied.connections == []
    assert result.code == 0
    assert {tuple(flow["source"]["labels"]) for flow in result.flows} == {("app=client",)}
    assert not base.exists()


@pytest.fixture
def meeting() -> Iterator[Path]:
    """A directory in which two workloads may meet."""
    folder = Path(tempfile.mkdtemp(prefix="racecar-e2e-"))
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


GIVE = """
    s = MAKE
    with socket.socket(socket.AF_UNIX) as meeting:
        meeting.bind(path)
        os.chmod(path, 0o666)
        meeting.listen()
        say("ready")
        taker, _ = meeting.accept()
        socket.send_fds(taker, [b"x"], [s.fileno()])
        say("given")
    listen()
"""
TAKE = """
    with socket.socket(socket.AF_UNIX) as meeting:
        meeting.connect(path)
        _, fds, _, _ = socket.recv_fds(meeting, 1, 1)
    s = socket.socket(fileno=fds[0])
    s.settimeout(10)
    USE
"""


def test_a_passed_socket_is_judged_by_the_policy_of_the_workload_that_made_it(meeting: Path) -> None:
    use = """say([attempt(s.connect, ("127.0.0.1", takers)), attempt(s.connect, ("127.0.0.1", givers))])"""
    with EchoServer() as givers, EchoServer() as takers:
        values = {"givers": givers.port, "takers": takers.port, "path": str(meeting / "socket")}
        giving = workload(GIVE.replace("MAKE", "socket.socket()"), **values)
        taking = workload(TAKE.replace("USE", use), **values)
        with start_exec(policy(cidr("127.0.0.1", givers.port)), giving) as one:
            assert one.heard() == "ready"
            with start_exec(policy(cidr("127.0.0.1", takers.port)), taking) as other:
                assert other.heard() == ["EPERM", "ok"]
                other_result = other.wait()
            one.tell()
            result = one.wait()
        assert takers.connections == []
        assert len(givers.connections) == 1
    assert result.reasons() == ["DEFAULT_DENY"]
    assert other_result.flows == []


def test_requests_on_a_passed_connection_are_judged_by_the_policy_of_the_workload_that_made_it(meeting: Path) -> None:
    use = """
    for path in ("/givers", "/takers"):
        s.sendall(f"GET {path} HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n".encode())
        say(s.recv(65536)[:12].decode())
"""
    with HttpServer() as api:
        values = {"port": api.port, "path": str(meeting / "socket")}
        giving = workload(GIVE.replace("MAKE", 'dial("127.0.0.1", port)'), **values)
        taking = workload(TAKE.replace("    USE", use), **values)
        rules = {who: policy(http("127.0.0.1", api.port, calls=[("GET", f"/{who}")])) for who in ("givers", "takers")}
        with start_exec(rules["givers"], giving) as one:
            assert one.heard() == "ready"
            with start_exec(rules["takers"], taking) as other:
                assert [other.heard(), other.heard()] == ["HTTP/1.1 200", "HTTP/1.1 403"]
            one.tell()
            result = one.wait()
        assert api.requests == [("GET", "/givers")]
    assert result.reasons() == ["HTTP_NO_RULE"]


def test_a_nested_exec_is_refused(tmp_path: Path) -> None:
    """It would be judged twice, under two identities."""
    marker = tmp_path / "started"
    with start_exec(policy(cidr("127.0.0.1")), workload('say("ready"); listen()')) as running:
        assert running.heard() == "ready"
        result = run_exec(policy(cidr("127.0.0.1")), ["/bin/touch", str(marker)], enter=inside(running.cgroup()))
        assert result.code == 125
        assert f"already under instance {running.instance}" in result.stderr
        assert running.process.poll() is None
    assert not marker.exists()
