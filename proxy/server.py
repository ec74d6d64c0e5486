"""The only owner of sockets: accepts, admits, dials, and ends what it began.

Every connection that comes in was announced by the kernel's record (`resolve`); it is dialled on to
the address in that record, or reset with a reason. Where that cannot be done nothing is passed on.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from ipaddress import IPv6Address
from typing import Any, Protocol

from racecar.policy.reasons import Reason
from racecar.proxy.connections import Connection, TcpConnection, denial_of
from racecar.proxy.core.http1_context import HttpContext
from racecar.proxy.core.http1_types import HttpConfig, HttpRecord, Judge, Verdict
from racecar.proxy.edge import LINGER_RESET, Edge, Owner, RawSocket
from racecar.proxy.http_connections import HttpConnection
from racecar.proxy.limits import Descriptors, EdgeConfig, WorkloadUse
from racecar.proxy.pipes import PipePool, PipeQuota, affordable_pipes
from racecar.proxy.records import ConnectionEntry, HttpEntry, LogEntry
from racecar.proxy.timers import Wheel
from racecar.redirect.abi import ConnectionRecord, ConnectionState, IPAddress

NO_MEANS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
# A client's own trouble, reported by accept(2): the next one may be sound.
CLIENT_TROUBLE = frozenset(
    (
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EPERM,
        errno.ETIMEDOUT,
    )
)
IPPROTO_TCP, TCP_NODELAY = int(socket.IPPROTO_TCP), int(socket.TCP_NODELAY)  # an IntEnum takes longer
SOCK_STREAM = int(socket.SOCK_STREAM)
GC_OBJECTS = 10_000  # allocated before the youngest generation is looked through
UNDER_WAY = frozenset((0, errno.EINPROGRESS, errno.EALREADY))

logger = logging.getLogger(__name__)

SocketAddress = tuple[Any, ...]  # as accept(2) gives it: text of an address, port, ...
SocketOpener = Callable[[ConnectionRecord], RawSocket]


class LayerPolicy(Protocol):
    """What a rule set asks of the relay. The same object as long as it stands: caches hang on it."""

    @property
    def kind(self) -> str: ...  # 'tcp' or 'http'; any other is refused
    @property
    def matcher(self) -> Judge | None: ...  # for http
    @property
    def audit(self) -> bool: ...  # what the rules deny passes, and is logged
    @property
    def tls_rule(self) -> int: ...  # number of the rule that passes TLS through unread, 0 for none
    @property
    def tells_rules(self) -> bool: ...  # a denied caller learns which rule or default it was
    @property
    def header_names(self) -> frozenset[bytes]: ...  # headers that its rules read, in lower case
    def rule_name(self, rule: int, /) -> str: ...  # for the text of a denial; of rule 0 too


def open_local_socket(record: ConnectionRecord) -> RawSocket:
    """A non-blocking TCP socket in the proxy's own network namespace."""
    family = socket.AF_INET6 if isinstance(record.address, IPv6Address) else socket.AF_INET
    return RawSocket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)


def tune_garbage_collection() -> None:
    """Look for garbage in cycles less often: a connection leaves a few objects, and most of a busy heap lives on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 20, 50)


def bequeath(listener: socket.socket) -> None:
    """Set what accepted sockets inherit, with no call per connection. With this linger a killed proxy resets.

    A socket has what its listener had when it was established, not when it is accepted: call this before connections
    can come.
    """
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)


class Server:
    """Serve redirected connections of any number of workloads on any number of listeners.

    `resolve(fd, peer)` gives the record of an accepted socket and its client's address, None if there is none.
    `policy_for(workload, ruleset)` says which layer judges it, None if that is unknown.
    `log(entry)` takes what ended; it must not block. `source_of(peer)` is what the log says of the client's address,
    nothing if there is no such function. All are called in the loop's thread. `answers_dial_failures`: an HTTP client
    whose upstream cannot be reached gets its answer (502) instead of a reset, which it would not know the cause of.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        config: EdgeConfig,
        *,
        resolve: Callable[[int, SocketAddress], ConnectionRecord | None],
        policy_for: Callable[[int, int], LayerPolicy | None],
        log: Callable[[LogEntry], None],
        source_of: Callable[[SocketAddress], tuple[IPAddress, int]] | None = None,
        open_socket: SocketOpener = open_local_socket,
        http_config: HttpConfig | None = None,
        answers_dial_failures: bool = False,
    ) -> None:
        self.config = config
        self.http_config = http_config or HttpConfig()
        self.counters: Counter[Reason] = Counter()  # connections that did not end in order, by reason
        self.http_counters: Counter[Reason] = Counter()  # requests likewise
        self.accepted = 0
        self.connections: set[Connection] = set()
        self._loop = loop
        self._resolve = resolve
        self._policy_for = policy_for
        self._log = log
        self._source_of = source_of
        self._open_socket = open_socket
        self._answers_dial_failures = answers_dial_failures
        self._last_target: tuple[ConnectionRecord | None, tuple[str, int]] = (None, ("", 0))
        self._use: dict[int, WorkloadUse] = {}
        self._contexts: dict[tuple[int, int], tuple[LayerPolicy, HttpContext]] = {}
        self._listeners: dict[int, socket.socket] = {}
        self._resting: set[asyncio.TimerHandle] = set()
        self._tick: asyncio.TimerHandle | None = None
        self._emptied: asyncio.Future[None] | None = None
        self._draining = False
        self.wheel: Wheel[Connection] = Wheel(step_s=config.timer_step_s)
        max_pipes = affordable_pipes() if config.max_pipes is None else config.max_pipes
        self.descriptors = Descriptors(headroom=config.descriptor_headroom)
        self.pipes = PipePool(
            max_pipes=max_pipes, max_per_workload=config.max_pipes_per_workload, has_room=self._has_room
        )
        self.edge = Edge(
            pipes=self.pipes,
            quota_of=_quota_of,
            events_per_turn=config.events_per_turn,
            closed=self._socket_closed,
        )
        loop.add_reader(self.edge.fileno(), self.edge.turn)

    def listen(self, listener: socket.socket) -> None:
        """Serve `listener`, which belongs to the server from now on."""
        listener.setblocking(False)
        bequeath(listener)
        self._listeners[listener.fileno()] = listener
        self._resume(listener)

    async def drain(self, timeout_s: float) -> int:
        """Stop accepting, let connections end, reset the rest after `timeout_s`; the number of those reset."""
        self._draining = True
        self._stop_listening()
        for connection in list(self.connections):
            self.edge.guard(connection, connection.drain)
        if self.connections:
            self._emptied = self._loop.create_future()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._emptied, timeout_s)
            self._emptied = None
        return self.abort_all()

    def abort_all(self) -> int:
        """Reset every connection; how many there were."""
        left = list(self.connections)
        for connection in left:
            self.edge.guard(connection, partial(connection.abort, Reason.DRAINED))
        return len(left)

    def close(self) -> None:
        """Reset what is left and give every descriptor back."""
        self._draining = True
        self._stop_listening()
        self.abort_all()
        if self._tick is not None:
            self._tick.cancel()
        self._loop.remove_reader(self.edge.fileno())
        self.edge.close()
        self.descriptors.close()

    def connections_of(self, workload: int) -> int:
        use = self._use.get(workload)
        return use.connections if use is not None else 0

    def forget(self, workload: int) -> None:
        """Drop what is cached for a workload that is gone."""
        for key in [key for key in self._contexts if key[0] == workload]:
            del self._contexts[key]

    # --- for connections ------------------------------------------------------------------------

    def ended(self, connection: Connection, entry: ConnectionEntry) -> None:
        """Account a connection that is over."""
        self.connections.discard(connection)
        connection.use.connections -= 1
        if not connection.use.connections:
            self._use.pop(connection.record.workload, None)
        self.report(entry, entry.reason)
        if not self.connections and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    def report(self, entry: LogEntry, reason: Reason) -> None:
        """Count what did not go in order, and log; a sink that fails harms nobody."""
        if reason is not Reason.NONE:
            (self.counters if isinstance(entry, ConnectionEntry) else self.http_counters)[reason] += 1
        try:
            self._log(entry)
        except Exception:
            logger.exception("the log refused an entry")

    def arm(self) -> None:
        """Have the wheel looked at; only while somebody waits in it."""
        if self._tick is None:
            self._tick = self._loop.call_later(self.config.timer_step_s, self._on_tick)

    # --- accepting ------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        family = int(listener.family)  # an IntEnum, made anew each time it is asked for
        for _ in range(self.config.accepts_per_turn):
            try:
                fd, peer = listener._accept()  # type: ignore[attr-defined]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in CLIENT_TROUBLE:
                    continue
                if error.errno != errno.EMFILE or not self._accept_with_reserve(listener):
                    self._rest(listener)
                    return
                continue
            self.accepted += 1
            sock = RawSocket(family, SOCK_STREAM, 0, fd)
            try:
                self._admit(sock, peer)
            except Exception:
                logger.exception("a connection could not be admitted")
                self._refuse(sock, None, Reason.INTERNAL_ERROR, peer)

    def _accept_with_reserve(self, listener: socket.socket) -> bool:
        """Reset one waiting client with the descriptor kept for that; False if not even that works."""
        if not self.descriptors.release_reserve():
            self.descriptors.restore_reserve()
            return False
        try:
            fd, peer = listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return False
        else:
            self.accepted += 1
            sock = RawSocket(listener.family, socket.SOCK_STREAM, 0, fd)
            self._refuse(sock, self._resolve(sock.fileno(), peer), Reason.DESCRIPTOR_LIMIT, peer)
            return True
        finally:
            self.descriptors.restore_reserve()

    def _admit(self, sock: RawSocket, peer: SocketAddress) -> None:
        record = self._resolve(sock.fileno(), peer)
        if record is None:
            self._refuse(sock, None, Reason.NO_RECORD, peer)
            return
        if record.state is ConnectionState.REFUSED:
            self._refuse(sock, record, denial_of(record), peer)
            return
        if not self._has_room():
            self._refuse(sock, record, Reason.DESCRIPTOR_LIMIT, peer)
            return
        use = self._use.get(record.workload) or WorkloadUse(budget=self.config.max_held_bytes_per_workload)
        if use.connections >= self.config.max_connections_per_workload:
            self._refuse(sock, record, Reason.WORKLOAD_LIMIT, peer)
            return
        policy = self._policy_for(record.workload, record.ruleset)
        if policy is None or policy.kind not in ("tcp", "http") or (policy.kind == "http" and policy.matcher is None):
            self._refuse(sock, record, Reason.NO_LAYER, peer)
            return
        context = self._context(record, policy) if policy.kind == "http" else None
        is_reachable = True
        try:
            upstream = self._dial(record, resets=context is None)
        except OSError as error:
            no_means = error.errno in NO_MEANS
            if no_means or context is None or not self._answers_dial_failures:
                self._refuse(sock, record, Reason.DESCRIPTOR_LIMIT if no_means else Reason.DIAL_FAILED, peer)
                return
            upstream, is_reachable = self._open_socket(record), False  # in the place of the one that failed
        sock.setblocking(False)
        connection: Connection
        if context is None:
            connection = TcpConnection(self, sock, upstream, record, use)
        else:
            connection = HttpConnection(self, sock, upstream, record, use, context)
        if self._source_of is not None:
            connection.source = self._source_of(peer)
        self.descriptors.used += 2
        use.connections += 1
        self._use[record.workload] = use
        self.connections.add(connection)
        try:
            connection.start()
            if not is_reachable:
                connection.unreachable()
        except Exception:
            connection.crashed()

    def _dial(self, record: ConnectionRecord, *, resets: bool) -> RawSocket:
        """Begin to connect to the recorded address; `resets`: set to LINGER_RESET. Raises OSError."""
        upstream = self._open_socket(record)
        try:
            upstream.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            if resets:
                upstream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            number = upstream.connect_ex(self._target(record))
            if number not in UNDER_WAY:
                raise OSError(number, os.strerror(number))
        except OSError:
            upstream.close()
            raise
        return upstream

    def _target(self, record: ConnectionRecord) -> tuple[str, int]:
        """As sockets take it; in plain mode all connections may have one record."""
        known, target = self._last_target
        if record is not known:
            target = (str(record.address), record.port)
            self._last_target = (record, target)
        return target

    def _context(self, record: ConnectionRecord, policy: LayerPolicy) -> HttpContext:
        """What the connections under one rule set share; made anew when the policy was exchanged."""
        key = (record.workload, record.ruleset)
        known = self._contexts.get(key)
        if known is not None and known[0] is policy:
            return known[1]
        assert policy.matcher is not None
        context = HttpContext(
            policy.matcher,
            self._log_http,
            rule_name=policy.rule_name,
            tells_rules=policy.tells_rules,
            audit=policy.audit,
            tls_rule=policy.tls_rule,
            header_names=policy.header_names,
            answers_dial_failures=self._answers_dial_failures,
            config=self.http_config,
        )
        self._contexts[key] = (policy, context)
        return context

    def _log_http(self, tag: object, record: HttpRecord) -> None:
        assert isinstance(tag, HttpConnection)
        tag.requests += 1
        started = tag.wall + (record.started - tag.started)
        path = "splice" if tag.spliced else "relay"
        self.report(HttpEntry(tag.record, tag.dialled, record, started, path, tag.source), record.reason)

    def _refuse(self, sock: RawSocket, record: ConnectionRecord | None, reason: Reason, peer: SocketAddress) -> None:
        """Reset a client that was accepted."""
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        with contextlib.suppress(OSError):
            sock.close()
        dialled = None
        if record is not None and reason is Reason.DIAL_FAILED:
            dialled = (record.address, record.port)
        self.report(
            ConnectionEntry(
                record=record,
                verdict=Verdict.DROPPED,
                reason=reason,
                rule=record.rule if record is not None else 0,
                kind="",
                dialled=dialled,
                started=time.time(),
                duration_s=0.0,
                request_bytes=0,
                response_bytes=0,
                path="relay",
                source=None if self._source_of is None else self._source_of(peer),
            ),
            reason,
        )

    def _resume(self, listener: socket.socket) -> None:
        self.edge.listen(listener.fileno(), partial(self._accept, listener))

    def _rest(self, listener: socket.socket) -> None:
        """Leave a listener alone for a while: it stays readable, and asking again at once would spin."""
        self.edge.unlisten(listener.fileno())
        handle: asyncio.TimerHandle

        def resume() -> None:
            self._resting.discard(handle)
            self.descriptors.restore_reserve()
            self._resume(listener)

        handle = self._loop.call_later(self.config.accept_pause_s, resume)
        self._resting.add(handle)

    def _stop_listening(self) -> None:
        for handle in self._resting:
            handle.cancel()
        self._resting.clear()
        for fd, listener in self._listeners.items():
            self.edge.unlisten(fd)
            listener.close()
        self._listeners.clear()

    # --- time and ends --------------------------------------------------------------------------

    def _on_tick(self) -> None:
        self._tick = None
        now = time.monotonic()
        for connection in self.wheel.expire(now):
            self.edge.guard(connection, partial(connection.expired, now))
        if self.wheel:
            self.arm()

    def _has_room(self) -> bool:
        """True if two more descriptors stay clear of the head-room."""
        return self.descriptors.room_for(2 + 2 * self.pipes.open)

    def _socket_closed(self) -> None:
        self.descriptors.used -= 1


def _quota_of(owner: Owner) -> PipeQuota:
    assert isinstance(owner, Connection)
    return owner.use.pipes
