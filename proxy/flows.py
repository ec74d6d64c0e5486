"""Flow records: one JSON object per connection, request or refusal, in the words of Hubble's flow.proto.

`process`, `rule` and `racecar` are ours. Strings that came from a peer are escaped by JSON; queries are not kept.
docs/flow.schema.json is the contract.

A line that the proxy writes is put together from texts: what was decided (made once per verdict, reason and rule), who
spoke to whom (once per connection) and what varies. No line costs a walk over nested dicts.
"""

import itertools
import json
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from racecar.policy.engine import Near
from racecar.policy.model import RuleRef
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import HttpRecord, Verdict
from racecar.proxy.records import ConnectionEntry, HttpEntry
from racecar.redirect.abi import ConnectionRecord, EventKind, IPAddress, KernelEvent

PROTOCOLS = {1: "ICMPv4", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}
WITH_PORTS = (6, 17, 132)

_DEFAULT_DENY = frozenset((Reason.DEFAULT_DENY, Reason.HTTP_NO_RULE))

MAX_SHAPES = 1024  # of lines that are known; with more than that all are thrown away and made anew
MAX_ENDS = 4096  # connections whose text is kept, likewise

ProcessName = Callable[[int, int], str | None]  # (pid, start in ns of boot time) -> path of its executable
_Place = tuple[IPAddress, int]
# Verdict and reason by their ids: members of an enumeration are hashed by a call of Python's own, and are one object.
_Shape = tuple[str, int, int, int, str, str, str]  # type, verdict, reason, rule, path, kind, opaque


@dataclass(frozen=True)
class FlowSource:
    """What all flows of one workload share."""

    instance: str
    namespace: str
    labels: Sequence[str]
    rules: Sequence[RuleRef]  # by number; 0 is default deny
    policies: Sequence[str] = ()  # NAMESPACE/NAME of those that select the workload
    direction: str = "egress"  # or 'ingress': then the workload is the destination

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


@dataclass(slots=True)
class _Ends:
    """Who speaks to whom on one connection. The objects are kept, so that nothing else gets their ids."""

    record: ConnectionRecord
    source: _Place | None
    dialled: _Place | None
    is_final: bool  # False: the executable may become known yet
    text: str


@dataclass(slots=True)
class _Said:
    """The texts around what differs from one request to the next; kept with the head that they tell of."""

    writer: "FlowWriter"
    verdict: Verdict
    reason: Reason
    opaque: str
    path: str
    call: str
    judged: str

    def holds(self, entry: HttpEntry, writer: "FlowWriter") -> bool:
        """The rule is the head's own: it goes with the verdict."""
        http = entry.http
        return (
            self.reason is http.reason
            and self.verdict is http.verdict
            and self.path == entry.path
            and self.opaque == http.opaque
            and self.writer is writer
        )


class FlowWriter:
    """Make flow lines for one workload."""

    def __init__(self, source: FlowSource, exe_of: ProcessName) -> None:
        self._source = source
        self._exe_of = exe_of
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._shapes: dict[_Shape, tuple[str, str]] = {}
        self._ends: dict[tuple[int, int], _Ends] = {}
        self._plain_ends: dict[tuple[int, int, int, int], tuple[object, str, str]] = {}
        self._rules: dict[int, str] = {}
        self._second = (-1, "")
        self._boot_offset_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._workload = _text({"namespace": source.namespace, "labels": list(source.labels)})
        self._instance = f'"racecar":{{"instance":{quoted(source.instance)}'

    def connection(self, entry: ConnectionEntry) -> str:
        happened, judged = self._shape("L3_L4", entry.verdict, entry.reason, entry.rule, entry.path, entry.kind, "")
        ends = self._ends_text(entry.record, entry.source, entry.dialled)
        self._ends.pop((id(entry.record), id(entry.source)), None)  # it is over
        return (
            f'{{"time":"{self._time(entry.started)}","uuid":"{self._prefix}-{next(self._numbers)}",{happened}{ends}{judged}'
            f',"bytes_sent":{entry.request_bytes},"bytes_received":{entry.response_bytes}'
            f',"duration_ms":{entry.duration_s * 1e3:.3f}}}}}'
        )

    def request(self, entry: HttpEntry) -> str:
        http, notes = entry.http, entry.http.notes
        said = None if notes is None else notes.log
        if type(said) is not _Said or not said.holds(entry, self):
            said = self._said(entry)
            if notes is not None:
                notes.log = said
        duration_s = http.finished - http.started
        latency_s = http.answered - http.started if http.answered else duration_s
        return (
            f'{{"time":"{self._time(entry.started)}","uuid":"{http.event or f"{self._prefix}-{next(self._numbers)}"}"'
            f',"l7":{{"type":"REQUEST","latency_ns":{max(round(latency_s * 1e9), 0)},"http":{{"code":{http.status}'
            f"{said.call}{self._ends_text(entry.record, entry.source, entry.dialled)}{said.judged}"
            f',"bytes_sent":{http.request_bytes},"bytes_received":{http.response_bytes}'
            f',"duration_ms":{max(round(duration_s * 1e6), 0) / 1000}'
            f"{self._denial(http) if http.detail or http.nearest else ''}}}}}"
        )

    def _said(self, entry: HttpEntry) -> "_Said":
        """What all requests with one head, one decision and one path have in common."""
        http = entry.http
        happened, judged = self._shape("L7", http.verdict, http.reason, http.rule, entry.path, "http", http.opaque)
        url = quoted(http.path.decode("latin-1"))
        call = (
            f',"method":{quoted(http.method.decode("latin-1"))},"url":{_without_query(url) if http.has_query else url}'
            f',"protocol":"HTTP/1.1","host":{quoted(http.host.decode("latin-1"))}}}}},{happened}'
        )
        return _Said(self, http.verdict, http.reason, http.opaque, entry.path, call, judged)

    def kernel(self, event: KernelEvent) -> str:
        reason = Reason(event.reason)
        verdict = "DROPPED"
        if event.kind in (EventKind.CLOSED, EventKind.NATIVE):
            verdict = "AUDIT" if reason else "FORWARDED"
        elif event.kind is EventKind.AUDIT:
            verdict = "AUDIT"
        ended_s = self._boot_offset_s + event.time_ns / 1e9
        flow: dict[str, Any] = {
            "time": self._time(ended_s - event.duration_ns / 1e9),
            "uuid": f"{self._prefix}-{next(self._numbers)}",
            "verdict": verdict,
            "reason": reason.name,
            "Type": "L3_L4",
            "traffic_direction": "EGRESS",
            "source": {"namespace": self._source.namespace, "labels": list(self._source.labels)},
            "rule": self._source.rule(event.rule),
            "racecar": {"instance": self._source.instance, "reason": int(reason)},
        }
        if verdict == "DROPPED":
            flow["drop_reason_desc"] = reason.name
        if reason in _DEFAULT_DENY and flow["rule"] is None:
            flow["racecar"]["policies"] = list(self._source.policies)
        source = (event.source, event.source_port) if event.source_port else None
        _addresses(flow, event.address, event.port, event.protocol, source)
        flow["cgroup_id"] = event.cgroup_id
        if event.pid:
            exe = self._exe_of(event.pid, event.task_start_ns)
            flow["process"] = {"pid": event.pid, "uid": event.uid, "comm": event.comm, "exe": exe}
        flow["socket_cookie"] = event.cookie
        path = "native" if event.kind in (EventKind.CLOSED, EventKind.NATIVE) else "hook"
        flow["racecar"] |= {
            "path": "gate" if event.kind is EventKind.DROPPED else path,
            "kind": "l4",
            "bytes_sent": event.bytes_sent,
            "bytes_received": event.bytes_received,
            "duration_ms": round(event.duration_ns / 1e6, 3),
            "dialled": {"address": str(event.peer), "port": event.peer_port} if event.peer_port else None,
        }
        return _text(flow)

    # --- what happened ---

    def _shape(
        self, kind: str, verdict: Verdict, reason: Reason, rule: int, path: str, judge: str, opaque: str
    ) -> tuple[str, str]:
        """What lines have in common that tell of one decision: before and after the text of both ends."""
        key = (kind, id(verdict), id(reason), rule, path, judge, opaque)
        known = self._shapes.get(key)
        if known is not None:
            return known
        dropped = f'"drop_reason_desc":"{reason.name}",' if verdict == "DROPPED" else ""
        happened = f'"verdict":"{verdict}","reason":"{reason.name}",{dropped}"Type":"{kind}","rule":{self._rule(rule)},'
        judged = f',"reason":{int(reason)},"path":{quoted(path)},"kind":{quoted(judge)}'
        if reason in _DEFAULT_DENY and self._source.rule(rule) is None:
            judged += f',"policies":{_text(list(self._source.policies))}'
        if opaque:
            judged += f',"opaque":{quoted(opaque)}'
        if len(self._shapes) >= MAX_SHAPES:
            self._shapes.clear()
        self._shapes[key] = happened, judged
        return happened, judged

    def _rule(self, number: int) -> str:
        text = self._rules.get(number)
        if text is None:
            text = _text(self._source.rule(number))
            if 0 <= number < len(self._source.rules):
                self._rules[number] = text
        return text

    def _denial(self, http: HttpRecord) -> str:
        """What is said of a refusal, or of what would have been one, beyond its reason and rule."""
        text = f',"detail":{quoted(http.detail)}' if http.detail else ""
        nearest = ",".join(self._near(near) for near in http.nearest if 0 < near.rule < len(self._source.rules))
        return f'{text},"nearest":[{nearest}]' if nearest else text

    def _near(self, near: Near) -> str:
        return f'{{"rule":{self._rule(near.rule)},"field":[{",".join(map(quoted, near.failed))}]}}'

    # --- who speaks to whom ---

    def _ends_text(self, record: ConnectionRecord | None, source: _Place | None, dialled: _Place | None) -> str:
        """The direction, both ends and the process, and the beginning of the object `racecar`."""
        if record is None:
            return f"{self._sides(source, '')}{self._racecar(dialled)}"
        if source is not None and not record.cookie and dialled is not None:
            return self._plain_ends_text(record, source, dialled)
        known = self._ends.get((id(record), id(source)))
        if known is not None and known.is_final and known.dialled == dialled:
            return known.text
        exe = self._exe_of(record.pid, record.task_start_ns) if record.pid else None
        before, behind = self._around_source_port(record, source)
        port = "" if source is None else source[1]
        text = f"{before}{port}{behind}{_process_text(record, exe)}{self._racecar(dialled)}"
        if len(self._ends) >= MAX_ENDS:
            self._ends.clear()
        self._ends[(id(record), id(source))] = _Ends(record, source, dialled, exe is not None or not record.pid, text)
        return text

    def _plain_ends_text(self, record: ConnectionRecord, source: _Place, dialled: _Place) -> str:
        """Connections that no kernel announced differ in the client's port alone, if they come from one address."""
        address, port = source
        key = (id(record), id(address), id(dialled[0]), dialled[1])
        known = self._plain_ends.get(key)
        if known is None:
            before, behind = self._around_source_port(record, source)
            if len(self._plain_ends) >= MAX_ENDS:
                self._plain_ends.clear()
            objects = (record, address, dialled[0])  # kept, so that nothing else gets their ids
            known = self._plain_ends[key] = objects, before, behind + self._racecar(dialled)
        return f"{known[1]}{port}{known[2]}"

    def _around_source_port(self, record: ConnectionRecord, source: _Place | None) -> tuple[str, str]:
        """The direction and both ends: what stands before the client's port, and what behind it."""
        address = record.address
        ip = f'"IP":{{"destination":"{address}","ipVersion":"IPv{address.version}"'
        before = self._sides(source, _entity(address)) + ip
        ports = f'"l4":{{"{_protocol_name(record.protocol)}":{{"destination_port":{record.port}'
        if source is None:
            return f"{before}}},{ports}", "}},"
        return f'{before},"source":"{source[0]}"}},{ports},"source_port":', "}},"

    def _sides(self, source: _Place | None, entity: str) -> str:
        """The workload on its side, on the other what is known of the peer."""
        if self._source.direction == "ingress":
            peer = "reserved:unknown" if source is None else _entity(source[0])
            return f'"traffic_direction":"INGRESS","source":{{"labels":["{peer}"]}},"destination":{self._workload},'
        sides = f'"traffic_direction":"EGRESS","source":{self._workload},'
        return f'{sides}"destination":{{"labels":["{entity}"]}},' if entity else sides

    def _racecar(self, dialled: _Place | None) -> str:
        if dialled is None:
            return f'{self._instance},"dialled":null'
        return f'{self._instance},"dialled":{{"address":"{dialled[0]}","port":{dialled[1]}}}'

    def _time(self, started: float) -> str:
        second = int(started)
        if second != self._second[0]:
            self._second = (second, datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S"))
        return f"{self._second[1]}.{int((started - second) * 1e6):06d}Z"


def _text(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _without_query(url: str) -> str:
    return f'{url[:-1]}?redacted"'


def _entity(address: IPAddress) -> str:
    return "reserved:host" if address.is_loopback else "reserved:world"


def _process_text(record: ConnectionRecord, exe: str | None) -> str:
    """Nothing for a connection that came over the network: no kernel said who opened it."""
    if not record.cookie:
        return ""
    cgroup, cookie = f'"cgroup_id":{record.cgroup_id},', f'"socket_cookie":{record.cookie},'
    if not record.pid:
        return cgroup + cookie
    path = "null" if exe is None else quoted(exe)
    process = f'"pid":{record.pid},"uid":{record.uid},"comm":{quoted(record.comm)},"exe":{path}'
    return f'{cgroup}"process":{{{process}}},{cookie}'


def _addresses(
    flow: dict[str, Any], address: IPAddress, port: int, protocol: int, source: tuple[IPAddress, int] | None
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
    flow["destination"] = {"labels": [_entity(address)]}


def _protocol_name(number: int) -> str:
    return PROTOCOLS.get(number, f"protocol {number}")


def printable(text: str) -> str:
    """For a terminal: control bytes and everything else that could move the cursor, escaped."""
    return "".join(c if c.isprintable() and c != "\\" else c.encode("unicode_escape").decode() for c in text)


def escaped(text: str) -> str:
    """What a peer said, for a terminal: visible ASCII and nothing else, so that nothing can look like another."""
    return "".join(c if " " <= c <= "~" and c != "\\" else c.encode("unicode_escape").decode() for c in text)


def process_name(record: ConnectionRecord | KernelEvent, source: _Place | None = None) -> str:
    """Who is told of on the terminal: the process, else the client's address."""
    if record.pid:
        return f"{escaped(record.comm)}[{record.pid}]"
    return "an unknown process" if source is None else _shown(*source)


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
    whom = process_name(record, entry.source)
    return f"denied {escaped(call)} on {where} to {whom}: {printable(why)} (event {http.event})"


def denial_of_connection(entry: ConnectionEntry) -> str:
    if entry.record is None:
        return f"reset a connection that no workload announced: {entry.reason.name}"
    where = _shown(entry.record.address, entry.record.port)
    return f"denied TCP {where} to {process_name(entry.record, entry.source)}: {entry.reason.name}"


def _shown(address: IPAddress, port: int) -> str:
    text = f"[{address}]" if address.version == 6 else str(address)
    return f"{text}:{port}" if port else text
