"""Uids on loan: nobody else has them, and they come back."""

import os
import subprocess
from pathlib import Path

import pytest

from racecar.redirect.uids import RANGES, NoFreeUid, free_uids, is_mapped, reserved_range, uids_in_use

SMALL = range(1_999_999_930, 1_999_999_934)
WHOLE_MAP = "         0          0 4294967295\n"


def test_loans_never_overlap(tmp_path: Path) -> None:
    with free_uids(2, directory=tmp_path, wanted=SMALL) as one, free_uids(2, directory=tmp_path, wanted=SMALL) as two:
        assert sorted(one.uids + two.uids) == list(SMALL)


def test_a_uid_returns_when_its_loan_ends(tmp_path: Path) -> None:
    for _ in range(3):
        with free_uids(4, directory=tmp_path, wanted=SMALL) as lease:
            assert sorted(lease.uids) == list(SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["next"]


def test_uids_are_lent_in_turn(tmp_path: Path) -> None:
    lent = []
    for _ in range(5):
        with free_uids(1, directory=tmp_path, wanted=SMALL) as lease:
            lent += lease.uids
    assert lent == [*SMALL, SMALL.start]


def test_when_all_are_lent_none_is_kept_half_way(tmp_path: Path) -> None:
    with free_uids(3, directory=tmp_path, wanted=SMALL):
        with pytest.raises(NoFreeUid, match="1 of 2 uids free"):
            free_uids(2, directory=tmp_path, wanted=SMALL)
        with free_uids(1, directory=tmp_path, wanted=SMALL):
            pass


def test_another_holder_of_the_descriptor_keeps_the_loan(tmp_path: Path) -> None:
    lease = free_uids(4, directory=tmp_path, wanted=SMALL)
    held = os.dup(lease.fds[0])
    for fd in lease.fds:  # as the kernel does for a process that is killed
        os.close(fd)
    with free_uids(3, directory=tmp_path, wanted=SMALL) as other:
        assert lease.uids[0] not in other.uids
    os.close(held)


def test_lock_files_of_the_dead_do_not_count(tmp_path: Path) -> None:
    for uid in SMALL:
        (tmp_path / str(uid)).touch()
    with free_uids(4, directory=tmp_path, wanted=SMALL) as lease:
        assert len(lease.uids) == 4


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(PermissionError):
        free_uids(1, directory=tmp_path, wanted=SMALL)


def test_uids_of_accounts_are_not_lent(tmp_path: Path) -> None:
    with pytest.raises(NoFreeUid):
        free_uids(1, directory=tmp_path, wanted=range(1))


@pytest.mark.root
def test_uids_of_running_processes_are_not_lent(tmp_path: Path) -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, user=SMALL[1]) as process:
        assert uids_in_use(SMALL) == {SMALL[1]}
        with free_uids(3, directory=tmp_path, wanted=SMALL) as lease:
            assert SMALL[1] not in lease.uids
        process.communicate()


def test_a_map_must_hold_the_whole_range() -> None:
    assert is_mapped(RANGES[0], WHOLE_MAP)
    assert not is_mapped(RANGES[0], "0 100000 65536\n")
    assert is_mapped(RANGES[1], "0 100000 65536\n")
    assert not is_mapped(RANGES[1], "0 1000 1\n1 100000 64500\n")
    assert not is_mapped(RANGES[1], "")


def test_the_reserved_range_is_one_of_two() -> None:
    assert reserved_range() in RANGES
