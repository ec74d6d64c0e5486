"""What the edge hands to the log: plain values, formatted elsewhere."""

from dataclasses import dataclass

from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import HttpRecord, Verdict
from racecar.redirect.abi import ConnectionRecord, IPAddress


@dataclass(slots=True)
class ConnectionEntry:
    """One connection, once it is over."""

    record: ConnectionRecord | None  # None: nobody announced it
    verdict: Verdict  # DROPPED if no byte was relayed for want of permission or means
    reason: Reason  # why it ended, NONE for an end in order
    rule: int  # number of the rule that sent it to the proxy, 0 for none
    kind: str  # 'tcp' or 'http', empty if it never got a layer
    dialled: tuple[IPAddress, int] | None  # None: nothing was dialled
    started: float  # seconds since 1970
    duration_s: float
    request_bytes: int  # taken by the server's socket
    response_bytes: int  # taken by the client's socket
    path: str  # 'splice' if any stretch went through the kernel, else 'relay'
    source: tuple[IPAddress, int] | None = None  # the client's address, where it came to the proxy by itself
    requests: int = 0  # that were logged for themselves


@dataclass(slots=True)
class HttpEntry:
    """One HTTP request, once it is over."""

    record: ConnectionRecord
    dialled: tuple[IPAddress, int]
    http: HttpRecord
    started: float  # seconds since 1970; the times inside `http` are on the edge's own clock
    path: str
    source: tuple[IPAddress, int] | None = None


LogEntry = ConnectionEntry | HttpEntry
