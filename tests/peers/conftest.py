"""Programs that are built once, and servers and proxies that live for the whole session."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any

import pytest

ROOT = str(Path(__file__).resolve().parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
pytest.register_assert_rewrite("tests.peers.callers", "tests.peers.origins", "tests.peers.proxies")

from tests.peers.callers import Callers  # noqa: E402
from tests.peers.origins import Maker, Origin  # noqa: E402
from tests.peers.proxies import RULES, Proxy  # noqa: E402

_serial = count()


def find_tool(name: str) -> str:
    """Path of a command, in the directories of daemons too; skips by its name where it is missing."""
    path = shutil.which(name, path=os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"needs {name}")
    return path


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    return find_tool


@pytest.fixture(scope="session")
def directory() -> Iterator[Path]:
    """Everybody may read it: workloads run as somebody else."""
    path = Path(tempfile.mkdtemp(prefix="racecar-peers-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def build_go(directory: Path) -> Callable[[Path], Path]:
    """Compile one file, statically, with nothing but the standard library."""

    @cache
    def build(source: Path) -> Path:
        program = directory / f"go-{source.stem}"
        env = os.environ | {"CGO_ENABLED": "0", "GO111MODULE": "off", "GOFLAGS": "", "GOPROXY": "off"}
        argv = [find_tool("go"), "build", "-o", str(program), str(source)]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return program

    return build


@pytest.fixture(scope="session")
def build_java(directory: Path) -> Callable[[Path], Path]:
    """Compile one file; gives the directory of its classes."""

    @cache
    def build(source: Path) -> Path:
        classes = directory / f"java-{source.stem}"
        argv = [find_tool("javac"), "-d", str(classes), str(source)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return classes

    return build


@pytest.fixture(scope="session")
def callers(build_go: Callable[[Path], Path], build_java: Callable[[Path], Path]) -> Callers:
    return Callers(build_go, build_java, find_tool)


@pytest.fixture(scope="session")
def origins(directory: Path, build_go: Callable[[Path], Path]) -> Iterator[Callable[[str], Origin]]:
    """Servers by name, each started when it is first asked for."""
    maker = Maker(directory, build_go, find_tool)
    started: dict[str, Origin] = {}

    def get(name: str) -> Origin:
        if name not in started:
            started[name] = maker.start(name)
        started[name].check()
        return started[name]

    yield get
    for origin in started.values():
        origin.stop()


@pytest.fixture(scope="session")
def proxies(directory: Path, origins: Callable[[str], Origin]) -> Iterator[Callable[[str], Proxy]]:
    """A racecar for each of those servers, with RULES."""
    started: dict[str, Proxy] = {}

    def get(name: str) -> Proxy:
        if name not in started:
            started[name] = Proxy(directory, origins(name).port, {"http": RULES})
        return started[name]

    yield get
    for proxy in started.values():
        proxy.stop()


@pytest.fixture
def make_proxy(directory: Path) -> Iterator[Callable[..., Proxy]]:
    """Racecars for one test: `make_proxy(upstream port, L7 rules, options)`."""
    made: list[Proxy] = []

    def make(upstream: int, rules: dict[str, Any] | None = None, options: tuple[str, ...] = ()) -> Proxy:
        made.append(Proxy(directory, upstream, rules or {"http": RULES}, options))
        return made[-1]

    yield make
    for proxy in made:
        proxy.stop()


@pytest.fixture
def run() -> str:
    """The first segment of every path of one test."""
    return f"run{next(_serial)}"
