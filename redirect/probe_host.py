"""Probes of the host: privileges, file systems, cgroups, limits, and what other tools the terminating path uses."""

import ctypes
import fcntl
import os
import resource
import select
import signal
import socket
import stat
import struct
from importlib.resources import files
from pathlib import Path

from racecar.redirect import scratch
from racecar.redirect.ability import Ability, Noted, NotTried, Status, probe
from racecar.redirect.libbpf import library, open_pin, pin

CAPABILITIES = {"SETGID": 6, "SETUID": 7, "NET_ADMIN": 12, "SYS_ADMIN": 21, "PERFMON": 38, "BPF": 39}
PIPE_BYTES = 256 * 1024
WANTED_DESCRIPTORS = 65536
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
    """The user, its capabilities, its user namespace."""
    have = effective_capabilities()

    def user() -> str:
        if os.geteuid():
            raise Noted(Status.WARNING, f"uid {os.geteuid()}")
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
            if by_admin and name != "NET_ADMIN":
                return "covered by CAP_SYS_ADMIN"
            raise PermissionError(1, "not in effect")

        serves, without, required = _CAPABILITY_USES[name]
        absent = None if required else Status.INFO
        return probe(f"CAP_{name}", attempt, serves=serves, without=without, required=required, absent=absent)

    return [
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
        if mount is None:
            raise FileNotFoundError(2, "no bpffs in /proc/mounts; `mount -t bpf bpf /sys/fs/bpf`")
        if scratch.file_system_magic(mount) != scratch.BPFFS_MAGIC:
            raise OSError(0, f"{mount} is covered by another file system")
        return mount

    def pinned() -> str:
        if pins is None:
            raise NotTried(trouble)
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
            raise NotTried(trouble)
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


def relay() -> list[Ability]:
    """What the proxy's relay uses: splice, pipes, descriptors, killing connections."""

    def splice() -> str:
        reader, writer = os.pipe()
        try:
            size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            with scratch.loopback_pair() as (client, accepted):
                accepted.sendall(b"x" * 8)
                moved = os.splice(client.fileno(), writer, 8)
            if moved != 8:
                raise OSError(0, f"splice moved {moved} of 8 bytes")
        finally:
            os.close(reader)
            os.close(writer)
        return f"8 bytes moved through a pipe of {size >> 10} KB"

    def descriptors() -> str:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = hard if hard != resource.RLIM_INFINITY else 1 << 30
        text = f"soft {soft}, hard {hard}"
        if limit < WANTED_DESCRIPTORS:
            raise Noted(Status.WARNING, f"{text}: about {max(0, limit - 100) // 2} relayed connections")
        return text

    def pipe_pages() -> str:
        soft, hard = (
            int(Path(f"/proc/sys/fs/pipe-user-pages-{kind}").read_text(encoding="ascii")) for kind in ("soft", "hard")
        )
        pages = PIPE_BYTES // os.sysconf("SC_PAGE_SIZE")
        text = f"soft {soft or 'none'}, hard {hard or 'none'} pages a user"
        if soft and soft // pages < 64:
            raise Noted(Status.WARNING, f"{text}: {soft // pages} pipes of 256 KB")
        return text + (f": {soft // pages} pipes of 256 KB" if soft else "")

    destroy = "cutting connections that a new policy forbids"
    return [
        probe(
            "SOCK_DESTROY",
            _destroy_own_connection,
            serves=destroy,
            without="the release gate stops their packets; the peer sees silence instead of a reset",
            absent=Status.WARNING,
        ),
        probe(
            "splice(2)",
            splice,
            serves="long bodies and byte relays move inside the kernel",
            without="they are copied through the proxy: slower, as safe",
            absent=Status.WARNING,
        ),
        probe("descriptors", descriptors, serves="two a relayed connection", without="more are refused with a reset"),
        probe(
            "pipe pages",
            pipe_pages,
            serves="pipes for splice",
            without="beyond the soft limit pipes shrink and transfers are slower",
            absent=Status.INFO,
        ),
    ]


def _destroy_own_connection() -> str:
    with scratch.loopback_pair() as (client, _), socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4) as diagnosis:
        (_, source), (_, destination) = client.getsockname(), client.getpeername()
        loopback = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
        # struct inet_diag_req_v2: family, protocol, ext, pad, states, sockid (ports, addresses, interface, no cookie)
        request = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
        request += (
            struct.pack(">HH", source, destination) + loopback + loopback + struct.pack("=III", 0, *[0xFFFFFFFF] * 2)
        )
        header = struct.pack("=IHHII", 16 + len(request), 21, 5, 1, 0)  # SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK
        diagnosis.settimeout(1)
        diagnosis.send(header + request)
        code = -struct.unpack_from("=i", diagnosis.recv(4096), 16)[0]
        if code:
            raise OSError(code, os.strerror(code))
        code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code:
            raise OSError(0, "the kernel said yes and the connection lives")
        return f"own connection cut ({os.strerror(code)})"
