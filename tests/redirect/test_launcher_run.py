"""How a run under the launcher ends: codes, signals, the death of the loader, and what is left (nothing)."""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from racecar.redirect.launch import Ending, Launched, LaunchPlan, Outcome, exec_failure_text, spawn

pytestmark = pytest.mark.root

UID = 1_999_999_911
LAUNCHER = Path(__file__).resolve().parent.parent.parent / "redirect/launcher"

Start = Callable[..., Launched]


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    subprocess.run(["make", "--silent", "-C", str(LAUNCHER)], check=True)


@pytest.fixture
def start(cgroup: Path) -> Iterator[Start]:
    """Spawn a shell command in a throw-away cgroup; finished at the end of the test."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    running: list[Launched] = []

    def start_command(*command: str, stdout: int | None = None, **fields: object) -> Launched:
        plan = LaunchPlan(command=command, cgroup_fd=fd, uid=UID, gid=UID, **fields)  # type: ignore[arg-type]
        running.append(spawn(plan, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.DEVNULL))
        return running[-1]

    yield start_command
    for launched in running:
        launched.finish()
    os.close(fd)


def wait_for_end(pidfd: int) -> None:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    assert poller.poll(20_000), "still alive after 20 s"


# --- Codes ---------------------------------------------------------------------------------------------------------


def test_the_code_is_the_commands(start: Start) -> None:
    launched = start("sh", "-c", "exit 7")
    assert launched.wait(20.0) == Outcome(7, Ending.EXITED, 7)
    assert launched.finish().code == 7
    assert launched.left == []


def test_a_signal_gives_128_and_its_number(start: Start) -> None:
    assert start("sh", "-c", "kill -TERM $$").wait(20.0) == Outcome(143, Ending.SIGNALLED, 15, "Terminated")


def test_a_missing_command_gives_127(start: Start) -> None:
    missing = Outcome(127, Ending.EXEC_FAILED, 2, "No such file or directory")
    assert start("racecar-no-such-command").wait(20.0) == missing
    assert start("/racecar/no-such-command").wait(20.0) == missing


def test_a_closed_folder_in_path_does_not_hide_that_a_command_is_missing(start: Start, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    assert start("racecar-no-such-command", environment=environment).wait(20.0).code == 127
    assert start("true", environment=environment).wait(20.0).code == 0


def test_a_command_that_its_uid_cannot_execute_gives_126_and_names_user(start: Start, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    command = tmp_path / "command"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    outcome = start(str(command)).wait(20.0)
    assert (outcome.code, outcome.number) == (126, 13)
    assert "--user NAME" in exec_failure_text(str(command), outcome, UID)
    assert start("command", environment={"PATH": str(tmp_path)}).wait(20.0).code == 126


def test_what_is_no_program_gives_126(start: Start) -> None:
    assert start("/etc").wait(20.0).code == 126
    assert start("/etc/passwd").wait(20.0).code == 126
    assert start("/etc/passwd/x").wait(20.0).code == 126


def test_wait_says_when_the_command_still_runs(start: Start) -> None:
    launched = start("sleep", "1000")
    assert launched.poll() is None
    with pytest.raises(TimeoutError):
        launched.wait(0.0)


# --- Signals -------------------------------------------------------------------------------------------------------


def test_signals_reach_the_command(start: Start) -> None:
    read_fd, write_fd = os.pipe()
    launched = start("sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.01; done", stdout=write_fd)
    os.close(write_fd)
    assert os.read(read_fd, 16) == b"ready\n"
    launched.send_signal(signal.SIGTERM)
    assert launched.wait(20.0).code == 9
    launched.send_signal(signal.SIGTERM)  # a zombie: nobody else is hit
    os.close(read_fd)


def test_signals_do_not_end_the_guardian(start: Start) -> None:
    launched = start("sleep", "1000")
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGUSR1):
        os.kill(launched.guardian_pid, number)
    launched.send_signal(signal.SIGINT)
    assert launched.wait(20.0).number == signal.SIGINT


@pytest.mark.parametrize("early", [False, True])
def test_the_command_dies_with_its_guardian(start: Start, early: bool) -> None:
    read_fd, write_fd = os.pipe()
    launched = start("sh", "-c", "echo; exec sleep 1000", stdout=write_fd)
    os.close(write_fd)
    if not early:
        assert os.read(read_fd, 16) == b"\n"
    os.close(read_fd)
    command = os.pidfd_open(launched.pid)
    os.kill(launched.guardian_pid, signal.SIGKILL)
    wait_for_end(command)
    os.close(command)
    assert launched.wait(20.0).kind is Ending.LOST


def test_children_die_in_the_end_when_the_guardian_was_killed(start: Start, cgroup: Path) -> None:
    launched = start("sh", "-c", "setsid sleep 1000 & echo", cleanup=("/run/racecar-test/never-was",))
    launched.wait(20.0)
    child = os.pidfd_open(int((cgroup / "cgroup.procs").read_text().split()[0]))
    os.kill(launched.guardian_pid, signal.SIGKILL)
    launched.finish()
    wait_for_end(child)
    os.close(child)
    assert launched.left == ["/run/racecar-test/never-was"]


# --- The end of the run --------------------------------------------------------------------------------------------


def test_children_that_the_command_leaves_are_killed(start: Start, cgroup: Path) -> None:
    launched = start("sh", "-c", "setsid sleep 1000 & echo")
    assert launched.wait(20.0).code == 0
    assert (cgroup / "cgroup.procs").read_text() != ""
    assert launched.finish().code == 0
    assert (cgroup / "cgroup.procs").read_text() == ""


def test_finish_ends_a_command_that_still_runs(start: Start) -> None:
    assert start("sleep", "1000").finish().number == signal.SIGKILL


def test_the_end_of_the_run_removes_cgroups_children_first(start: Start, cgroup: Path) -> None:
    (cgroup / "a" / "b").mkdir(parents=True)
    launched = start("true", cleanup=(str(cgroup),))
    launched.finish()
    assert launched.left == []
    assert not cgroup.exists()


def test_the_end_of_the_run_removes_files_and_sockets_of_a_folder(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "file").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        launched = start("true", cleanup=(str(folder), str(tmp_path / "never-was")))
        launched.finish()
    assert launched.left == []
    assert not folder.exists()


def test_a_single_file_is_removed(start: Start, tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "neighbour").touch()
    start("true", cleanup=(str(tmp_path / "lock"),)).finish()
    assert [path.name for path in tmp_path.iterdir()] == ["neighbour"]


def test_folders_inside_a_folder_are_left_and_named(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").touch()
    launched = start("true", cleanup=(str(folder),))
    launched.finish()
    assert launched.left == [f"cannot remove {folder}: Directory not empty (39)"]
    assert (folder / "inner" / "file").exists()


def test_symbolic_links_are_never_followed(start: Start, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").touch()
    (tmp_path / "link").symlink_to(target)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "inside").symlink_to(target)
    launched = start("true", cleanup=(str(tmp_path / "link"), str(tmp_path / "link" / "file"), str(folder)))
    launched.finish()
    assert len(launched.left) == 3
    assert (target / "file").exists()
    assert (tmp_path / "link").is_symlink()


def test_the_end_of_the_run_removes_pins(start: Start) -> None:
    pins = Path(f"/sys/fs/bpf/racecar-test-{os.getpid()}")
    (pins / "maps").mkdir(parents=True, mode=0o700)
    shape = ["type", "array", "key", "4", "value", "4", "entries", "1", "name", "test"]
    subprocess.run(["bpftool", "map", "create", str(pins / "maps" / "one"), *shape], check=True)
    launched = start("true", cleanup=(str(pins),))
    launched.finish()
    assert launched.left == []
    assert not pins.exists()


# --- The death of the loader ---------------------------------------------------------------------------------------

LOADER = """
import json, os, subprocess, sys
from racecar.redirect.launch import LaunchPlan, spawn
given = json.loads(sys.argv[1])
helper = subprocess.Popen(["sleep", "1000"], user=65534)
plan = LaunchPlan(
    command=given["command"], cgroup_fd=os.open(given["cgroup"], os.O_RDONLY), uid=given["uid"], gid=given["uid"],
    cleanup=tuple(given["cleanup"]), kill_pids=(helper.pid,),
)
launched = spawn(plan, stdin=subprocess.DEVNULL)
if given["wait"]:
    launched.wait()
print(launched.guardian_pid, launched.pid, helper.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("ended", [False, True])
def test_the_death_of_the_loader_ends_the_run_and_leaves_nothing(cgroup: Path, tmp_path: Path, ended: bool) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "file").touch()
    forks = "setsid sleep 1000 & sh -c 'sleep 1000 & sleep 1000' &" + ("" if ended else " wait")
    given = {"command": ["sh", "-c", forks], "cgroup": str(cgroup), "uid": UID, "wait": ended}
    given["cleanup"] = [str(run), str(cgroup)]
    with subprocess.Popen(
        [sys.executable, "-c", LOADER, json.dumps(given)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as loader:
        assert loader.stdout is not None
        pids = [int(word) for word in loader.stdout.readline().split()]
        pidfds = [os.pidfd_open(pid) for pid in pids]
        loader.kill()
        for pidfd in pidfds:
            wait_for_end(pidfd)
            os.close(pidfd)
    assert not run.exists()
    assert not cgroup.exists()
