"""HTTP/1.1 on two legs: what is read goes to the conversation, what it commands is done."""

import errno
import sys
from collections.abc import Iterable
from itertools import groupby

from racecar.policy.reasons import Reason
from racecar.proxy.connections import Connection, Host
from racecar.proxy.core.http1 import HttpConversation
from racecar.proxy.core.http1_context import HttpContext
from racecar.proxy.core.http1_types import (
    FORWARD,
    Abort,
    Close,
    CloseServer,
    Command,
    Commands,
    EndClient,
    EndServer,
    ResetServer,
    ToClient,
    ToServer,
)
from racecar.proxy.core.relay import (
    BODY_BYTES,
    HEAD_BYTES,
    READ_BYTES,
    SMALL_READ_BYTES,
    note_read,
    note_splice,
    portion_bytes,
    wants_reading,
    worth_splicing,
)
from racecar.proxy.edge import LINGER_RESET, End, LegError, RawSocket
from racecar.proxy.limits import WorkloadUse
from racecar.redirect.abi import ConnectionRecord

MANY_COMMANDS = 6


def joined(commands: Commands) -> Iterable[Command]:
    """Make one command of answers that follow one another: a read may hold hundreds of denied requests."""
    if len(commands) < MANY_COMMANDS:
        return commands
    out: list[Command] = []
    for kind, group in groupby(commands, key=type):
        if kind is ToClient:
            out.append(ToClient(b"".join(command.data for command in group if isinstance(command, ToClient))))
        else:
            out += group
    return out


class HttpConnection(Connection):
    """One client, one server, judged request by request."""

    __slots__ = ("closing", "conversation", "deaf", "leaving", "stalled", "stalled_since")

    kind = "http"
    paced_client = True

    def __init__(
        self,
        host: Host,
        client: RawSocket,
        server: RawSocket,
        record: ConnectionRecord,
        use: WorkloadUse,
        context: HttpContext,
    ) -> None:
        Connection.__init__(self, host, client, server, record, use)
        self.closing = False  # the conversation is over; only what is queued still goes out
        self.leaving = False  # the server's leg closes once what waits for it is sent
        self.stalled = -1  # bytes moved when waiting for a peer to take some began; -1: no bytes wait
        self.stalled_since = 0.0
        self.deaf = 0  # the error with which the server's leg failed, while it is still read
        self.conversation = HttpConversation(context, self.started, self)
        # A server can tell half a request from a whole one; what is not read any more may not.
        self.server.lingers = False

    def first_deadline(self) -> float:
        return self.conversation.deadline

    def readable(self, end: End) -> None:
        other = end.other
        if not wants_reading(end, other):
            self.unread(end)
            return
        edge, conversation = self.host.edge, self.conversation
        unread = conversation.client_unread if end.is_client else conversation.server_unread
        if unread >= BODY_BYTES and (other.ready if unread < sys.maxsize else worth_splicing(end, other)):
            moved = end.pull(min(unread, portion_bytes(edge.moved)))
            if moved is not None:
                self._spliced(end, moved)
                self._keep_time()
                return
        size = READ_BYTES if unread > HEAD_BYTES else HEAD_BYTES
        if self.use.is_short:
            size = SMALL_READ_BYTES
        data = end.receive(size)
        if data is None:
            return
        if not data:
            self._ended(end)
            return
        end.ready = True
        if unread < sys.maxsize:
            end.received += len(data)
        else:
            note_read(end, len(data), size)
        now = edge.now
        commands = conversation.client_bytes(data, now) if end.is_client else conversation.server_bytes(data, now)
        if commands is FORWARD:
            other.write(data)
            if other.queued:
                edge.watch(end)
                edge.watch(other)
                self.hold()
            if self.client.paused:
                self._pause()
        elif commands:
            self._obey(commands)
        else:
            self._pause()
            self.hold()
        self._keep_time()

    def writable(self, end: End) -> None:
        Connection.writable(self, end)
        if self.closing:
            self._close_what_is_empty()
        elif self.leaving and not self.server.queued:
            self._drop_server(in_order=True)

    def failed(self, end: End, number: int) -> None:
        reason = self.reason_of(end, number)
        if end is not self.server:
            self.abort(reason)
        elif self.closing:
            end.drop(in_order=False)
            self._close_what_is_empty()
        elif self.leaving:
            self._drop_server(in_order=False)
        elif end.ready and self.conversation.is_outstanding:
            self._hear_out(number, reason)
        else:
            self._server_failed(reason)

    def dial_timed_out(self) -> None:
        self._server_failed(Reason.DIAL_TIMEOUT)

    def unreachable(self) -> None:
        self._server_failed(Reason.DIAL_FAILED)

    def _server_failed(self, reason: Reason) -> None:
        """The dial failed, or the server's leg while nothing was outstanding."""
        self.server.deafen()
        self._obey_without_server(self.conversation.server_failed(reason, self.host.edge.now))

    def _hear_out(self, number: int, reason: Reason) -> None:
        """The server's leg takes no more bytes; the answer that it may have sent before that is still in its socket.

        The first error says how its stream ended: EPIPE is a reset behind a FIN, so that all of it came.
        """
        conversation, now = self.conversation, self.host.edge.now
        if self.deaf:
            commands = conversation.server_cut(now)
        else:
            self.deaf = number
            self.server.deafen()
            commands = conversation.server_deaf(reason, now)
        self._obey_without_server(commands)

    def _obey_without_server(self, commands: Commands) -> None:
        """As `_obey`, where a leg failed already: another failure ends both."""
        try:
            self._obey(commands)
        except LegError as error:
            self.abort(self.reason_of(error.end, error.number))
        self._keep_time()

    def _drop_server(self, *, in_order: bool) -> None:
        """Close the server's leg behind the last word; the client is read to its end."""
        self.leaving = False
        self.server.drop(in_order=in_order)
        self.host.edge.watch(self.client)

    def timer(self, now: float) -> None:
        if self.closing:
            moved = self.taken_bytes()
            if moved == self.progress:
                self.abort(self.reason)
                return
            self.progress = moved
            self.wake_at(now + self.host.config.close_timeout_s)
            return
        if self._has_stalled(now):
            self.abort(Reason.IDLE_TIMEOUT)
            return
        conversation = self.conversation
        if self.client.queued and now >= conversation.deadline:
            # While bytes wait for the client, nobody is read: what is due of a head may be here for long.
            if conversation.is_reading_head:
                conversation.extend_head(now)
            elif conversation.is_reading_answer_head:
                conversation.extend_answer_head(now)
        self._obey(conversation.timer(now))
        self._keep_time()

    def _has_stalled(self, now: float) -> bool:
        """True if bytes have waited for a peer for as long as may be, and none was taken."""
        if not self.client.queued and not self.server.queued:
            self.stalled = -1
            return False
        moved = self.taken_bytes()
        if moved == self.stalled:
            return now >= self.stalled_since + self.conversation.context.config.stall_timeout_s
        self.stalled, self.stalled_since = moved, now
        return False

    def drain(self) -> None:
        if not self.closing and not self.closed:
            self._obey(self.conversation.drain())

    def layer_held(self) -> int:
        return self.conversation.held

    def lost(self, reason: Reason) -> None:
        self.conversation.lost(reason, self.host.edge.now)

    def _keep_time(self) -> None:
        deadline = self.conversation.deadline
        if self.client.queued or self.server.queued:
            since = self.host.edge.now if self.stalled < 0 else self.stalled_since
            deadline = min(deadline, since + self.conversation.context.config.stall_timeout_s)
        if deadline < self.due and not self.closing and not self.closed:
            self.wake_at(deadline)

    def _spliced(self, end: End, moved: int) -> None:
        self.spliced = True
        note_splice(end, moved)
        edge = self.host.edge
        if end.is_client:
            self.conversation.client_moved(moved, edge.now)
        else:
            self.conversation.server_moved(moved, edge.now)
        end.other.flush()
        if end.other.queued:
            edge.watch(end)
            edge.watch(end.other)

    def _ended(self, end: End) -> None:
        end.eof = True
        conversation, now = self.conversation, self.host.edge.now
        if end.is_client:
            self._obey(conversation.client_eof(now))
        elif self.deaf in (0, errno.EPIPE):
            self._obey(conversation.server_eof(now))
        else:
            self._obey(conversation.server_cut(now))
        self._keep_time()

    def _obey(self, commands: Commands) -> None:
        """Do what the conversation says, then tell epoll what the legs wait for."""
        client, server, failed = self.client, self.server, 0
        for command in joined(commands):
            if isinstance(command, ToServer):
                try:
                    server.write(command.data)
                except LegError as error:
                    failed = error.number  # what else was commanded is still due
            elif isinstance(command, ToClient):
                client.write(command.data)
            elif isinstance(command, Close):
                self._close_soon(command.reason)
                if self.closed:
                    return
            elif isinstance(command, EndClient):
                client.finishing = True
            elif isinstance(command, EndServer):
                server.finishing = True
            elif isinstance(command, CloseServer):
                if server.queued:
                    self.leaving = server.eof = True
                else:
                    server.drop(in_order=True)
            elif isinstance(command, ResetServer):
                server.drop(in_order=False)
            elif isinstance(command, Abort):
                self.abort(command.reason)
                return
            else:
                raise AssertionError(f"{command} among other commands")
        self._pause()
        if self.conversation.is_opaque and not server.lingers and not server.closed:
            server.linger(LINGER_RESET)  # bytes pass unread: a proxy that is killed must not look like an end in order
        for end in (client, server):
            if not end.closed:
                self.settle(end)
        if failed and not server.closed:
            self.failed(server, failed)
        self.hold()

    def _pause(self) -> None:
        """Read the client only while the conversation can take more."""
        client, paused = self.client, self.conversation.client_paused
        if client.paused is not paused:
            client.paused = paused
            self.host.edge.watch(client)

    def _close_soon(self, reason: Reason) -> None:
        """Close each leg in order once what waits for it is sent; nothing is read any more."""
        if not self.client.queued and not self.server.queued:
            self.close(reason)
            return
        self.closing = True
        self.reason = reason
        self.client.eof = self.server.eof = True
        self.progress = self.taken_bytes()
        self.due = float("inf")
        self.wake_at(self.host.edge.now + self.host.config.close_timeout_s)
        self._close_what_is_empty()

    def _close_what_is_empty(self) -> None:
        for end in (self.client, self.server):
            if not end.queued:
                end.drop(in_order=True)
            else:
                self.host.edge.watch(end)
        if self.client.closed and self.server.closed:
            self.close(self.reason)
