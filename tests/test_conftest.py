"""The fixtures themselves: what they make works, and nothing of it stays."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HYBRID = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"

pytest_plugins = ["pytester"]


def test_cgroup2_is_found_where_it_is_mounted(request: pytest.FixtureRequest) -> None:
    conftest = conftest_module(request)
    assert conftest.cgroup2_mount(HYBRID) == Path("/sys/fs/cgroup/unified")
    assert conftest.cgroup2_mount("proc /proc proc rw 0 0\n") is None


def test_an_ordinary_directory_is_no_bpffs(request: pytest.FixtureRequest) -> None:
    conftest = conftest_module(request)
    assert conftest.has_bpffs("bpf /sys/fs/bpf bpf rw 0 0\n")
    assert not conftest.has_bpffs("sysfs /sys sysfs rw 0 0\n")


@pytest.mark.slow
@pytest.mark.parametrize(("switch", "failed"), [("1", 3), ("0", 0)])
def test_a_skip_is_a_failure_where_none_is_allowed(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, switch: str, failed: int
) -> None:
    monkeypatch.setenv("RACECAR_NO_SKIP", switch)
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makepyfile(
        test_in_the_test="import pytest\ndef test_a(): pytest.skip('needs a kernel of tomorrow')",
        test_by_mark="import pytest\n@pytest.mark.skipif(True, reason='why not')\ndef test_b(): pass",
        test_whole_file="import pytest\npytest.skip('needs the moon', allow_module_level=True)",
        test_expected_failure="import pytest\n@pytest.mark.xfail\ndef test_c(): assert False",
    )
    done = pytester.runpytest_subprocess("--import-mode=importlib", "--continue-on-collection-errors")
    outcomes = done.parseoutcomes()
    assert outcomes.get("failed", 0) + outcomes.get("errors", 0) == failed
    assert outcomes.get("skipped", 0) == 3 - failed
    if not failed:
        assert outcomes["xfailed"] == 1


@pytest.mark.root
@pytest.mark.slow
def test_a_cgroup_goes_with_everything_in_it(make_cgroup: Callable[[], Path], request: pytest.FixtureRequest) -> None:
    path = make_cgroup()
    (path / "inner").mkdir()
    sleeper = subprocess.Popen(["sleep", "60"])
    (path / "inner" / "cgroup.procs").write_text(str(sleeper.pid))
    conftest_module(request).remove_cgroup(path)
    assert sleeper.wait(timeout=5) == -9
    assert not path.exists()


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_ends_of_the_pair_reach_each_other(netns_pair: Any, family: socket.AddressFamily) -> None:
    address = str(netns_pair.server.address4 if family == socket.AF_INET else netns_pair.server.address6)

    def listen() -> socket.socket:
        return socket.create_server((address, 0), family=family)

    with netns_pair.server.call(listen) as listener:
        port = listener.getsockname()[1]
        with netns_pair.client.call(lambda: socket.create_connection((address, port), timeout=5)) as client:
            accepted, _ = listener.accept()
            with accepted:
                accepted.sendall(b"hello")
                assert client.recv(5) == b"hello"


@pytest.mark.root
@pytest.mark.slow
def test_the_pair_leaves_nothing(no_leftovers: Callable[[], None], netns_pair: Any) -> None:
    assert os.path.exists(netns_pair.client.path)


def conftest_module(request: pytest.FixtureRequest) -> Any:
    """The conftest beside this file: with importlib mode it has no importable name."""
    own = str(Path(__file__).with_name("conftest.py"))
    plugins = request.config.pluginmanager.get_plugins()
    return next(plugin for plugin in plugins if getattr(plugin, "__file__", None) == own)
