"""Pipes are shared by workloads: empty, in bounds, to each its share."""

import fcntl
import os
from collections.abc import Iterator

import pytest

from racecar.proxy.core.relay import PIPE_BYTES
from racecar.proxy.pipes import PipePool, PipeQuota, affordable_pipes


@pytest.fixture
def pool() -> Iterator[PipePool]:
    pool = PipePool(max_pipes=2, max_per_workload=1)
    yield pool
    pool.close()
    assert pool.open == 0


def test_a_pipe_has_its_size_and_comes_back(pool: PipePool) -> None:
    quota = PipeQuota()
    pipe = pool.take(quota)
    assert pipe is not None
    assert fcntl.fcntl(pipe.read, fcntl.F_GETPIPE_SZ) == PIPE_BYTES
    pool.give(pipe, quota, empty=True)
    assert pool.take(quota) == pipe
    pool.give(pipe, quota, empty=True)


def test_a_pipe_that_may_hold_bytes_is_closed(pool: PipePool) -> None:
    quota = PipeQuota()
    pipe = pool.take(quota)
    assert pipe is not None
    pool.give(pipe, quota, empty=False)
    assert pool.open == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pipe.read)


def test_each_workload_has_its_quota_and_all_have_a_bound(pool: PipePool) -> None:
    quotas = [PipeQuota() for _ in range(3)]
    first, second = pool.take(quotas[0]), pool.take(quotas[1])
    assert first is not None
    assert second is not None
    assert pool.take(quotas[0]) is None
    assert pool.take(quotas[2]) is None
    assert (pool.refused, quotas[2].held) == (2, 0)
    pool.give(first, quotas[0], empty=True)
    third = pool.take(quotas[2])
    assert third == first
    pool.give(first, quotas[2], empty=True)
    pool.give(second, quotas[1], empty=True)


def test_without_room_for_descriptors_there_is_no_pipe() -> None:
    assert PipePool(max_pipes=2, max_per_workload=1, has_room=lambda: False).take(PipeQuota()) is None


def test_a_pipe_that_the_kernel_makes_small_is_not_used(pool: PipePool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.fcntl

    def over_budget(fd: int, command: int, *argument: int) -> int:
        if command == fcntl.F_SETPIPE_SZ:
            raise PermissionError
        return real(fd, command, *argument)

    monkeypatch.setattr(fcntl, "fcntl", over_budget)
    assert pool.take(PipeQuota()) is None
    assert pool.open == 0


def test_the_default_stays_within_the_users_budget() -> None:
    with open("/proc/sys/fs/pipe-user-pages-soft", "rb") as file:
        pages = int(file.read())
    assert affordable_pipes() >= 1
    assert not pages or affordable_pipes() * PIPE_BYTES <= max(pages * 4096, PIPE_BYTES)
