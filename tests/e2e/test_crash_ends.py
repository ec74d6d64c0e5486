"""How an exec ends: exit codes, signals, leftover children, terminals, logs nobody reads, and `racecar uninstall`."""

import contextlib
import fcntl
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from crash import Holdings, Machine, kill, machine
from harness import (
    PATIENCE_S,
    EchoServer,
    TcpServer,
    cidr,
    policy,
    relayed,
    run_exec,
    start_exec,
    wait_until,
    workload,
)

__all__ = ["machine"]
pytestmark = [pytest.mark.root, pytest.mark.slow]

TIOCGPTPEER = 0x5441  # asm-generic/ioctls.h: open the other side
NOTHING = cidr("192.0.2.1", 9)


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["sh", "-c", "exit 0"], 0, ""),
        (["sh", "-c", "exit 3"], 3, ""),
        (["sh", "-c", "exit 125"], 125, ""),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM, ""),
        (["sh", "-c", "kill -KILL $$"], 128 + signal.SIGKILL, ""),
        (["/etc/passwd"], 126, "racecar: cannot run /etc/passwd: Permission denied (13)"),
        (["/root/tool"], 126, "--user NAME runs it as a user who may"),
        (["no-such-command-here"], 127, "racecar: cannot run no-such-command-here: No such file or directory (2)"),
        ([], 125, "racecar: no command"),
    ],
)
def test_the_exit_code_is_the_commands_or_125_to_127(argv: list[str], code: int, text: str) -> None:
    result = run_exec(policy(NOTHING), argv)
    assert result.code == code
    assert result.stderr.startswith(text) if text.startswith("racecar") else text in result.stderr


@pytest.mark.parametrize("options", [["--drain-timeout", "-1"], ["--no-such-option"], ["--labels", "=x"]])
def test_wrong_usage_is_125_and_starts_nothing(options: list[str], tmp_path: Path) -> None:
    done = tmp_path / "done"
    result = run_exec(policy(NOTHING), ["touch", str(done)], extra=options)
    assert result.code == 125
    assert result.stderr
    assert not done.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_pass_through_and_the_commands_own_end_is_the_answer(number: signal.Signals) -> None:
    code = """
        import signal
        caught = []
        signal.signal(number, lambda n, _: caught.append(n))
        say("ready")
        while not caught:
            signal.pause()
        say(caught)
        os._exit(40)
    """
    with start_exec(policy(NOTHING), workload(code, number=int(number))) as running:
        assert running.heard() == "ready"
        held = Holdings(running)
        kill(running.pid, number)
        assert running.heard() == [number]
        running.process.wait(PATIENCE_S)
        assert running.wait().code == 40
        held.wait_gone()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_does_not_catch_the_signal_ends_by_it(number: signal.Signals) -> None:
    with start_exec(policy(NOTHING), ["sh", "-c", "echo 1; exec sleep 60"]) as running:
        assert running.heard() == 1
        kill(running.pid, number)
        running.process.wait(PATIENCE_S)
        assert running.wait().code == 128 + number


def test_children_that_hide_and_ignore_signals_are_killed_at_the_end() -> None:
    code = """
        import signal
        for what in range(3):
            if os.fork() == 0:
                signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
                for n in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                    signal.signal(n, signal.SIG_IGN)
                if what:
                    os.setsid()
                if what == 2 and os.fork():
                    os._exit(0)
                os.write(1, b"1\\n")
                while True:
                    threading.Event().wait()
        listen()
        os._exit(5)
    """
    with start_exec(policy(NOTHING), workload(code)) as running:
        assert [running.heard() for _ in range(3)] == [1, 1, 1]
        held = Holdings(running)
        assert len(held.pids) >= 6
        running.tell("end")
        running.process.wait(PATIENCE_S)
        assert running.wait().code == 5
        held.wait_gone()


def test_what_a_command_left_in_flight_arrives_and_its_children_send_no_more() -> None:
    code = """
        s = dial("127.0.0.1", port)
        s.sendall(b"z" * 1_000_000)
        os._exit(0)
    """
    with TcpServer() as server:
        assert run_exec(policy(relayed("127.0.0.1", server.port)), workload(code, port=server.port)).code == 0
        received = server.wait_ended()[0]
        assert received.data == b"z" * len(received.data)
        assert (len(received.data), received.ended) == (1_000_000, "eof")


# --- the log ---


def test_a_log_whose_reader_is_gone_stops_nothing(tmp_path: Path) -> None:
    code = """
        say("up")
        listen()
        say([exchange(dial("127.0.0.1", port), b"x") for _ in range(20)], attempt(dial, "127.0.0.1", 1))
        listen()
    """
    log = tmp_path / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    with EchoServer() as server:
        rules = policy(relayed("127.0.0.1", server.port))
        extra = ["--access-log", str(log)]
        with start_exec(rules, workload(code, port=server.port), extra=extra) as running:
            assert running.heard() == "up"
            os.close(reader)
            running.tell("go")
            assert running.heard() == [["x"] * 20, "EPERM"]
            held = Holdings(running)
            running.tell("end")
            result = running.wait()
            assert result.code == 0
            assert "Traceback" not in result.stderr
            held.wait_gone()
        assert server.received == [b"x"] * 20


def test_a_full_disk_under_the_log_stops_nothing(machine: Machine) -> None:
    code = """
        say([exchange(dial("127.0.0.1", port), b"x") for _ in range(40)], attempt(dial, "127.0.0.1", 1))
    """
    script = "mkdir -p /run/racecar.full && mount -t tmpfs -o size=4k full /run/racecar.full"
    subprocess.run([*machine.enter, "sh", "-c", script], check=True)
    try:
        with EchoServer() as server:
            rules = policy(relayed("127.0.0.1", server.port))
            extra = ["--access-log", "/run/racecar.full/log"]
            result = run_exec(rules, workload(code, port=server.port), extra=extra, enter=machine.enter)
            assert result.said == [[["x"] * 40, "EPERM"]]
            assert result.code == 0
            assert "the access log is incomplete" in result.stderr
            assert "Traceback" not in result.stderr
        assert machine.traces() == []
    finally:
        subprocess.run([*machine.enter, "umount", "/run/racecar.full"], check=True)
        os.rmdir("/run/racecar.full")


# --- racecar uninstall ---


def uninstall(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "racecar.proxy.cli", "uninstall", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_uninstall_leaves_a_running_instance_alone_unless_forced() -> None:
    with start_exec(policy(NOTHING), workload("say('up'); listen(); listen()")) as running:
        assert running.heard() == "up"
        held = Holdings(running)
        done = uninstall("--instance", running.instance)
        assert (done.returncode, done.stdout) == (1, "")
        assert "is running; stop it first, or pass --force" in done.stderr
        assert held.left()["links"] == held.links
        done = uninstall("--instance", running.instance, "--force")
        assert (done.returncode, done.stdout, done.stderr) == (0, f"removed instance {running.instance}\n", "")
        assert not (held.left().keys() & {"paths", "pids", "links"})
        held.wait_gone()
        assert running.wait().code == -signal.SIGKILL


def test_uninstall_of_an_unknown_instance_says_which_there_are() -> None:
    done = uninstall("--instance", "nobody")
    assert done.returncode == 1
    assert done.stderr.startswith("racecar: no instance nobody; there are: ")


def test_a_name_in_use_is_refused_and_free_again_at_the_end() -> None:
    rules = policy(NOTHING)
    with start_exec(rules, workload("say('up'); listen(); listen()")) as running:
        assert running.heard() == "up"
        second = run_exec(rules, ["true"], instance=running.instance)
        assert second.code == 125
        assert f"instance {running.instance} is running already; choose another --instance" in second.stderr
        running.tell()
        assert running.wait().code == 0
        assert run_exec(rules, ["true"], instance=running.instance).code == 0


def test_many_that_start_and_sweep_at_once_do_not_take_each_other_for_dead(machine: Machine) -> None:
    rules = policy(NOTHING)
    argv = [*machine.enter, sys.executable, "-m", "racecar.proxy.cli", "exec", "--policy", str(rules)]
    argv += ["--labels", "app=client", "--", "true"]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(12)]
    ends = [(process.communicate(timeout=50)[1], process.returncode) for process in running]
    assert ends == [("", 0)] * 12
    assert machine.traces() == []


# --- terminals ---


@contextlib.contextmanager
def open_pidfd(pid: int) -> Iterator[int]:
    pidfd = os.pidfd_open(pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


class Terminal:
    """A user's terminal with an exec in its foreground."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.output = b""
        pid, self.master = pty.fork()
        if pid == 0:
            os.execv(sys.executable, [sys.executable, "-m", "racecar.proxy.cli", *argv])
        self.pid = pid
        self.before = termios.tcgetattr(self.master)

    def read_until(self, text: bytes) -> bytes:
        deadline = time.monotonic() + PATIENCE_S
        while text not in self.output:
            ready, _, _ = select.select([self.master], [], [], deadline - time.monotonic())
            assert ready, f"{text!r} is not in {self.output!r}"
            try:
                self.output += os.read(self.master, 4096)
            except OSError:
                break
        assert text in self.output
        seen, self.output = self.output.split(text, 1)
        return seen

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def end(self) -> int:
        """Read on, as a terminal does, to the end; the exit code."""
        with contextlib.suppress(OSError), open_pidfd(self.pid) as ended:
            while ready := select.select([self.master, ended], [], [], PATIENCE_S)[0]:
                if ended in ready:
                    break
                self.output += os.read(self.master, 4096)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.pid = 0
        return code

    def close(self) -> None:
        if self.pid:
            kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.master)


def on_terminal(argv: Sequence[str]) -> Terminal:
    return Terminal(["exec", "--policy", str(policy(NOTHING)), "--labels", "app=client", "--", *argv])


@contextlib.contextmanager
def kept_open(terminal: Terminal) -> Iterator[int]:
    """A second holder of the user's side, so that its settings can be read after the end."""
    slave = fcntl.ioctl(terminal.master, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        yield slave
    finally:
        os.close(slave)
        terminal.close()


def test_ctrl_c_reaches_the_command_and_the_terminal_is_restored() -> None:
    code = """
        import signal
        signal.signal(signal.SIGINT, lambda *_: (say("interrupted"), os._exit(9)))
        say("ready", os.isatty(0), os.isatty(1), os.getsid(0) == os.getpid(), os.ttyname(0))
        while True:
            signal.pause()
    """
    terminal = on_terminal(workload(code))
    with kept_open(terminal) as slave:
        users = os.ttyname(slave).encode()
        terminal.read_until(b'["ready", true, true, true, "')
        assert terminal.read_until(b'"]\r\n') != users  # a terminal of its own
        assert termios.tcgetattr(slave) != terminal.before  # raw: every key is the command's
        terminal.type(b"\x03")
        terminal.read_until(b'"interrupted"\r\n')
        assert terminal.end() == 9
        assert termios.tcgetattr(slave) == terminal.before


def test_what_is_typed_reaches_the_command_and_its_end_is_the_exit_code() -> None:
    terminal = on_terminal(["sh", "-c", 'read line; echo "got $line"; exit 4'])
    with kept_open(terminal) as slave:
        terminal.type(b"words\r")
        terminal.read_until(b"got words\r\n")
        assert terminal.end() == 4
        assert termios.tcgetattr(slave) == terminal.before


def test_an_uncaught_ctrl_c_is_128_and_its_number() -> None:
    terminal = on_terminal(["sh", "-c", "echo ready; exec sleep 60"])
    with kept_open(terminal) as slave:
        terminal.read_until(b"ready\r\n")
        terminal.type(b"\x03")
        assert terminal.end() == 128 + signal.SIGINT
        assert termios.tcgetattr(slave) == terminal.before


def test_a_closed_terminal_ends_the_command() -> None:
    terminal = on_terminal(["sh", "-c", "echo ready; exec sleep 60"])
    terminal.read_until(b"ready\r\n")
    pid, terminal.pid = terminal.pid, 0
    os.close(terminal.master)
    ended: list[int] = []

    def has_ended() -> bool:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            ended.append(os.waitstatus_to_exitcode(status))
        return bool(done)

    wait_until(has_ended, "exec ends with its terminal")
    assert ended == [128 + signal.SIGHUP]
