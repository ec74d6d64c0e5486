"""WebSocket with real libraries: a granted path is a WebSocket in all its ways, any other is refused."""

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.peers.origins import HERE, Origin, listen, needs_library
from tests.peers.proxies import Proxy

pytestmark = [pytest.mark.peers, pytest.mark.slow]

RULES: list[dict[str, Any]] = [
    {"method": "GET", "path": "/[^/]+/ws", "websocket": True},
    {"method": "GET", "path": "/[^/]+/plain"},
]
EXPECTED = {
    "status": 101,
    "text": "grüße",
    "binary": "00ff",
    "fragments sent": "in three parts",
    "fragments received": "fragments",
    "megabyte": hashlib.sha256(bytes(range(256)) * 4096).hexdigest(),
    "pong": True,
    "closed by server": [4001, "asked to"],
    "closed by client": [4002, "enough"],
}
CANNOT = {"aiohttp": {"fragments sent"}, "node": {"fragments sent", "pong"}}


@cache
def node_options() -> list[str] | None:
    """How Node gets a WebSocket of its own; None if it has none."""
    node = shutil.which("node")
    for options in ([], ["--experimental-websocket"]) if node else ():
        argv = [str(node), *options, "-e", "process.exit(typeof WebSocket === 'function' ? 0 : 1)"]
        if subprocess.run(argv, capture_output=True, check=False).returncode == 0:
            return options
    return None


def argv_of(client: str) -> list[str]:
    if client == "node":
        return ["node", *(node_options() or []), "--no-warnings", str(HERE / "clients/ws_node.mjs")]
    needs_library(client)
    return [sys.executable, str(HERE / f"clients/ws_{client}.py")]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Old Nodes have no WebSocket: nothing to skip. Node is asked only where these tests are to run."""
    if "client" in metafunc.fixturenames:
        has_node = "not peers" not in metafunc.config.option.markexpr and node_options() is not None
        metafunc.parametrize("client", ["websockets", "aiohttp"] + (["node"] if has_node else []))


@pytest.fixture(scope="module")
def origin(directory: Path) -> Iterator[Origin]:
    needs_library("websockets")
    folder = Path(tempfile.mkdtemp(prefix="websockets-", dir=directory))
    origin = Origin("websockets", folder, [sys.executable, str(HERE / "servers/ws_server.py")], listen())
    yield origin
    origin.stop()


def converse(client: str, proxy: Proxy, path: str) -> dict[str, object]:
    argv = [*argv_of(client), f"ws://127.0.0.1:{proxy.port}{path}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    told: dict[str, object] = json.loads(done.stdout)
    return told


def test_a_granted_websocket_works_in_all_its_ways(
    client: str, run: str, origin: Origin, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy(origin.port, {"http": RULES})
    cannot = CANNOT.get(client, set())
    told = converse(client, proxy, f"/{run}/ws")
    assert told == {name: value for name, value in EXPECTED.items() if name not in cannot}
    assert [entry.target for entry in origin.seen(run)] == [f"/{run}/ws"] * 2
    assert proxy.reasons() == []


@pytest.mark.parametrize("path", ["plain", "other"])
def test_a_websocket_that_no_rule_grants_is_refused(
    client: str, path: str, run: str, origin: Origin, make_proxy: Callable[..., Proxy]
) -> None:
    proxy = make_proxy(origin.port, {"http": RULES})
    assert converse(client, proxy, f"/{run}/{path}") == {"status": 403}
    assert origin.seen(run) == []
    assert proxy.reasons() == ["HTTP_UPGRADE" if path == "plain" else "HTTP_NO_RULE"]
