"""Decisions of a relay between two ends: who is read, who is waited for, when an end is finished.

Nothing here reads or writes. The edge keeps the numbers of a `RelayEnd` true and asks; the answers
hold for every rule set, since a byte relay and a protocol layer share half close and back-pressure.
"""

import errno

from racecar.policy.reasons import Reason

READ_BYTES = 65536  # one copying read; also what an end that stalls may hold of our memory
SMALL_READ_BYTES = 4096  # a copying read of a workload that has half of its memory in use
PIPE_BYTES = 1 << 18  # 256 KB measured best: larger pipes leave the cache, smaller ones need more calls
HEAD_BYTES = 16384  # a read in which heads are looked for; larger ones gain nothing
BODY_BYTES = 65536  # a body that still has this much to go is worth a pipe at once
STRETCH_BYTES = 2 * READ_BYTES  # whole reads in a row before a pipe is worth its two calls
SHORT_SPLICE_BYTES = 16384  # a splice that moves less than this was dearer than a copy
TURN_BYTES = 1 << 22  # moved in one turn of the loop before the portions shrink
SMALL_PORTION_BYTES = 65536

DIAL_ERRORS = frozenset(
    (
        errno.ECONNREFUSED,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ETIMEDOUT,
        errno.EADDRNOTAVAIL,
        errno.EACCES,
        errno.EPERM,
        errno.EINVAL,
        errno.EAFNOSUPPORT,
        errno.ENETDOWN,
        errno.EHOSTDOWN,
    )
)


class RelayEnd:
    """What the decisions know of one end, client or server."""

    __slots__ = ("eof", "finished", "finishing", "paced", "paused", "queued", "ready", "received", "sent", "stretch")

    def __init__(self, *, ready: bool, paced: bool = False) -> None:
        self.eof = False  # it sent its FIN, and we read up to it
        self.finishing = False  # nothing more will be queued for it: its FIN is due when the queue is empty
        self.finished = False  # its FIN is sent
        self.queued = 0  # bytes that wait for it, in a buffer or a pipe
        self.paused = False  # not read for now: the layer has all that it can take
        self.paced = paced  # not read while bytes wait for itself: it is answered by us, and could ask without end
        self.ready = ready  # the connection stands; a shutdown before that would undo the dial
        self.received = 0  # bytes from it
        self.sent = 0  # bytes to it
        self.stretch = 0  # bytes of whole reads in a row


def wants_reading(end: RelayEnd, other: RelayEnd) -> bool:
    """Back-pressure: an end is not read while the other one has bytes to take, nor after its FIN."""
    return not (end.eof or end.paused or other.queued or other.finishing or (end.paced and end.queued))


def wants_writing(end: RelayEnd) -> bool:
    """True if the end must be told of when it takes bytes, or when its dial is done and a FIN is due."""
    return bool(end.queued) or (end.finishing and not end.ready)


def may_finish(end: RelayEnd) -> bool:
    """True if the end's FIN can be sent now: once, behind every byte, on a connection that stands."""
    return end.finishing and not end.finished and not end.queued and end.ready


def is_over(end: RelayEnd, other: RelayEnd) -> bool:
    """True if both directions ended in order."""
    return end.eof and other.eof and not end.queued and not other.queued and end.ready and other.ready


def note_read(end: RelayEnd, count: int, asked: int) -> None:
    """Account one copying read of `count` bytes, of at most `asked`."""
    end.received += count
    end.stretch = end.stretch + count if count == asked else 0


def note_splice(end: RelayEnd, count: int) -> None:
    """Account one splice; a short one ends the stretch."""
    end.received += count
    if count < SHORT_SPLICE_BYTES:
        end.stretch = 0


def worth_splicing(end: RelayEnd, other: RelayEnd) -> bool:
    """True if `end` sends a long stretch and `other` can take it straight from a pipe."""
    return end.stretch >= STRETCH_BYTES and other.ready and not other.queued


def portion_bytes(moved_this_turn: int) -> int:
    """How much one end may move at once: less when a turn is already long, so that small calls get their turn."""
    return PIPE_BYTES if moved_this_turn < TURN_BYTES else SMALL_PORTION_BYTES


def failure_reason(number: int, *, is_client: bool, untouched: bool) -> Reason:
    """The reason for a socket error; `untouched`: no byte went either way on this end."""
    if is_client:
        return Reason.DOWNSTREAM_RESET
    return Reason.DIAL_FAILED if untouched and number in DIAL_ERRORS else Reason.UPSTREAM_RESET
