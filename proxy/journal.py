"""What a serving process says of its connections: denials to the user, everything to the access log."""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from racecar.proxy.core.http1_types import Verdict
from racecar.proxy.flows import FlowWriter, denial_of_connection, denial_of_request
from racecar.proxy.layers import Layer
from racecar.proxy.records import HttpEntry, LogEntry
from racecar.proxy.say import Rate
from racecar.proxy.sink import LineSink

FLUSH_S = 0.05
SLICE_ENTRIES = 64  # 0.2 ms of work
SLICE_PAUSE_S = 0.001
LAST_LINES_S = 1.0  # for a slow reader of the access log, at the end
MAX_WAITING_BYTES = 1 << 18  # of entries, then they are written at once: nothing is lost that the log takes
ENTRY_BYTES = 512  # that an entry takes in memory beside what a peer may make longer
LOSSES_EVERY_S = 60.0
STRANGERS_PER_SECOND = 10  # connections that no workload announced: in the log, never told
DENIALS_PER_SECOND = 50  # told to the user; the log has all

logger = logging.getLogger(__name__)


class Journal:
    """Take entries as they come, write them a little later and many at once.

    `tell` takes the text of a denial, at most DENIALS_PER_SECOND of them. `sink` None: there is no access log.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        flows: FlowWriter,
        sink: LineSink | None,
        layers: Mapping[int, Layer],
        tell: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._flows = flows
        self._sink = sink
        self._layers = layers
        self._tell = tell
        self._waiting: list[LogEntry] = []
        self._waiting_bytes = 0
        self._losses_told = 0
        self._losses_told_at = -LOSSES_EVERY_S
        self._denials = Rate(DENIALS_PER_SECOND)
        self._strangers = Rate(STRANGERS_PER_SECOND)
        self._timer: asyncio.TimerHandle | None = None

    def log(self, entry: LogEntry) -> None:
        """Keep the entry for the next flush: by then it is known who the process is."""
        if isinstance(entry, HttpEntry):
            if entry.http.event and entry.http.verdict is Verdict.DROPPED and self._denials.take():
                layer = self._layers.get(entry.record.ruleset)
                self._tell(denial_of_request(entry, layer.rule_name(entry.http.rule) if layer else ""))
        elif entry.requests and not entry.reason:
            return  # its requests have said it all
        elif entry.record is None:
            if not self._strangers.take():
                return  # anybody on the host may knock at the listener: the server counts it all, the log has some
        elif entry.verdict is Verdict.DROPPED and self._denials.take():
            self._tell(denial_of_connection(entry))
        if self._sink is None:
            return
        self._waiting.append(entry)
        self._waiting_bytes += _size_of(entry)
        if self._waiting_bytes >= MAX_WAITING_BYTES:
            self._write_some(self._sink)
        if self._timer is None:
            self._timer = self._loop.call_later(FLUSH_S, self._tick)

    def finish(self, timeout_s: float) -> int:
        """Write the last lines: a slow reader of the log gets this long. How many lines were lost in all."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sink is None:
            return 0
        self._write(self._sink)
        return self._sink.finish(timeout_s)

    def _tick(self) -> None:
        self._timer = None
        assert self._sink is not None
        self._write_some(self._sink)
        self._tell_losses(self._sink.lost)
        if self._waiting:
            self._timer = self._loop.call_later(SLICE_PAUSE_S, self._tick)
        elif not self._sink.is_empty:
            self._timer = self._loop.call_later(FLUSH_S, self._tick)

    def _tell_losses(self, lost: int) -> None:
        """Now and then while they go on; how many there were in all is said at the end."""
        now = self._loop.time()
        if lost > self._losses_told and now - self._losses_told_at >= LOSSES_EVERY_S:
            self._losses_told, self._losses_told_at = lost, now
            self._tell(f"the access log takes too little: {lost} lines were dropped so far")

    def _write(self, sink: LineSink) -> None:
        entries, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._put(sink, entries)

    def _write_some(self, sink: LineSink) -> None:
        """A slice of what waits: to make all lines at once would keep requests waiting for milliseconds."""
        count = max(SLICE_ENTRIES, len(self._waiting) // 16)
        entries, self._waiting = self._waiting[:count], self._waiting[count:]
        self._waiting_bytes -= sum(map(_size_of, entries))
        self._put(sink, entries)

    def _put(self, sink: LineSink, entries: Sequence[LogEntry]) -> None:
        at_once = sink.takes_at_once
        denials: list[str] = []
        others: list[str] = []
        for entry in entries:
            try:
                line, is_denial = self._line(entry)
                if at_once:
                    (denials if is_denial else others).append(line)
                else:
                    workload = -1 if entry.record is None else entry.record.workload
                    sink.add(line, denial=is_denial, workload=workload)
            except Exception:
                logger.exception("an entry of the access log could not be written")
                sink.lost += 1
        if denials or others:
            sink.add_at_once(denials + others)
        sink.flush()

    def _line(self, entry: LogEntry) -> tuple[str, bool]:
        """The text, and whether it tells of a denial."""
        if isinstance(entry, HttpEntry):
            return self._flows.request(entry), entry.http.verdict is not Verdict.FORWARDED
        return self._flows.connection(entry), entry.verdict is not Verdict.FORWARDED


def _size_of(entry: LogEntry) -> int:
    """About what an entry holds of memory."""
    if isinstance(entry, HttpEntry):
        http = entry.http
        return ENTRY_BYTES + len(http.method) + len(http.path) + len(http.host)
    return ENTRY_BYTES
