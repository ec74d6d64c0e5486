"""`racecar exec`: one command under policy, from an empty cgroup to nothing left.

This process is the privileged loader. It reads no byte of the workload's traffic: it loads and attaches the programs,
starts the proxy and the command, forwards signals, writes down what the kernel refused, and takes everything down.
"""

import contextlib
import errno
import logging
import os
import pwd
import resource
import secrets
import select
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from racecar.policy.tables import CompiledWorkload
from racecar.proxy.channel import Channel, ChannelClosed
from racecar.proxy.core.http1_types import HttpConfig
from racecar.proxy.flows import FlowSource, FlowWriter, denial_of_event
from racecar.proxy.journal import DENIALS_PER_SECOND, LAST_LINES_S
from racecar.proxy.layers import layers_of
from racecar.proxy.limits import EdgeConfig
from racecar.proxy.processes import RESTART_WINDOW_S, Deaths, caught
from racecar.proxy.say import Rate, say
from racecar.proxy.sink import STDOUT, LineSink, open_log
from racecar.proxy.worker import WorkerPlan, start_worker
from racecar.redirect import cgroups, registry
from racecar.redirect.abi import EventKind, KernelEvent
from racecar.redirect.instance import Instance, ListenPorts, pin_root
from racecar.redirect.launch import Ending, Launched, LaunchError, LaunchPlan, Outcome, exec_failure_text, spawn
from racecar.redirect.libbpf import BpfError, RingBuffer
from racecar.redirect.netlink import RouteWatch, bring_up_loopback, destroy_tcp, own_networks
from racecar.redirect.terminal import PtyRelay, terminals
from racecar.redirect.uids import NoFreeUid, free_uids

FAILED = 125
WORKLOAD = 0
POLICY = 1
FORWARDED_SIGNALS = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)

logger = logging.getLogger(__name__)


class SessionError(Exception):
    """racecar's own failure: exit code 125. The text says what, where and the way out."""


@dataclass(frozen=True)
class ExecOptions:
    """What the command line asks for."""

    command: tuple[str, ...]
    compiled: CompiledWorkload
    labels: tuple[str, ...] = ()
    namespace: str = "default"
    instance: str | None = None
    user: str | None = None
    keep_privileges: bool = False
    access_log: str | None = None
    drain_timeout_s: float = 5.0
    edge: EdgeConfig = field(default_factory=EdgeConfig)
    http: HttpConfig = field(default_factory=HttpConfig)


def run(options: ExecOptions) -> int:
    """Run the command; its exit code, or 125 and a message for a failure of ours."""
    try:
        with ExitStack() as stack:
            return _Session(options, stack).run()
    except (SessionError, LaunchError, NoFreeUid) as failed:
        say(str(failed))
    except OSError as failed:
        say(_text_of(failed))
    except Exception:
        logger.exception("a bug of racecar's own; the command was ended")  # 1 would pass for the command's own code
    return FAILED


def _text_of(failed: OSError) -> str:
    text = failed.strerror or str(failed)
    if failed.errno == errno.EMFILE:  # the loader's own: no headroom would help
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"too many open files: a descriptor limit of {limit} is too small; raise it (ulimit -n, LimitNOFILE=)"
    if isinstance(failed, BpfError):
        return f"{text}; `racecar doctor` says what is missing"
    return f"{text}: {failed.filename}" if failed.filename else text


class _Session:
    def __init__(self, options: ExecOptions, stack: ExitStack) -> None:
        self.options = options
        self.stack = stack
        self.name = options.instance if options.instance is not None else f"exec-{os.getpid()}-{secrets.token_hex(3)}"
        self.worker_pid = 0
        self.channel: Channel | None = None
        self.deaths = Deaths()
        self.launched: Launched | None = None
        self.is_gone = False  # the guardian removed everything: another instance may have the name by now
        self.pty: PtyRelay | None = None
        self.ring: RingBuffer | None = None
        self.denials = Rate(DENIALS_PER_SECOND)
        self.lost = 0  # lines of the access log, as the proxy counts them
        self.signals: list[int] = []

    # --- setting up: each step leaves with the stack what undoes it ---

    def run(self) -> int:
        options = self.options
        signals = self.stack.enter_context(caught(self.signals, FORWARDED_SIGNALS))
        for swept in registry.sweep():
            say(f"removed what instance {swept} left behind")
        base = cgroups.own_cgroup() / f"racecar.{self.name}"
        _refuse_nesting()
        state = registry.State("exec", os.getpid(), [str(base)])
        try:
            registration = registry.Registration(self.name, state)
        except (ValueError, FileExistsError) as failed:
            raise SessionError(str(failed)) from None
        self.stack.callback(lambda: registration.abandon() if self.is_gone else registration.release())
        lease = self.stack.enter_context(free_uids(2))
        log_fd = self._open_log()

        cgroups.Cgroup(base).close()
        self.stack.callback(lambda: None if self.is_gone else _remove_cgroups(base))
        app, proxy = cgroups.Cgroup(base / "app"), cgroups.Cgroup(base / "proxy")
        self.stack.callback(app.close)
        self.stack.callback(proxy.close)

        compiled = options.compiled
        source = FlowSource(self.name, options.namespace, options.labels, compiled.rules, compiled.policies)
        self.plan = WorkerPlan(
            uid=lease.uids[1],
            gid=lease.uids[1],
            cgroup=proxy.path,
            source=source,
            layers=layers_of(options.compiled),
            log_fd=log_fd,
            log_is_stdout=options.access_log == STDOUT,
            edge=options.edge,
            http=options.http,
        )
        self.flows = FlowWriter(source, executable_of)
        self.sink = None if log_fd is None else LineSink(log_fd, is_stdout=options.access_log == STDOUT)

        if bring_up_loopback():
            logger.info("lo was down and is up now")
        self.stack.callback(self._end_worker)
        ports, listeners = self._start_worker()
        self.instance = Instance(self.name)
        self.stack.callback(lambda: self.instance.close() if self.is_gone else self.instance.tear_down())
        self.instance.load(WORKLOAD, ListenPorts(ports[0], ports[1] if len(ports) > 1 else 0))
        self.routes = RouteWatch()
        self.stack.callback(self.routes.close)
        self.instance.set_own(own_networks())
        self.instance.fill(
            WORKLOAD,
            POLICY,
            options.compiled.peers,
            options.compiled.ports,
            enforce_egress=options.compiled.selected,
            audit=options.compiled.audit,
        )
        ring = self.ring = RingBuffer(self.instance.map_fd("events"))
        self.stack.callback(ring.close)
        self.instance.attach_netns()
        self.instance.attach_proxy(proxy.fd, proxy.path)
        self.instance.attach_workload(app.fd, app.path)
        self._hand_over(listeners)

        cleanup = (
            str(pin_root() / self.name),
            str(app.path),
            str(proxy.path),
            str(base),
            str(registration.directory),
            *lease.paths,
        )
        return self._run_command(app, lease.uids[0], (registration.fileno(), *lease.fds), cleanup, signals)

    def _open_log(self) -> int | None:
        if self.options.access_log is None:
            return None
        try:
            fd = open_log(self.options.access_log)
        except OSError as failed:
            raise SessionError(f"cannot open access log {self.options.access_log}: {failed.strerror}") from None
        self.stack.callback(os.close, fd)
        return fd

    # --- the proxy ---

    def _start_worker(self) -> tuple[list[int], list[int]]:
        """Fork a proxy; the ports of its listeners and descriptors of them that are ours."""
        self.worker_pid, self.channel = start_worker(self.plan, self._forget)
        self.channel.set_timeout(30)
        try:
            received = self.channel.receive()
        except (ChannelClosed, TimeoutError, ValueError) as failed:
            raise SessionError(f"the proxy did not start: {failed}") from None
        if received is None:
            raise SessionError("the proxy did not start")
        message, descriptors = received
        ports = message.get("listening")
        if not isinstance(ports, list) or len(ports) != len(descriptors) or not 1 <= len(ports) <= 2:
            raise SessionError("the proxy has no listeners")
        return [int(port) for port in ports], descriptors

    def _forget(self) -> None:
        """In a proxy that is started again: the event ring is mapped, writable, and no business of its."""
        if self.ring is not None:
            self.ring.close()

    def _hand_over(self, listeners: list[int]) -> None:
        """Lead the redirect target to the proxy's sockets and give it the records to read."""
        assert self.channel is not None
        for key, listener in enumerate(listeners):
            self.instance.set_listener(key, listener)
            os.close(listener)  # the proxy's own is the last: when it dies, connections are refused, not left waiting
        records = self.instance.read_only_fd("conns")
        try:
            self.channel.send({"go": True}, (records,))
            received = self.channel.receive()
        except (ChannelClosed, TimeoutError, ValueError) as failed:
            raise SessionError(f"the proxy did not start: {failed}") from None
        finally:
            os.close(records)
        if received is not None and isinstance(text := received[0].get("failed"), str):
            raise SessionError(f"the proxy did not start: {text}")
        if received is None or "ready" not in received[0]:
            raise SessionError("the proxy is not ready")
        self.channel.set_blocking(False)

    def _on_worker(self) -> bool:
        """Read what the proxy says; False once it is gone."""
        if self.channel is None:
            return False
        try:
            while (received := self.channel.receive()) is not None:
                message, descriptors = received
                for fd in descriptors:
                    os.close(fd)
                self._take(message)
        except (ChannelClosed, ValueError):
            return False
        return True

    def _take(self, message: dict[str, object]) -> None:
        assert self.channel is not None
        match message:
            case {"who": [int(pid), int(start_ns)]}:
                self.channel.send({"exe": [pid, start_ns, executable_of(pid, start_ns)]})
            case {"denied": str(text)}:
                self._tell(text)

    def _restart_worker(self) -> None:
        """The proxy died: until another listens, redirected connections are refused. Raises SessionError."""
        while True:
            self._reap_worker()
            now = time.monotonic()
            if not self.deaths.may_restart(now):
                raise SessionError(f"the proxy died {self.deaths}; giving up")
            say("the proxy died and is started again; its connections were reset", raw=self._is_raw)
            try:
                _ports, listeners = self._start_worker()
                self._hand_over(listeners)
            except SessionError as failed:
                if time.monotonic() - now > RESTART_WINDOW_S:
                    raise  # it hangs, and meanwhile nobody forwards signals
                say(str(failed), raw=self._is_raw)
                continue
            return

    def _reap_worker(self) -> None:
        if self.channel is not None:
            self.channel.close()
            self.channel = None
        if self.worker_pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.worker_pid, signal.SIGKILL)
            os.waitpid(self.worker_pid, 0)
            self.worker_pid = 0

    def _end_worker(self) -> None:
        """Let what the command left behind be sent, for a bounded time; then the proxy ends."""
        if self.channel is not None and self.launched is not None:
            with contextlib.suppress(ChannelClosed, TimeoutError, ValueError):
                self.channel.set_timeout(self.options.drain_timeout_s + 2)
                self.channel.send({"drain": self.options.drain_timeout_s})
                while (received := self.channel.receive()) is not None:
                    if "drained" in received[0]:
                        lost = received[0].get("lost")
                        self.lost = lost if isinstance(lost, int) else 0
                        break
                    self._take(received[0])
        self._reap_worker()

    # --- the command ---

    def _run_command(
        self, app: cgroups.Cgroup, uid: int, held: tuple[int, ...], cleanup: tuple[str, ...], signals: int
    ) -> int:
        identity, groups, environment = self._identity(uid)
        mask = terminals()
        if mask:
            self.pty = self.stack.enter_context(PtyRelay.for_standard_streams())
        plan = LaunchPlan(
            command=self.options.command,
            cgroup_fd=app.fd,
            uid=identity,
            gid=groups,
            keep_privileges=self.options.keep_privileges,
            pty_fd=self.pty.slave_fd if self.pty else None,
            pty_mask=mask,
            cleanup=cleanup,
            kill_pids=(self.worker_pid,),
            seal_fd=self.instance.map_fd("workloads"),
            held_fds=held,
            environment=environment,
        )
        self.launched = spawn(plan)
        try:
            if self.pty:
                self.pty.close_slave()
            outcome = self._watch(signals)
        finally:
            self._finish(app)
        if outcome.kind is Ending.EXEC_FAILED:
            say(exec_failure_text(self.options.command[0], outcome, identity))
        elif outcome.kind in (Ending.REFUSED, Ending.LOST):
            say(outcome.text)
        return outcome.code

    def _identity(self, uid: int) -> tuple[int | None, int | None, dict[str, str]]:
        environment = dict(os.environ)
        if self.options.keep_privileges:
            return None, None, environment
        gid, home, name = uid, "/nonexistent", f"racecar-{uid}"
        if self.options.user is not None:
            try:
                entry = pwd.getpwnam(self.options.user)
            except KeyError:
                raise SessionError(f"--user {self.options.user}: no such user") from None
            if entry.pw_uid == 0:
                raise SessionError("--user with uid 0 needs --keep-privileges, which gives the boundary away")
            uid, gid, home, name = entry.pw_uid, entry.pw_gid, entry.pw_dir, entry.pw_name
        environment |= {"HOME": home, "USER": name, "LOGNAME": name}
        for variable in ("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "MAIL"):
            environment.pop(variable, None)
        return uid, gid, environment

    def _watch(self, signals: int) -> Outcome:
        """Serve until the command has ended."""
        assert self.launched is not None
        assert self.ring is not None
        with select.epoll() as poller:
            poller.register(self.launched.fileno(), select.EPOLLIN)
            poller.register(self.ring.fd, select.EPOLLIN)
            poller.register(self.routes.fileno(), select.EPOLLIN)
            poller.register(signals, select.EPOLLIN)
            assert self.channel is not None
            channel_fd = self.channel.fileno()
            poller.register(channel_fd, select.EPOLLIN)
            while True:
                timeout_s = 0.05 if self.sink is not None and not self.sink.is_empty else None
                if self.launched.outcome is not None:
                    timeout_s = 0.0  # read already, together with the news of its birth
                if self.pty is None:
                    ready = {fd for fd, _ in poller.poll(timeout_s)}
                else:
                    self.pty.step(poller.fileno(), timeout_s)
                    ready = {fd for fd, _ in poller.poll(0)}
                if signals in ready:
                    self._forward(signals)
                if self.ring.fd in ready:
                    self._on_events()
                if self.routes.fileno() in ready:
                    self.routes.drain()
                    self.instance.set_own(own_networks())
                if channel_fd in ready and not self._on_worker():
                    poller.unregister(channel_fd)
                    self._restart_worker()
                    channel_fd = self.channel.fileno()
                    poller.register(channel_fd, select.EPOLLIN)
                if self.sink is not None:
                    self.sink.flush()
                outcome = self.launched.poll()
                if outcome is not None:
                    if self.pty is not None:
                        self.pty.drain()
                    return outcome

    def _finish(self, app: cgroups.Cgroup) -> None:
        """End what the command started, send its last bytes, say what the kernel still has to say; then clean up."""
        assert self.launched is not None
        cgroups.kill_all(app.path)
        cgroups.wait_empty(app.path, timeout_s=30)
        self._end_worker()
        self._on_events()
        if self.pty is not None:
            self.pty.close()
        if self.sink is not None and (lost := self.lost + self.sink.finish(LAST_LINES_S)):
            say(f"the access log is incomplete: {lost} lines were dropped, its reader or its disk was too slow or full")
        self.launched.finish()
        self.is_gone = not self.launched.left
        for left in self.launched.left:
            logger.warning("left behind: %s", left)

    def _forward(self, signals: int) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(signals, 4096)
        received, self.signals[:] = list(self.signals), []
        assert self.launched is not None
        for number in received:
            self.launched.send_signal(number)

    # --- what the kernel says ---

    @property
    def _is_raw(self) -> bool:
        return self.pty is not None and self.pty.is_raw

    def _on_events(self) -> None:
        for raw in self.ring.read() if self.ring is not None else ():
            try:
                event = KernelEvent.unpack(raw)
            except ValueError:
                logger.warning("an event of an unknown kind")
                continue
            if event.kind is EventKind.DROPPED:
                self._end_connection(event)
            if event.kind in (EventKind.DENIED, EventKind.DROPPED):
                self._tell(denial_of_event(event))
            if self.sink is not None:
                self.sink.add(self.flows.kernel(event), denial=event.kind is not EventKind.CLOSED)

    def _end_connection(self, event: KernelEvent) -> None:
        """A connection whose packets the gate drops would hang: end it, so that its owner learns of it."""
        if event.protocol != 6 or not event.family or not event.cookie:
            return
        with contextlib.suppress(OSError):
            destroy_tcp(event.family, (event.source, event.source_port), (event.peer, event.peer_port), event.cookie)

    def _tell(self, text: str) -> None:
        if self.denials.take():
            say(text, raw=self._is_raw)


def _remove_cgroups(base: Path) -> None:
    cgroups.kill_all(base)
    cgroups.wait_empty(base, timeout_s=10)
    cgroups.remove_tree(base)


def _refuse_nesting() -> None:
    """A command whose cgroup lies inside an enforced one would be judged twice, under two identities."""
    ours = cgroups.own_cgroup()
    for name in registry.names():
        state = registry.read_state(name) if registry.is_alive(name) else None
        for cgroup in state.cgroups if state else []:
            if ours.is_relative_to(cgroup):
                raise SessionError(f"this process is already under instance {name} ({cgroup}): run it outside")


def executable_of(pid: int, start_ns: int) -> str | None:
    """The path of a process's executable, if it is still the process that started at `start_ns` of boot time."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()  # the name in it is the process's own choice of bytes
        ticks = int(stat[stat.rindex(b")") + 2 :].split()[19])  # starttime, proc(5)
        if abs(ticks - start_ns * os.sysconf("SC_CLK_TCK") // 1_000_000_000) > 1:
            return None
        return os.readlink(f"/proc/{pid}/exe")
    except (OSError, ValueError, IndexError):
        return None
