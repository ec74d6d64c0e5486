"""Who is running: one lock an instance, a state that a crash leaves readable, a sweep that takes only the dead."""

import fcntl
import json
import multiprocessing
import os
from pathlib import Path

import pytest

from racecar.redirect import registry
from racecar.redirect.registry import Registration, State

DEAD_PID = 2**22 - 1


@pytest.fixture
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories of one's own in place of /run/racecar and bpffs."""
    monkeypatch.setattr(registry, "RUN_DIRECTORY", tmp_path / "run")
    monkeypatch.setattr(registry, "pin_root", lambda: tmp_path / "pins")
    (tmp_path / "pins").mkdir()
    return tmp_path / "run"


def dead(name: str, *, kind: str = "exec", cgroups: list[str] | None = None) -> Path:
    """An instance whose owner was killed: everything is there but the lock's holder."""
    Registration(name, State(kind, DEAD_PID, cgroups or [])).abandon()
    pins = registry.pin_root() / name
    pins.mkdir()
    (pins / "link_rc_gate").touch()
    return pins


@pytest.mark.parametrize("name", ["a", "exec-12-ab", "0", "a.b_c-d", "x" * 63])
def test_names(run_directory: Path, name: str) -> None:
    registration = Registration(name, State("exec", os.getpid()))
    assert registry.names() == [name]
    assert registry.is_alive(name)
    registration.release()
    assert registry.names() == []
    assert not registry.is_alive(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "-a", "_a", "A", "a/b", "a b", "a\n", "\u00e4", "x" * 64, "uids", "lock", "../x"]
)
def test_names_that_are_none(run_directory: Path, name: str) -> None:
    with pytest.raises(ValueError, match="instance name"):
        Registration(name, State("exec", os.getpid()))
    assert not run_directory.exists()


def test_a_living_instances_name_is_taken(run_directory: Path) -> None:
    first = Registration("a", State("exec", os.getpid()))
    with pytest.raises(FileExistsError, match="choose another --instance"):
        Registration("a", State("exec", 1))
    assert registry.read_state("a") == State("exec", os.getpid())
    first.release()
    Registration("a", State("exec", 1)).release()


def test_a_release_is_idempotent(run_directory: Path) -> None:
    registration = Registration("a", State("exec", os.getpid()))
    registration.release()
    registration.release()


def test_directories_are_private(run_directory: Path) -> None:
    registration = Registration("a", State("exec", os.getpid()))
    assert (run_directory / "a").stat().st_mode & 0o777 == 0o700
    assert (run_directory / "a" / "lock").stat().st_mode & 0o777 == 0o600
    registration.release()


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_a_directory_that_others_may_write_is_refused(run_directory: Path, mode: int) -> None:
    run_directory.mkdir()
    run_directory.chmod(mode)
    with pytest.raises(PermissionError, match="nobody else may write"):
        Registration("a", State("exec", os.getpid()))


def test_a_directory_that_is_a_link_is_refused(run_directory: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    run_directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError):
        Registration("a", State("exec", os.getpid()))


def test_a_lock_dies_with_its_holder(run_directory: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()

    def hold() -> None:
        registration = Registration("a", State("exec", os.getpid()))
        ready.set()
        done.wait(30)
        os._exit(registration._lock < 0)

    holder = context.Process(target=hold)
    holder.start()
    assert ready.wait(10)
    assert registry.is_alive("a")
    assert registry.sweep() == []
    holder.kill()
    holder.join()
    assert not registry.is_alive("a")
    assert registry.sweep() == ["a"]
    assert registry.names() == []


def test_a_living_instance_is_not_removed(run_directory: Path) -> None:
    registration = Registration("a", State("exec", os.getpid()))
    with pytest.raises(OSError, match="is running"):
        registry.remove("a")
    assert registry.is_alive("a")
    registration.release()


def test_nobody_else_can_hold_up_a_start(run_directory: Path) -> None:
    """Every user may open the directory and lock it; the lock that counts is root's file."""
    Registration("a", State("exec", os.getpid())).release()
    assert (run_directory / "lock").stat().st_mode & 0o777 == 0o600
    directory = os.open(run_directory, os.O_RDONLY)
    fcntl.flock(directory, fcntl.LOCK_EX)
    Registration("a", State("exec", os.getpid())).release()
    os.close(directory)


@pytest.mark.slow
def test_starts_and_sweeps_side_by_side_do_not_take_each_other_for_dead(run_directory: Path) -> None:
    """A start that another one's sweep took for a dead one's remains would lose its directory, or its workload."""
    context = multiprocessing.get_context("fork")

    def start_often(number: int) -> None:
        for turn in range(150):
            registry.sweep()
            registration = Registration(f"exec-{number}-{turn}", State("exec", os.getpid()))
            assert registration.directory.joinpath("state.json").exists()
            registry.sweep()
            assert registration.directory.joinpath("state.json").exists()
            registration.release()
        os._exit(0)

    starters = [context.Process(target=start_often, args=(number,)) for number in range(4)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join(50)
    assert [starter.exitcode for starter in starters] == [0] * 4


# --- The state file ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '{"kind": "exec"}',
        '{"kind": "exec", "owner_pid": "x", "cgroups": [], "layout": 1}',
        '{"kind": "exec", "owner_pid": 1, "cgroups": 1, "layout": 1}',
        json.dumps({"kind": "exec", "owner_pid": 1, "cgroups": [], "layout": registry.LAYOUT + 1}),
    ],
)
def test_a_state_that_cannot_be_read_is_none(run_directory: Path, text: str) -> None:
    registration = Registration("a", State("exec", os.getpid()))
    (run_directory / "a" / "state.json").write_text(text)
    assert registry.read_state("a") is None
    registration.release()


def test_a_state_is_replaced_at_once(run_directory: Path) -> None:
    registration = Registration("a", State("exec", 1))
    registration.save(State("exec", 2, ["/x"]))
    assert registry.read_state("a") == State("exec", 2, ["/x"])
    assert sorted(path.name for path in (run_directory / "a").iterdir()) == ["lock", "state.json"]
    registration.release()


# --- The sweep --------------------------------------------------------------------------------------------------------


def test_what_a_dead_exec_left_is_removed_and_nothing_else(run_directory: Path) -> None:
    dead_pins, resident_pins = dead("dead"), dead("resident", kind="run")
    alive = Registration("alive", State("exec", os.getpid()))
    assert registry.sweep() == ["dead"]
    assert not dead_pins.exists()
    assert (resident_pins / "link_rc_gate").exists(), "an instance of another kind goes on refusing"
    assert registry.names() == ["alive", "resident"]
    alive.release()


def test_pins_without_a_state_are_swept_only_under_a_name_of_exec(run_directory: Path) -> None:
    for name in ("exec-1-a", "other"):
        (registry.pin_root() / name).mkdir()
    assert registry.sweep() == ["exec-1-a"]
    assert registry.names() == ["other"]


def test_the_uids_that_are_lent_are_no_instance(run_directory: Path) -> None:
    (run_directory / "uids").mkdir(parents=True)
    assert registry.names() == []
    assert registry.sweep() == []
    assert (run_directory / "uids").is_dir()


@pytest.mark.root
def test_processes_of_a_dead_instance_are_ended_and_its_cgroups_removed(run_directory: Path, cgroup: Path) -> None:
    (cgroup / "base" / "app").mkdir(parents=True)
    child = os.fork()
    if child == 0:
        (cgroup / "base" / "app" / "cgroup.procs").write_text("0")
        os.kill(os.getpid(), 19)
        os._exit(1)
    os.waitpid(child, os.WUNTRACED)
    dead("a", cgroups=[str(cgroup / "base")])
    # A zombie is no process of the cgroup any more, so that this parent may collect it afterwards.
    registry.remove("a")
    assert os.waitpid(child, 0)[1] == 9
    assert not (cgroup / "base").exists()
