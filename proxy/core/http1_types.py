"""What the HTTP/1.1 layer and its edge say to each other: commands, states, configuration, the record of a request."""

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Protocol

from racecar.parsers.http1 import HeadLimits
from racecar.policy.engine import HttpCall, HttpVerdict, Near
from racecar.policy.reasons import Reason


@dataclass(slots=True)
class Forward:
    """Send the very bytes object that was just handed in to the other side. Only ever alone, as FORWARD."""


@dataclass(slots=True)
class ToServer:
    """Send these bytes to the server."""

    data: bytes


@dataclass(slots=True)
class ToClient:
    """Send these bytes to the client."""

    data: bytes


@dataclass(slots=True)
class EndServer:
    """The client ended its half: shut the server's leg down for writing once what waits for it is sent."""


@dataclass(slots=True)
class EndClient:
    """The last byte was said to the client: shut its leg down for writing once what waits for it is sent.

    Go on reading it and handing its bytes in (they are dropped, so that no reset eats the answer) until
    Close or Abort comes, from its end of stream or from `timer`.
    """


@dataclass(slots=True)
class CloseServer:
    """Close the server's leg in order once what waits for it is sent; nothing of it is wanted any more."""


@dataclass(slots=True)
class ResetServer:
    """Reset the server's leg, now, and drop what waits for it: it holds part of a request that never ends."""


@dataclass(slots=True)
class Close:
    """Close both legs in order, each once what waits for it is sent. The conversation is over."""

    reason: Reason = Reason.NONE


@dataclass(slots=True)
class Abort:
    """Reset both legs at once and drop what waits for them. The conversation is over."""

    reason: Reason


Command = Forward | ToServer | ToClient | EndServer | EndClient | CloseServer | ResetServer | Close | Abort
Commands = tuple[Command, ...]

NOTHING: Commands = ()
FORWARD: Commands = (Forward(),)  # test with `is`: the usual answer, made without an allocation


class ClientState(Enum):
    """What the client's next byte belongs to."""

    IDLE = 0  # a new request: HEAD, BODY, ANSWER, DRAIN, HELLO, IDLE (denied), LINGER
    HEAD = 1  # a head that has begun
    BODY = 2  # the body of a forwarded request: ANSWER, SHED, or IDLE, LINGER if the answer was complete before
    ANSWER = 3  # a request behind the outstanding one, kept until its answer is complete: IDLE, OPAQUE, LINGER
    DRAIN = 4  # the body of a refused request: IDLE, LINGER
    SHED = 5  # nothing: the server takes no more, its answer is still awaited, all is dropped: LINGER
    HELLO = 6  # a TLS ClientHello that has begun: ANSWER, LINGER
    OPAQUE = 7  # a protocol that is not read
    LINGER = 8  # nothing: the last word was said, all is dropped: OVER
    OVER = 9


class ServerState(Enum):
    """What the server's next byte belongs to."""

    SILENT = 0  # nothing is outstanding: it ends both
    WAITED = 1  # an answer to come
    HEAD = 2  # an answer's head that has begun
    BODY = 3  # the body of a final answer
    DONE = 4  # the answer is complete, the request's body is not: a byte that comes ends both
    HELLO = 5  # the answer to a TLS ClientHello
    OPAQUE = 6  # a protocol that is not read
    GONE = 7


class Verdict(StrEnum):
    """The word in the access log."""

    FORWARDED = "FORWARDED"
    DROPPED = "DROPPED"
    AUDIT = "AUDIT"  # forwarded, though the rules deny it


class Notes:
    """Room for what the log makes of a head once, and uses for every request with the same bytes."""

    __slots__ = ("log",)

    def __init__(self) -> None:
        self.log: object = None


@dataclass(slots=True)
class HttpRecord:
    """One request, once it is over. Bytes are untrusted: escape them. The query string is not kept."""

    verdict: Verdict
    reason: Reason
    rule: int  # number of the rule that decided, 0 for none
    method: bytes  # empty if no head could be read
    path: bytes  # target without the query; empty if no head could be read
    has_query: bool
    host: bytes  # in lower case
    status: int  # what the client was answered, 0 for no answer
    request_bytes: int  # head and body as taken from the client
    response_bytes: int  # as given to the client, interim answers included
    started: float  # first byte of the request, on the edge's clock
    answered: float  # head of the final answer, 0.0 for none
    finished: float
    event: str  # named in the refusal too; empty for a request that was forwarded
    detail: str  # what was seen, for a refusal or an abort; may quote nothing of the request
    nearest: tuple[Near, ...] = ()  # for a denial: the rules that came closest, and what of them failed
    opaque: str = ""  # websocket, connect or tls: what the bytes became that were passed on unread
    notes: Notes | None = None  # of the request's head, for who writes the log


class Judge(Protocol):
    """One rule set (racecar.policy.engine.HttpMatcher). Must not depend on anything but its arguments."""

    def judge(self, call: HttpCall, /) -> HttpVerdict: ...


@dataclass(frozen=True, slots=True)
class HttpConfig:
    """Limits and timeouts of one HTTP/1.1 connection; a request's duration has none."""

    head_timeout_s: float = 10.0  # from the first byte of a head to its last: 408; of an answer's: 504
    idle_timeout_s: float = 300.0  # without a byte between requests: closed; inside a request's body: 408
    stall_timeout_s: float = 300.0  # for a peer to take any of the bytes that wait for it; then both legs are reset
    linger_timeout_s: float = 2.0  # for the client to take a last answer and close; 15 of them if it goes on sending
    max_drain_bytes: int = 65536  # of a refused request's body, read and dropped; a longer one ends the connection
    max_head_bytes: int = 65536  # blank line included: 431
    max_target_bytes: int = 8192  # 414
    max_headers: int = 100  # 431
    max_cached_heads: int = 512  # per generation (two) and kind; more distinct heads than that are read anew
    max_cached_head_bytes: int = 2048  # longer heads are read anew each time

    def __post_init__(self) -> None:
        for name in ("head_timeout_s", "idle_timeout_s", "stall_timeout_s", "linger_timeout_s", "max_cached_heads"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("max_drain_bytes", "max_cached_head_bytes"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be below 0")
        self.head_limits()

    def head_limits(self) -> HeadLimits:
        """The limits of heads, for the readers. Raises ValueError if they are out of range."""
        return HeadLimits(self.max_head_bytes, self.max_target_bytes, self.max_headers)
