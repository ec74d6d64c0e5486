"""The story of the README, typed as it stands there."""

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.root, pytest.mark.slow]

README = Path(__file__).resolve().parent.parent.parent / "README.md"
TYPED_BY_THE_TEST = ("$ make setup ", "$ python3 -m http.server ")  # installed and serving already


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


def plain(line: str) -> str:
    """Without what differs from run to run."""
    return re.sub(r"curl\[[0-9]+\]", "curl[PID]", re.sub(r"event [0-9a-f]+-[0-9]+", "event ID", line))


def test_the_story_of_the_readme_goes_as_it_says(tmp_path: Path, port: int) -> None:
    text = README.read_text().replace(":8080", f":{port}").replace('"8080"', f'"{port}"')
    policy = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[0]
    (story,) = re.findall(r"^```\n(\$ .*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = story.splitlines()
    typed = [line[2:] for line in lines if line.startswith("$ ") and not line.startswith(TYPED_BY_THE_TEST)]
    shown = [line for line in lines if not line.startswith("$ ")]

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
