"""Throw-away things that probes work on: a cgroup, a directory on bpffs, children, raw system calls.

Everything made here is removed by its context manager, also when the probe fails.
"""

import ctypes
import json
import os
import platform
import secrets
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

NOBODY = 65534
BPFFS_MAGIC = 0xCAFE4A11
CHILD_SECONDS = 2.0  # a child that hangs is killed: doctor must end

_CLONE_INTO_CGROUP = 0x200000000
_CALLS = {
    "x86_64": {"bpf": 321, "seccomp": 317, "clone3": 435},
    "aarch64": {"bpf": 280, "seccomp": 277, "clone3": 435},
}
_BPF_ATTR_BYTES = 128

# PyDLL keeps the interpreter's lock over the call: a child cloned by it finds the lock in its own hands.
_libc = ctypes.PyDLL(None, use_errno=True)


def system_call(name: str, *arguments: Any) -> int:
    """Raises OSError with the kernel's errno, and NotImplementedError on an unknown processor."""
    try:
        number = _CALLS[platform.machine()][name]
    except KeyError:
        raise NotImplementedError(f"the number of {name}(2) on {platform.machine()} is not known") from None
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def bpf_call(command: int, attributes: bytes) -> tuple[int, bytes]:
    """bpf(2) with a packed union bpf_attr; its result and what the kernel wrote back."""
    buffer = ctypes.create_string_buffer(attributes.ljust(_BPF_ATTR_BYTES, b"\0"), _BPF_ATTR_BYTES)
    return system_call("bpf", command, buffer, _BPF_ATTR_BYTES), buffer.raw


def make_array_map(entries: int = 1) -> int:
    """BPF_MAP_CREATE of an array with 4-byte keys and values; the descriptor is the caller's."""
    return bpf_call(0, struct.pack("=IIIII", 2, 4, 4, entries, 0))[0]


def file_system_magic(path: str) -> int:
    """f_type of statfs(2): which kind of file system really lies there."""
    buffer = ctypes.create_string_buffer(256)
    if _libc.statfs(os.fsencode(path), buffer):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFFFFFF


def mounts(kind: str) -> list[str]:
    """Where file systems of this kind are mounted, from /proc/mounts."""
    with open("/proc/mounts", encoding="utf-8", errors="surrogateescape") as table:
        fields = [line.split() for line in table]
    return [f[1].encode("latin-1", "surrogateescape").decode("unicode_escape") for f in fields if f[2] == kind]


@contextmanager
def scratch_cgroup(mount: str) -> Iterator[Path]:
    """A new cgroup directly under the mount, gone afterwards."""
    path = Path(mount) / f"racecar-doctor-{os.getpid()}-{secrets.token_hex(4)}"
    path.mkdir()
    try:
        yield path
    finally:
        _remove_cgroup(path)


def _remove_cgroup(path: Path) -> None:
    deadline = time.monotonic() + 1
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return
        except OSError:  # EBUSY: a task is counted until the kernel has put its remains away
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)
        else:
            return


@contextmanager
def scratch_bpffs() -> Iterator[str]:
    """A bpffs of our own where none is mounted, unmounted afterwards. Needs CAP_SYS_ADMIN."""
    with tempfile.TemporaryDirectory(prefix="racecar-doctor-") as directory:
        place = os.fsencode(directory)
        if _libc.mount(b"bpf", place, b"bpf", 0, None):
            code = ctypes.get_errno()
            raise OSError(code, f"cannot mount bpffs: {os.strerror(code)}")
        try:
            yield directory
        finally:
            _libc.umount2(place, 0)


@contextmanager
def scratch_pins(bpffs: str) -> Iterator[Path]:
    """A directory on bpffs that only its owner enters, gone afterwards with whatever was pinned in it."""
    path = Path(bpffs) / f"racecar_doctor_{os.getpid()}_{secrets.token_hex(4)}"
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        for pinned in path.iterdir():
            pinned.unlink()
        path.rmdir()


def join(cgroup: Path) -> None:
    """Move the calling process."""
    (cgroup / "cgroup.procs").write_text(str(os.getpid()))


def unshare(flags: int) -> None:
    """unshare(2), for a child that is about to end."""
    if _libc.unshare(flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def become_nobody() -> None:
    """Drop root for good: user, groups, and with them every capability. No-op for others."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)


def in_child(work: Callable[[], Any], *, limit_s: float = CHILD_SECONDS) -> Any:
    """Run `work` in a forked child and return its answer, which must fit JSON.

    An OSError of the child is raised here with its errno; a child that is killed or hangs is a ChildProcessError.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _run_and_exit(work, writer, limit_s)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        raw = answers.read()
    _, status = os.waitpid(pid, 0)
    if not raw:
        how = f"killed by {signal.Signals(os.WTERMSIG(status)).name}" if os.WIFSIGNALED(status) else "ended silently"
        raise ChildProcessError(0, f"the probe's child was {how}")
    answer = json.loads(raw)
    if "failed" in answer:
        raise OSError(*answer["failed"])
    return answer["value"]


def _run_and_exit(work: Callable[[], Any], writer: int, limit_s: float) -> NoReturn:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, limit_s)
        try:
            answer = {"value": work()}
        except OSError as error:
            answer = {"failed": [error.errno or 0, error.strerror or str(error)]}
        except Exception as error:
            answer = {"failed": [0, f"{type(error).__name__}: {error}"]}
        os.write(writer, json.dumps(answer).encode())
    finally:
        os._exit(0)


def clone_into(cgroup: Path) -> int:
    """Clone a child that is born in the cgroup (CLONE_INTO_CGROUP) and waits to be killed; its pid."""
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack (2), tls, set_tid (2), cgroup
        arguments = struct.pack("=11Q", _CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, directory)
        buffer = ctypes.create_string_buffer(arguments, len(arguments))
        pid = system_call("clone3", buffer, len(arguments))
    finally:
        os.close(directory)
    if not pid:
        try:
            signal.setitimer(signal.ITIMER_REAL, CHILD_SECONDS)
            signal.pause()
        finally:
            os._exit(0)
    return pid


def reap(pid: int) -> int:
    """Kill a child if it still lives; its wait status."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    return os.waitpid(pid, 0)[1]


@contextmanager
def loopback_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A TCP connection over 127.0.0.1: the side that connected and the side that accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.settimeout(CHILD_SECONDS)
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            yield client, accepted
