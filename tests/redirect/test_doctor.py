"""`racecar doctor` on this machine as it is, as an ordinary user, and on machines that lack something."""

import argparse
import ctypes
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from racecar.proxy.doctor import print_table, run_doctor
from racecar.redirect import ability, probe_bpf, probe_host, probe_others, probe_relay, scratch
from racecar.redirect.ability import Ability, Status
from racecar.redirect.doctor import Report, examine
from racecar.redirect.libbpf import open_pin as open_writable

CLONE_NEWNS, CLONE_NEWUSER = 0x20000, 0x10000000
MS_REC_PRIVATE = 0x4000 | 0x40000


def cgroup_mount() -> str:
    return scratch.mounts("cgroup2")[0]


def as_values(report: Report) -> list[dict[str, str | bool]]:
    return [a.as_dict() for a in report.abilities]


def elsewhere(prepare: Callable[[], None]) -> dict[str, dict[str, str | bool]]:
    """What doctor finds in a child that was first made to lack something: ability by name."""

    def work() -> list[dict[str, str | bool]]:
        prepare()
        return as_values(examine())

    results = scratch.in_child(work, limit_s=30)
    return {result["name"]: result for result in results}


def lacking(results: dict[str, dict[str, str | bool]]) -> set[str]:
    return {name for name, result in results.items() if result["status"] == "missing" and result["required"]}


def private_mounts() -> None:
    scratch.unshare(CLONE_NEWNS)
    assert ctypes.CDLL(None).mount(b"none", b"/", None, MS_REC_PRIVATE, None) == 0


def unmount(path: str) -> None:
    assert ctypes.CDLL(None).umount2(path.encode(), 2) == 0  # MNT_DETACH


def refuse_bpf() -> None:
    """A seccomp filter as podman's default: bpf(2) gives EPERM whatever the capabilities."""
    number = {"x86_64": 321, "aarch64": 280}[os.uname().machine]
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps), 32)
    program = ctypes.create_string_buffer(struct.pack("@HP", len(steps), ctypes.addressof(code)), 16)
    assert ctypes.CDLL(None).prctl(38, 1, 0, 0, 0) == 0
    scratch.system_call("seccomp", 1, 0, program)


@pytest.fixture(scope="module")
def report() -> Report:
    return examine()


@pytest.mark.root
def test_every_required_ability_is_found_here(report: Report) -> None:
    assert [(a.name, a.detail) for a in report.blockers] == []


@pytest.mark.root
def test_every_result_says_what_it_is_for_and_what_happens_without_it(report: Report) -> None:
    for result in as_values(report):
        assert result["status"] in ("ok", "missing", "warning", "info"), result
        assert all(result[field] for field in ("name", "detail", "for", "without")), result


@pytest.mark.root
def test_names_are_unique(report: Report) -> None:
    names = [a.name for a in report.abilities]
    assert len(names) == len(set(names))


@pytest.mark.root
@pytest.mark.slow
def test_nothing_is_left_behind(no_leftovers: Callable[[], None]) -> None:
    examine()
    no_leftovers()


@pytest.mark.root
def test_ends_within_three_seconds() -> None:
    start = time.monotonic()
    examine()
    emulated = "TCG" in Path("/proc/cpuinfo").read_text()  # qemu without a processor's help: ten times slower
    assert time.monotonic() - start < (30 if emulated else 3)


@pytest.mark.root
def test_json_is_one_object_with_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_doctor(argparse.Namespace(json=True)) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["can_enforce"] is True
    assert {"name", "status", "detail", "for", "without", "required"} == set(printed["abilities"][0])


@pytest.mark.root
def test_the_table_names_every_ability(capsys: pytest.CaptureFixture[str], report: Report) -> None:
    assert run_doctor(argparse.Namespace(json=False)) == 0
    printed = capsys.readouterr().out
    assert "workloads can be enforced here" in printed
    assert all(a.name in printed for a in report.abilities)


@pytest.mark.root
def test_inline_is_off_and_says_why(report: Report) -> None:
    inline = next(a for a in report.abilities if a.name == "inline")
    assert inline.status is Status.INFO
    assert inline.detail.startswith("off because it is for a later release")


@pytest.mark.root
@pytest.mark.parametrize("as_json", [False, True])
def test_an_ordinary_user_is_told_what_is_missing(as_json: bool, tmp_path: Path) -> None:
    output = tmp_path / "output"

    def work() -> int:
        with output.open("w") as printed:
            scratch.become_nobody()
            os.dup2(printed.fileno(), 1)
            os.dup2(printed.fileno(), 2)
            sys.stdout = os.fdopen(1, "w")
            code = run_doctor(argparse.Namespace(json=as_json))
            sys.stdout.flush()
            return code

    assert scratch.in_child(work, limit_s=30) == 1
    text = output.read_text()
    assert "Traceback" not in text
    assert "CAP_BPF" in text
    assert "Operation not permitted" in text
    if as_json:
        found = {result["name"]: result for result in json.loads(text)["abilities"]}
        assert {"CAP_BPF", "CAP_NET_ADMIN", "bpf(2)", "connect4", "own cgroup", "pin"} <= lacking(found)
        assert found["splice(2)"]["status"] == "ok"


@pytest.mark.root
def test_a_user_namespace_is_named() -> None:
    def enter() -> None:
        scratch.become_nobody()
        scratch.unshare(CLONE_NEWUSER)

    results = elsewhere(enter)
    assert "inside a user namespace" in str(results["user namespace"]["detail"])
    assert {"user namespace", "bpf(2)"} <= lacking(results)


@pytest.mark.root
def test_a_seccomp_profile_that_forbids_bpf_is_named() -> None:
    results = elsewhere(refuse_bpf)
    assert "seccomp profile forbids bpf(2)" in str(results["bpf(2)"]["detail"])
    assert {"bpf(2)", "connect4", "record of a connection"} <= lacking(results)


@pytest.mark.root
def test_an_unmounted_bpffs_is_tried_in_a_directory_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def hide() -> None:
        private_mounts()
        unmount("/sys/fs/bpf")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    results = elsewhere(hide)
    assert results["bpffs"]["status"] == "info"
    assert lacking(results) == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.root
def test_without_cgroup2_nothing_can_be_enforced() -> None:
    def hide() -> None:
        private_mounts()
        unmount(cgroup_mount())

    results = elsewhere(hide)
    assert {"cgroup2", "own cgroup", "CLONE_INTO_CGROUP", "link to a cgroup"} <= lacking(results)


@pytest.mark.root
def test_a_missing_launcher_is_a_blocker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(probe_host, "files", lambda _package: tmp_path)
    launcher = next(a for a in probe_host.system_calls() if a.name == "launcher")
    assert (launcher.status, launcher.required) == (Status.MISSING, True)
    assert "make -C redirect/launcher" in launcher.without


@contextmanager
def another_owner(cgroup: Path, flags: str) -> Iterator[None]:
    """connect4 of the probes attached as another tool would do it, without a link."""
    with probe_bpf.loaded("probe", "probe_connect4") as (target, _):
        pinned = Path("/sys/fs/bpf") / f"racecar_test_{os.getpid()}"
        probe_bpf.pin(target.program_fd("probe_connect4"), pinned)
        try:
            attach = ["bpftool", "cgroup", "attach", str(cgroup), "connect4", "pinned", str(pinned)]
            subprocess.run([*attach, *flags.split()], check=True)
            yield
        finally:
            subprocess.run(["bpftool", "cgroup", "detach", str(cgroup), "connect4", "pinned", str(pinned)], check=False)
            pinned.unlink()


@pytest.mark.root
def test_another_owner_on_a_parent_is_named() -> None:
    with scratch.scratch_cgroup(cgroup_mount()) as parent, another_owner(parent, "multi"):
        child = parent / "child"
        child.mkdir()
        try:
            (found,) = [
                line for line in probe_others.owners(child, Path(cgroup_mount())) if line.startswith("connect4")
            ]
        finally:
            child.rmdir()
    assert str(parent) in found
    assert "probe_connect4" in found
    assert "shared" in found


@pytest.mark.root
def test_an_owner_that_shares_with_nobody_blocks() -> None:
    with scratch.scratch_cgroup(cgroup_mount()) as parent, another_owner(parent, ""):
        child = parent / "child"
        child.mkdir()
        try:
            (to_cgroup, _) = probe_bpf.attachment(child)
        finally:
            child.rmdir()
    assert to_cgroup.status is Status.MISSING
    assert "connect4" in to_cgroup.detail


@pytest.mark.root
def test_a_hook_that_does_not_run_is_not_taken_for_one_that_works(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def attached_nowhere(*_: object) -> Iterator[int]:
        yield -1

    monkeypatch.setattr(probe_bpf, "attached", attached_nowhere)
    with scratch.scratch_cgroup(cgroup_mount()) as cgroup:
        record, event, _ = probe_bpf.end_to_end(cgroup, None)
    assert record.status is Status.MISSING
    assert event.status is Status.MISSING


@pytest.mark.root
def test_a_descriptor_that_takes_updates_is_not_read_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_bpf, "open_pin", lambda path, read_only: open_writable(path))
    with scratch.scratch_pins("/sys/fs/bpf") as pins:
        *_, read_only = probe_bpf.end_to_end(None, pins)
    assert (read_only.status, read_only.detail) == (Status.MISSING, "a descriptor opened read-only took an update")


def test_relay_abilities_need_no_privilege() -> None:
    results = scratch.in_child(lambda: (scratch.become_nobody(), [a.as_dict() for a in probe_relay.relay()])[1])
    assert {r["name"]: r["status"] for r in results}["splice(2)"] == "ok"
    assert all(r["status"] != "missing" for r in results)


def test_a_probe_that_breaks_is_a_missing_ability() -> None:
    def broken() -> str:
        raise ZeroDivisionError("a bug of ours")

    result = ability.probe("x", broken, serves="s", without="w", required=True)
    assert result == Ability("x", Status.MISSING, "ZeroDivisionError: a bug of ours", "s", "w", True)


def test_a_child_that_hangs_is_killed() -> None:
    silent, _held = socket.socketpair()
    with silent, _held, pytest.raises(ChildProcessError, match="SIGALRM"):
        scratch.in_child(lambda: silent.recv(1).decode(), limit_s=0.05)


def test_control_bytes_of_foreign_names_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = Ability("\x07other", Status.WARNING, "\x1b[2J[red]x", "s", "w")
    print_table(Report("k", (hostile,)))
    printed = capsys.readouterr().out
    assert not {"\x1b", "\x07"} & set(printed)
    assert "\\x1b[2J[red]x" in printed
