"""Servers of other makers, each in a process of its own on a port that the kernel picked.

The test binds and listens, the server takes the socket over as descriptor 3: whoever connects too early waits in the
backlog, so nothing has to be waited for.
"""

import contextlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

HERE = Path(__file__).resolve().parent
PATIENCE_S = 20.0
LISTENER_FD = 3


@dataclass(frozen=True)
class Seen:
    """A request, as a server saw it."""

    method: str
    target: str
    version: str
    host: str
    is_chunked: bool
    peer: int

    @classmethod
    def parse(cls, line: str) -> "Seen":
        entry = json.loads(line)
        is_chunked = entry["chunked"] in (True, "chunked")  # nginx writes the header's value
        return cls(entry["method"], entry["target"], entry["version"], entry["host"], is_chunked, int(entry["peer"]))


def wait_until(condition: Callable[[], bool], what: Callable[[], str], timeout_s: float = PATIENCE_S) -> None:
    """For what has no event to wait for."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not in {timeout_s} s: {what()}")
        threading.Event().wait(0.01)


def needs_library(name: str) -> None:
    """Skip, by its name, without a library."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name} (pip install racecar[peers])")


def listen() -> socket.socket:
    """A listening socket on a free port of loopback; what it accepts waits for no acknowledgement."""
    listener = socket.socket()
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(2048)
    return listener


class Process:
    """A program that runs until `stop`; what it says on stderr is kept for failures."""

    def __init__(
        self, argv: Sequence[str], *, listener: socket.socket | None = None, env: dict[str, str] | None = None
    ) -> None:
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
        fds = () if listener is None else (listener.fileno(),)
        if listener is not None:
            # Children inherit the number as it is: bash moves it to 3 (dash knows no numbers above 9), then it is gone.
            argv = ["bash", "-c", f'exec "$@" {LISTENER_FD}<&{listener.fileno()}', "sh", *argv]
        self.process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stderr=self._stderr, pass_fds=fds, env=os.environ | (env or {})
        )

    @property
    def stderr(self) -> str:
        # By offset: the child writes at the end that it shares with us.
        return os.pread(self._stderr.fileno(), 1 << 16, 0).decode(errors="replace")

    @property
    def is_stopped(self) -> bool:
        """True after `stop`."""
        return self._stderr.closed

    @property
    def pid(self) -> int:
        return self.process.pid

    def stop(self) -> tuple[int, str]:
        """End it in order, by SIGKILL if it will not; its code, and what it said on stderr."""
        self.process.terminate()
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        said = self.stderr
        self._stderr.close()
        return code, said


class Origin:
    """One server and the file that it records requests in."""

    def __init__(self, name: str, directory: Path, argv: Sequence[str], listener: socket.socket, **env: str) -> None:
        self.name = name
        self.port: int = listener.getsockname()[1]
        self._record = directory / "record.jsonl"
        self._record.touch()
        self._server = Process(argv, listener=listener, env={"RECORD": str(self._record)} | env)
        listener.close()

    def seen(self, run: str) -> list[Seen]:
        """The requests whose target lies under /`run`/, in the order of their answers."""
        entries = map(Seen.parse, self._record.read_text().splitlines())
        return [entry for entry in entries if entry.target.startswith(f"/{run}/")]

    def wait_seen(self, run: str, count: int) -> list[Seen]:
        """The same, once there are `count` of them: nginx writes a request down when all is over."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: len(self.seen(run)) >= count, lambda: f"{count} requests of {run}", 3.0)
        return self.seen(run)

    def check(self) -> None:
        """It still runs."""
        assert self._server.process.poll() is None, f"{self.name} ended: {self._server.stderr}"

    def stop(self) -> None:
        self._server.stop()


@dataclass
class Maker:
    """Starts the servers; `directory` is everybody's to read, `build` compiles a Go file and gives the program."""

    directory: Path
    build_go: Callable[[Path], Path]
    tool: Callable[[str], str]

    def start(self, name: str) -> Origin:
        """Skips, by its name, where the server is not installed."""
        made: Origin = getattr(self, "_" + name.replace(".", "_"))(self._folder(name))
        return made

    def _folder(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))

    def _http_server(self, folder: Path) -> Origin:
        program = HERE / "servers/http_server.py"
        return Origin("http.server", folder, [sys.executable, str(program)], listen())

    def _uvicorn(self, folder: Path) -> Origin:
        needs_library("uvicorn")
        # With httptools it loses the body of a request that offers an upgrade, as every first one of Java does.
        options = ["--fd", str(LISTENER_FD), "--http", "h11", "--log-level", "warning", "--no-access-log"]
        argv = [sys.executable, "-m", "uvicorn", "--app-dir", str(HERE / "servers"), *options]
        return Origin("uvicorn", folder, [*argv, "--timeout-keep-alive", "60", "asgi:app"], listen())

    def _gunicorn(self, folder: Path) -> Origin:
        needs_library("gunicorn")
        options = ["--bind", f"fd://{LISTENER_FD}", "--worker-class", "gthread", "--threads", "16"]
        options += ["--keep-alive", "60", "--chdir", str(HERE / "servers"), "--log-level", "warning"]
        return Origin("gunicorn", folder, [sys.executable, "-m", "gunicorn", *options, "wsgi:app"], listen())

    def _node(self, folder: Path) -> Origin:
        return Origin("node", folder, [self.tool("node"), str(HERE / "servers/server.mjs")], listen())

    def _go(self, folder: Path) -> Origin:
        return Origin("go", folder, [str(self.build_go(HERE / "servers/server.go"))], listen())

    def _nginx(self, folder: Path) -> Origin:
        nginx = self.tool("nginx")
        behind = self._http_server(self._folder("behind"))
        listener = listen()
        (folder / "large.bin").write_bytes((bytes(range(251)) * 4200)[: 1 << 20])
        (folder / "gzip.txt").write_bytes(b"racecar " * 2000)
        values = {"DIRECTORY": folder, "PORT": listener.getsockname()[1], "BEHIND": behind.port}
        values["RECORD"] = folder / "record.jsonl"
        text = (HERE / "servers/nginx.conf").read_text()
        for name, value in values.items():
            text = text.replace("{" + name + "}", str(value))
        # Its workers become nobody, who may not go into our directory.
        (folder / "nginx.conf").write_text("user root;\n" + text if os.geteuid() == 0 else text)
        argv = [nginx, "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
        return WithBehind(behind, folder, argv, listener, NGINX=f"{LISTENER_FD};")


class WithBehind(Origin):
    """nginx and the server behind it."""

    def __init__(
        self, behind: Origin, directory: Path, argv: Sequence[str], listener: socket.socket, **env: str
    ) -> None:
        super().__init__("nginx", directory, argv, listener, **env)
        self._behind = behind

    def stop(self) -> None:
        super().stop()
        self._behind.stop()


SERVERS = ("nginx", "uvicorn", "gunicorn", "node", "go", "http_server")
