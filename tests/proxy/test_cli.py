"""The command line: what is a mistake, how it is said, and with which code it ends."""

import json
import os
import re
import subprocess
import sys
import tempfile
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from racecar.proxy import cli, uninstall
from racecar.redirect import registry

POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: tweeter}
spec:
  endpointSelector: {matchLabels: {app: tweeter}}
  egress:
  - toCIDR: [127.0.0.1/32]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules: {http: [{method: GET, path: "/jobs"}]}
"""
SELECTED = ("--labels", "app=tweeter")
RACECAR = (sys.executable, "-W", "error", "-m", "racecar.proxy.cli")


@pytest.fixture
def policy() -> Iterator[Path]:
    """In a folder of its own; pytest's lies below directories whose owners policy files may not have."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tweeter.yaml"
        path.write_text(POLICY)
        yield path


def racecar(*arguments: str | Path, before: Callable[[], object] | None = None) -> tuple[int, str]:
    """The real program: its exit code and stderr."""
    done = subprocess.run(
        [*RACECAR, *arguments], capture_output=True, text=True, timeout=60, check=False, preexec_fn=before
    )
    return done.returncode, done.stderr


def ended(*arguments: str | Path) -> int:
    """The exit code, in this process: quicker."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        return int(end.code or 0)


# --- Usage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["nope"], 2),
        (["check"], 2),
        (["check", "--nope", "x.yaml"], 2),
        (["doctor", "extra"], 2),
        (["uninstall", "--nope"], 2),
        (["demo", "extra"], 2),
        (["exec"], 125),
        (["exec", "--policy"], 125),
        (["exec", "--nope", "--policy", "p.yaml", "--", "true"], 125),
        (["exec", "--policy", "p.yaml", "--nope", "--", "true"], 125),
        (["exec", "--policy", "p.yaml", "--labels", "=x", "--", "true"], 125),
        (["exec", "--policy", "p.yaml", "--labels", "a=1", "--labels", "a=2", "--", "true"], 125),
        (["exec", "--policy", "p.yaml", "--drain-timeout", "inf", "--", "true"], 125),
        (["exec", "--policy", "p.yaml", "--drain-timeout", "nan", "--", "true"], 125),
        (["exec", "--policy", "p.yaml", "--drain-timeout", "-1", "--", "true"], 125),
        (["exec", "--policy", "p.yaml", "--drain-timeout", "soon", "--", "true"], 125),
        (["exec", "--policy", "p.yaml"], 125),
        (["exec", "--policy", "p.yaml", "--"], 125),
        (["exec", "--policy", "p.yaml", "--", ""], 125),
    ],
)
def test_a_usage_error_is_2_and_125_for_exec(
    arguments: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(*arguments) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1].startswith("racecar")


def test_help_and_version_are_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("--version") == 0
    assert re.fullmatch(r"racecar (\d+\.\d+\.\d+\S*|unknown)\n", capsys.readouterr().out)
    for arguments in (["--help"], ["exec", "--help"], ["check", "--help"]):
        assert ended(*arguments) == 0
        assert capsys.readouterr().out.startswith("usage: racecar")


def test_options_of_the_command_are_the_commands(capsys: pytest.CaptureFixture[str], policy: Path) -> None:
    """With and without `--`: nothing after CMD is ours, so this gets as far as the labels."""
    for separator in ([], ["--"]):
        assert ended("exec", "--policy", policy, *separator, "ls", "--policy", "--nope") == 125
        assert "no policy selects this command" in capsys.readouterr().err or os.geteuid() != 0


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("", {}),
        ("app=tweeter", {"app": "tweeter"}),
        ("a=1,b=2", {"a": "1", "b": "2"}),
        (" a=1 , b=2 ,", {"a": "1", "b": "2"}),
        ("a", {"a": ""}),
        ("a=b=c", {"a": "b=c"}),
        ("k8s:app.kubernetes.io/name=x", {"k8s:app.kubernetes.io/name": "x"}),
        ("a=1,a=1", {"a": "1"}),
    ],
)
def test_labels(text: str, labels: dict[str, str]) -> None:
    assert cli.labels_from(text) == labels


@pytest.mark.parametrize("text", ["=x", "a=1,=2", "a b=1", "a=1,a=2", "a\n=1", "\u00e4=1", "!x"])
def test_labels_that_are_none(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        cli.labels_from(text)


# --- check -----------------------------------------------------------------------------------------------------------

FINDING = re.compile(r"[^:]+:\d+:\d+: (error: .+|warning: .+ \[[a-z0-9-]+\]|notice: .+)")


def test_check_of_a_good_policy_is_0_and_warnings_are_on_stderr(
    policy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended("check", policy) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert lines
    for line in lines:
        assert FINDING.fullmatch(line)
        assert line.startswith(f"{policy}:10:")
    assert any(line.endswith("[path-exact]") for line in lines)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (POLICY.replace("egress:", "egres:"), 'unknown field "egres"'),
        (POLICY.replace('"80"', "80"), 'write "80" in quotes'),
        (POLICY.replace("{name: tweeter}", "{name: tweeter"), ""),
        ("\0", ""),
        (POLICY.replace("GET", '"("'), ""),
    ],
)
def test_check_of_a_bad_policy_is_1_with_file_line_and_column(
    policy: Path, text: str, wanted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    policy.write_text(text)
    assert ended("check", policy) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines
    assert [line for line in lines if not FINDING.fullmatch(line)] == []
    assert any(line.startswith(f"{policy}:") and ": error: " in line and wanted in line for line in lines)


def test_check_of_an_unreadable_path_is_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended("check", "/nonexistent") == 1
    assert capsys.readouterr().err == "/nonexistent:1:1: error: cannot read: No such file or directory\n"


def test_check_of_a_directory_shows_each_file(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (policy.parent / "other.yaml").write_text("- no policy")
    assert ended("check", policy.parent) == 1
    assert {line.partition(":")[0] for line in capsys.readouterr().err.splitlines()} == {
        str(policy),
        str(policy.parent / "other.yaml"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("stderr", ["/dev/full", None])
def test_check_ends_with_its_own_code_when_nobody_reads_it(policy: Path, stderr: str | None) -> None:
    def without_reader() -> None:
        os.close(2)
        if stderr is not None:
            assert os.open(stderr, os.O_WRONLY) == 2

    for path, code in ((policy, 0), (Path("/nonexistent"), 1)):
        done = subprocess.run([*RACECAR, "check", path], preexec_fn=without_reader, timeout=60, check=False)
        assert done.returncode == code


# --- Start-up --------------------------------------------------------------------------------------------------------

NOT_FOR_CHECK = ("asyncio", "uvloop", "rich", "socket", "subprocess", "racecar.proxy.session", "racecar.redirect")
CPU_BOUND_S = 0.6  # 0.2 s is the promise on a quiet machine; a loaded one measures cold caches too
PROBE = """
import json, resource, sys
from racecar.proxy.cli import main
code = main(["check", sys.argv[1]])
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps([code, used.ru_utime + used.ru_stime, sorted(sys.modules)]))
"""


@pytest.mark.slow
def test_check_starts_quickly_and_imports_no_event_loop(policy: Path) -> None:
    """The least of three: a slow run says something of the machine, a quick one of the program."""
    seconds = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", PROBE, policy], capture_output=True, text=True, timeout=60, check=True
        )
        code, cpu_s, modules = json.loads(done.stdout)
        assert code == 0
        assert [name for name in NOT_FOR_CHECK if name in modules] == []
        seconds.append(cpu_s)
    assert min(seconds) < CPU_BOUND_S


@pytest.mark.slow
def test_the_parser_alone_imports_nothing_of_ours() -> None:
    code = "import sys, racecar.proxy.cli; print([m for m in sys.modules if m.startswith('racecar.')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "['racecar.proxy', 'racecar.proxy.cli']\n"


# --- exec: what is said before anything is started -------------------------------------------------------------------


def test_exec_needs_root(policy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ended("exec", "--policy", policy, *SELECTED, "--", "true") == 125
    assert "needs root" in capsys.readouterr().err


def as_root() -> None:
    """These end before anything is done that needs it. The policy's owner stays whoever runs the test."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


INGRESS = """
  ingress:
  - fromCIDR: [127.0.0.1/32]
    toPorts:
    - ports: [{port: "80", protocol: TCP}]
"""


def test_exec_refuses_a_policy_for_ingress(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing would enforce it: whether it stands in an object of its own, beside egress rules or in audit mode."""
    as_root()
    alone = POLICY[: POLICY.index("  egress:")].replace("tweeter", "in") + INGRESS.lstrip("\n")
    alone = alone.replace("app: in", "app: tweeter")
    for text in (POLICY + INGRESS, f"{POLICY}---\n{alone}"):
        policy.write_text(text)
        for more in ([], ["--audit"], ["--allow-unselected"]):
            assert ended("exec", "--policy", policy, *SELECTED, *more, "--", "true") == 125
            said = capsys.readouterr().err
            assert "selects this command for ingress, which exec does not enforce yet" in said
            assert "racecar run --no-bpf --direction ingress" in said


def test_exec_starts_with_an_ingress_policy_of_others(
    policy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_root()
    monkeypatch.setattr("racecar.proxy.session.run", lambda options: 7)
    policy.write_text(f"{POLICY}---\n{(POLICY + INGRESS).replace('tweeter', 'other')}")
    assert ended("exec", "--policy", policy, *SELECTED, "--", "true") == 7
    assert capsys.readouterr().err == ""


def test_exec_says_that_nothing_is_enforced(
    policy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_root()
    monkeypatch.setattr("racecar.proxy.session.run", lambda options: 7)
    assert ended("exec", "--policy", policy, "--allow-unselected", "--", "true") == 7
    assert capsys.readouterr().err == (
        "racecar: warning: no policy selects this command for egress (labels: none; namespace: default): "
        "nothing is enforced (--allow-unselected)\n"
    )


def test_exec_takes_a_configuration(
    policy: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    as_root()
    taken: list[Any] = []
    monkeypatch.setattr("racecar.proxy.session.run", lambda options: taken.append(options) or 7)
    config = policy.parent / "config"
    command = ("exec", "--policy", policy, *SELECTED, "--config", config, "--", "true")
    config.write_text("apiVersion: racecar.io/v1\nkind: RacecarConfig\nspec: {timeouts: {connect: 3s, head: 4s}}\n")
    assert ended(*command) == 7
    assert (taken[0].edge.connect_timeout_s, taken[0].http.head_timeout_s) == (3, 4)
    config.write_text("apiVersion: racecar.io/v1\nkind: RacecarConfig\nspec: {timeouts: {connect: 3}}\n")
    assert ended(*command) == 125
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{config}:3:28: error: spec.timeouts.connect must be")
    assert second == "racecar: the configuration does not load; nothing was started"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--labels", "app=other"],
            "no policy selects this command for egress (labels: app=other; namespace: default)",
        ),
        ([], "no policy selects this command for egress (labels: none; namespace: default)"),
        ([*SELECTED, "--namespace", "other"], "namespace: other"),
        ([*SELECTED, "--user", "nobody", "--keep-privileges"], "exclude each other"),
        ([*SELECTED, "--strict", "--keep-privileges"], "--strict"),
        (["--allow-unselected", "--strict"], "pass --allow-unselected without --strict"),
        ([*SELECTED, "--strict", "--user", "nobody"], "--strict"),
    ],
)
def test_exec_refuses_to_start(
    policy: Path,
    options: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    as_root()
    assert ended("exec", "--policy", policy, *options, "--", "true") == 125
    assert said in capsys.readouterr().err


def test_exec_with_a_policy_that_does_not_load_shows_why(policy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_root()
    policy.write_text(POLICY.replace("egress:", "ingress:"))
    assert ended("exec", "--policy", policy, *SELECTED, "--", "true") == 125
    lines = capsys.readouterr().err.splitlines()
    assert FINDING.fullmatch(lines[0])
    assert lines[-1] == "racecar: the policy does not load; nothing was started"


# --- exec: a user's mistakes and a machine's lacks, each a line and 125 -----------------------------------------------

CASES = [
    ("no such folder for the log", ["--access-log", "/nonexistent/log"], "", "cannot open access log /nonexistent/log"),
    ("the log is a folder", ["--access-log", "/tmp"], "", "cannot open access log /tmp: Is a directory"),
    ("the log has no name", ["--access-log", ""], "", "cannot open access log"),
    ("the instance has a bad name", ["--instance", "a/b"], "", "instance name 'a/b'"),
    ("the instance's name is reserved", ["--instance", "uids"], "", "instance name 'uids'"),
    ("the instance has no name", ["--instance", ""], "", "instance name ''"),
    ("no such user", ["--user", "no-such-user"], "", "--user no-such-user: no such user"),
    ("the user is root", ["--user", "root"], "", "--user with uid 0"),
    (
        "no cgroup2",
        [],
        "grep cgroup2 /proc/mounts | cut -d' ' -f2 | while read m; do umount -l $m; done;",
        "no cgroup2 file system is mounted",
    ),
    (
        "cgroup2 may not be written",
        [],
        "m=$(grep cgroup2 /proc/mounts | head -1 | cut -d' ' -f2); mount -o remount,bind,ro $m;",
        "cannot make cgroup",
    ),
    ("/run may not be written", [], "mount -t tmpfs -o ro none /run;", "Read-only file system: /run/racecar"),
    (
        "descriptors are short",
        [],
        "ulimit -n 20;",
        "too many open files: a descriptor limit of 20 is too small",
    ),
    (
        "descriptors are too short for the headroom",
        ["--config", "/mnt/config"],
        "mount -t tmpfs none /mnt; printf '%s\\n' 'apiVersion: racecar.io/v1' 'kind: RacecarConfig' "
        "'spec: {limits: {descriptorHeadroom: 150}}' > /mnt/config; ulimit -n 150;",
        "racecar: the proxy did not start: descriptor limit 150 leaves no room: ",
    ),
]


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize(("options", "before", "said"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_wrong_is_a_line_and_125_and_nothing_ran(
    policy: Path, tmp_path: Path, options: list[str], before: str, said: str
) -> None:
    ran = tmp_path / "ran"
    command = [*RACECAR, "exec", "--policy", str(policy), *SELECTED, *options, "--", "touch", str(ran)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f'{before} exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (125, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert all(line.startswith("racecar: ") for line in done.stderr.splitlines())
    assert not ran.exists()


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("capability", ["bpf,cap_sys_admin", "net_admin,cap_sys_admin", "setuid", "setgid"])
def test_a_capability_that_is_missing_is_a_line_and_125(policy: Path, capability: str) -> None:
    command = [*RACECAR, "exec", "--policy", str(policy), *SELECTED, "--", "true"]
    done = subprocess.run(
        ["setpriv", "--bounding-set", ",".join(f"-{name.removeprefix('cap_')}" for name in capability.split(",")),
         "--inh-caps", "-all", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 125, done.stderr
    assert "Operation not permitted" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.root
@pytest.mark.slow
def test_bpffs_is_mounted_where_it_is_missing(policy: Path) -> None:
    command = [*RACECAR, "exec", "--policy", str(policy), *SELECTED, "--", "true"]
    script = 'umount /sys/fs/bpf && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, "sh", *command], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize(
    "before",
    ["", "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6;"],
    ids=["lo is down", "lo is down and IPv6 is off"],
)
def test_in_a_fresh_network_namespace_it_runs_and_brings_lo_up(policy: Path, before: str) -> None:
    """The allowed destination has no server: the proxy is reached, dials, and its caller is reset or refused."""
    code = (
        "import errno, socket\n"
        "allowed, denied = socket.socket(), socket.socket()\n"
        "print(errno.errorcode.get(denied.connect_ex(('127.0.0.1', 81))))\n"
        "first = allowed.connect_ex(('127.0.0.1', 80))\n"
        "try:\n"
        "    print(errno.errorcode[first] if first else allowed.recv(1))\n"
        "except OSError as failed:\n"
        "    print(errno.errorcode[failed.errno])\n"
    )
    command = [*RACECAR, "exec", "--policy", str(policy), *SELECTED, "--", "/usr/bin/python3", "-ISc", code]
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", f'{before} exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "EPERM\nECONNRESET\n"), done.stderr


@pytest.mark.root
@pytest.mark.slow
def test_standard_streams_that_are_closed_stay_nobodys(policy: Path) -> None:
    """Else a descriptor of ours gets the number, and the command holds a map, a lock or a cgroup as its stderr."""

    def closed() -> None:
        for fd in (0, 1, 2):
            os.close(fd)

    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        script = f"readlink /proc/$$/fd/0 /proc/$$/fd/1 /proc/$$/fd/2 >{folder}/streams"
        arguments = ["exec", "--policy", str(policy), *SELECTED, "--", "sh", "-c", script]
        done = subprocess.run([*RACECAR, *arguments], preexec_fn=closed, timeout=60, check=False)
        assert done.returncode == 0
        streams = (Path(folder) / "streams").read_text().split()
    assert streams == ["/dev/null", f"{folder}/streams", "/dev/null"] or streams == ["/dev/null"] * 3


@pytest.mark.root
@pytest.mark.slow
def test_a_denial_with_stderr_closed_ends_nothing(policy: Path) -> None:
    code = "import socket; raise SystemExit(socket.socket().connect_ex(('127.0.0.1', 81)))"
    command = [*RACECAR, "exec", "--policy", str(policy), *SELECTED, "--", "/usr/bin/python3", "-ISc", code]
    done = subprocess.run(command, preexec_fn=lambda: os.close(2), timeout=60, check=False)
    assert done.returncode == 1  # EPERM


# --- uninstall --------------------------------------------------------------------------------------------------------


@pytest.fixture
def instances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directories of one's own in place of /run/racecar and bpffs."""
    monkeypatch.setattr(registry, "RUN_DIRECTORY", tmp_path / "run")
    for module in (registry, uninstall):
        monkeypatch.setattr(module, "pin_root", lambda: tmp_path / "pins")
    (tmp_path / "pins").mkdir()
    return tmp_path


def test_uninstall_with_nothing_left_is_done(instances: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_root()
    assert ended("uninstall") == 0
    assert capsys.readouterr() == ("", "")


def test_uninstall_of_a_name_that_is_none_says_which_there_are(
    instances: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    as_root()
    (instances / "pins" / "other").mkdir()
    assert ended("uninstall", "--instance", "nope") == 1
    assert capsys.readouterr().err == "racecar: no instance nope; there are: other\n"


def test_uninstall_removes_the_dead_and_leaves_the_living(instances: Path, capsys: pytest.CaptureFixture[str]) -> None:
    as_root()
    alive = registry.Registration("alive", registry.State("exec", os.getpid()))
    registry.Registration("dead", registry.State("run", 1)).abandon()
    assert ended("uninstall") == 1
    captured = capsys.readouterr()
    assert captured.out == "removed instance dead\n"
    assert captured.err == "racecar: instance alive is running; stop it first, or pass --force\n"
    assert registry.names() == ["alive"]
    alive.release()


def test_uninstall_needs_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ended("uninstall") == 1
    assert "needs root" in capsys.readouterr().err
