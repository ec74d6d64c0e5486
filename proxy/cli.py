"""The command line: argparse and nothing heavy; each command imports what it needs."""

import argparse
import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import NoReturn

EXEC_FAILED = 125
USAGE_FAILED = 2
_LABEL_KEY = re.compile(r"[A-Za-z0-9._/:-]+")


class _Parser(argparse.ArgumentParser):
    """Usage errors end with the command's own code: `exec` must not be taken for the command's failure."""

    exit_code = USAGE_FAILED

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(self.exit_code, f"{self.prog}: error: {message}\n")


class _ExecParser(_Parser):
    exit_code = EXEC_FAILED


def labels_from(text: str) -> dict[str, str]:
    """`a=b,c=d` to a dict. Raises argparse.ArgumentTypeError."""
    labels: dict[str, str] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        key, _, value = part.partition("=")
        if not _LABEL_KEY.fullmatch(key):
            raise argparse.ArgumentTypeError(f"label {part!r}: KEY=VALUE, with letters, digits and ._/:- in the key")
        if labels.setdefault(key, value) != value:
            raise argparse.ArgumentTypeError(f"label {key!r} has two values")
    return labels


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="racecar", description="Enforce least-privilege policy on API calls.")
    parser.add_argument("--version", action="version", version=f"racecar {_version()}")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND", parser_class=_Parser)

    check = commands.add_parser("check", help="load policy files and say what is wrong with them")
    check.add_argument("paths", nargs="+", metavar="PATH", help="policy files or directories")

    doctor = commands.add_parser("doctor", help="probe what this machine can do")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")

    uninstall = commands.add_parser("uninstall", help="remove what instances left in the kernel")
    uninstall.add_argument("--instance", metavar="NAME", help="only this one")
    uninstall.add_argument("--force", action="store_true", help="end instances that still run")

    commands.add_parser("demo", help="run the demonstration on embedded services")

    commands._parser_class = _ExecParser
    run = commands.add_parser(
        "exec", help="run one command under policy", usage="racecar exec --policy FILE [options] -- CMD [ARG ...]"
    )
    _add_exec_arguments(run)
    return parser


def _add_exec_arguments(run: argparse.ArgumentParser) -> None:
    run.add_argument("--policy", action="append", required=True, metavar="PATH", help="policy file or directory")
    run.add_argument("--labels", type=labels_from, default={}, metavar="K=V,...", help="who the command is")
    run.add_argument("--namespace", default="default", help="its namespace (default: %(default)s)")
    run.add_argument("--cluster", default="default", help="its cluster (default: %(default)s)")
    run.add_argument("--instance", metavar="NAME", help="name of this racecar (default: one of its own)")
    run.add_argument("--user", metavar="NAME", help="run as this user; his other processes are a way out")
    run.add_argument("--keep-privileges", action="store_true", help="keep uid and capabilities; they are a way out")
    run.add_argument("--audit", action="store_true", help="log what would be denied, and let it pass")
    run.add_argument("--access-log", metavar="FILE|-", help="write flows as JSON lines")
    run.add_argument("--drain-timeout", type=float, default=5.0, metavar="S", help="for last bytes (default: 5 s)")
    run.add_argument("--allow-unselected", action="store_true", help="go on if no policy selects the command")
    run.add_argument("--strict", action="store_true", help="refuse to start where something is left open")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD", help="after --")


def _version() -> str:
    try:
        return version("racecar")
    except PackageNotFoundError:
        return "unknown"


def _check(arguments: argparse.Namespace) -> int:
    from racecar.policy.load import load_paths

    loaded = load_paths(arguments.paths)
    for finding in loaded.findings:
        print(finding, file=sys.stderr)
    return 0 if loaded.ok else 1


def _uninstall(arguments: argparse.Namespace) -> int:
    from racecar.proxy.uninstall import uninstall

    return uninstall(arguments.instance, force=arguments.force)


def _exec_failure(text: str) -> int:
    print(f"racecar: {text}", file=sys.stderr)
    return EXEC_FAILED


def _exec(arguments: argparse.Namespace) -> int:
    from racecar.policy.compile import PolicyConflictError, compile_workload
    from racecar.policy.load import load_paths

    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command:
        return _exec_failure("no command: racecar exec --policy FILE -- CMD [ARG ...]")
    if os.geteuid() != 0:
        return _exec_failure("exec needs root: it loads BPF programs and gives the command a uid of its own (sudo)")
    if arguments.keep_privileges and arguments.user:
        return _exec_failure("--user and --keep-privileges exclude each other")
    if arguments.drain_timeout < 0:
        return _exec_failure("--drain-timeout must not be negative")

    loaded = load_paths(arguments.policy)
    for finding in loaded.findings:
        if finding.level == "error" or not loaded.ok:
            print(finding, file=sys.stderr)
    if not loaded.ok:
        return _exec_failure("the policy does not load; nothing was started")
    try:
        compiled = compile_workload(
            loaded.policies, namespace=arguments.namespace, cluster=arguments.cluster, labels=arguments.labels
        )
    except PolicyConflictError as conflict:
        return _exec_failure(str(conflict))
    if not compiled.egress_selected and not arguments.allow_unselected:
        shown = ",".join(f"{k}={v}" for k, v in arguments.labels.items()) or "none"
        return _exec_failure(
            f"no policy selects this command (labels: {shown}; namespace: {arguments.namespace}): nothing would be "
            "enforced. Correct --labels or --namespace, or pass --allow-unselected"
        )
    if arguments.keep_privileges:
        if arguments.strict:
            return _exec_failure("--strict: --keep-privileges leaves raw sockets and the programs themselves open")
        print(
            "racecar: warning: --keep-privileges: the command may leave its cgroup, open packet sockets and detach "
            "the programs; only trusted code may run so",
            file=sys.stderr,
        )
    if arguments.user:
        if arguments.strict:
            return _exec_failure(f"--strict: other processes of {arguments.user} are a way out")
        print(
            f"racecar: warning: --user {arguments.user}: other processes of that user (cron, systemd --user, tmux) "
            "are not enforced and are a way out",
            file=sys.stderr,
        )

    from racecar.proxy.session import ExecOptions, run

    return run(
        ExecOptions(
            command=tuple(command),
            compiled=compiled,
            labels=tuple(f"{key}={value}" for key, value in sorted(arguments.labels.items())),
            namespace=arguments.namespace,
            instance=arguments.instance,
            user=arguments.user,
            keep_privileges=arguments.keep_privileges,
            audit=arguments.audit,
            access_log=arguments.access_log,
            drain_timeout_s=arguments.drain_timeout,
        )
    )


def _doctor(arguments: argparse.Namespace) -> int:
    from racecar.proxy.doctor import run_doctor

    return run_doctor(arguments)


def _demo(_arguments: argparse.Namespace) -> int:
    from racecar.proxy.demo import main as demo

    return demo()


COMMANDS = {"check": _check, "doctor": _doctor, "uninstall": _uninstall, "demo": _demo, "exec": _exec}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    logging.basicConfig(level=logging.WARNING, format="racecar: %(levelname)s: %(message)s", stream=sys.stderr)
    parsed = _parser().parse_args(arguments)
    return COMMANDS[parsed.verb](parsed)


if __name__ == "__main__":
    sys.exit(main())
