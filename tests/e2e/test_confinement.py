"""What a workload cannot do to get round its policy: reach the pins, the processes, another's sockets or terminal."""

import os
import platform
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from harness import Running, TcpServer, cidr, policy, relayed, run_exec, start_exec, workload

pytestmark = [pytest.mark.root, pytest.mark.slow]

PINS = Path("/sys/fs/bpf/racecar")
RUN = Path("/run/racecar")
ANYWHERE = cidr("127.0.0.1")
BPF, VM_READ = {"x86_64": (321, 310), "aarch64": (280, 270)}[platform.machine()]
PIDFD_GETFD, IO_URING_SETUP = 438, 425


# --- Policy files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["file", "directory"])
@pytest.mark.parametrize("how", ["mode", "owner"])
def test_a_policy_that_somebody_else_may_write_starts_nothing(which: str, how: str, tmp_path: Path) -> None:
    path = policy(ANYWHERE)
    target = path if which == "file" else path.parent
    if how == "mode":
        target.chmod(target.stat().st_mode | 0o022)
    else:
        os.chown(target, 65534, 65534)
    marker = tmp_path / "started"
    result = run_exec(path, ["/bin/touch", str(marker)])
    assert result.code == 125
    assert str(target if how == "owner" else path.parent) in result.stderr
    assert not marker.exists()


def test_a_policy_by_a_link_in_a_directory_that_others_may_write_starts_nothing(tmp_path: Path) -> None:
    path = policy(ANYWHERE)
    shared = path.parent / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (shared / "link.yaml").symlink_to(path)
    result = run_exec(shared / "link.yaml", ["/bin/true"])
    assert result.code == 125


def test_rules_are_those_of_the_file_as_it_was_read() -> None:
    """Whoever changes the file later changes nothing of what runs."""
    code = """
        say("ready")
        listen()
        say(attempt(dial, "127.0.0.1", port))
    """
    with TcpServer() as server:
        path = policy(cidr("127.0.0.2", server.port))
        with start_exec(path, workload(code, port=server.port)) as running:
            assert running.heard() == "ready"
            opened = yaml.safe_load(path.read_text())
            opened["spec"]["egress"] = [ANYWHERE]
            path.write_text(yaml.safe_dump(opened))
            assert running.ask() == "EPERM"
        assert server.connections == []


# --- Pins, state, processes ------------------------------------------------------------------------------------------


@pytest.fixture
def relaying() -> Iterator[tuple[Running, TcpServer]]:
    """A workload with a relayed connection that evaluates what it is told."""
    code = """
        s = dial("127.0.0.1", port)
        say("ready")
        while order := listen():
            say(eval(order))
    """
    with (
        TcpServer() as server,
        start_exec(policy(relayed("127.0.0.1", server.port)), workload(code, port=server.port)) as running,
    ):
        assert running.heard() == "ready"
        yield running, server


def others_of(running: Running) -> dict[str, int]:
    """The processes of racecar that serve this workload."""
    parents = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(status.parent.name)] = int(fields[1])
    guardians = [pid for pid, parent in parents.items() if parent == running.pid and pid != running.worker_pid]
    assert len(guardians) == 1
    return {"loader": running.pid, "proxy": running.worker_pid, "guardian": guardians[0]}


def test_pins_and_state_are_roots_alone(relaying: tuple[Running, TcpServer]) -> None:
    running, _ = relaying
    for directory in (PINS, running.pins, RUN / running.instance):
        status = directory.lstat()
        assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (0, 0o700), directory
    assert RUN.lstat().st_uid == 0
    assert not stat.S_IMODE(RUN.lstat().st_mode) & 0o022
    for file in (RUN / running.instance).iterdir():
        assert not stat.S_IMODE(file.stat().st_mode) & 0o022, file


def test_a_workload_opens_no_pin_lists_none_and_makes_no_bpf_object(relaying: tuple[Running, TcpServer]) -> None:
    running, _ = relaying
    assert sorted(path.name for path in running.pins.iterdir())  # they are there
    pin = running.pins / "map_workloads"
    assert pin.exists()
    assert running.ask(f"attempt(os.listdir, {str(PINS)!r})") == "EACCES"
    assert running.ask(f"attempt(os.open, {str(pin)!r}, os.O_RDONLY)") == "EACCES"
    assert running.ask(f"attempt(os.unlink, {str(running.pins / 'prog_rc_gate')!r})") == "EACCES"
    get_object = (
        f"(lambda path: (libc.syscall({BPF}, 7, ctypes.byref((ctypes.c_uint64 * 8)"
        "(ctypes.addressof(path))), 64), errno.errorcode[ctypes.get_errno()]))"
        f"(ctypes.create_string_buffer({str(pin).encode()!r}))"
    )
    assert running.ask(get_object) == [-1, "EACCES"]
    by_id = (
        f"(libc.syscall({BPF}, 14, ctypes.byref((ctypes.c_uint32 * 16)(1)), 64), errno.errorcode[ctypes.get_errno()])"
    )
    assert running.ask(by_id) == [-1, "EPERM"]  # BPF_MAP_GET_FD_BY_ID


def test_a_workload_moves_neither_itself_nor_another_out_of_its_cgroup(relaying: tuple[Running, TcpServer]) -> None:
    running, _ = relaying
    app = running.cgroup("app")
    for target in (app, app.parent, app.parent.parent, running.cgroup("proxy")):
        procs = str(target / "cgroup.procs")
        assert running.ask(f"attempt(os.open, {procs!r}, os.O_WRONLY)") == "EACCES"
    assert running.ask(f"attempt(os.mkdir, {str(app / 'nested')!r})") == "EACCES"
    assert running.ask("libc.unshare(0x02000000), errno.errorcode[ctypes.get_errno()]") == [-1, "EPERM"]


def test_a_workload_signals_and_reads_none_of_racecars_processes(relaying: tuple[Running, TcpServer]) -> None:
    running, server = relaying
    for pid in others_of(running).values():
        for number in (0, 9, 15, 19):
            assert running.ask(f"attempt(os.kill, {pid}, {number})") == "EPERM"
        assert running.ask(f"attempt(os.open, '/proc/{pid}/mem', os.O_RDONLY)") == "EACCES"
        assert running.ask(f"attempt(os.listdir, '/proc/{pid}/fd')") == "EACCES"
        assert running.ask(f"libc.ptrace(16, {pid}, 0, 0), errno.errorcode[ctypes.get_errno()]") == [-1, "EPERM"]
        getfd = f"libc.syscall({PIDFD_GETFD}, os.pidfd_open({pid}), 2, 0), errno.errorcode[ctypes.get_errno()]"
        assert running.ask(getfd) == [-1, "EPERM"]
        read = (
            f"(lambda here: (libc.syscall({VM_READ}, "
            f"{pid}, ctypes.byref(here), 1, ctypes.byref(here), 1, 0), errno.errorcode[ctypes.get_errno()]))"
            "((ctypes.c_uint64 * 2)(0x1000, 8))"
        )
        assert running.ask(read) == [-1, "EPERM"]  # process_vm_readv
    assert running.process.poll() is None
    assert len(server.connections) == 1


def test_the_proxy_has_a_uid_of_its_own_no_rights_and_is_not_dumpable(relaying: tuple[Running, TcpServer]) -> None:
    running, _ = relaying
    proxy = Path(f"/proc/{running.worker_pid}")
    status = dict(line.split(":\t", 1) for line in (proxy / "status").read_text().splitlines() if ":\t" in line)
    uids = set(status["Uid"].split())
    assert len(uids) == 1
    assert uids.isdisjoint({"0", str(running.ask("os.getuid()"))})
    assert status["Groups"].split() == []
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    assert (proxy / "mem").stat().st_uid == 0  # of a dumpable process it would be the process's own
    assert (proxy / "cgroup").read_text().strip().endswith(f"racecar.{running.instance}/proxy")


# --- What the workload is born with ----------------------------------------------------------------------------------


def test_a_workload_has_a_uid_that_nobody_else_has_and_no_rights() -> None:
    code = """
        status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
        names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
        say(status["Uid"].split(), status["Groups"].split(), [int(status[n], 16) for n in names], status["NoNewPrivs"])
        listen()
    """
    rules = policy(ANYWHERE)
    with start_exec(rules, workload(code)) as one, start_exec(rules, workload(code)) as other:
        first, second = one.heard(), other.heard()
    for uids, groups, capabilities, no_new_privs in (first, second):
        assert len(set(uids)) == 1
        assert int(uids[0]) >= 2_000_000_000
        assert groups == []
        assert capabilities == [0] * 5
        assert no_new_privs == "1"
    assert first[0] != second[0]


def test_two_workloads_cannot_signal_or_trace_each_other() -> None:
    code = """
        say(os.getpid())
        pid = int(listen())
        say(attempt(os.kill, pid, 9), libc.ptrace(16, pid, 0, 0), attempt(os.open, f"/proc/{pid}/mem", os.O_RDONLY))
    """
    rules = policy(ANYWHERE)
    with start_exec(rules, workload(code)) as one, start_exec(rules, workload(code)) as other:
        pid, _ = one.heard(), other.heard()
        assert other.ask(str(pid)) == ["EPERM", -1, "EACCES"]
        assert one.process.poll() is None


def test_inherited_descriptors_are_closed() -> None:
    """A socket connected outside of the cgroup is a way past every hook."""
    with TcpServer() as server, socket.create_connection(("127.0.0.1", server.port)) as outside:
        code = """
            say(sorted(int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")))
            say(attempt(os.write, inherited, b"SMUGGLED"))
        """
        argv = workload(code, inherited=outside.fileno())
        result = run_exec(policy(ANYWHERE), argv, pass_fds=[outside.fileno()])
        assert result.said == [[0, 1, 2], "EBADF"]
        assert server.received == [b""]


def test_a_terminal_takes_no_typing_from_a_workload() -> None:
    code = """
        import fcntl, termios
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)  # without a filter the kernel would ask no more of its session
        say(attempt(fcntl.ioctl, slave, termios.TIOCSTI, b"x"))
        say(libc.ioctl(slave, ctypes.c_ulong(0x100000000 | termios.TIOCSTI), b"x"), errno.errorcode[ctypes.get_errno()])
    """
    result = run_exec(policy(ANYWHERE), workload(code))
    assert result.said == ["EPERM", [-1, "EPERM"]]


def test_a_ring_that_would_make_sockets_is_not_there() -> None:
    code = "say(libc.syscall(setup, 8, (ctypes.c_uint8 * 120)()), errno.errorcode[ctypes.get_errno()])"
    result = run_exec(policy(ANYWHERE), workload(code, setup=IO_URING_SETUP))
    assert result.said == [[-1, "ENOSYS"]]


def test_a_unix_socket_that_the_uid_may_open_is_a_way_out_and_a_closed_one_is_not() -> None:
    """The documented limit: Unix sockets are not policed, their modes are what protects them."""
    tmp = policy(ANYWHERE).parent  # world-readable
    code = """
        for path in paths:
            s = socket.socket(socket.AF_UNIX)
            say(attempt(s.connect, path))
    """
    with socket.socket(socket.AF_UNIX) as public, socket.socket(socket.AF_UNIX) as private:
        paths = [str(tmp / "public"), str(tmp / "private")]
        for sock, path, mode in ((public, paths[0], 0o666), (private, paths[1], 0o600)):
            sock.bind(path)
            sock.listen()
            Path(path).chmod(mode)
        result = run_exec(tmp / "test.yaml", workload(code, paths=paths))
        assert result.said == ["ok", "EACCES"]


# --- What is given away by asking for it -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "warning"),
    [(("--user", "nobody"), "other processes of that user"), (("--keep-privileges",), "only trusted code may run so")],
)
def test_what_gives_the_boundary_away_warns_and_strict_refuses_it(option: tuple[str, ...], warning: str) -> None:
    rules = policy(ANYWHERE)
    told = run_exec(rules, workload("say(os.getuid())"), extra=option)
    assert told.code == 0
    assert warning in told.stderr
    assert told.said == [0 if option[0] == "--keep-privileges" else 65534]
    refused = run_exec(rules, workload("say(1)"), extra=(*option, "--strict"))
    assert refused.code == 125
    assert refused.said == []


def test_the_user_root_is_no_way_to_keep_roots_files() -> None:
    refused = run_exec(policy(ANYWHERE), workload("say(1)"), extra=("--user", "root"))
    assert refused.code == 125
    assert "--keep-privileges" in refused.stderr
    assert refused.said == []


def test_who_keeps_his_privileges_is_judged_all_the_same() -> None:
    code = """
        say(attempt(dial, "127.0.0.1", port))
        say(attempt(socket.socket, socket.AF_PACKET, socket.SOCK_RAW))
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0xFFFF)
        say(attempt(s.connect, ("127.0.0.1", port)))
    """
    with TcpServer() as server:
        rules = policy(cidr("127.0.0.2", server.port))
        result = run_exec(rules, workload(code, port=server.port), extra=("--keep-privileges",))
        assert result.said == ["EPERM", "EAFNOSUPPORT", "EPERM"]
        assert server.connections == []
