"""What a command under the launcher can no longer do. Real processes, a throw-away cgroup, the kernel's own account."""

import ctypes
import errno
import os
import platform
import pty
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from racecar.redirect.launch import Ending, Launched, LaunchError, LaunchPlan, Outcome, launcher_path, spawn

pytestmark = pytest.mark.root

UID = 1_999_999_901  # outside the ranges that racecar lends
GID = 1_999_999_902
LAUNCHER = Path(__file__).resolve().parent.parent.parent / "redirect/launcher"

Start = Callable[..., Launched]
Output = Callable[..., tuple[Outcome, str]]


def python(source: str, *arguments: str) -> list[str]:
    """A command in the system's python, which strangers may execute; the one that runs us may be in a closed home."""
    for path in ("/usr/bin/python3", "/usr/local/bin/python3"):
        if os.access(path, os.X_OK):
            return [path, "-ISc", source, *arguments]
    pytest.skip("needs /usr/bin/python3")


@pytest.fixture(scope="module", autouse=True)
def _built() -> None:
    subprocess.run(["make", "--silent", "-C", str(LAUNCHER)], check=True)


@pytest.fixture
def start(cgroup: Path) -> Iterator[Start]:
    """Spawn a command in a throw-away cgroup; finished at the end of the test."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    running: list[Launched] = []

    def start_command(command: list[str], *, streams: dict[str, int] | None = None, **fields: object) -> Launched:
        identity = {} if fields.get("keep_privileges") else {"uid": UID, "gid": GID}
        plan = LaunchPlan(command=command, cgroup_fd=fd, **{**identity, **fields})  # type: ignore[arg-type]
        running.append(spawn(plan, **{"stdin": subprocess.DEVNULL, **(streams or {})}))
        return running[-1]

    yield start_command
    for launched in running:
        launched.finish()
    os.close(fd)


@pytest.fixture
def output(start: Start) -> Output:
    """Run a command to its end and return its outcome and what it wrote to stdout."""

    def run(command: list[str], **fields: object) -> tuple[Outcome, str]:
        read_fd, write_fd = os.pipe()
        with open(read_fd, "rb") as reader:
            try:
                launched = start(command, streams={"stdout": write_fd}, **fields)
            finally:
                os.close(write_fd)
            return launched.wait(20.0), reader.read().decode()

    return run


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A directory that every uid may enter; pytest's own is closed."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def status_of(text: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name: " ".join(value.split()) for name, _, value in pairs}


# --- Where and as whom ---------------------------------------------------------------------------------------------


def test_the_command_runs_in_its_cgroup(output: Output, cgroup: Path) -> None:
    outcome, text = output(["cat", "/proc/self/cgroup"])
    assert outcome == Outcome(0, Ending.EXITED)
    assert f"0::/{cgroup.name}" in text.splitlines()


def test_a_cgroup_that_was_killed_can_hold_a_command_again(output: Output, cgroup: Path) -> None:
    (cgroup / "cgroup.kill").write_text("1")
    outcome, text = output(["cat", "/proc/self/cgroup"])
    assert outcome.code == 0
    assert f"0::/{cgroup.name}" in text.splitlines()


def test_the_command_has_its_uid_no_groups_no_capabilities_and_a_filter(output: Output) -> None:
    status = status_of(output(["cat", "/proc/self/status"])[1])
    assert status["Uid"].split() == [str(UID)] * 4
    assert status["Gid"].split() == [str(GID)] * 4
    assert status["Groups"] == ""
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[name], 16) == 0, name
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


@pytest.fixture
def all_signals_ignored() -> Iterator[None]:
    """Those that libc keeps for itself too, which posix_spawn leaves ignored: hence by system calls."""
    rt_sigaction = {"x86_64": 13, "aarch64": 134}[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    ignore, before = (ctypes.c_ulong * 4)(1), {}
    for number in sorted(set(range(1, 65)) - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}):  # we wait for children
        before[number] = (ctypes.c_ulong * 4)()
        assert libc.syscall(ctypes.c_long(rt_sigaction), number, ignore, before[number], ctypes.c_size_t(8)) == 0
    yield
    for number, action in before.items():
        assert libc.syscall(ctypes.c_long(rt_sigaction), number, action, None, ctypes.c_size_t(8)) == 0


def test_signals_are_neither_ignored_nor_blocked(output: Output, all_signals_ignored: None) -> None:
    status = status_of(output(["cat", "/proc/self/status"])[1])
    assert int(status["SigIgn"], 16) == int(status["SigBlk"], 16) == 0


def test_the_command_leads_a_session_of_its_own(output: Output) -> None:
    _, text = output(python("import os; print(os.getpid(), os.getsid(0), os.getpgid(0))"))
    assert len(set(text.split())) == 1
    assert int(text.split()[0]) != os.getsid(0)


def test_groups_are_those_of_the_plan(output: Output) -> None:
    status = status_of(output(["cat", "/proc/self/status"], groups=(1_999_999_903, 1_999_999_904))[1])
    assert status["Groups"] == "1999999903 1999999904"


def test_kept_privileges_still_come_with_no_new_privs_and_the_filter(output: Output) -> None:
    status = status_of(output(["cat", "/proc/self/status"], keep_privileges=True)[1])
    assert status["Uid"].split() == ["0"] * 4
    assert int(status["CapEff"], 16) != 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_a_set_user_id_program_gains_nothing(output: Output, open_folder: Path) -> None:
    copy = open_folder / "id"
    shutil.copy(shutil.which("id") or "/usr/bin/id", copy)
    copy.chmod(0o4755)
    assert output([str(copy), "-u"])[1].strip() == str(UID)


def test_grandchildren_are_covered(output: Output, cgroup: Path) -> None:
    _, text = output(["sh", "-c", "(cat /proc/self/status /proc/self/cgroup; true) | cat; true"])
    status = status_of(text)
    assert status["Uid"].split() == [str(UID)] * 4
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert f"0::/{cgroup.name}" in text.splitlines()


def test_the_command_does_not_possess_the_loaders_keys(output: Output) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    number = {"x86_64": 250, "aarch64": 219}[platform.machine()]
    ours = libc.syscall(ctypes.c_long(number), 1, None)  # a session keyring for this process: it may have had none
    if ours < 0:
        pytest.skip("needs keyctl(2)")
    outcome, text = output(["cat", "/proc/keys"])
    assert outcome.code == 0
    assert f"{ours:08x}" not in [line.split()[0] for line in text.splitlines()]


# --- Descriptors ---------------------------------------------------------------------------------------------------


def test_no_descriptor_above_2_is_left(output: Output) -> None:
    with socket.socket() as connection:
        os.set_inheritable(connection.fileno(), True)
        _, text = output(["sh", "-c", "ls /proc/$$/fd"], held_fds=(connection.fileno(),))
    assert text.split() == ["0", "1", "2"]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK])
@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_network_socket_as_a_standard_stream_is_refused(start: Start, family: int, stream: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as end:
        outcome = start(["true"], streams={stream: end.fileno()}).wait(20.0)
    assert outcome == Outcome(125, Ending.REFUSED, text=f"{stream} is a network socket")


def test_a_unix_socket_as_a_standard_stream_is_fine(start: Start) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert start(["echo", "hello"], streams={"stdout": theirs.fileno()}).wait(20.0).code == 0
        assert ours.recv(16) == b"hello\n"


def test_a_kernel_object_as_a_standard_stream_is_refused(start: Start) -> None:
    fd = os.eventfd(0)
    outcome = start(["true"], streams={"stdin": fd}).wait(20.0)
    os.close(fd)
    assert outcome == Outcome(125, Ending.REFUSED, text="stdin is a kernel object, not a file")


def test_a_closed_standard_stream_becomes_dev_null(cgroup: Path) -> None:
    cgroup_fd = os.open(cgroup, os.O_RDONLY)
    guard_read, guard_write = os.pipe()
    status_read, status_write = os.pipe()
    plan = LaunchPlan(command=["readlink", "/proc/self/fd/0"], cgroup_fd=cgroup_fd, uid=UID, gid=GID)
    guardian = subprocess.Popen(
        ["sh", "-c", 'exec "$0" "$@" <&-', launcher_path(), *plan.arguments(guard_read, status_write)],
        pass_fds=(cgroup_fd, guard_read, status_write),
        stdout=subprocess.PIPE,
    )
    for fd in (cgroup_fd, guard_read, status_write):
        os.close(fd)
    with open(status_read) as status:
        assert status.readline().startswith("pid ")
        assert status.readline() == "exit 0\n"
        os.close(guard_write)
        assert guardian.communicate(timeout=20.0)[0] == b"/dev/null\n"


# --- The filter ----------------------------------------------------------------------------------------------------

SOCKETS = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for text in sys.argv[1:]:
    call, *numbers = text.split(",")
    values = [ctypes.c_long(int(number)) for number in numbers]
    if call == "socketpair":
        values.append(ctypes.byref((ctypes.c_int * 2)()))
    number = {"socket": (41, 198), "socketpair": (53, 199)}[call][os.uname().machine == "aarch64"]
    result = libc.syscall(ctypes.c_long(number), *values)
    print(errno.errorcode[ctypes.get_errno()] if result < 0 else "ok")
"""
STREAM, DGRAM, RAW, PACKET = 1, 2, 3, 10
VSOCK, ALG, XDP, SMC_PROTOCOL = 40, 38, 44, 256


def errors_of_sockets(output: Output, *calls: str, **fields: object) -> list[str]:
    outcome, text = output(python(SOCKETS, *calls), **fields)
    assert outcome.code == 0
    return text.split()


def test_four_socket_families_exist(output: Output) -> None:
    calls = [f"socket,1,{STREAM},0", f"socket,2,{STREAM},0", f"socket,10,{DGRAM},0", f"socket,16,{RAW},0"]
    assert errors_of_sockets(output, *calls, f"socketpair,1,{STREAM},0") == ["ok"] * 5


@pytest.mark.parametrize("privileged", [False, True])
def test_other_socket_families_do_not_exist(output: Output, privileged: bool) -> None:
    families = [0, 17, 21, 29, 30, 31, ALG, VSOCK, 43, XDP, 45]
    calls = [f"{call},{family},{STREAM},0" for family in families for call in ("socket", "socketpair")]
    answers = errors_of_sockets(output, *calls, keep_privileges=privileged)
    assert answers == ["EAFNOSUPPORT"] * len(calls)


def test_the_upper_half_of_a_family_is_ignored_as_the_kernel_does(output: Output) -> None:
    high = 1 << 32
    calls = [f"socket,{high + VSOCK},{STREAM},0", f"socket,{high + 1},{STREAM},0"]
    assert errors_of_sockets(output, *calls) == ["EAFNOSUPPORT", "ok"]


def test_packet_sockets_do_not_exist_by_their_old_name(output: Output) -> None:
    flags = 0o2000000 | 0o4000  # close-on-exec, non-blocking
    calls = [f"socket,2,{PACKET},768", f"socket,2,{PACKET | flags},768"]
    assert errors_of_sockets(output, *calls, keep_privileges=True) == ["EAFNOSUPPORT"] * 2


def test_smc_does_not_exist_as_a_protocol(output: Output) -> None:
    calls = [f"socket,{family},{STREAM},{SMC_PROTOCOL}" for family in (2, 10)]
    assert errors_of_sockets(output, *calls) == ["EPROTONOSUPPORT"] * 2


def test_io_uring_does_not_exist(output: Output) -> None:
    source = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for number in (425, 426, 427):
    libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0, 0)
    print(errno.errorcode[ctypes.get_errno()])
"""
    assert output(python(source), keep_privileges=True)[1].split() == ["ENOSYS"] * 3


@pytest.mark.parametrize("privileged", [False, True])
def test_the_kernels_key_service_does_not_exist(output: Output, privileged: bool) -> None:
    source = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
numbers = {"x86_64": (248, 249, 250), "aarch64": (217, 218, 219)}[os.uname().machine]
for number in numbers:
    libc.syscall(ctypes.c_long(number), b"user", b"racecar", b"", 0, 0)
    print(errno.errorcode[ctypes.get_errno()])
"""
    assert output(python(source), keep_privileges=privileged)[1].split() == ["ENOSYS"] * 3


X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="needs x86_64")


@X86
def test_x32_numbers_do_not_exist(output: Output) -> None:
    source = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall(ctypes.c_long(0x40000000 + 41), 40, 1, 0)
print(errno.errorcode[ctypes.get_errno()])
"""
    assert output(python(source))[1].split() == ["ENOSYS"]


@X86
def test_a_call_of_another_architecture_ends_the_command(output: Output) -> None:
    source = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("b814000000cd80c3"))  # mov eax, 20; int 0x80; ret
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""
    assert output(python(source))[0].number == signal.SIGSYS


TIOCSTI = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSTI, b'x')"


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("privileged", [False, True])
def test_nothing_can_be_typed_into_a_terminal(start: Start, own: bool, privileged: bool) -> None:
    master, slave = pty.openpty()
    source = f"try:\n    {TIOCSTI}\nexcept OSError as error:\n    raise SystemExit(error.errno)"
    terminal: dict[str, object] = {"pty_fd": slave, "pty_mask": 1} if own else {"streams": {"stdin": slave}}
    outcome = start(python(source), keep_privileges=privileged, **terminal).wait(20.0)
    os.close(slave)
    os.close(master)
    assert outcome.code == errno.EPERM


def test_the_pty_is_the_controlling_terminal_and_the_streams_of_its_mask(start: Start) -> None:
    master, slave = pty.openpty()
    name = os.ttyname(slave)
    source = "import os; print(os.ttyname(0), os.ttyname(2), os.isatty(1), os.tcgetpgrp(0) == os.getpgrp(), "
    source += "os.stat(os.ttyname(0)).st_uid, open('/dev/tty').isatty())"
    read_fd, write_fd = os.pipe()
    launched = start(python(source), streams={"stdout": write_fd}, pty_fd=slave, pty_mask=5)
    os.close(write_fd)
    with open(read_fd) as reader:
        assert reader.read().split() == [name, name, "False", "True", str(UID), "True"]
    assert launched.wait(20.0).code == 0
    os.close(slave)
    os.close(master)


# --- The guardian's own safety -------------------------------------------------------------------------------------


def test_the_workload_cannot_reach_its_guardian(output: Output) -> None:
    source = """
import ctypes, errno, os, signal
libc = ctypes.CDLL(None, use_errno=True)
parent = os.getppid()
def code(call):
    try:
        call()
        return "ok"
    except OSError as error:
        return errno.errorcode[error.errno]
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
PTRACE_ATTACH, PIDFD_GETFD = 16, 438
print(code(lambda: os.kill(parent, signal.SIGKILL)))
print(code(lambda: os.kill(parent, signal.SIGCONT)))
print(code(lambda: check(libc.ptrace(PTRACE_ATTACH, parent, 0, 0))))
print(code(lambda: check(libc.syscall(PIDFD_GETFD, os.pidfd_open(parent), 3, 0))))
print(code(lambda: open(f"/proc/{parent}/environ").read()))
print(code(lambda: os.listdir(f"/proc/{parent}/fd")))
"""
    assert output(python(source))[1].split() == ["EPERM"] * 4 + ["EACCES"] * 2


def test_the_guardian_keeps_three_capabilities_and_is_not_dumpable(start: Start) -> None:
    launched = start(["sleep", "1000"])
    status = status_of(Path(f"/proc/{launched.guardian_pid}/status").read_text())
    dac_override, fowner, kill = 1 << 1, 1 << 3, 1 << 5
    assert int(status["CapPrm"], 16) & ~(dac_override | fowner | kill) == 0
    assert int(status["SigBlk"], 16) & 1 << signal.SIGTERM - 1


# --- Refusals before there is a command ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"uid": 0},
        {"cleanup": ("relative/path",)},
        {"cleanup": ("/run",)},
        {"cleanup": ("/run/../etc",)},
        {"cleanup": ("/run//x",)},
        {"cleanup": ("/run/x/",)},
        {"groups": (2**32 - 1,)},
    ],
)
def test_bad_arguments_are_refused(start: Start, fields: dict[str, object]) -> None:
    with pytest.raises((LaunchError, ValueError)):
        start(["true"], **fields)


def test_a_directory_that_is_no_cgroup_is_refused(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(LaunchError, match="not of cgroup2"):
        spawn(LaunchPlan(command=["true"], cgroup_fd=fd, uid=UID, gid=GID))
    os.close(fd)
