"""Connections: two legs and the layer between them. Here the shared part and the byte relay."""

import contextlib
import logging
import math
import socket
import time
from typing import Protocol

from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import Verdict
from racecar.proxy.core.relay import (
    READ_BYTES,
    SMALL_READ_BYTES,
    failure_reason,
    is_over,
    may_finish,
    note_read,
    note_splice,
    portion_bytes,
    wants_reading,
    worth_splicing,
)
from racecar.proxy.edge import Edge, End, RawSocket
from racecar.proxy.limits import EdgeConfig, WorkloadUse
from racecar.proxy.records import ConnectionEntry
from racecar.proxy.timers import Wheel
from racecar.redirect.abi import ConnectionRecord, IPAddress

AUDIT_FLAG = 1  # RC_CONN_AUDIT: the rules deny it, audit mode lets it pass

logger = logging.getLogger(__name__)


def denial_of(record: ConnectionRecord) -> Reason:
    """Why L4 rules deny a connection."""
    return Reason.DENY_RULE if record.rule else Reason.DEFAULT_DENY


class Host(Protocol):
    """What a connection needs of its server."""

    config: EdgeConfig
    edge: Edge
    wheel: "Wheel[Connection]"

    def ended(self, connection: "Connection", entry: ConnectionEntry) -> None: ...
    def arm(self) -> None: ...


class Connection:
    """One accepted connection and its dial. Subclasses say what the bytes mean."""

    __slots__ = (
        "client",
        "closed",
        "dialled",
        "due",
        "held",
        "host",
        "progress",
        "reason",
        "record",
        "requests",
        "server",
        "source",
        "spliced",
        "started",
        "step",
        "use",
        "wall",
    )

    kind = ""
    paced_client = False

    def __init__(
        self, host: Host, client: RawSocket, server: RawSocket, record: ConnectionRecord, use: WorkloadUse
    ) -> None:
        edge = host.edge
        self.host = host
        self.record = record
        self.source: tuple[IPAddress, int] | None = None  # the client's address, where the server tells it
        self.use = use
        self.dialled = (record.address, record.port)
        self.requests = 0  # logged for themselves
        self.closed = False
        self.spliced = False
        self.reason = Reason.NONE
        self.held = 0  # bytes in our memory, as counted in `use`
        self.progress = -1  # bytes moved when the last idle check looked
        self.step = 0
        self.due = math.inf
        self.started = edge.now
        self.wall = time.time()
        self.client = End(edge, self, client, is_client=True, paced=self.paced_client)
        self.server = End(edge, self, server, is_client=False, paced=False)
        self.client.other = self.server
        self.server.other = self.client

    def start(self) -> None:
        """Register both legs; the dial must be under way."""
        edge = self.host.edge
        edge.add(self.client)
        edge.add(self.server)
        self.wake_at(min(self.started + self.host.config.connect_timeout_s, self.first_deadline()))

    def first_deadline(self) -> float:
        """When the layer wants to be woken first."""
        return math.inf

    def readable(self, end: End) -> None:
        raise NotImplementedError

    def writable(self, end: End) -> None:
        """`end` takes bytes again, or its dial is done."""
        end.ready = True
        if end.queued:
            end.flush()
        self.settle(end)
        if self.held:
            self.hold()

    def settle(self, end: End) -> None:
        """Send the FIN that is due on `end`, and tell epoll what both legs wait for."""
        if may_finish(end):
            end.finish()
        edge = self.host.edge
        edge.watch(end)
        edge.watch(end.other)

    def unread(self, end: End) -> None:
        """An event on a leg that is not read: its error, a hang-up, or a late one."""
        end.raise_error()
        if end.queued and end.ready:
            self.writable(end)
        else:
            self.host.edge.mute(end)

    def failed(self, end: End, number: int) -> None:
        """A socket call failed: by default the other leg is reset too."""
        self.abort(self.reason_of(end, number))

    def reason_of(self, end: End, number: int) -> Reason:
        untouched = not end.received and not end.sent
        return failure_reason(number, is_client=end.is_client, untouched=untouched)

    def crashed(self) -> None:
        """A bug showed on this connection: it ends, the process does not."""
        logger.exception("connection to %s port %d ended by a bug", self.record.address, self.record.port)
        self.abort(Reason.INTERNAL_ERROR)

    def close(self, reason: Reason) -> None:
        """End in order; the kernel delivers what it holds."""
        self._end(reason, in_order=True)

    def abort(self, reason: Reason) -> None:
        """Reset both legs."""
        self._end(reason, in_order=False)

    def drain(self) -> None:
        """The server wants to stop: end now if that breaks nothing."""

    def wake_at(self, deadline: float) -> None:
        """Have `expired` called at `deadline` at the latest."""
        if deadline < self.due:
            self.due = deadline
            self.host.wheel.schedule(self, deadline)
            self.host.arm()

    def expired(self, now: float) -> None:
        """The wheel's call; may come early."""
        if self.closed:
            return
        self.due = math.inf
        self._keep_alive()
        if not self.server.ready and not self.server.closed:
            deadline = self.started + self.host.config.connect_timeout_s
            if self.server.is_connected():
                self.server.ready = True
                self.settle(self.server)
            elif now >= deadline:
                self.dial_timed_out()
                return
            else:
                self.wake_at(deadline)
        if not self.closed:
            self.timer(now)

    def _keep_alive(self) -> None:
        """A peer that vanishes is noticed some day. Set here: a connection that is over by now has no use for it."""
        for end in (self.client, self.server):
            if not end.closed:
                with contextlib.suppress(OSError):
                    end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def dial_timed_out(self) -> None:
        self.abort(Reason.DIAL_TIMEOUT)

    def unreachable(self) -> None:
        """The dial failed at once."""
        self.abort(Reason.DIAL_FAILED)

    def timer(self, now: float) -> None:
        """Time may have passed for the layer."""

    def hold(self) -> None:
        """Count what waits in our memory; a connection that adds to it above its workload's budget is reset."""
        if self.closed:
            return
        held = len(self.client.out) + len(self.server.out) + self.layer_held()
        more = held - self.held
        self.held = held
        if more and not self.use.hold(more):
            self.abort(Reason.WORKLOAD_LIMIT)

    def layer_held(self) -> int:
        """Bytes that wait in the layer."""
        return 0

    def lost(self, reason: Reason) -> None:
        """The connection ends now, whatever the layer still waits for."""

    def taken_bytes(self) -> int:
        """As `moved_bytes`, but what the peers have acknowledged counts, and not what our socket took for them.

        A socket with a full buffer takes nothing for as long as a slow reader needs for a third of it.
        """
        return self.moved_bytes() - self.client.unacknowledged() - self.server.unacknowledged()

    def moved_bytes(self) -> int:
        return self.client.received + self.server.received + self.client.sent + self.server.sent

    def _end(self, reason: Reason, *, in_order: bool) -> None:
        if self.closed:
            return
        self.closed = True
        self.reason = reason
        self.host.wheel.cancel(self)
        try:
            self.lost(reason)
        except Exception:
            logger.exception("the layer failed while its connection ended")
        self.client.drop(in_order=in_order)
        self.server.drop(in_order=in_order)
        self.use.hold(-self.held)
        self.host.ended(self, self._entry())

    def _entry(self) -> ConnectionEntry:
        record = self.record
        is_audited = record.flags & AUDIT_FLAG
        return ConnectionEntry(
            record=record,
            verdict=Verdict.AUDIT if is_audited else Verdict.FORWARDED,
            reason=self.reason or (denial_of(record) if is_audited else Reason.NONE),
            rule=record.rule,
            kind=self.kind,
            dialled=self.dialled,
            started=self.wall,
            duration_s=time.monotonic() - self.started,
            request_bytes=self.server.sent,
            response_bytes=self.client.sent,
            path="splice" if self.spliced else "relay",
            source=self.source,
            requests=self.requests,
        )


class TcpConnection(Connection):
    """Bytes relayed unread, both ways."""

    __slots__ = ()

    kind = "tcp"

    def first_deadline(self) -> float:
        limit = self.host.config.tcp_idle_timeout_s
        return math.inf if limit is None else self.started + limit

    def settle(self, end: End) -> None:
        if is_over(end, end.other):
            self.close(Reason.NONE)
        else:
            Connection.settle(self, end)

    def readable(self, end: End) -> None:
        other = end.other
        if not wants_reading(end, other):
            self.unread(end)
            return
        edge = self.host.edge
        if worth_splicing(end, other):
            moved = end.pull(portion_bytes(edge.moved))
            if moved is not None:
                self._spliced(end, moved)
                return
        count = end.receive_into(edge.view[:SMALL_READ_BYTES] if self.use.is_short else edge.buffer)
        if count is None:
            return
        if not count:
            self._ended(end)
            return
        end.ready = True
        note_read(end, count, READ_BYTES)
        other.write(edge.view[:count])
        if other.queued:
            edge.watch(end)
            edge.watch(other)
            self.hold()

    def timer(self, now: float) -> None:
        limit = self.host.config.tcp_idle_timeout_s
        if limit is None:
            return
        moved = self.moved_bytes()
        if moved == self.progress:
            self.abort(Reason.IDLE_TIMEOUT)
            return
        self.progress = moved
        self.wake_at(now + limit)

    def _spliced(self, end: End, moved: int) -> None:
        self.spliced = True
        note_splice(end, moved)
        end.other.flush()
        if end.other.queued:
            self.host.edge.watch(end)
            self.host.edge.watch(end.other)

    def _ended(self, end: End) -> None:
        end.eof = True
        end.other.finishing = True
        self.settle(end.other)
