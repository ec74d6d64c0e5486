"""HTTP/1.1 conversations without sockets: a judge with a few rules, and an edge that keeps the conversation's rules."""

from collections.abc import Callable
from typing import Any

import pytest

from racecar.policy.engine import HttpCall, HttpVerdict, Near
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1 import HttpConversation
from racecar.proxy.core.http1_context import HttpContext
from racecar.proxy.core.http1_types import (
    FORWARD,
    Command,
    Commands,
    HttpConfig,
    HttpRecord,
    ToClient,
    ToServer,
)

DENIALS = {
    b"/deny": HttpVerdict(False, 9, Reason.HTTP_DENY_RULE),
    b"/%2f": HttpVerdict(False, 0, Reason.HTTP_PATH_ENCODING),
    b"/%00": HttpVerdict(False, 0, Reason.HTTP_MALFORMED),
    b"/near": HttpVerdict(False, 0, Reason.HTTP_NO_RULE, (Near(7, ("path",)),)),
}


class Judge:
    """Rule 7 allows /jobs, `*` and CONNECT to closed:443, and grants nothing; rule 8 grants what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[HttpCall] = []

    def judge(self, call: HttpCall) -> HttpVerdict:
        self.asked.append(call)
        path = call.host if call.method == b"CONNECT" else call.target.partition(b"?")[0]
        if path in (b"/free", b"open:443"):
            return HttpVerdict(True, 8, Reason.NONE)
        if path not in (b"/jobs", b"*", b"closed:443"):
            return DENIALS.get(path, HttpVerdict(False, 0, Reason.HTTP_NO_RULE))
        reason = Reason.NONE
        if call.method == b"CONNECT":
            reason = Reason.HTTP_CONNECT
        elif call.is_websocket:
            reason = Reason.HTTP_UPGRADE
        elif call.has_body and call.method in (b"GET", b"HEAD", b"DELETE"):
            reason = Reason.HTTP_BODY_NOT_ALLOWED
        return HttpVerdict(reason is Reason.NONE, 7, reason)


class Talk:
    """One conversation and its edge: what the client sends while it is paused is handed in when it is read again.

    `client` and `server` return what is commanded, FORWARD written out as what it means and bytes to one side in one
    piece; `sends` and `answers` return the talk. All that was ever said adds up in `to_server`, `to_client`, `rest`.
    """

    def __init__(self, context: HttpContext | None = None, **fields: Any) -> None:
        """`fields` are those of HttpContext and of HttpConfig."""
        self.now = 100.0
        self.records: list[HttpRecord] = []
        self.judge = Judge()
        settings = {name: fields.pop(name) for name in list(fields) if name in HttpConfig.__dataclass_fields__}
        self.context = context or HttpContext(
            self.judge,
            lambda _, record: self.records.append(record),
            config=HttpConfig(**settings),
            **{"event_prefix": "e", **fields},
        )
        self.conversation = HttpConversation(self.context, self.now)
        self.to_server = self.to_client = b""
        self.rest: list[Command] = []
        self.inbox: list[bytes] = []  # b"" is the end of the client's half

    def client(self, data: bytes, size: int = 1 << 20) -> list[Command]:
        self.inbox += [data[start : start + size] for start in range(0, len(data), size)]
        return joined(self._read_client())

    def server(self, data: bytes, size: int = 1 << 20) -> list[Command]:
        out: list[Command] = []
        for start in range(0, len(data), size):
            piece = data[start : start + size]
            out += self._take(self.conversation.server_bytes(piece, self.now), ToClient(piece))
            out += self._read_client()
        return joined(out)

    def client_eof(self) -> list[Command]:
        self.inbox.append(b"")
        return joined(self._read_client())

    def server_eof(self) -> list[Command]:
        return joined(self._take(self.conversation.server_eof(self.now)) + self._read_client())

    def server_resets(self, reason: Reason = Reason.UPSTREAM_RESET) -> list[Command]:
        """A write met the reset, then a read did."""
        if not self.conversation.is_outstanding:
            return self._take(self.conversation.server_failed(reason, self.now))
        commands = self._take(self.conversation.server_deaf(reason, self.now))
        return joined(commands + self._take(self.conversation.server_cut(self.now)))

    def dial_fails(self, reason: Reason) -> list[Command]:
        return self._take(self.conversation.server_failed(reason, self.now))

    def later(self, seconds: float) -> list[Command]:
        self.now += seconds
        return joined(self._take(self.conversation.timer(self.now)) + self._read_client())

    def sends(self, data: bytes, size: int = 1 << 20) -> "Talk":
        self.client(data, size)
        return self

    def answers(self, data: bytes, size: int = 1 << 20) -> "Talk":
        self.server(data, size)
        return self

    @property
    def statuses(self) -> list[int]:
        """Of the answers to the client, by their start lines."""
        return [int(part[:3]) for part in self.to_client.split(b"HTTP/1.1 ")[1:]]

    @property
    def reasons(self) -> list[Reason]:
        return [record.reason for record in self.records]

    def _read_client(self) -> list[Command]:
        out: list[Command] = []
        while self.inbox and not self.conversation.client_paused:
            data = self.inbox.pop(0)
            if data:
                out += self._take(self.conversation.client_bytes(data, self.now), ToServer(data))
            else:
                out += self._take(self.conversation.client_eof(self.now))
        return out

    def _take(self, commands: Commands, whole: Command | None = None) -> list[Command]:
        if commands is FORWARD:
            assert whole is not None
            commands = (whole,)
        for command in commands:
            if isinstance(command, ToServer):
                self.to_server += command.data
            elif isinstance(command, ToClient):
                self.to_client += command.data
            else:
                self.rest.append(command)
        return list(commands)


def joined(commands: list[Command]) -> list[Command]:
    """The same commands with bytes to one side in one piece."""
    out: list[Command] = []
    for command in commands:
        last = out[-1] if out else None
        if isinstance(command, ToServer) and isinstance(last, ToServer):
            out[-1] = ToServer(last.data + command.data)
        elif isinstance(command, ToClient) and isinstance(last, ToClient):
            out[-1] = ToClient(last.data + command.data)
        else:
            out.append(command)
    return out


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest.fixture
def start() -> Callable[..., Talk]:
    """Start another conversation, with fields of HttpContext and HttpConfig as keywords, or a context to share."""
    return Talk
