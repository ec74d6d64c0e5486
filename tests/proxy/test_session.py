"""How a run of `exec` ends when something of ours fails: 125 and a line, never a code that passes for the command's."""

import errno
import os

import pytest

from racecar.policy.compile import compile_workload
from racecar.proxy import session
from racecar.proxy.session import ExecOptions, SessionError, executable_of
from racecar.redirect.launch import LaunchError
from racecar.redirect.libbpf import BpfError
from racecar.redirect.uids import NoFreeUid

OPTIONS = ExecOptions(("true",), compile_workload((), namespace="default", cluster="default", labels={}))


def run_with(failure: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    def fail(_session: object) -> int:
        raise failure

    monkeypatch.setattr(session._Session, "run", fail)
    return session.run(OPTIONS)


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (SessionError("no such user"), "racecar: no such user\n"),
        (LaunchError("the launcher is missing"), "racecar: the launcher is missing\n"),
        (NoFreeUid("0 of 2 uids free"), "racecar: 0 of 2 uids free\n"),
        (OSError(errno.EROFS, "Read-only file system", "/run/x"), "racecar: Read-only file system: /run/x\n"),
        (BpfError(errno.EPERM, "cannot load"), "racecar: cannot load; `racecar doctor` says what is missing\n"),
        (OSError(errno.EPERM, "a\x1b[2J\nb"), "racecar: a\\x1b[2J\\nb\n"),
    ],
)
def test_a_failure_is_one_line_and_125(
    failure: Exception, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_with(failure, monkeypatch) == 125
    assert capsys.readouterr() == ("", said)


def test_a_bug_of_ours_is_125_and_says_where(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    assert run_with(ZeroDivisionError("a bug"), monkeypatch) == 125
    assert "ZeroDivisionError: a bug" in caplog.text


def start_ns_of(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as stat:
        text = stat.read()
    return int(text[text.rindex(")") + 2 :].split()[19]) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def test_a_process_is_known_by_its_pid_and_start() -> None:
    pid, start_ns = os.getpid(), start_ns_of(os.getpid())
    assert executable_of(pid, start_ns) == os.readlink("/proc/self/exe")
    assert executable_of(pid, start_ns + 10**9) is None, "another process that had the number"


@pytest.mark.parametrize("pid", [0, -1, 2**40, 10**5000], ids=["zero", "negative", "large", "larger"])
def test_a_process_that_is_none_has_no_executable(pid: int) -> None:
    """The number comes from the proxy, which may be in hostile hands."""
    assert executable_of(pid, 0) is None
