"""What a serving process says of its connections: denials to the user, everything to the access log."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from racecar.proxy.core.http1_types import Verdict
from racecar.proxy.flows import FlowWriter, denial_of_connection, denial_of_request
from racecar.proxy.layers import Layer
from racecar.proxy.records import ConnectionEntry, HttpEntry, LogEntry
from racecar.proxy.say import Rate
from racecar.proxy.sink import LineSink

FLUSH_S = 0.05
MAX_WAITING_ENTRIES = 20_000
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
        self._denials = Rate(DENIALS_PER_SECOND)
        self._strangers = Rate(STRANGERS_PER_SECOND)
        self._timer: asyncio.TimerHandle | None = None

    def log(self, entry: LogEntry) -> None:
        """Keep the entry for the next flush: by then it is known who the process is."""
        if isinstance(entry, HttpEntry):
            if entry.http.verdict is Verdict.DROPPED and entry.http.event and self._denials.take():
                layer = self._layers.get(entry.record.ruleset)
                self._tell(denial_of_request(entry, layer.rule_name(entry.http.rule) if layer else ""))
        elif entry.record is None:
            if not self._strangers.take():
                return  # anybody on the host may knock at the listener: the server counts it all, the log has some
        elif entry.verdict is Verdict.DROPPED and self._denials.take():
            self._tell(denial_of_connection(entry))
        if self._sink is None:
            return
        if len(self._waiting) >= MAX_WAITING_ENTRIES:
            self._sink.lost += 1
            return
        self._waiting.append(entry)
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
        try:
            self._write(self._sink)
        except Exception:
            logger.exception("the access log could not be written")
        if not self._sink.is_empty:
            self._timer = self._loop.call_later(FLUSH_S, self._tick)

    def _write(self, sink: LineSink) -> None:
        entries, self._waiting = self._waiting, []
        flows = self._flows
        for entry in entries:
            if isinstance(entry, HttpEntry):
                sink.add(flows.request(entry), denial=entry.http.verdict is not Verdict.FORWARDED)
            elif isinstance(entry, ConnectionEntry):
                sink.add(flows.connection(entry), denial=entry.verdict is not Verdict.FORWARDED)
        sink.flush()
