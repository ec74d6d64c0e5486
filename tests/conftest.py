"""What the tests share: named reasons to skip, throw-away cgroups and network namespaces, the kernel's own books."""

import contextlib
import ctypes
import itertools
import json
import os
import platform
import select
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

NO_SKIP = os.environ.get("RACECAR_NO_SKIP") == "1"
CLONE_NEWNET = 0x40000000
BPF_SYSCALL = {"x86_64": 321, "aarch64": 280}
PIN_ROOT = Path("/sys/fs/bpf/racecar")  # stays, empty, for the next instance

_serial = itertools.count()


def unique_name(kind: str) -> str:
    """Short enough for a network interface (15 bytes), and no other test run's."""
    return f"rc{os.getpid() % 1_000_000:x}{kind}{next(_serial):x}"


# --- Reasons to skip -------------------------------------------------------------------------------------------------


def cgroup2_mount(mounts: str | None = None) -> Path | None:
    """Where the unified hierarchy is mounted; on a hybrid machine that is not /sys/fs/cgroup."""
    for line in (mounts or Path("/proc/mounts").read_text()).splitlines():
        _, where, kind, *_ = line.split(" ")
        if kind == "cgroup2":
            return Path(where.replace("\\040", " "))
    return None


def has_bpffs(mounts: str | None = None) -> bool:
    lines = (mounts or Path("/proc/mounts").read_text()).splitlines()
    return any(line.split(" ")[1:3] == ["/sys/fs/bpf", "bpf"] for line in lines)


def may_use_bpf() -> bool:
    """Try to make a map: containers often have bpf(2) filtered whatever the capabilities say."""
    number = BPF_SYSCALL.get(platform.machine())
    if number is None:
        return False
    attributes = (ctypes.c_uint32 * 32)(2, 4, 4, 1)  # BPF_MAP_CREATE: an array of one 4-byte value
    libc = ctypes.CDLL(None, use_errno=True)
    fd = libc.syscall(ctypes.c_long(number), ctypes.c_int(0), ctypes.byref(attributes), ctypes.c_uint(128))
    if fd < 0:
        return False
    os.close(fd)
    return True


@cache
def missing_for_root_tests() -> tuple[str, ...]:
    """What this machine lacks for tests marked `root`, by name."""
    missing = []
    if os.geteuid() != 0:
        missing.append("root")
    if cgroup2_mount() is None:
        missing.append("a cgroup2 mount")
    if not has_bpffs():
        missing.append("bpffs on /sys/fs/bpf")
    if not may_use_bpf():
        missing.append("bpf(2)")
    return tuple(missing)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and missing_for_root_tests():
        pytest.skip("needs " + ", ".join(missing_for_root_tests()))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """With RACECAR_NO_SKIP=1 a test that did not run is a test that failed."""
    report: pytest.TestReport = yield
    if NO_SKIP and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and RACECAR_NO_SKIP=1 allows none: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report: pytest.CollectReport = yield
    if NO_SKIP and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped, and RACECAR_NO_SKIP=1 allows none: {_reason(report)}"
    return report


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    return str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)


@pytest.fixture(scope="session")
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")


def tool(name: str) -> str:
    """Path of a command; skips by its name where it is missing."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"needs {name}")
    return path


# --- Control groups --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cgroup2() -> Path:
    path = cgroup2_mount()
    if path is None:
        pytest.skip("needs a cgroup2 mount")
    return path


def remove_cgroup(path: Path) -> None:
    """Kill what is left in it and its children, wait until they are gone, remove them."""
    with contextlib.suppress(OSError):
        (path / "cgroup.kill").write_text("1")
    events = os.open(path / "cgroup.events", os.O_RDONLY)
    poll = select.poll()
    poll.register(events, select.POLLPRI)
    try:
        while b"populated 1" in os.pread(events, 256, 0):
            if not poll.poll(5000):
                raise AssertionError(f"{path} still holds processes after cgroup.kill")
    finally:
        os.close(events)
    for folder, _, _ in os.walk(path, topdown=False):
        os.rmdir(folder)


@pytest.fixture
def make_cgroup(needs_root: None, cgroup2: Path) -> Iterator[Callable[[], Path]]:
    """Make throw-away cgroups; whatever runs in them is killed at the end."""
    made: list[Path] = []

    def make() -> Path:
        path = cgroup2 / unique_name("c")
        path.mkdir()
        made.append(path)
        return path

    yield make
    for path in made:
        if path.exists():
            remove_cgroup(path)


@pytest.fixture
def cgroup(make_cgroup: Callable[[], Path]) -> Path:
    return make_cgroup()


# --- Network namespaces ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Netns:
    """One end of a pair: a named namespace with `lo` up and an address of each family on its veth."""

    name: str
    device: str
    address4: IPv4Address
    address6: IPv6Address

    @property
    def path(self) -> Path:
        return Path("/run/netns") / self.name

    def argv(self, *command: str) -> list[str]:
        return [tool("ip"), "netns", "exec", self.name, *command]

    def call(self, function: Callable[[], T]) -> T:
        """Run in a thread that has entered the namespace: sockets made there stay there."""
        results: list[T] = []
        failures: list[BaseException] = []

        def inside() -> None:
            try:
                enter_netns(self.path)
                results.append(function())
            except BaseException as failure:
                failures.append(failure)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]
        return results[0]


@dataclass(frozen=True)
class NetnsPair:
    client: Netns
    server: Netns


def enter_netns(path: Path) -> None:
    """Move the calling thread; os.setns is there from Python 3.12 on only."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, CLONE_NEWNET):
            number = ctypes.get_errno()
            raise OSError(number, f"setns {path}: {os.strerror(number)}")
    finally:
        os.close(fd)


def run_ip(*arguments: str) -> None:
    done = subprocess.run([tool("ip"), *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _bring_up(end: Netns) -> None:
    inside = ("-n", end.name)
    run_ip(*inside, "link", "set", "lo", "up")
    run_ip(*inside, "address", "add", f"{end.address4}/24", "dev", end.device)
    run_ip(*inside, "address", "add", f"{end.address6}/64", "dev", end.device, "nodad")
    run_ip(*inside, "link", "set", end.device, "up")


@pytest.fixture
def netns_pair(needs_root: None) -> Iterator[NetnsPair]:
    """Two namespaces joined by a veth; the addresses exist in them alone."""
    left, right = (
        Netns(unique_name(side), unique_name("v"), IPv4Address(f"10.99.0.{n}"), IPv6Address(f"fd99::{n}"))
        for side, n in (("a", 1), ("b", 2))
    )
    ends: Sequence[Netns] = (left, right)
    made: list[str] = []
    try:
        for end in ends:
            run_ip("netns", "add", end.name)
            made.append(end.name)
        peer = ("peer", "name", right.device, "netns", right.name)
        run_ip("link", "add", left.device, "netns", left.name, "type", "veth", *peer)
        for end in ends:
            _bring_up(end)
        yield NetnsPair(left, right)
    finally:
        for name in made:
            run_ip("netns", "delete", name)


# --- What the kernel holds -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KernelObjects:
    """Everything that racecar could leave behind: BPF ids, cgroups, namespaces, pins."""

    programs: frozenset[int]
    maps: frozenset[int]
    links: frozenset[int]
    cgroups: frozenset[str]
    namespaces: frozenset[str]
    pins: frozenset[str]

    def added_since(self, before: "KernelObjects") -> dict[str, list[object]]:
        """What is here and was not before, by kind; empty when nothing is left."""
        names = self.__dataclass_fields__
        added = {name: sorted(getattr(self, name) - getattr(before, name)) for name in names}
        return {name: values for name, values in added.items() if values}


def kernel_objects() -> KernelObjects:
    """Take stock. Freed programs and maps linger for an RCU grace period: ask again, as `no_leftovers` does."""
    bpftool = tool("bpftool")

    def ids(kind: str) -> frozenset[int]:
        listed = subprocess.run([bpftool, "--json", kind, "list"], capture_output=True, check=True).stdout
        return frozenset(entry["id"] for entry in json.loads(listed or b"[]"))

    mount = cgroup2_mount()
    cgroups = frozenset(folder for folder, _, _ in os.walk(mount)) if mount else frozenset[str]()
    names = frozenset(os.listdir("/run/netns")) if os.path.isdir("/run/netns") else frozenset[str]()
    pins = frozenset(str(path) for path in Path("/sys/fs/bpf").rglob("*") if path != PIN_ROOT)
    return KernelObjects(ids("prog"), ids("map"), ids("link"), cgroups, names, pins)


@pytest.fixture
def no_leftovers(needs_root: None) -> Iterator[Callable[[], None]]:
    """Fails the test if it leaves anything in the kernel; the value checks at once."""
    before = kernel_objects()

    def check(tries: int = 50) -> None:
        added: dict[str, list[object]] = {}
        for _ in range(tries):
            added = kernel_objects().added_since(before)
            if not added:
                return
            threading.Event().wait(0.1)  # an RCU grace period has no event to wait for
        raise AssertionError(f"left in the kernel: {added}")

    yield check
    check()
