"""What the README has its readers type, typed as it stands there."""

import functools
import http.server
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow]

README = Path(__file__).resolve().parent.parent.parent / "README.md"
TYPED_BY_THE_TEST = ("$ make setup ", "$ python3 -m http.server ")  # installed and serving already


FIRST_OF_ALL = ("mkdir ~/service && cd ~/service", """echo '[{"id": 1, "title": "mechanic"}]' >jobs""")  # of both


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """What `python3 -m http.server` serves in ~/service, on a port of its own."""
    handler = functools.partial(Quiet, directory=str(tmp_path / "service"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def plain(line: str) -> str:
    """Without what differs from run to run."""
    line = re.sub(r"event [0-9a-f]+-[0-9]+", "event ID", line)
    return re.sub(r"curl\[[0-9]+\]|127\.0\.0\.1:[0-9]+:", "curl[PID]", line)


def stories(text: str) -> list[str]:
    return re.findall(r"^```\n(\$ .*?)^```", text, re.MULTILINE | re.DOTALL)


def test_there_are_two_stories() -> None:
    assert [story.count("racecar exec") for story in stories(README.read_text())] == [2, 0]


@pytest.mark.parametrize("number", [0, 1], ids=["exec", "run"])
def test_the_stories_of_the_readme_go_as_they_say(tmp_path: Path, port: int, number: int) -> None:
    text = README.read_text().replace(":8080", f":{port}").replace('"8080"', f'"{port}"')
    text = text.replace(":8081", f":{free_port()}")
    policy = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    lines = stories(text)[number].splitlines()
    typed = [line[2:] for line in lines if line.startswith("$ ") and not line.startswith(TYPED_BY_THE_TEST)]
    shown = [line for line in lines if not line.startswith("$ ")]
    if number:
        typed = [*FIRST_OF_ALL, *typed]

    (tmp_path / "tweeter.yaml").write_text(policy)
    (tmp_path / "bin").mkdir()
    racecar = tmp_path / "bin/racecar"
    racecar.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m racecar.proxy.cli "$@"\n')
    racecar.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", "\n".join(typed)],
        env={**os.environ, "HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    written = done.stdout.replace(str(tmp_path), "/root").splitlines()
    assert sorted(map(plain, written)) == sorted(map(plain, shown))  # two processes write: the order may differ
