"""kill -9 of every part of a running exec, under load: nothing passes that should not, and nothing is left."""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from crash import CLIENTS, Holdings, Machine, guardian_of, kill, load, machine, merged
from harness import (
    PATIENCE_S,
    EchoServer,
    Received,
    Running,
    TcpServer,
    policy,
    relayed,
    run_exec,
    start_exec,
    wait_until,
    workload,
)

__all__ = ["machine"]
pytestmark = [pytest.mark.root, pytest.mark.slow]

REFUSED = {"ECONNREFUSED", "ECONNRESET", "EPIPE", "ECONNABORTED"}


@pytest.fixture
def servers() -> Iterator[tuple[EchoServer, TcpServer]]:
    with EchoServer() as relay, TcpServer() as closed:
        yield relay, closed


def clients(servers: tuple[EchoServer, TcpServer], **options: object) -> Running:
    relay, closed = servers
    argv = workload(CLIENTS, relay=relay.port, closed=closed.port)
    return start_exec(policy(relayed("127.0.0.1", relay.port)), argv, **options)


def assert_fair(seen: dict[str, int], closed: TcpServer) -> None:
    """Every call came back whole or failed with an error of its own, and the forbidden ones all failed."""
    ends = {what.removeprefix("relay ") for what in seen if what.startswith("relay ")}
    assert ends <= REFUSED | {"ok"}, seen
    assert {what for what in seen if what.startswith("closed ")} == {"closed EPERM"}, seen
    assert closed.connections == []


def test_a_killed_proxy_is_replaced_under_load_and_nothing_forbidden_passes(
    servers: tuple[EchoServer, TcpServer],
) -> None:
    with clients(servers) as running:
        seen = [load(running)]
        for _ in range(3):
            old = running.worker_pid
            kill(old, signal.SIGKILL)
            running.wait_for_other_worker(old)
            seen.append(load(running))
        held = Holdings(running)
        running.tell("end")
        result = running.wait()
        assert result.code == 7
        assert result.stderr.count("the proxy died and is started again") == 3
        assert_fair(merged(seen), servers[1])
        held.wait_gone()


def test_connections_of_a_killed_proxy_are_reset_on_both_sides() -> None:
    code = """
        s = dial("127.0.0.1", port)
        s.sendall(b"half a mess")
        say(attempt(s.recv, 100))
        say(attempt(s.recv, 100))
    """
    with EchoServer() as server:
        running = start_exec(policy(relayed("127.0.0.1", server.port)), workload(code, port=server.port))
        with running:
            assert running.heard() == "half a mess"
            kill(running.worker_pid, signal.SIGKILL)
            assert running.heard() == "ECONNRESET"
            assert running.wait().code == 0
            assert server.wait_ended() == [Received(server.connections[0].peer, b"half a mess", "reset")]


def test_a_proxy_that_dies_again_and_again_ends_the_command(servers: tuple[EchoServer, TcpServer]) -> None:
    with clients(servers) as running:
        seen = [load(running)]
        held = Holdings(running)
        for turn in range(6):
            old = running.worker_pid
            kill(old, signal.SIGKILL)
            if turn < 5:
                running.wait_for_other_worker(old)
                seen.append(load(running, 1))
        running.process.wait(PATIENCE_S)
        result = running.wait()
        assert result.code == 125
        assert "the proxy died 6 times in 10 s; giving up" in result.stderr
        assert "Traceback" not in result.stderr
        assert_fair(merged(seen), servers[1])
        held.wait_gone()


def test_a_proxy_killed_while_it_starts_is_one_more_death_not_the_end(servers: tuple[EchoServer, TcpServer]) -> None:
    with clients(servers) as running:
        load(running, 1)
        held = Holdings(running)
        old = running.worker_pid
        kill(old, signal.SIGKILL)
        children = f"/proc/{running.pid}/task/{running.pid}/children"
        others = {str(old), str(guardian_of(running))}
        for _ in range(2):  # as early as it can be seen
            born: set[str] = set()
            while not born:
                with open(children) as file:
                    born = set(file.read().split()) - others
            others |= born
            kill(int(born.pop()), signal.SIGKILL)
        seen = load(running)
        running.tell("end")
        result = running.wait()
        assert result.code == 7, result.stderr
        assert "Traceback" not in result.stderr
        assert_fair(seen, servers[1])
        held.wait_gone()


def test_a_killed_loader_leaves_nothing_its_guardian_ends_it_all(servers: tuple[EchoServer, TcpServer]) -> None:
    with clients(servers) as running:
        seen = load(running)
        held = Holdings(running)
        kill(running.pid, signal.SIGKILL)
        held.wait_gone()
        assert running.wait().code == -signal.SIGKILL
        assert_fair(seen, servers[1])


def test_a_killed_loader_whose_proxy_was_replaced_leaves_nothing(servers: tuple[EchoServer, TcpServer]) -> None:
    with clients(servers) as running:
        load(running, 1)
        old = running.worker_pid
        kill(old, signal.SIGKILL)
        running.wait_for_other_worker(old)
        load(running)
        held = Holdings(running)
        kill(running.pid, signal.SIGKILL)
        held.wait_gone()


def test_a_killed_guardian_ends_the_command_and_the_loader_removes_everything(
    servers: tuple[EchoServer, TcpServer],
) -> None:
    with clients(servers) as running:
        seen = load(running)
        held = Holdings(running)
        kill(guardian_of(running), signal.SIGKILL)
        running.process.wait(PATIENCE_S)
        result = running.wait()
        assert result.code == 125
        assert "the guardian was killed" in result.stderr
        assert_fair(seen, servers[1])
        held.wait_gone()


def test_while_a_guardian_cleans_up_the_instance_is_alive_to_others(machine: Machine) -> None:
    rules = policy(relayed("127.0.0.1", 9))
    with start_exec(rules, workload("say('up'); threading.Event().wait()"), enter=machine.enter) as running:
        assert running.heard() == "up"
        guardian = guardian_of(running)
        kill(guardian, signal.SIGSTOP)
        kill(running.pid, signal.SIGKILL)
        running.process.wait(PATIENCE_S)
        other = run_exec(rules, ["true"], enter=machine.enter)
        assert (other.code, other.stderr) == (0, "")
        again = run_exec(rules, ["true"], enter=machine.enter, instance=running.instance)
        assert again.code == 125
        assert f"instance {running.instance} is running already" in again.stderr
        assert machine.traces() == [running.instance]
        kill(guardian, signal.SIGCONT)
        wait_until(lambda: machine.traces() == [], "the guardian removes everything")


ORPHAN = """
if os.fork() == 0:  # a child of a child: the guardian's death does not take it along
    os.setsid()
    beacon = socket.create_connection(("127.0.0.1", relay))
    with open(0, closefd=False):
        pass
    say("up")
    beacon.settimeout(20)
    attempt(beacon.recv, 1)   # the proxy's death is the loader's
    while attempt(dial, "127.0.0.1", relay) == "ok":
        pass   # a dying process does not close everything in one moment
    say("proxy gone", attempt(dial, "127.0.0.1", relay), attempt(dial, "127.0.0.1", closed))
    threading.Event().wait()
threading.Event().wait()
"""


@contextlib.contextmanager
def orphaned(machine: Machine, relay: TcpServer, closed: TcpServer) -> Iterator[Running]:
    """An exec whose loader and guardian were killed in one moment."""
    argv = workload(ORPHAN, relay=relay.port, closed=closed.port)
    with start_exec(policy(relayed("127.0.0.1", relay.port)), argv, enter=machine.enter) as running:
        try:
            assert running.heard() == "up"
            guardian = guardian_of(running)
            for pid in (guardian, running.pid):  # neither acts on the other's death in between
                kill(pid, signal.SIGSTOP)
            for pid in (guardian, running.pid):
                kill(pid, signal.SIGKILL)
            yield running
        finally:
            machine.racecar("uninstall", "--force")  # the orphan of a failed test holds the pipes open


def test_with_loader_and_guardian_killed_the_rest_stays_enforced_until_the_next_exec(
    machine: Machine, servers: tuple[EchoServer, TcpServer]
) -> None:
    relay, closed = servers
    with orphaned(machine, relay, closed) as running:
        assert running.heard() == ["proxy gone", "ECONNREFUSED", "EPERM"]
        assert machine.traces() == [running.instance]
        result = run_exec(policy(relayed("127.0.0.1", relay.port)), ["true"], enter=machine.enter)
        assert (result.code, result.stderr) == (0, f"racecar: removed what instance {running.instance} left behind\n")
        assert machine.traces() == []
    assert closed.connections == []


def test_uninstall_removes_what_loader_and_guardian_could_not(
    machine: Machine, servers: tuple[EchoServer, TcpServer]
) -> None:
    with orphaned(machine, *servers) as running:
        assert running.heard() == ["proxy gone", "ECONNREFUSED", "EPERM"]
        done = machine.racecar("uninstall")
        assert (done.returncode, done.stdout) == (0, f"removed instance {running.instance}\n")
        assert machine.traces() == []
    assert servers[1].connections == []


def test_a_stopped_loader_stops_no_enforcement(servers: tuple[EchoServer, TcpServer]) -> None:
    with clients(servers) as running:
        load(running, 1)
        kill(running.pid, signal.SIGSTOP)
        try:
            seen = load(running, 50)
            assert_fair(seen, servers[1])
            assert seen["closed EPERM"] > 0
        finally:
            kill(running.pid, signal.SIGCONT)
        running.tell("end")
        assert running.wait().code == 7


def test_two_instances_are_judged_each_by_its_own_policy_and_end_each_for_itself() -> None:
    code = """
        def call(port):
            try:
                return exchange(dial("127.0.0.1", port), b"x")
            except OSError as failed:
                return errno.errorcode[failed.errno]
        while listen():
            say([call(port) for port in ports])
    """
    with EchoServer() as one, EchoServer() as other:
        argv = workload(code, ports=[one.port, other.port])
        with (
            start_exec(policy(relayed("127.0.0.1", one.port)), argv) as first,
            start_exec(policy(relayed("127.0.0.1", other.port)), argv) as second,
        ):
            assert first.ask("go") == ["x", "EPERM"]
            assert second.ask("go") == ["EPERM", "x"]
            held, other_held = Holdings(first), Holdings(second)
            assert not held.programs & other_held.programs
            assert not held.maps & other_held.maps
            kill(first.pid, signal.SIGKILL)
            held.wait_gone()
            assert second.ask("go") == ["EPERM", "x"]
            assert second.wait().code == 0
            other_held.wait_gone()
        assert (one.received, other.received) == ([b"x"], [b"x", b"x"])


CRASH = """
import os, signal, sys
from racecar.redirect import instance, libbpf
from racecar.proxy import cli, session
where = sys.argv.pop(1)
def die(*a, **k):
    os.kill(os.getpid(), signal.SIGKILL)
def dying_after(cls, name, calls=1):
    real, left = getattr(cls, name), [calls]
    def wrapped(*a, **k):
        value = real(*a, **k)
        left[0] -= 1
        if not left[0]:
            die()
        return value
    setattr(cls, name, wrapped)
def die_at_hook(number):
    real, pinned = libbpf.pin, []
    def pin(fd, path):
        real(fd, path)
        pinned.extend([path] if not path.name.startswith("map_") else [])
        if len(pinned) == number:
            die()
    libbpf.pin = pin
{
    "registered": lambda: dying_after(session.registry.Registration, "save"),
    "uids": lambda: dying_after(session, "free_uids"),
    "cgroup": lambda: dying_after(session.cgroups, "Cgroup", 1),
    "cgroups": lambda: dying_after(session.cgroups, "Cgroup", 3),
    "worker": lambda: dying_after(session, "start_worker"),
    "pins": lambda: dying_after(instance.Instance, "__init__"),
    "one object": lambda: dying_after(libbpf.BpfObject, "load", 1),
    "half of the objects": lambda: dying_after(libbpf.BpfObject, "load", 4),
    "loaded": lambda: dying_after(instance.Instance, "load"),
    "filled": lambda: dying_after(instance.Instance, "fill"),
    "steered": lambda: dying_after(instance.Instance, "attach_netns"),
    "half attached": lambda: die_at_hook(6),
    "attached": lambda: dying_after(instance.Instance, "attach_workload"),
    "handed over": lambda: dying_after(instance.Instance, "read_only_fd"),
    "born": lambda: dying_after(session, "spawn"),
}[where]()
sys.exit(cli.main(sys.argv[1:]))
"""
STEPS = (
    *("registered", "uids", "cgroup", "cgroups", "worker", "pins", "one object", "half of the objects", "loaded"),
    *("filled", "steered", "half attached", "attached", "handed over", "born"),
)


@pytest.mark.parametrize("step", STEPS)
def test_a_crash_at_any_step_of_starting_is_swept_by_the_next_exec(step: str, machine: Machine) -> None:
    rules = policy(relayed("127.0.0.1", 9))
    argv = [*machine.enter, sys.executable, "-c", CRASH, step, "exec", "--policy", str(rules), "--labels", "app=client"]
    crashed = subprocess.run([*argv, "--", "sleep", "60"], capture_output=True, text=True, timeout=20, check=False)
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr
    if step == "born":  # there is a guardian by then
        wait_until(lambda: machine.traces() == [], "the guardian removes everything")
        return
    left = machine.traces()
    assert len(left) == 1
    result = run_exec(rules, ["true"], enter=machine.enter)
    assert (result.code, result.stderr) == (0, f"racecar: removed what instance {left[0]} left behind\n")
    assert machine.traces() == []
    wait_until(lambda: not _cgroups_of(left[0]), "its cgroups are gone")


def _cgroups_of(instance: str) -> list[str]:
    done = subprocess.run(["find", "/sys/fs/cgroup", "-name", f"racecar.{instance}"], capture_output=True, text=True)
    return done.stdout.split()
