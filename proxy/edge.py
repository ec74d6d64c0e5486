"""Sockets in one epoll nested in the event loop: no transport, task or future per connection.

`End` is one leg of a connection: the calls on its socket, what waits for it, what epoll was told.
`Edge` hands events to the connection that owns the leg, and closes sockets when a batch is over.

Three rules keep it honest:
- `recv`, `send` and `splice` decide, never the event bits: an event that is late does nothing.
- A socket is closed after the batch in which it ended, so no event of that batch can meet a new
  owner of its number.
- HUP and ERR cannot be masked: a leg that is not read and reports them is asked for its error and,
  without one, taken out of the epoll until it is wanted again.
"""

import _socket
import contextlib
import errno
import fcntl
import logging
import os
import select
import socket
import struct
import termios
import time
from collections.abc import Callable
from typing import Protocol

from racecar.proxy.core.relay import READ_BYTES, RelayEnd, wants_reading, wants_writing
from racecar.proxy.pipes import Pipe, PipePool, PipeQuota

RawSocket = _socket.socket  # without the Python class around it: half the cost to make one

SOL_SOCKET, SO_LINGER = int(socket.SOL_SOCKET), int(socket.SO_LINGER)  # an IntEnum takes longer
IN, OUT, ERR = select.EPOLLIN, select.EPOLLOUT, select.EPOLLERR
MOVE = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
LINGER_RESET = struct.pack("ii", 1, 0)  # close, or the end of the process, is a reset
LINGER_ORDER = struct.pack("ii", 0, 0)
UNWATCHED = -1  # not in the epoll
ASK_AGAIN_BYTES = 1 << 20  # a turn that has moved this much asks for no more events

logger = logging.getLogger(__name__)


class LegError(Exception):
    """A socket call on `end` failed for good."""

    def __init__(self, end: "End", number: int) -> None:
        super().__init__(os.strerror(number))
        self.end = end
        self.number = number


class Owner(Protocol):
    """A connection, as the edge sees it. Methods may raise LegError; anything else they raise is a bug."""

    closed: bool

    def readable(self, end: "End") -> None: ...
    def writable(self, end: "End") -> None: ...
    def failed(self, end: "End", number: int) -> None: ...
    def crashed(self) -> None: ...


class End(RelayEnd):
    """One leg: a non-blocking socket and the bytes that wait for it."""

    __slots__ = (
        "closed",
        "edge",
        "fd",
        "is_client",
        "lingers",
        "mask",
        "other",
        "out",
        "owner",
        "pipe",
        "piped",
        "sock",
    )

    other: "End"

    def __init__(self, edge: "Edge", owner: Owner, sock: RawSocket, *, is_client: bool, paced: bool) -> None:
        RelayEnd.__init__(self, ready=is_client, paced=paced and is_client)
        self.edge = edge
        self.owner = owner
        self.sock = sock
        self.fd = sock.fileno()
        self.is_client = is_client
        self.out = b""
        self.pipe: Pipe | None = None  # holds `piped` bytes for this end, ahead of `out`
        self.piped = 0
        self.mask = UNWATCHED
        self.closed = False
        self.lingers = True  # the socket is set to LINGER_RESET: to close it, or to be killed, resets

    def receive(self, size: int) -> bytes | None:
        """Up to `size` bytes, empty at the end of the stream, None if there is nothing now."""
        try:
            return self.sock.recv(size)
        except BlockingIOError:
            return None
        except OSError as error:
            raise LegError(self, error.errno or 0) from None

    def receive_into(self, buffer: bytearray | memoryview) -> int | None:
        """As `receive`, without a new object."""
        try:
            return self.sock.recv_into(buffer)
        except BlockingIOError:
            return None
        except OSError as error:
            raise LegError(self, error.errno or 0) from None

    def write(self, data: bytes | memoryview) -> None:
        """Send `data`, or keep a copy of what the socket does not take."""
        if not self.queued:
            sent = self._send(data)
            if sent == len(data):
                return
            data = data[sent:]
        self.out = bytes(data) if not self.out else self.out + data
        self.queued += len(data)

    def flush(self) -> None:
        """Send what waits; a pipe that runs empty goes back to the pool."""
        while self.piped and self.pipe is not None:
            try:
                count = os.splice(self.pipe.read, self.fd, self.piped, flags=MOVE)
            except BlockingIOError:
                return
            except OSError as error:
                raise LegError(self, error.errno or 0) from None
            self.piped -= count
            self.queued -= count
            self.sent += count
        self.release_pipe()
        if self.out:
            sent = self._send(self.out)
            self.out = self.out[sent:]
            self.queued -= sent

    def pull(self, size: int) -> int | None:
        """Move up to `size` bytes from this end into a pipe for the other one: flush that next. None if none moved.

        Then a receive must say why: splice(2) also stops in front of an urgent byte, as if there were nothing, or
        the end of the stream, while epoll goes on reporting what lies behind it. A receive skips that byte.
        """
        other = self.other
        pipe = self.edge.pipes.take(other.quota)
        if pipe is None:
            return None
        other.pipe = pipe
        try:
            count = os.splice(self.fd, pipe.write, size, flags=MOVE)
        except OSError as error:
            other.release_pipe()
            if error.errno in (errno.EAGAIN, errno.EINVAL):  # EINVAL: a socket whose kind cannot be spliced
                return None
            raise LegError(self, error.errno or 0) from None
        if not count:
            other.release_pipe()
            return None
        other.piped = count
        other.queued += count
        self.edge.moved += count
        return count

    @property
    def quota(self) -> PipeQuota:
        return self.edge.quota_of(self.owner)

    def release_pipe(self) -> None:
        if self.pipe is not None:
            self.edge.pipes.give(self.pipe, self.quota, empty=not self.piped)
            self.pipe = None

    def deafen(self) -> None:
        """Drop what waits for this end, which takes no more bytes; it can still be read."""
        self.out = b""
        self.release_pipe()
        self.queued = self.piped = 0
        self.finishing, self.finished = False, True

    def finish(self) -> None:
        """Send the FIN."""
        self.finished = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise LegError(self, error.errno or 0) from None

    def raise_error(self) -> None:
        """Raise LegError if the socket has an error pending."""
        number = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            raise LegError(self, number)

    def unacknowledged(self) -> int:
        """How many bytes wait in the socket for the peer to take them (tcp(7), SIOCOUTQ)."""
        if self.closed:
            return 0
        try:
            return int(struct.unpack("i", fcntl.ioctl(self.fd, termios.TIOCOUTQ, b"\0" * 4))[0])
        except OSError:
            return 0

    def is_connected(self) -> bool:
        try:
            self.sock.getpeername()
        except OSError:
            return False
        return True

    def drop(self, *, in_order: bool) -> None:
        """Close: a reset unless `in_order`. What waits for the end in our own buffers is lost."""
        if self.closed:
            return
        self.closed = True
        if self.queued:
            self.deafen()
        self.finishing, self.finished = False, True
        if in_order is self.lingers:
            self.linger(LINGER_ORDER if in_order else LINGER_RESET)
        self.edge.bury(self)

    def linger(self, how: bytes) -> None:
        """Set what closing the socket does: LINGER_RESET or LINGER_ORDER."""
        self.lingers = how is LINGER_RESET
        try:  # noqa: SIM105 (a context manager costs more than the call)
            self.sock.setsockopt(SOL_SOCKET, SO_LINGER, how)
        except OSError:
            pass  # it is closed all the same

    def _send(self, data: bytes | memoryview) -> int:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise LegError(self, error.errno or 0) from None
        self.ready = True
        self.sent += sent
        self.edge.moved += sent
        return sent


class Edge:
    """The epoll, who owns which descriptor, and what connections share while they are served."""

    def __init__(
        self,
        *,
        pipes: PipePool,
        quota_of: Callable[[Owner], PipeQuota],
        events_per_turn: int,
        closed: Callable[[], None],
    ) -> None:
        self.pipes = pipes
        self.quota_of = quota_of
        self.buffer = bytearray(READ_BYTES)
        self.view = memoryview(self.buffer)
        self.now = time.monotonic()
        self.moved = 0  # bytes in this turn
        self.turns = 0  # batches handled: a test of "does not spin"
        self._events_per_turn = events_per_turn
        self._closed = closed
        self._epoll = select.epoll()
        self._ends: dict[int, End] = {}
        self._listeners: dict[int, Callable[[], None]] = {}
        self._graves: list[RawSocket] = []

    def fileno(self) -> int:
        return self._epoll.fileno()

    def listen(self, fd: int, accept: Callable[[], None]) -> None:
        """Call `accept` whenever `fd` is readable, until `unlisten`."""
        self._listeners[fd] = accept
        self._epoll.register(fd, IN)

    def unlisten(self, fd: int) -> None:
        if self._listeners.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def turn(self) -> None:
        """Handle what is there, and what comes while it is handled, within the bound of a turn.

        To ask once more is cheaper than a turn of the event loop: under load there is always more.
        """
        self.moved = 0
        left = self._events_per_turn
        while left > 0 and self.moved < ASK_AGAIN_BYTES and (events := self._epoll.poll(0, left)):
            left -= len(events)
            self._handle(events)

    def _handle(self, events: list[tuple[int, int]]) -> None:
        """One batch. Sockets that end in it are closed behind it."""
        self.turns += 1
        self.now = time.monotonic()
        ends = self._ends
        for fd, event in events:
            end = ends.get(fd)
            if end is None:
                self._not_an_end(fd)
                continue
            owner = end.owner
            try:
                if event & OUT and not event & ERR:
                    owner.writable(end)
                if event != OUT and not end.closed:
                    owner.readable(end)
            except LegError as failure:
                self.rescue(owner, failure)
            except Exception:
                owner.crashed()
        if self._graves:
            self.reap()

    def guard(self, owner: Owner, call: Callable[[], None]) -> None:
        """Run `call` on behalf of `owner` outside of a batch, with the same safety."""
        self.now = time.monotonic()
        try:
            call()
        except LegError as failure:
            self.rescue(owner, failure)
        except Exception:
            owner.crashed()
        self.reap()

    def rescue(self, owner: Owner, failure: LegError) -> None:
        """Tell `owner` of a failed leg; if it fails again while it reacts, that is for it to end."""
        try:
            owner.failed(failure.end, failure.number)
        except Exception:
            owner.crashed()

    def add(self, end: End) -> None:
        """Own a new end and wait for what it sends."""
        self._ends[end.fd] = end
        self._epoll.register(end.fd, IN)
        end.mask = IN

    def watch(self, end: End) -> None:
        """Tell epoll what `end` waits for, if that changed."""
        if end.closed:
            return
        want = IN if wants_reading(end, end.other) else 0
        if wants_writing(end):
            want |= OUT
        if want == end.mask:
            return
        if end.mask != UNWATCHED:
            self._epoll.modify(end.fd, want)
        elif want:
            self._epoll.register(end.fd, want)
        else:
            return
        end.mask = want

    def mute(self, end: End) -> None:
        """Take `end` out of the epoll; `watch` brings it back as soon as it waits for something."""
        if end.mask != UNWATCHED:
            self._epoll.unregister(end.fd)
            end.mask = UNWATCHED

    def bury(self, end: End) -> None:
        """Forget `end` now and close its socket when the batch is over."""
        if self._ends.get(end.fd) is end:
            del self._ends[end.fd]
        self._graves.append(end.sock)

    def reap(self) -> None:
        """Close what ended."""
        graves = self._graves
        while graves:
            try:  # noqa: SIM105 (as above)
                graves.pop().close()
            except OSError:
                pass  # the descriptor is gone whatever close says
            self._closed()

    def close(self) -> None:
        self.reap()
        self.pipes.close()
        self._epoll.close()

    def _not_an_end(self, fd: int) -> None:
        accept = self._listeners.get(fd)
        if accept is not None:
            try:
                accept()
            except Exception:
                logger.exception("accepting failed")
            return
        with contextlib.suppress(OSError):  # ended earlier in this batch
            self._epoll.unregister(fd)
