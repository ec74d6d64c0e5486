"""Probes of the host: privileges, file systems, cgroups, limits, and what other tools the terminating path uses."""

import ctypes
import os
import platform
import select
import signal
import stat
import struct
from importlib.resources import files
from pathlib import Path

from racecar.redirect import scratch
from racecar.redirect.ability import Ability, NotedError, NotTriedError, Status, probe
from racecar.redirect.kernel_bugs import parse_version, text_of
from racecar.redirect.libbpf import library, open_pin, pin

CAPABILITIES = {"SETGID": 6, "SETUID": 7, "NET_ADMIN": 12, "SYS_ADMIN": 21, "PERFMON": 38, "BPF": 39}
KERNEL_FLOOR = (6, 1, 0)
_INITIAL_USER_NAMESPACE = 0xEFFFFFFD  # PROC_USER_INIT_INO, include/linux/proc_ns.h

_NOTHING = "no workload can be enforced here"


def effective_capabilities() -> frozenset[str]:
    """Those of CAPABILITIES that this process has in effect."""
    bits = int(_status_field("CapEff"), 16)
    return frozenset(name for name, bit in CAPABILITIES.items() if bits >> bit & 1)


def _status_field(name: str) -> str:
    for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines():
        field, _, value = line.partition(":")
        if field == name:
            return value.strip()
    return "0"


def privileges() -> list[Ability]:
    """The kernel, the user, its capabilities, its user namespace."""
    have = effective_capabilities()

    def kernel() -> str:
        running = parse_version(platform.release(), platform.version())
        if running is None or running < KERNEL_FLOOR:
            raise NotedError(
                Status.WARNING, f"{platform.release()} is older than the oldest tested, {text_of(KERNEL_FLOOR)}"
            )
        return f"{text_of(running)}, tested from {text_of(KERNEL_FLOOR)}"

    def user() -> str:
        if os.geteuid():
            raise NotedError(Status.WARNING, f"uid {os.geteuid()}")
        return "uid 0"

    def namespace() -> str:
        if os.stat("/proc/self/ns/user").st_ino == _INITIAL_USER_NAMESPACE:
            return "the initial one"
        mapping = " ".join(Path("/proc/self/uid_map").read_text(encoding="ascii").split())
        raise PermissionError(
            1, f"inside a user namespace (uid_map {mapping}): bpf(2) is refused whatever its capabilities"
        )

    def capability(name: str) -> Ability:
        by_admin = name in ("BPF", "PERFMON", "NET_ADMIN") and "SYS_ADMIN" in have

        def attempt() -> str:
            if name in have:
                return "in effect"
            if by_admin:
                return "covered by CAP_SYS_ADMIN, where BPF asks for it"
            raise PermissionError(1, "not in effect")

        serves, without, required = _CAPABILITY_USES[name]
        absent = None if required else Status.INFO
        return probe(f"CAP_{name}", attempt, serves=serves, without=without, required=required, absent=absent)

    return [
        probe("kernel", kernel, serves="everything", without="untested: what counts is what the other lines found"),
        probe(
            "user",
            user,
            serves="making cgroups and pins that only root may touch",
            without="needs write access to the cgroup file system and to bpffs by other means",
        ),
        probe("user namespace", namespace, serves="bpf(2)", without=_NOTHING, required=True),
        *(capability(name) for name in _CAPABILITY_USES),
    ]


_CAPABILITY_USES = {
    "BPF": ("loading programs and making maps", _NOTHING, True),
    "NET_ADMIN": ("attaching to cgroups and network namespaces, destroying connections", _NOTHING, True),
    "PERFMON": ("reading kernel structures in the connect hook", _NOTHING, True),
    "SETUID": ("running the proxy and the command as users of their own", "exec and the proxy cannot drop root", True),
    "SETGID": ("dropping groups with the user", "exec and the proxy cannot drop root's groups", True),
    "SYS_ADMIN": (
        "mounting bpffs, entering other network namespaces, naming other owners' programs",
        "bpffs must be mounted already; other owners of a hook are numbers without names",
        False,
    ),
}


def system_calls() -> list[Ability]:
    """bpf(2) itself, seccomp filters, the library and the launcher."""

    def bpf() -> str:
        try:
            os.close(scratch.make_array_map())
        except PermissionError:
            mode = _status_field("Seccomp")
            if mode != "0" and {"BPF", "SYS_ADMIN"} & effective_capabilities():
                raise PermissionError(
                    1, "refused though CAP_BPF is in effect: the seccomp profile forbids bpf(2)"
                ) from None
            raise
        return f"a map could be made (seccomp mode {_status_field('Seccomp')})"

    def seccomp() -> str:
        return str(scratch.in_child(_install_filter))

    def libbpf() -> str:
        lib = library()
        return f"{lib.libbpf_major_version()}.{lib.libbpf_minor_version()}"

    def launcher() -> str:
        path = Path(str(files("racecar.redirect") / "launcher" / "racecar-launcher"))
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode) or not mode & 0o111:
            raise PermissionError(13, f"{path} cannot be executed")
        return str(path)

    return [
        probe("bpf(2)", bpf, serves="everything in the kernel", without=_NOTHING, required=True),
        probe("libbpf", libbpf, serves="loading the programs", without="install libbpf1 (1.0 or later)", required=True),
        probe(
            "launcher",
            launcher,
            serves="racecar exec: the command starts confined, in its cgroup from birth",
            without="exec cannot start a command; build it with `make -C redirect/launcher`",
            required=True,
        ),
        probe(
            "seccomp filter",
            seccomp,
            serves="closing address families that policy does not see (packet, vsock) to the command",
            without="exec refuses to start a command",
            required=True,
        ),
    ]


def _install_filter() -> str:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "no_new_privs is refused")
    allow = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000), 8)  # BPF_RET, SECCOMP_RET_ALLOW
    program = ctypes.create_string_buffer(struct.pack("@HP", 1, ctypes.addressof(allow)), 16)
    scratch.system_call("seccomp", 1, 0, program)  # SECCOMP_SET_MODE_FILTER
    return "a filter could be installed without privileges"


def bpf_files(mount: str | None, pins: Path | None, trouble: str) -> list[Ability]:
    """BTF and bpffs. `pins` is the scratch directory, or None with the trouble that making it met."""

    def btf() -> str:
        return f"{os.stat('/sys/kernel/btf/vmlinux').st_size >> 10} KB"

    def mounted() -> str:
        if mount is None and pins is not None:
            raise NotedError(Status.INFO, "not mounted; could be mounted, as racecar does when it starts")
        if mount is None:
            raise FileNotFoundError(2, f"not mounted: {trouble}; mount -t bpf bpf /sys/fs/bpf")
        if scratch.file_system_magic(mount) != scratch.BPFFS_MAGIC:
            raise OSError(0, f"{mount} is covered by another file system")
        return mount

    def pinned() -> str:
        if pins is None:
            raise NotTriedError(trouble)
        made = scratch.make_array_map()
        try:
            pin(made, pins / "pin")
            os.close(open_pin(pins / "pin"))
        finally:
            os.close(made)
        return "pinned, opened, removed"

    survive = "programs, links and maps that outlive the loader, so that its death leaves the workload refused"
    return [
        probe("kernel BTF", btf, serves="one build for every kernel (CO-RE)", without=_NOTHING, required=True),
        probe("bpffs", mounted, serves=survive, without=_NOTHING, required=True),
        probe("pin", pinned, serves=survive, without=_NOTHING, required=True),
    ]


def cgroups(mount: str | None, cgroup: Path | None, trouble: str) -> list[Ability]:
    """cgroup2, birth in a cgroup and its end. `cgroup` is the scratch one, or None with what making it met."""

    def version2() -> str:
        if mount is None:
            raise FileNotFoundError(2, "no cgroup2 in /proc/mounts")
        return mount

    def made() -> Path:
        if cgroup is None:
            raise NotTriedError(trouble)
        return cgroup

    def creation() -> str:
        if cgroup is None:
            raise PermissionError(0, trouble)
        return "made and removed"

    def born() -> str:
        scratch.reap(scratch.clone_into(made()))
        return "a child was born in it"

    def kill() -> str:
        directory = made()
        pid = scratch.clone_into(directory)
        try:
            handle = os.pidfd_open(pid)
            try:
                (directory / "cgroup.kill").write_text("1")
                if not select.select([handle], [], [], 1)[0]:
                    raise OSError(0, "cgroup.kill was written and the child lives")
            finally:
                os.close(handle)
        finally:
            status = scratch.reap(pid)
        return f"child ended by {signal.Signals(os.WTERMSIG(status)).name}"

    return [
        probe("cgroup2", version2, serves="the workload's border", without=_NOTHING, required=True),
        probe("own cgroup", creation, serves="racecar exec", without="exec cannot enclose a command", required=True),
        probe(
            "CLONE_INTO_CGROUP",
            born,
            serves="the command is in its cgroup before its first instruction",
            without="exec refuses to start a command",
            required=True,
        ),
        probe(
            "cgroup.kill",
            kill,
            serves="ending all children when the command has ended, also those that fork on",
            without="children that outlive the command stay, refused, until they end by themselves",
            absent=Status.WARNING,
        ),
    ]
