"""What a case of the table is: who sends which bytes, and what each of the three parties then has.

A case is data. It says nothing of how it is run: as calls of a function, over sockets, or in the kernel.
"""

from dataclasses import dataclass
from enum import Enum


class Verdict(Enum):
    """What becomes of a request."""

    ALLOW = "the server receives it, byte for byte"
    DENY = "well-formed and not allowed: 403, or nothing of it reaches the server"
    REFUSE = "no request that may be judged: it is answered with a status, or cut"


class Then(Enum):
    """What is left of the connection behind the last turn."""

    OPEN = "the client may send its next request"
    CLOSED = "the client has read all that was meant for it and the end of the stream; nothing more reaches the server"
    CUT = "reset on both sides: neither may take what it has for a whole message"
    OPAQUE = "both sides speak another protocol, which is passed on unread"
    WAITING = "inside a message"


@dataclass(frozen=True, slots=True)
class Turn:
    """The client sends, then the server does, each once what was sent to it has arrived whole.

    `at_origin` and `to_client` are exact, and add up over the turns of a case. Where a connection is reset they say how
    much may arrive at most, for a reset drops what is on its way: `at_origin` of a request that is refused when part of
    it was passed on, and both of the last turn of a case that is CUT.
    """

    sent: bytes = b""
    verdict: Verdict | None = None  # on the request that begins in this turn; None: none does
    reason: str = "NONE"  # name in racecar.policy.reasons; of an ALLOW: why the server's answer was not passed on
    at_origin: bytes = b""
    answer: bytes = b""  # of the server
    to_client: bytes = b""
    status: int = 0  # of an answer that the proxy itself gives, behind `to_client`; 0: it gives none
    bodiless: bool = False  # that answer has no body: the request was HEAD
    client_ends: bool = False  # behind `sent`
    origin_ends: bool = False  # behind `answer`
    origin_resets: bool = False
    seconds: float = 0.0  # that pass at the end of the turn, before `status` is due


@dataclass(frozen=True, slots=True)
class Case:
    """One connection from its first byte. `name` is unique in its group."""

    name: str
    turns: tuple[Turn, ...]
    then: Then
    alone: bool = False  # holds for the first request of a connection only
    extends: bool = True  # what the client may send behind its last bytes is no part of the case
    at_once: bool = False  # the server's bytes must come in one piece if a request is sent behind the case

    @property
    def is_torn(self) -> bool:
        """The server's connection is reset inside a request."""
        return self.then is Then.CUT or any(t.verdict is Verdict.REFUSE and t.at_origin for t in self.turns)

    @property
    def sent(self) -> bytes:
        return b"".join(turn.sent for turn in self.turns)

    @property
    def at_origin(self) -> bytes:
        return b"".join(turn.at_origin for turn in self.turns)


@dataclass(frozen=True, slots=True)
class Group:
    """Cases of one kind. `source` names sections of RFCs, or the class of advisories that the cases come from."""

    name: str
    source: str
    cases: tuple[Case, ...]
