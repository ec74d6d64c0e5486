"""Run cases against a conversation: no sockets, a clock of our own, an edge that keeps the conversation's rules."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_address

from http1_table import Case, Then, Turn
from http1_table.policy import JUDGED_HEADERS, LABELS, policy_text
from oracle import check_origin
from refusals import check_client

from racecar.policy.compile import compile_workload
from racecar.policy.engine import HttpMatcher
from racecar.policy.load import load_text
from racecar.policy.reasons import Reason
from racecar.policy.tables import HOST, CompiledWorkload
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
    HttpRecord,
    ResetServer,
    ToClient,
    ToServer,
)

PORT = 8080
Cut = Callable[[bytes], Iterator[bytes]]


def compiled_policy() -> CompiledWorkload:
    """The table's policy, through the loader and the compiler."""
    loaded = load_text(policy_text(PORT).encode(), "conformance.yaml")
    assert loaded.ok, loaded.findings
    return compile_workload(loaded.policies, namespace="default", cluster="default", labels=LABELS)


def matcher_of(compiled: CompiledWorkload) -> HttpMatcher:
    """The rule set that judges the server's port."""
    verdict = compiled.judge_l4(ip_address("127.0.0.1"), HOST, 6, PORT)
    return HttpMatcher(compiled.rulesets[verdict.ruleset])


def whole(data: bytes) -> Iterator[bytes]:
    if data:
        yield data


def in_pieces(size: int) -> Cut:
    """Cut into pieces of this size, larger ones if the data is very long."""

    def cut(data: bytes) -> Iterator[bytes]:
        step = size if len(data) < 6000 else size * 53
        for start in range(0, len(data), step):
            yield data[start : start + step]

    cut.__name__ = f"in_pieces({size})"
    return cut


@dataclass
class Leg:
    """What one peer of the proxy has: bytes, and how its connection stands."""

    got: bytearray = field(default_factory=bytearray)
    ended: bool = False  # no more will come
    closed: bool = False  # nothing that it says is read
    reset: bool = False


class Talk:
    """One conversation with its two peers."""

    def __init__(self, matcher: HttpMatcher, context: HttpContext | None = None, *, unread: bool = False) -> None:
        """`unread`: bytes that may go unread do."""
        self.records: list[HttpRecord] = []
        self.context = context or new_context(matcher)
        self.context.log = lambda _, record: self.records.append(record)
        self.now = 1000.0
        self.conversation = HttpConversation(self.context, self.now)
        self.client, self.server = Leg(), Leg()
        self.ends: list[Command] = []
        self._inbox: list[bytes] = []  # what the client sent and the edge has not read; b"" is its end
        self._unread = unread

    # --- the peers

    def client_sends(self, data: bytes, cut: Cut, *, ends: bool = False) -> None:
        self._inbox += cut(data)
        if ends:
            self._inbox.append(b"")
        self._read_client()

    def server_sends(self, data: bytes, cut: Cut) -> None:
        for piece in cut(data):
            if self.server.closed:
                return
            count = min(len(piece) if self._unread else 0, self.conversation.server_unread)
            if count:
                self.client.got += piece[:count]
                self.conversation.server_moved(count, self.now)
            if piece[count:]:
                self._obey(self.conversation.server_bytes(piece[count:], self.now), to=self.client, data=piece[count:])
            self._read_client()

    def server_ends(self) -> None:
        if not self.server.closed:
            self._obey(self.conversation.server_eof(self.now))
            self._read_client()

    def server_resets(self) -> None:
        """A read meets the reset: nothing more comes, and nothing more can be sent."""
        if self.server.closed:
            return
        if self.conversation.is_outstanding:
            self._obey(self.conversation.server_deaf(Reason.UPSTREAM_RESET, self.now))
            self._obey(self.conversation.server_cut(self.now))
        else:
            self._obey(self.conversation.server_failed(Reason.UPSTREAM_RESET, self.now))
        self._read_client()

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self._obey(self.conversation.timer(self.now))
        self._read_client()

    # --- the edge

    def _read_client(self) -> None:
        while self._inbox and not self.conversation.client_paused and not self.client.closed:
            data = self._inbox.pop(0)
            if not data:
                self._obey(self.conversation.client_eof(self.now))
                continue
            count = min(len(data) if self._unread else 0, self.conversation.client_unread)
            if count:
                self.server.got += data[:count]
                self.conversation.client_moved(count, self.now)
            if data[count:]:
                self._obey(self.conversation.client_bytes(data[count:], self.now), to=self.server, data=data[count:])

    def _obey(self, commands: Commands, *, to: Leg | None = None, data: bytes = b"") -> None:
        if commands is FORWARD:
            assert to is not None
            assert not to.ended, "bytes behind an end"
            to.got += data
            return
        for command in commands:
            self._do(command)

    def _do(self, command: Command) -> None:
        client, server = self.client, self.server
        if isinstance(command, ToServer):
            assert command.data
            assert not server.ended, "bytes to a server that was told the end"
            server.got += command.data
        elif isinstance(command, ToClient):
            assert command.data
            assert not client.ended, "bytes to a client that was told the end"
            client.got += command.data
        elif isinstance(command, EndServer):
            server.ended = True
        elif isinstance(command, EndClient):
            client.ended = True
        elif isinstance(command, CloseServer):
            server.ended = server.closed = True
        elif isinstance(command, ResetServer):
            server.ended = server.closed = server.reset = True
        elif isinstance(command, Close | Abort):
            self.ends.append(command)
            for leg in (client, server):
                leg.reset = leg.reset or (isinstance(command, Abort) and not leg.closed)
                leg.ended = leg.closed = True
        else:
            raise AssertionError(command)


def new_context(matcher: HttpMatcher) -> HttpContext:
    """Caches that know nothing."""
    return HttpContext(matcher, lambda _, __: None, header_names=JUDGED_HEADERS, event_prefix="e")


def run(case: Case, talk: Talk, cut: Cut, answer_cut: Cut) -> None:
    """Play the turns of `case`; whoever acts must have exactly what the table says before."""
    at_origin = to_client = b""
    is_exact = True  # what the client has can be compared byte by byte: no answer of the proxy's own yet
    for turn in case.turns:
        if turn.sent and is_exact and case.then is not Then.CUT:
            assert talk.client.got == to_client, "the client, before it goes on"
        talk.client_sends(turn.sent, cut, ends=turn.client_ends)
        at_origin += turn.at_origin
        to_client += turn.to_client
        is_exact = is_exact and not turn.status
        if turn.answer or turn.origin_ends or turn.origin_resets:
            assert talk.server.got == at_origin, "the server, before it answers"
            talk.server_sends(turn.answer, answer_cut)
        if turn.origin_resets:
            talk.server_resets()
        elif turn.origin_ends:
            talk.server_ends()
        if turn.seconds:
            talk.passes(turn.seconds)


def check(case: Case, talk: Talk) -> None:
    """What all parties have at the end is what the table says."""
    got = bytes(talk.server.got)
    if case.is_torn:
        assert case.at_origin.startswith(got), "the server got what was not sent to it"
    else:
        assert got == case.at_origin, "the server"
    check_client(case, bytes(talk.client.got))
    check_origin(case, got, reset=talk.server.reset)
    _check_state(case, talk)
    _check_records(case, talk)


def _check_state(case: Case, talk: Talk) -> None:
    client, server, conversation = talk.client, talk.server, talk.conversation
    if case.then is Then.OPEN:
        assert conversation.is_idle
        assert not client.ended
        assert not server.ended
    elif case.then is Then.CLOSED:
        assert client.ended
        assert not client.reset
        assert server.closed
    elif case.then is Then.CUT:
        assert client.reset
        assert server.reset
    else:
        assert not conversation.is_over
        assert not client.ended
        assert not server.ended
        assert (conversation.server_unread > 0) == (case.then is Then.OPAQUE)


def _check_records(case: Case, talk: Talk) -> None:
    """One record for each request, in order, with the reason that the table names."""
    wanted = [(turn.verdict, turn.reason) for turn in case.turns if turn.verdict is not None]
    if case.then in (Then.OPAQUE, Then.WAITING):
        wanted = wanted[:-1]  # is not over
    seen = [record.reason.name for record in talk.records[: len(wanted)]]
    assert seen == [reason for _, reason in wanted]


def finish(talk: Talk) -> None:
    """Both peers leave; whatever was still going on ends, once."""
    talk.client_sends(b"", whole, ends=True)
    talk.server_ends()
    talk.passes(1e9)
    talk.conversation.lost(Reason.DRAINED, talk.now)
    assert talk.conversation.is_over
    assert len(talk.ends) <= 1
    assert talk.conversation.held == 0


def behind(case: Case, data: bytes) -> Case | None:
    """`case` with `data` put behind the client's last bytes; None if it has no such place."""
    places = [number for number, turn in enumerate(case.turns) if turn.sent]
    if not places or not case.extends or case.then in (Then.OPAQUE, Then.WAITING):
        return None
    if any(turn.seconds for turn in case.turns):
        return None
    turns = list(case.turns)
    turns[places[-1]] = replace(turns[places[-1]], sent=turns[places[-1]].sent + data)
    return replace(case, turns=tuple(turns))


def before(case: Case, turn: Turn) -> Case | None:
    """`case` behind another request, sent in one piece with its first bytes."""
    if case.alone:
        return None
    first, *rest = case.turns
    opening = replace(turn, sent=turn.sent + first.sent)
    return replace(case, turns=(opening, replace(first, sent=b""), *rest))
