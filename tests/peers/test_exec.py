"""The same calls through `racecar exec`: clients that know of no proxy, as another user, redirected by the kernel."""

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from tests.peers.callers import Callers
from tests.peers.origins import HERE, Origin
from tests.peers.proxies import RULES, policy
from tests.peers.test_pairs import failures

pytestmark = [
    pytest.mark.peers,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(180),
]  # Go builds its library first

SYSTEM_PYTHON = "/usr/bin/python3"  # the virtual environment is not everybody's to read

_serial = count()


@pytest.fixture(scope="session")
def sources(directory: Path) -> Path:
    """The clients, where everybody may read them."""
    copy = directory / "clients"
    shutil.copytree(HERE / "clients", copy, ignore=shutil.ignore_patterns("__pycache__"))
    copy.chmod(0o755)
    for path in copy.iterdir():
        path.chmod(0o644)
    return copy


@pytest.mark.parametrize(
    ("client", "server"), [("curl", "nginx"), ("http_client", "http_server"), ("java", "node"), ("go", "go")]
)
def test_a_workload_and_a_server_understand_each_other(
    client: str,
    server: str,
    run: str,
    callers: Callers,
    sources: Path,
    directory: Path,
    origins: Callable[[str], Origin],
) -> None:
    origin = origins(server)
    path = policy(directory, origin.port, {"http": RULES})
    path.parent.chmod(0o755)
    enter = [sys.executable, "-m", "racecar.proxy.cli", "exec", "--policy", str(path), "--labels", "app=client"]
    enter += ["--instance", f"peers-{os.getpid():x}-{next(_serial):x}", "--"]
    inside = replace(callers, sources=sources, python=SYSTEM_PYTHON, enter=tuple(enter))
    wrong = failures(inside.client(client), origin, origin.port, run)
    assert not wrong, "\n".join([f"{client} and {server}:", *wrong])
