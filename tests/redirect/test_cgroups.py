"""cgroup2: found where it is mounted, made, emptied and removed."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from racecar.redirect import cgroups
from racecar.redirect.cgroups import Cgroup, CgroupError

CHILD = "import sys; sys.stdout.write('x'); sys.stdout.flush(); sys.stdin.read()"


def mounts(tmp_path: Path, text: str) -> str:
    (tmp_path / "mounts").write_text(text)
    return str(tmp_path / "mounts")


@pytest.mark.parametrize(
    ("table", "found"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "/sys/fs/cgroup"),
        (
            "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n",
            "/sys/fs/cgroup/unified",
        ),
        ("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\nx\n\ncgroup2 /a\\040b cgroup2 rw 0 0\n", "/a b"),
    ],
)
def test_the_mount_is_found_wherever_it_is(tmp_path: Path, table: str, found: str) -> None:
    assert cgroups.cgroup2_mount(mounts(tmp_path, table)) == Path(found)


def test_no_mount_is_an_error_that_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match="mount -t cgroup2"):
        cgroups.cgroup2_mount(mounts(tmp_path, "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n"))


def test_removing_what_is_gone_is_fine(tmp_path: Path) -> None:
    cgroups.remove_tree(tmp_path / "gone")
    cgroups.kill_all(tmp_path / "gone")
    assert cgroups.wait_empty(tmp_path / "gone", timeout_s=0)
    assert not cgroups.is_populated(tmp_path / "gone")


def test_a_cgroup_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    with pytest.raises(CgroupError, match=f"cannot make cgroup {tmp_path}/a/b: No such file or directory"):
        Cgroup(tmp_path / "a/b")


@pytest.mark.root
def test_a_cgroup_has_the_kernels_number_and_is_where_a_process_goes(cgroup: Path) -> None:
    made = Cgroup(cgroup / "inner")
    assert made.id == os.stat(cgroup / "inner").st_ino
    with pytest.raises(CgroupError, match="File exists"):
        Cgroup(cgroup / "inner")
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=-1, stdout=-1, preexec_fn=made.enter)
    try:
        assert child.stdout is not None
        assert child.stdout.read(1) == b"x"
        assert cgroups.is_populated(made.path)
        assert (made.path / "cgroup.procs").read_text() == f"{child.pid}\n"
        assert not cgroups.wait_empty(made.path, timeout_s=0)
    finally:
        cgroups.kill_all(made.path)
        child.communicate()
    assert child.returncode == -9
    assert cgroups.wait_empty(made.path, timeout_s=10)
    made.close()
    made.close()
    cgroups.remove_tree(cgroup / "inner")
    assert not (cgroup / "inner").exists()


@pytest.mark.root
def test_a_tree_is_removed_from_its_leaves(cgroup: Path) -> None:
    for name in ("a", "a/b", "a/b/c", "a/d"):
        (cgroup / name).mkdir()
    cgroups.remove_tree(cgroup / "a")
    assert not (cgroup / "a").exists()


@pytest.mark.root
def test_children_of_children_are_killed(cgroup: Path) -> None:
    inner = cgroup / "inner"
    inner.mkdir()
    made = Cgroup(inner / "leaf")
    child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=-1, stdout=-1, preexec_fn=made.enter)
    assert child.stdout is not None
    child.stdout.read(1)
    cgroups.kill_all(inner)
    child.communicate()
    assert child.returncode == -9
    made.close()


@pytest.mark.root
def test_ones_own_cgroup_is_the_one_that_holds_this_process(make_cgroup: Callable[[], Path]) -> None:
    path = make_cgroup()
    code = "from racecar.redirect.cgroups import own_cgroup; print(own_cgroup())"

    def enter() -> None:
        (path / "cgroup.procs").write_text("0")

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=enter, check=True)
    assert done.stdout == f"{path}\n"
