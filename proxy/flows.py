"""Flow records: one JSON object per connection, request or refusal, in the words of Hubble's flow.proto.

`process`, `rule` and `racecar` are ours. Strings that came from a peer are escaped by JSON; queries are not kept.
docs/flow.schema.json is the contract.
"""

import itertools
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from racecar.policy.model import RuleRef
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import HttpRecord
from racecar.proxy.records import ConnectionEntry, HttpEntry
from racecar.redirect.abi import ConnectionRecord, EventKind, IPAddress, KernelEvent

PROTOCOLS = {1: "ICMPv4", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
WITH_PORTS = (6, 17, 132)

_DEFAULT_DENY = frozenset((Reason.DEFAULT_DENY, Reason.HTTP_NO_RULE))

MAX_TEMPLATES = 1024

ProcessName = Callable[[int, int], str | None]  # (pid, start in ns of boot time) -> path of its executable


@dataclass(frozen=True)
class FlowSource:
    """What all flows of one workload share."""

    instance: str
    namespace: str
    labels: Sequence[str]
    rules: Sequence[RuleRef]  # by number; 0 is default deny
    policies: Sequence[str] = ()  # NAMESPACE/NAME of those that select the workload

    def rule(self, number: int) -> dict[str, Any] | None:
        if not 0 < number < len(self.rules):
            return None
        ref = self.rules[number]
        return {
            "policy": ref.policy,
            "namespace": ref.namespace,
            "kind": ref.kind,
            "file": ref.file,
            "line": ref.line,
            "index": ref.index,
        }


class FlowWriter:
    """Make flow lines for one workload."""

    def __init__(self, source: FlowSource, exe_of: ProcessName) -> None:
        self._source = source
        self._exe_of = exe_of
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._mark = secrets.token_hex(16)
        self._templates: dict[tuple[Any, ...], str] = {}
        self._second = (-1, "")
        self._boot_offset_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

    def connection(self, entry: ConnectionEntry) -> str:
        record = entry.record
        flow = self._head(entry.started, entry.verdict.value, entry.reason, entry.rule)
        if record is not None:
            _addresses(flow, record.address, record.port, record.protocol)
            self._process(flow, record.pid, record.task_start_ns, record.uid, record.comm, record.cgroup_id)
            flow["socket_cookie"] = record.cookie
        flow["racecar"] |= {
            "path": entry.path,
            "kind": entry.kind,
            "bytes_sent": entry.request_bytes,
            "bytes_received": entry.response_bytes,
            "duration_ms": _ms(entry.duration_s),
            "dialled": _place(entry.dialled),
        }
        return json.dumps(flow, separators=(",", ":"))

    def request(self, entry: HttpEntry) -> str:
        """A client repeats its requests: their line is made once and filled in, at a tenth of the cost."""
        http, record = entry.http, entry.record
        if http.event or http.detail:
            return json.dumps(self._request_flow(entry), separators=(",", ":"))
        exe = self._exe_of(record.pid, record.task_start_ns)
        call = (http.method, http.path, http.has_query, http.host, http.status, http.verdict, http.reason, http.rule)
        key = (record.cookie, record.epoch, record.address, record.port, exe, entry.path, entry.dialled, call)
        template = self._templates.get(key)
        if template is None:
            if len(self._templates) >= MAX_TEMPLATES:
                self._templates.clear()
            template = self._templates[key] = self._template(entry)
        duration_s, latency_s = _times(http)
        return template % (  # in the order of the record's members
            self._time(entry.started),
            next(self._numbers),
            http.request_bytes,
            http.response_bytes,
            _ms(duration_s),
            round(latency_s * 1e9),
        )

    def _template(self, entry: HttpEntry) -> str:
        """The line with `%s` where it differs from one request to the next. No peer knows the marks."""
        flow = self._request_flow(entry)
        flow["time"] = f"{self._mark}t"
        flow["uuid"] = f"{self._mark}u"
        flow["l7"]["latency_ns"] = f"{self._mark}l"
        flow["racecar"] |= dict.fromkeys(("bytes_sent", "bytes_received", "duration_ms"), f"{self._mark}n")
        line = json.dumps(flow, separators=(",", ":")).replace("%", "%%")
        line = line.replace(f"{self._mark}t", "%s").replace(f"{self._mark}u", f"{self._prefix}-%s")
        return line.replace(f'"{self._mark}l"', "%s").replace(f'"{self._mark}n"', "%s")

    def _request_flow(self, entry: HttpEntry) -> dict[str, Any]:
        http, record = entry.http, entry.record
        flow = self._head(entry.started, http.verdict.value, http.reason, http.rule, event=http.event)
        flow["Type"] = "L7"
        _addresses(flow, record.address, record.port, record.protocol)
        self._process(flow, record.pid, record.task_start_ns, record.uid, record.comm, record.cgroup_id)
        flow["socket_cookie"] = record.cookie
        duration_s, latency_s = _times(http)
        flow["l7"] = {
            "type": "REQUEST",
            "latency_ns": round(latency_s * 1e9),
            "http": {
                "code": http.status,
                "method": http.method.decode("latin-1"),
                "url": http.path.decode("latin-1") + ("?redacted" if http.has_query else ""),
                "protocol": "HTTP/1.1",
                "host": http.host.decode("latin-1"),
            },
        }
        flow["racecar"] |= {
            "path": entry.path,
            "kind": "http",
            "bytes_sent": http.request_bytes,
            "bytes_received": http.response_bytes,
            "duration_ms": _ms(duration_s),
            "dialled": _place(entry.dialled),
        }
        if http.detail:
            flow["racecar"]["detail"] = http.detail
        return flow

    def kernel(self, event: KernelEvent) -> str:
        reason = Reason(event.reason)
        verdict = "DROPPED"
        if event.kind in (EventKind.CLOSED, EventKind.NATIVE):
            verdict = "AUDIT" if reason else "FORWARDED"
        elif event.kind is EventKind.AUDIT:
            verdict = "AUDIT"
        ended_s = self._boot_offset_s + event.time_ns / 1e9
        flow = self._head(ended_s - event.duration_ns / 1e9, verdict, reason, event.rule)
        source = (event.source, event.source_port) if event.source_port else None
        _addresses(flow, event.address, event.port, event.protocol, source)
        self._process(flow, event.pid, event.task_start_ns, event.uid, event.comm, event.cgroup_id)
        flow["socket_cookie"] = event.cookie
        flow["racecar"] |= {
            "path": "native" if event.kind in (EventKind.CLOSED, EventKind.NATIVE) else "hook",
            "kind": "l4",
            "bytes_sent": event.bytes_sent,
            "bytes_received": event.bytes_received,
            "duration_ms": _ms(event.duration_ns / 1e9),
            "dialled": _place((event.peer, event.peer_port) if event.peer_port else None),
        }
        if event.kind is EventKind.DROPPED:
            flow["racecar"]["path"] = "gate"
        return json.dumps(flow, separators=(",", ":"))

    def _head(self, started: float, verdict: str, reason: Reason, rule: int, event: str = "") -> dict[str, Any]:
        flow: dict[str, Any] = {
            "time": self._time(started),
            "uuid": event or f"{self._prefix}-{next(self._numbers)}",
            "verdict": verdict,
            "reason": reason.name,
            "Type": "L3_L4",
            "traffic_direction": "EGRESS",
            "source": {"namespace": self._source.namespace, "labels": list(self._source.labels)},
            "rule": self._source.rule(rule),
            "racecar": {"instance": self._source.instance, "reason": int(reason)},
        }
        if verdict == "DROPPED":
            flow["drop_reason_desc"] = reason.name
        if reason in _DEFAULT_DENY and flow["rule"] is None:
            flow["racecar"]["policies"] = list(self._source.policies)
        return flow

    def _time(self, started: float) -> str:
        second = int(started)
        if second != self._second[0]:
            self._second = (second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
        return f"{self._second[1]}.{int((started - second) * 1e6):06d}Z"

    def _process(self, flow: dict[str, Any], pid: int, start_ns: int, uid: int, comm: str, cgroup_id: int) -> None:
        flow["cgroup_id"] = cgroup_id
        if pid:
            flow["process"] = {"pid": pid, "uid": uid, "comm": comm, "exe": self._exe_of(pid, start_ns)}


def _addresses(
    flow: dict[str, Any],
    address: IPAddress,
    port: int,
    protocol: int,
    source: tuple[IPAddress, int] | None = None,
) -> None:
    """Where it was to go. A raw socket, or a packet that could not be read, has no address."""
    ports: dict[str, int] = {}
    if protocol in WITH_PORTS:
        ports["destination_port"] = port
        if source is not None:
            ports["source_port"] = source[1]
    flow["l4"] = {_protocol_name(protocol): ports}
    if address.is_unspecified:
        return
    flow["IP"] = {"destination": str(address), "ipVersion": "IPv4" if address.version == 4 else "IPv6"}
    if source is not None:
        flow["IP"]["source"] = str(source[0])
    flow["destination"] = {"labels": ["reserved:host" if address.is_loopback else "reserved:world"]}


def _protocol_name(number: int) -> str:
    return PROTOCOLS.get(number, f"protocol {number}")


def _times(http: HttpRecord) -> tuple[float, float]:
    """Duration and latency in seconds."""
    duration_s = max(http.finished - http.started, 0.0)
    return duration_s, max(http.answered - http.started, 0.0) if http.answered else duration_s


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _place(place: tuple[IPAddress, int] | None) -> dict[str, Any] | None:
    return None if place is None else {"address": str(place[0]), "port": place[1]}


def printable(text: str) -> str:
    """For a terminal: control bytes and everything else that could move the cursor, escaped."""
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)


def process_name(record: ConnectionRecord | KernelEvent) -> str:
    return printable(f"{record.comm}[{record.pid}]") if record.pid else "an unknown process"


def denial_of_event(event: KernelEvent) -> str:
    """One line for the user's terminal."""
    if event.reason == Reason.RAW_SOCKET:
        return f"refused a raw socket to {process_name(event)}"
    if event.address.is_unspecified:
        return f"dropped a packet of {process_name(event)}: {Reason(event.reason).name}"
    what = f"{_protocol_name(event.protocol)} {_shown(event.address, event.port)}"
    return f"denied {what} to {process_name(event)}: {Reason(event.reason).name}"


def denial_of_request(entry: HttpEntry, rule_name: str) -> str:
    http, record = entry.http, entry.record
    call = f"{http.method.decode('latin-1')} {http.path.decode('latin-1')}".strip() or "a request"
    where = _shown(record.address, record.port)
    why = rule_name if http.reason in (Reason.HTTP_NO_RULE, Reason.HTTP_DENY_RULE) else http.reason.name
    return printable(f"denied {call} on {where} to {process_name(record)}: {why} (event {http.event})")


def denial_of_connection(entry: ConnectionEntry) -> str:
    if entry.record is None:
        return f"reset a connection that no workload announced: {entry.reason.name}"
    where = _shown(entry.record.address, entry.record.port)
    return printable(f"denied TCP {where} to {process_name(entry.record)}: {entry.reason.name}")


def _shown(address: IPAddress, port: int) -> str:
    text = f"[{address}]" if address.version == 6 else str(address)
    return f"{text}:{port}" if port else text
