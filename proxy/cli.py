"""The command line: argparse and nothing heavy; each command imports what it needs."""

import argparse
import contextlib
import logging
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from racecar.policy.document import Node
    from racecar.policy.fields import Report
    from racecar.policy.model import Direction, Policy
    from racecar.policy.tables import CompiledWorkload
    from racecar.proxy.config import Configuration

EXEC_FAILED = 125
USAGE_FAILED = 2
INTERRUPTED = 130
MAX_DRAIN_S = 3600.0
MAX_WORKERS = 256
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


class _AddLabels(argparse.Action):
    """`--labels a=b --labels c=d` are both meant; one key with two values is a mistake."""

    def __call__(
        self, _parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, _option: str | None = None
    ) -> None:
        labels = dict(getattr(namespace, self.dest))
        for key, value in values.items():
            if labels.setdefault(key, value) != value:
                raise argparse.ArgumentError(self, f"label {key!r} has two values")
        setattr(namespace, self.dest, labels)


class _ShowVersion(argparse.Action):
    """Looked up only when asked for: importlib.metadata costs more than all else that a parser needs."""

    def __call__(self, parser: argparse.ArgumentParser, *_arguments: Any) -> None:
        from importlib.metadata import PackageNotFoundError, version

        try:
            found = version("racecar")
        except PackageNotFoundError:
            found = "unknown"
        print(f"racecar {found}")
        parser.exit()


def seconds_from(text: str) -> float:
    """Raises argparse.ArgumentTypeError, for inf and nan too."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_DRAIN_S:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of seconds from 0 to {MAX_DRAIN_S:g}")
    return seconds


def workers_from(text: str) -> int:
    """Raises argparse.ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:5]) <= MAX_WORKERS):
        raise argparse.ArgumentTypeError(f"{text!r}: a number of processes from 1 to {MAX_WORKERS}")
    return int(text)


def _parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser, and the parser of each command: its usage errors have its own exit code."""
    parser = _Parser(prog="racecar", description="Enforce least-privilege policy on API calls.")
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="show the version and end")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND", parser_class=_Parser)

    check = commands.add_parser("check", help="load policy files and say what is wrong with them")
    check.add_argument("paths", nargs="+", metavar="PATH", help="policy files or directories")

    doctor = commands.add_parser("doctor", help="probe what this machine can do")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")

    uninstall = commands.add_parser("uninstall", help="remove what instances left in the kernel")
    uninstall.add_argument("--instance", metavar="NAME", help="only this one")
    uninstall.add_argument("--force", action="store_true", help="end instances that still run")

    commands.add_parser("demo", help="run the demonstration on embedded services")

    serve = commands.add_parser(
        "run",
        help="serve as a proxy for one upstream",
        usage="racecar run --no-bpf --listen HOST:PORT --upstream HOST:PORT --policy FILE [options]",
    )
    _add_run_arguments(serve)

    commands._parser_class = _ExecParser
    run = commands.add_parser(
        "exec", help="run one command under policy", usage="racecar exec --policy FILE [options] -- CMD [ARG ...]"
    )
    _add_exec_arguments(run)
    return parser, commands.choices


def _add_common_arguments(command: argparse.ArgumentParser, *, drain_timeout_s: float) -> None:
    command.add_argument("--policy", action="append", required=True, metavar="PATH", help="policy file or directory")
    command.add_argument(
        "--labels", type=labels_from, action=_AddLabels, default={}, metavar="K=V,...", help="who the workload is"
    )
    command.add_argument("--namespace", default="default", help="its namespace (default: %(default)s)")
    command.add_argument("--cluster", default="default", help="its cluster (default: %(default)s)")
    command.add_argument("--instance", metavar="NAME", help="name of this racecar (default: one of its own)")
    command.add_argument("--config", metavar="FILE", help="limits and timeouts: a RacecarConfig")
    command.add_argument("--audit", action="store_true", help="log what would be denied, and let it pass")
    command.add_argument("--access-log", metavar="FILE|-", help="write flows as JSON lines")
    command.add_argument(
        "--drain-timeout",
        type=seconds_from,
        default=drain_timeout_s,
        metavar="S",
        help="for last bytes (default: %(default)g s)",
    )
    command.add_argument("--allow-unselected", action="store_true", help="go on if no policy selects the workload")
    command.add_argument("--strict", action="store_true", help="refuse to start where something is left open")


def _add_run_arguments(run: argparse.ArgumentParser) -> None:
    run.add_argument("--no-bpf", action="store_true", help="without the kernel: a plain proxy, no privileges needed")
    run.add_argument("--listen", required=True, metavar="HOST:PORT", help="where to serve; port 0 is a free one")
    run.add_argument("--upstream", required=True, metavar="HOST:PORT", help="where to connect to")
    run.add_argument(
        "--direction",
        choices=("egress", "ingress"),
        default="egress",
        help="what is judged: calls of the workload to the upstream (default), or calls of others to the workload",
    )
    run.add_argument("--workers", type=workers_from, default=1, metavar="N", help="processes (default: 1)")
    _add_common_arguments(run, drain_timeout_s=20.0)


def _add_exec_arguments(run: argparse.ArgumentParser) -> None:
    _add_common_arguments(run, drain_timeout_s=5.0)
    run.add_argument("--user", metavar="NAME", help="run as this user; his other processes are a way out")
    run.add_argument("--keep-privileges", action="store_true", help="keep uid and capabilities; they are a way out")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="CMD", help="after --")


def _read_config(report: "Report", node: "Node") -> None:
    """Imported only where there is such a document: a configuration knows the proxy, a policy does not."""
    from racecar.proxy.config import read_configuration

    read_configuration(report, node)


def _check(arguments: argparse.Namespace) -> int:
    from racecar.policy.load import load_paths

    loaded = load_paths(arguments.paths, config_reader=_read_config)
    for finding in loaded.findings:
        _print(str(finding))
    return 0 if loaded.ok else 1


def _uninstall(arguments: argparse.Namespace) -> int:
    from racecar.proxy.uninstall import uninstall

    return uninstall(arguments.instance, force=arguments.force)


def _print(text: str) -> None:
    """A line on stderr; a reader that is gone changes no exit code."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


class _Refused(Exception):  # noqa: N818  (an end, not a fault of ours)
    """The command does not start. The text says why, and the way out; `started` what that means at the start."""

    def __init__(self, text: str, started: str = "") -> None:
        super().__init__(text + started)
        self.text = text


def fill_standard_streams() -> None:
    """Open what of 0, 1 and 2 was closed: else a descriptor of ours gets the number, and passes for one of them."""
    while (fd := os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _policies(arguments: argparse.Namespace, tell: Callable[[str], None] = _print) -> "Sequence[Policy]":
    """What `--policy` names. Raises _Refused."""
    from racecar.policy.load import load_paths

    loaded = load_paths(arguments.policy)
    for finding in loaded.findings:
        if finding.level == "error" or not loaded.ok:
            tell(str(finding))
    if not loaded.ok:
        raise _Refused("the policy does not load", "; nothing was started")
    return loaded.policies


def _compiled(
    arguments: argparse.Namespace, policies: "Sequence[Policy]", direction: "Direction"
) -> "CompiledWorkload":
    """The tables of the workload that the command line names, in one direction. Raises _Refused."""
    from racecar.policy.compile import PolicyConflictError, compile_workload

    try:
        return compile_workload(
            policies,
            namespace=arguments.namespace,
            cluster=arguments.cluster,
            labels=arguments.labels,
            direction=direction,
            audit=arguments.audit,
        )
    except PolicyConflictError as conflict:
        raise _Refused(str(conflict)) from None


def _must_be_selected(
    arguments: argparse.Namespace,
    compiled: "CompiledWorkload",
    hint: str,
    tell: Callable[[str], None] = _print,
) -> None:
    """Raises _Refused if no policy selects the workload and nobody said that this is meant; says it if so."""
    if compiled.selected:
        return
    who = "command" if arguments.verb == "exec" else "workload"
    if compiled.policies:
        why = f"{', '.join(compiled.policies)} selects this {who} for {compiled.direction}, without default deny"
        way_out = "Take enableDefaultDeny out of one"
    else:
        way_out = f"Correct --labels or --namespace{hint}"
        labels = ",".join(f"{key}={value}" for key, value in arguments.labels.items()) or "none"
        why = (
            f"no policy selects this {who} for {compiled.direction} "
            f"(labels: {labels}; namespace: {arguments.namespace})"
        )
    if arguments.allow_unselected and not arguments.strict:
        tell(f"racecar: warning: {why}: nothing is enforced (--allow-unselected)")
        return
    raise _Refused(
        f"{why}: nothing would be enforced. {way_out}, or pass --allow-unselected"
        f"{' without --strict' if arguments.strict else ''}"
    )


def _configuration(arguments: argparse.Namespace) -> "Configuration":
    """What `--config` names, or the defaults. Raises _Refused."""
    from racecar.proxy.config import Configuration, load_configuration

    if arguments.config is None:
        return Configuration()
    configuration, findings = load_configuration(arguments.config)
    for finding in findings:
        _print(str(finding))
    if configuration is None:
        raise _Refused("the configuration does not load; nothing was started")
    return configuration


def _label_texts(arguments: argparse.Namespace) -> tuple[str, ...]:
    return tuple(f"{key}={value}" for key, value in sorted(arguments.labels.items()))


def _exec(arguments: argparse.Namespace) -> int:
    command = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    if not command or not command[0]:
        raise _Refused("no command: racecar exec --policy FILE -- CMD [ARG ...]")
    if os.geteuid() != 0:
        raise _Refused("exec needs root: it loads BPF programs and gives the command a uid of its own (sudo)")
    if arguments.keep_privileges and arguments.user:
        raise _Refused("--user and --keep-privileges exclude each other")

    configuration = _configuration(arguments)
    policies = _policies(arguments)
    compiled = _compiled(arguments, policies, "egress")
    incoming = _compiled(arguments, policies, "ingress")
    if incoming.selected:
        raise _Refused(
            f"{', '.join(incoming.policies)} selects this command for ingress, which exec does not enforce yet. "
            "Leave the ingress rules out of what exec loads, and put `racecar run --no-bpf --direction ingress` with "
            "them in front of what the command serves"
        )
    _must_be_selected(arguments, compiled, "")
    _warn_of_ways_out(arguments)

    from racecar.proxy.session import ExecOptions, run

    return run(
        ExecOptions(
            command=tuple(command),
            compiled=compiled,
            labels=_label_texts(arguments),
            namespace=arguments.namespace,
            instance=arguments.instance,
            user=arguments.user,
            keep_privileges=arguments.keep_privileges,
            access_log=arguments.access_log,
            drain_timeout_s=arguments.drain_timeout,
            edge=configuration.edge,
            http=configuration.http,
        )
    )


def _warn_of_ways_out(arguments: argparse.Namespace) -> None:
    """Raises _Refused with --strict."""
    if arguments.keep_privileges:
        if arguments.strict:
            raise _Refused("--strict: --keep-privileges leaves raw sockets and the programs themselves open")
        _print(
            "racecar: warning: --keep-privileges: the command may leave its cgroup, open packet sockets and detach "
            "the programs; only trusted code may run so"
        )
    if arguments.user:
        if arguments.strict:
            raise _Refused(f"--strict: other processes of {arguments.user} are a way out")
        _print(
            f"racecar: warning: --user {arguments.user}: other processes of that user (cron, systemd --user, tmux) "
            "are not enforced and are a way out"
        )


def _run(arguments: argparse.Namespace) -> int:
    if not arguments.no_bpf:
        raise _Refused(
            "run needs --no-bpf for now: it serves as a plain proxy for one upstream, and only what is sent to it is "
            "judged. `racecar exec` puts a command under policy"
        )
    configuration = _configuration(arguments)
    compiled = _compiled_for_run(arguments, _print)

    from racecar.proxy.run import RunOptions, run
    from racecar.proxy.say import say

    def reload() -> "CompiledWorkload | None":
        try:
            return _compiled_for_run(arguments, lambda text: say(text.removeprefix("racecar: ")))
        except _Refused as refused:
            say(f"the policy was not read again, the one in force stays: {refused.text}")
            return None

    return run(
        RunOptions(
            listen=arguments.listen,
            upstream=arguments.upstream,
            compiled=compiled,
            reload=reload,
            labels=_label_texts(arguments),
            namespace=arguments.namespace,
            instance=arguments.instance,
            access_log=arguments.access_log,
            workers=arguments.workers,
            drain_timeout_s=arguments.drain_timeout,
            edge=configuration.edge,
            http=configuration.http,
        )
    )


def _compiled_for_run(arguments: argparse.Namespace, tell: Callable[[str], None]) -> "CompiledWorkload":
    """The policy as its files have it now. Raises _Refused."""
    compiled = _compiled(arguments, _policies(arguments, tell), arguments.direction)
    other = "ingress" if arguments.direction == "egress" else "egress"
    _must_be_selected(arguments, compiled, f", or --direction ({other} is the other one)", tell)
    if arguments.strict and compiled.audit:
        raise _Refused("--strict: in audit mode what the rules deny passes")
    return compiled


def _doctor(arguments: argparse.Namespace) -> int:
    from racecar.proxy.doctor import run_doctor

    return run_doctor(arguments)


def _demo(_arguments: argparse.Namespace) -> int:
    from racecar.proxy.demo import main as demo

    return demo()


COMMANDS = {"check": _check, "doctor": _doctor, "uninstall": _uninstall, "demo": _demo, "exec": _exec, "run": _run}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    fill_standard_streams()
    logging.basicConfig(level=logging.WARNING, format="racecar: %(levelname)s: %(message)s", stream=sys.stderr)
    parser, verbs = _parser()
    parsed, unknown = parser.parse_known_args(arguments)
    if unknown:
        verbs[parsed.verb].error(f"unrecognized arguments: {' '.join(unknown)}")
    try:
        return COMMANDS[parsed.verb](parsed)
    except _Refused as refused:
        _print(f"racecar: {refused}")
        return EXEC_FAILED if parsed.verb == "exec" else USAGE_FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as failed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still buffered: it would fail once more
        if not isinstance(failed, BrokenPipeError):
            _print(f"racecar: {failed}")
        return EXEC_FAILED if parsed.verb == "exec" else 1


if __name__ == "__main__":
    sys.exit(main())
