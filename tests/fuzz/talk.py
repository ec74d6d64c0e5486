"""Drive a conversation as the edge does, and hold it to what the edge relies on.

What a call returns is checked at once; `oracle` reads what came out on both sides when a talk is over.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import inf

from racecar.parsers.http1 import HeadBuffer
from racecar.policy.reasons import Reason
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
    HttpConfig,
    HttpRecord,
    Judge,
    ResetServer,
    ToClient,
    ToServer,
)

READ_BYTES = 65536  # the longest read that the edge makes
CHUNK_BYTES = 8192 + 1024  # what a reader of chunks may hold: trailers, a size line
TLS_RULE = 50  # of a talk that passes TLS
HELLO_BYTES = 16384 + 5  # a ClientHello that is not complete


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens. `what` is a key of STEPS; `data` is bytes for a side; `number` says how long or which."""

    what: str
    data: bytes = b""
    number: int = 0


# In the order of their numbers in a program (`program`).
STEPS = ("client", "server", "client_eof", "server_eof", "time", "late", "broken", "lost", "swap", "drain")
PAUSES_S = (0.1, 1.9, 2.1, 9.9, 10.1, 31.0, 299.0, 301.0, 1e6)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a context is made of, but for its judge."""

    audit: bool = False
    tells_rules: bool = True
    tls: bool = False
    small: bool = False  # small limits, so that short inputs reach them
    answers_dials: bool = False  # a client whose server cannot be reached is answered, not reset

    def config(self) -> HttpConfig:
        if not self.small:
            return HttpConfig()
        return HttpConfig(
            max_head_bytes=256, max_target_bytes=48, max_headers=6, max_drain_bytes=8, max_cached_heads=2,
            max_cached_head_bytes=64,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Delivery:
    """How bytes are handed in: in pieces of these sizes in turn (none: whole reads), `moves`: past the conversation
    where it says that they may be; `warm`: heads that the context has read before.
    """

    sizes: tuple[int, ...] = ()
    moves: bool = False
    warm: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    """What had been said to both when the server was told something, and the number of the policy in force."""

    to_server: int
    to_client: int
    context: int


class Talk:
    """One conversation, and what was said to each side of it."""

    def __init__(
        self, judges: Sequence[Judge], setting: Setting, delivery: Delivery, seen: "Talk | None" = None
    ) -> None:
        self.records: list[HttpRecord] = []
        self.setting = setting
        self.delivery = delivery
        self.contexts = [
            HttpContext(
                judge,
                lambda _, record: self.records.append(record),
                tells_rules=setting.tells_rules,
                audit=setting.audit,
                tls_rule=TLS_RULE if setting.tls else 0,
                header_names=frozenset((b"x-key",)),
                answers_dial_failures=setting.answers_dials,
                config=setting.config(),
                event_prefix=f"e{number}",
            )
            for number, judge in enumerate(judges)
        ]
        if seen is not None:
            for mine, old in zip(self.contexts, seen.contexts, strict=True):
                mine.calls, mine.answers = old.calls, old.answers
        self.now = 0.0
        self.conversation = HttpConversation(self.contexts[0], self.now)
        self.to_server = bytearray()
        self.to_client = bytearray()
        self.marks: list[Mark] = []  # one for each word to the server
        self.client_marks: list[int] = []  # len(to_client) before each word to the client
        self.ends: list[tuple[Command, int, int]] = []  # other commands, and what was said to the sides before them
        self.waiting: list[bytes] = []  # the client's bytes that the edge does not read yet
        self.client_ends = False  # an end waits behind them
        self.client_ended = self.server_ended = self.server_gone = False
        self.deaf = Reason.NONE
        self.cut_off = False  # given up from outside
        self.raced = False  # it depends on the cuts what comes first, what a server says or what a client said
        self.left = False  # the server's leg was closed, and part of a read was not taken any more
        self._turn = 0
        self._halved = True

    # --- what happens

    def play(self, steps: Iterable[Step]) -> None:
        """Let all of it happen; a step that cannot be any more does nothing. Nothing is outstanding afterwards."""
        for step in steps:
            self.step(step)
        if not self.conversation.is_over:
            self.cut_off = True
            self.conversation.lost(Reason.DOWNSTREAM_RESET, self.now)
        self._check_over()

    def step(self, step: Step) -> None:
        what = step.what
        if self.conversation.is_over:
            return
        if what == "client" and not self.client_ends:
            self.waiting += self._cut(step.data)
        elif what == "client_eof":
            self.client_ends = True
        elif what == "server" and self._server_is_read:
            self._server(step.data)
        elif what == "server_eof" and self._server_is_read:
            self.server_ended = True
            self._take(self.conversation.server_eof(self.now), None)
        elif what == "time":
            self._pass(PAUSES_S[step.number % len(PAUSES_S)])
        elif what == "late":  # bytes that came before the timer was looked at
            self.now += PAUSES_S[step.number % len(PAUSES_S)]
        elif what == "broken" and not self.server_gone:
            self._broken()
        elif what == "lost":
            self.cut_off = True
            self.conversation.lost(Reason.DOWNSTREAM_RESET, self.now)
        elif what == "swap":
            self.conversation.context = self.contexts[step.number % len(self.contexts)]
        elif what == "drain":
            self._take(self.conversation.drain(), None)
        self._read_client()
        if what != "late":
            self._look_at_the_clock()
        self._check_held()

    @property
    def _server_is_read(self) -> bool:
        said = {type(command) for command, _, _ in self.ends}
        return not (self.server_ended or self.server_gone or EndClient in said)

    def _pass(self, seconds: float) -> None:
        self.now += seconds
        self._look_at_the_clock()

    def _look_at_the_clock(self) -> None:
        conversation = self.conversation
        if self.now >= conversation.deadline and not conversation.is_over:
            self._take(conversation.timer(self.now), None)
            assert conversation.deadline > self.now, "the timer's work left a deadline that has passed"
            self._read_client()

    def _read_client(self) -> None:
        """As the edge: not while the conversation can take no more, the end of stream behind the bytes."""
        conversation = self.conversation
        while self.waiting and not conversation.client_paused and not conversation.is_over:
            data = self.waiting.pop(0)
            moved = self._movable(data, conversation.client_unread)
            if moved:
                self._moved(data[:moved], to_server=True)
            if data[moved:]:
                due = conversation.deadline <= self.now
                self._take(conversation.client_bytes(data[moved:], self.now), ToServer(data[moved:]))
                self._check_deadline(due)
        if self.client_ends and not (self.waiting or self.client_ended or conversation.client_paused):
            self.client_ended = True
            if not conversation.is_over:
                self._take(conversation.client_eof(self.now), None)

    def _server(self, data: bytes) -> None:
        conversation, pieces, requests = self.conversation, list(self._cut(data)), len(self.records)
        waits = conversation.client_paused or bool(self.waiting) or self.client_ends
        for number, piece in enumerate(pieces):
            if conversation.is_over or self.server_gone:
                self.left = True
                return
            moved = self._movable(piece, conversation.server_unread)
            if moved:
                self._moved(piece[:moved], to_server=False)
            if piece[moved:]:
                due = conversation.deadline <= self.now
                self._take(conversation.server_bytes(piece[moved:], self.now), ToClient(piece[moved:]))
                self._check_deadline(due)
            # What follows an answer belongs to the next request if one waits, or to none: the order of things decides.
            self.raced |= len(self.records) > requests and waits and number + 1 < len(pieces)
            self._read_client()

    def _broken(self) -> None:
        """The server's leg fails: once while its answer may still be there, then for good."""
        conversation = self.conversation
        if self.deaf:
            if not self.server_ended:
                self.server_ended = True
                self._take(conversation.server_cut(self.now), None)
        elif conversation.is_outstanding:
            self.deaf = Reason.UPSTREAM_RESET
            self._take(conversation.server_deaf(self.deaf, self.now), None)
        else:
            self.deaf = Reason.UPSTREAM_RESET
            self._take(conversation.server_failed(self.deaf, self.now), None)
            assert conversation.is_over or self.server_gone, "a leg that failed is still wanted"

    def _movable(self, data: bytes, unread: int) -> int:
        """All that may pass unread, or half of it, in turn."""
        if not (self.delivery.moves and unread):
            return 0
        self._halved = not self._halved
        return min(len(data), unread) // (1 + self._halved)

    def _cut(self, data: bytes) -> Iterator[bytes]:
        sizes = self.delivery.sizes or (READ_BYTES,)
        start = 0
        while start < len(data):
            size = sizes[self._turn % len(sizes)]
            self._turn += 1
            yield data[start : start + size]
            start += size

    # --- what is said

    def _moved(self, data: bytes, *, to_server: bool) -> None:
        due = self.conversation.deadline <= self.now
        if to_server:
            assert not self.server_gone, "bytes to a server whose leg is gone"
            assert not self.deaf, "bytes to a server that takes none"
            self._mark()
            self.to_server += data
            self.conversation.client_moved(len(data), self.now)
        else:
            self.to_client += data
            self.conversation.server_moved(len(data), self.now)
        self._check_deadline(due)

    def _mark(self) -> None:
        context = self.contexts.index(self.conversation.context)
        self.marks.append(Mark(len(self.to_server), len(self.to_client), context))

    def _take(self, commands: Commands, whole: ToServer | ToClient | None) -> None:
        assert isinstance(commands, tuple)
        if commands is FORWARD:
            assert whole is not None, "FORWARD without bytes that were handed in"
            self._obey(whole)
            return
        for command in commands:
            self._obey(command)

    def _obey(self, command: Command) -> None:
        said = [type(other) for other, _, _ in self.ends]
        assert not {Close, Abort} & set(said), f"{command} behind the last word"
        if isinstance(command, ToServer):
            assert command.data, "no bytes to the server"
            assert not self.server_gone, "bytes to a server whose leg is gone"
            assert not self.deaf, "bytes to a server that takes none"
            assert EndServer not in said, "bytes behind the end of the server's half"
            self._mark()
            self.to_server += command.data
        elif isinstance(command, ToClient):
            assert command.data, "no bytes to the client"
            assert EndClient not in said, "bytes behind the end of the client's half"
            self.client_marks.append(len(self.to_client))
            self.to_client += command.data
        else:
            assert isinstance(command, EndServer | EndClient | CloseServer | ResetServer | Close | Abort)
            assert type(command) not in said, f"{command} twice"
            self.ends.append((command, len(self.to_server), len(self.to_client)))
            self.server_gone = self.server_gone or isinstance(command, CloseServer | ResetServer | Close | Abort)

    # --- what must always hold

    def _check_deadline(self, was_due: bool) -> None:
        if not was_due:
            assert self.conversation.deadline >= self.now, "a deadline in the past behind bytes that were taken"

    def _check_held(self) -> None:
        """What the conversation says it holds is what it holds, and bounded."""
        conversation = self.conversation
        held = sum(map(_size, _kept(conversation)))
        assert held == conversation.held, f"{held} bytes are held, it says {conversation.held}"
        limit = self.setting.config().max_head_bytes + 1
        assert held <= 2 * (max(limit, CHUNK_BYTES, HELLO_BYTES) + READ_BYTES), f"{held} bytes are held"
        assert conversation.client_unread >= 0
        assert conversation.server_unread >= 0
        assert conversation.client_paused is False or conversation.is_outstanding

    def _check_over(self) -> None:
        conversation = self.conversation
        assert conversation.is_over
        assert not conversation.is_outstanding
        assert conversation.deadline == inf
        assert conversation.held == 0
        assert conversation.client_unread == conversation.server_unread == 0
        records = len(self.records)
        for commands in (
            conversation.client_bytes(b"GET / HTTP/1.1\r\n\r\n", self.now),
            conversation.server_bytes(b"x", self.now),
            conversation.client_eof(self.now),
            conversation.server_eof(self.now),
            conversation.timer(self.now + 1e9),
            conversation.drain(),
        ):
            assert commands == (), "something is said behind the last word"
        conversation.lost(Reason.DRAINED, self.now)
        assert len(self.records) == records, "something is logged behind the last word"

    # --- how it went

    @property
    def aborted(self) -> bool:
        """Both legs were reset: what was on its way is lost, so how much of it was said does not matter."""
        return any(isinstance(command, Abort) for command, _, _ in self.ends)

    def outcome(self) -> "Outcome":
        return Outcome(
            bytes(self.to_server),
            bytes(self.to_client),
            # What a client sent too late is logged if it was there when the connection ended: that is not of its bytes.
            tuple(_without_counts(record) for record in self.records if record.reason is not Reason.HTTP_PIPELINED),
            tuple((record.request_bytes, record.response_bytes) for record in self.records if record.method),
            tuple(command for command, _, _ in self.ends),
            self.aborted,
            self.left,
        )


@dataclass(frozen=True)
class Outcome:
    to_server: bytes
    to_client: bytes
    records: tuple[tuple[object, ...], ...]
    counts: tuple[tuple[int, int], ...] = field(repr=False)
    ends: tuple[Command, ...] = ()
    aborted: bool = False
    left: bool = False

    def check_same(self, other: "Outcome", name: str) -> None:
        """Raise AssertionError where another delivery of the same bytes came out otherwise."""
        assert self.records == other.records, f"{name}: records {other.records}, not {self.records}"
        mine, theirs = self.ends, other.ends
        if self.left or other.left:  # bytes behind a last answer: known of only if they came with it
            mine, theirs = _in_order(mine), _in_order(theirs)
        assert mine == theirs, f"{name}: {theirs}, not {mine}"
        lost = self.aborted or any(isinstance(command, ResetServer) for command in self.ends)
        if not lost:
            assert self.counts == other.counts, f"{name}: {other.counts} bytes are logged, not {self.counts}"
        _check_bytes(self.to_server, other.to_server, f"{name}: to the server", lost=lost)
        _check_bytes(self.to_client, other.to_client, f"{name}: to the client", lost=self.aborted)


def _in_order(ends: tuple[Command, ...]) -> tuple[Command, ...]:
    changed: list[Command] = []
    for command in ends:
        if isinstance(command, ResetServer):
            changed.append(CloseServer())
        else:
            changed.append(Close() if isinstance(command, Close) else command)
    return tuple(changed)


def _check_bytes(mine: bytes, theirs: bytes, what: str, *, lost: bool) -> None:
    """The same, or as far as both go if what was on its way is lost."""
    same = mine.startswith(theirs) or theirs.startswith(mine) if lost else mine == theirs
    assert same, f"{what} {theirs!r}, not {mine!r}"


def _without_counts(record: HttpRecord) -> tuple[object, ...]:
    """Whether the head of a malformed body was forwarded before that body was seen depends on the cuts."""
    is_torn = record.reason is Reason.HTTP_FRAMING and bool(record.method)
    decided = None if is_torn else (record.verdict, record.rule)
    return (
        decided, record.reason, record.method, record.path, record.has_query, record.host, record.status, record.event,
        record.detail, record.opaque, record.nearest, record.started, record.answered, record.finished,
    )  # fmt: skip


def _kept(conversation: HttpConversation) -> Iterator[object]:
    for kind in type(conversation).__mro__:
        for name in getattr(kind, "__slots__", ()):
            if name not in ("context", "tag"):
                yield getattr(conversation, name)


def _size(value: object) -> int:
    if isinstance(value, bytes | bytearray):
        return len(value)
    return len(value._buffer or b"") if isinstance(value, HeadBuffer) else 0
