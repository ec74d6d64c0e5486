"""Which files may say what is allowed: those that only root and we can have written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from racecar.policy import files
from racecar.policy.files import read_paths
from racecar.policy.load import load_paths

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: NAME}
spec: {endpointSelector: {}, egress: [{}]}
"""


def write(path: Path, name: str = "p", mode: int = 0o644) -> Path:
    path.write_text(POLICY.replace("NAME", name))
    path.chmod(mode)
    return path


def names(*paths: Path) -> list[str]:
    loaded = load_paths(paths)
    assert [str(finding) for finding in loaded.findings if finding.level == "error"] == []
    return [policy.name for policy in loaded.policies]


def error(*paths: Path | str) -> str:
    loaded = load_paths(paths)
    assert loaded.policies == ()
    (finding,) = [finding for finding in loaded.findings if finding.level == "error"]
    assert (finding.line, finding.column) == (1, 1)
    return str(finding)


def test_a_file_loads_under_the_path_as_given(tmp_path: Path) -> None:
    assert names(write(tmp_path / "p.txt")) == ["p"]
    assert load_paths([tmp_path / "p.txt"]).policies[0].file == str(tmp_path / "p.txt")


def test_a_relative_path_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "below").mkdir()
    write(tmp_path / "p.yaml")
    monkeypatch.chdir(tmp_path / "below")
    assert names(Path("../p.yaml")) == ["p"]
    monkeypatch.chdir(tmp_path)
    assert names(Path()) == ["p"]
    assert load_paths(["p.yaml"]).policies[0].file == "p.yaml"


def test_a_directory_loads_its_policy_files_in_order(tmp_path: Path) -> None:
    for name in ("b.yaml", "a.yml", "c.json", "d.txt", "e.yaml.bak"):
        write(tmp_path / name, name[0])
    (tmp_path / "below").mkdir()
    write(tmp_path / "below" / "f.yaml", "f")
    assert names(tmp_path) == ["a", "b", "c"]
    assert load_paths([f"{tmp_path}/"]).policies[0].file == f"{tmp_path}/a.yml"


def test_a_directory_without_policy_files_is_named(tmp_path: Path) -> None:
    (finding,) = load_paths([tmp_path]).findings
    assert finding.level == "notice"
    assert "holds no policy file" in finding.text


def test_a_hidden_file_is_named_and_not_loaded(tmp_path: Path) -> None:
    write(tmp_path / ".p.yaml")
    (finding,) = load_paths([tmp_path]).findings
    assert str(finding) == f"{tmp_path}/.p.yaml:1:1: notice: hidden file, not loaded"


def test_files_that_cannot_be_read_are_errors(tmp_path: Path) -> None:
    assert error(tmp_path / "none.yaml") == f"{tmp_path}/none.yaml:1:1: error: cannot read: No such file or directory"
    assert "Not a directory" in error(write(tmp_path / "p.yaml") / "q.yaml")
    assert "empty" in error("")
    assert "null" in error("a\0b")
    assert "no policy file given" in error()
    assert error(tmp_path / "a\nb").isprintable()
    assert error(os.fsdecode(b"/nothing/\xff.yaml")).isprintable()


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "not a regular file" in error(tmp_path / "pipe.yaml")
    assert "writable by others" in error("/dev/null")


def test_a_directory_named_as_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").mkdir()
    assert "not a regular file" in error(tmp_path)


def test_one_unreadable_file_leaves_no_policy(tmp_path: Path) -> None:
    error(write(tmp_path / "p.yaml"), tmp_path / "none.yaml")


@pytest.mark.parametrize("mode", [0o646, 0o664, 0o666])
def test_a_file_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    assert f"is writable by others (mode {mode:04o})" in error(write(tmp_path / "p.yaml", mode=mode))


@pytest.mark.parametrize("mode", [0o757, 0o775])
def test_a_directory_that_others_can_write_is_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    write(tmp_path / "d" / "e" / "p.yaml")
    (tmp_path / "d").chmod(mode)
    assert f'"{tmp_path}/d" is writable by others' in error(tmp_path / "d" / "e" / "p.yaml")
    assert f'"{tmp_path}/d" is writable by others' in error(tmp_path / "d" / "e")


def test_a_sticky_directory_is_fine(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o1777)
    assert names(write(tmp_path / "d" / "p.yaml")) == ["p"]


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file to another user needs root")
def test_what_belongs_to_another_user_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml")
    os.chown(path, 12345, -1)
    assert "belongs to user 12345" in error(path)
    os.chown(path, 0, -1)
    (tmp_path / "link.yaml").symlink_to("p.yaml")
    os.chown(tmp_path / "link.yaml", 12345, -1, follow_symlinks=False)
    assert "belongs to user 12345" in error(tmp_path / "link.yaml")
    os.chown(tmp_path, 12345, -1)
    assert "belongs to user 12345" in error(path)


def test_a_link_inside_the_directory_is_followed(tmp_path: Path) -> None:
    """As Kubernetes mounts a ConfigMap."""
    (tmp_path / "..2024").mkdir()
    write(tmp_path / "..2024" / "p.yaml")
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "p.yaml").symlink_to("..data/p.yaml")
    assert names(tmp_path) == ["p"]
    assert names(tmp_path / "p.yaml") == ["p"]
    assert load_paths([tmp_path]).policies[0].file == str(tmp_path / "p.yaml")


@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_out_of_the_directory_is_refused(tmp_path: Path, absolute: bool) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "dd").mkdir()
    target = write(tmp_path / "dd" / "p.yaml")
    (tmp_path / "d" / "p.yaml").symlink_to(target if absolute else "../dd/p.yaml")
    assert "outside" in error(tmp_path / "d")
    assert "outside" in error(tmp_path / "d" / "p.yaml")


def test_a_link_to_a_place_that_others_can_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    write(tmp_path / "open" / "p.yaml")
    (tmp_path / "p.yaml").symlink_to("open/p.yaml")
    (tmp_path / "open").chmod(0o777)
    assert "writable by others" in error(tmp_path / "p.yaml")


def test_the_given_directory_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "p.yaml")
    (tmp_path / "link").symlink_to("d")
    assert names(tmp_path / "link") == ["p"]
    assert names(tmp_path / "link" / "p.yaml") == ["p"]


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("b.yaml")
    (tmp_path / "b.yaml").symlink_to("a.yaml")
    assert "too many links" in error(tmp_path / "a.yaml").lower() or "levels" in error(tmp_path / "a.yaml")


def test_a_large_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 10)
    path = write(tmp_path / "p.yaml")
    assert "larger than 10 bytes" in str(read_paths([str(path)]).findings[0])


def test_two_files_with_one_policy_are_an_error(tmp_path: Path) -> None:
    assert "stands already at" in error(write(tmp_path / "a.yaml"), write(tmp_path / "b.yaml"))


def test_one_file_given_twice_is_an_error(tmp_path: Path) -> None:
    assert "stands already at" in error(write(tmp_path / "a.yaml"), tmp_path / "a.yaml")


@pytest.mark.slow
def test_loading_a_file_takes_less_than_a_fifth_of_a_second(tmp_path: Path) -> None:
    path = write(tmp_path / "p.yaml")
    code = (
        "import time; started = time.process_time();"
        "from racecar.policy.load import load_paths; import racecar.policy.compile, sys;"
        "assert load_paths(sys.argv[1:]).ok; print(time.process_time() - started)"
    )
    times = [float(subprocess.check_output([sys.executable, "-c", code, str(path)])) for _ in range(3)]
    assert min(times) < 0.2
