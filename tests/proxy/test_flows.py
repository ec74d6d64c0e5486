"""Every line of the access log keeps to docs/flow.schema.json and says what happened, whatever a peer sent."""

import json
import struct
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from racecar.policy.engine import Near
from racecar.policy.model import DEFAULT_DENY, RuleRef
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import HttpRecord, Verdict
from racecar.proxy.flows import (
    MAX_ENDS,
    MAX_SHAPES,
    FlowSource,
    FlowWriter,
    denial_of_connection,
    denial_of_event,
    denial_of_request,
    printable,
)
from racecar.proxy.records import ConnectionEntry, HttpEntry
from racecar.redirect.abi import ConnectionRecord, ConnectionState, EventKind, KernelEvent

SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "docs/flow.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

RULE = RuleRef("tweeter", "default", "CiliumNetworkPolicy", "tweeter.yaml", 14, "egress[0].toPorts[0].rules.http[0]")
SOURCE = FlowSource("exec-1", "default", ("app=tweeter",), (DEFAULT_DENY, RULE), ("default/tweeter",))
PEER = IPv4Address("192.0.2.7")
RECORD = ConnectionRecord(
    cookie=77,
    cgroup_id=4711,
    task_start_ns=5_000_000_000,
    connected_ns=6_000_000_000,
    workload=0,
    generation=1,
    epoch=1,
    ruleset=1,
    rule=1,
    pid=4242,
    uid=2_000_000_000,
    flags=0,
    address=PEER,
    port=80,
    state=ConnectionState.REDIRECTED,
    protocol=6,
    comm="curl",
)
CONNECTION = ConnectionEntry(
    record=RECORD,
    verdict=Verdict.FORWARDED,
    reason=Reason.NONE,
    rule=1,
    kind="tcp",
    dialled=(PEER, 80),
    started=1_700_000_000.25,
    duration_s=0.0125,
    request_bytes=10,
    response_bytes=20,
    path="splice",
)
HTTP = HttpRecord(
    verdict=Verdict.FORWARDED,
    reason=Reason.NONE,
    rule=1,
    method=b"GET",
    path=b"/jobs",
    has_query=False,
    host=b"jobs.example:80",
    status=200,
    request_bytes=80,
    response_bytes=140,
    started=10.0,
    answered=10.004,
    finished=10.005,
    event="",
    detail="",
)
EVENT = KernelEvent(
    time_ns=9_000_000_000,
    cookie=78,
    cgroup_id=4711,
    task_start_ns=5_000_000_000,
    bytes_sent=0,
    bytes_received=0,
    duration_ns=0,
    kind=EventKind.DENIED,
    reason=int(Reason.DEFAULT_DENY),
    workload=0,
    rule=0,
    pid=4242,
    uid=2_000_000_000,
    address=PEER,
    source=IPv6Address("::"),
    peer=IPv6Address("::"),
    port=81,
    source_port=0,
    peer_port=0,
    protocol=6,
    family=2,
    comm="curl",
)
DENIED_HTTP = replace(HTTP, verdict=Verdict.DROPPED, reason=Reason.HTTP_NO_RULE, rule=0, status=403, event="e-1")


def writer(exe: str | None = "/usr/bin/curl") -> FlowWriter:
    return FlowWriter(SOURCE, lambda pid, start_ns: exe)


def checked(line: str) -> dict[str, Any]:
    """One line of printable ASCII, an object by the schema."""
    assert line.isascii()
    assert line.isprintable()
    flow: dict[str, Any] = json.loads(line)
    VALIDATOR.validate(flow)
    return flow


def request(http: HttpRecord = HTTP, record: ConnectionRecord = RECORD) -> HttpEntry:
    return HttpEntry(record=record, dialled=(PEER, 80), http=http, started=1_700_000_000.25, path="relay")


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def objects_of(schema: Any) -> list[dict[str, Any]]:
    nested = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ()
    found = [inner for value in nested for inner in objects_of(value)]
    return [schema, *found] if isinstance(schema, dict) and schema.get("type") == "object" else found


def test_the_schema_knows_every_member_and_allows_no_other() -> None:
    assert len(objects_of(SCHEMA)) > 8
    assert [schema for schema in objects_of(SCHEMA) if schema.get("additionalProperties") is not False] == []


def test_a_member_that_the_schema_does_not_know_is_refused() -> None:
    flow = checked(writer().connection(CONNECTION))
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(flow | {"extra": 1})


# --- Connections -----------------------------------------------------------------------------------------------------


def test_a_relayed_connection() -> None:
    flow = checked(writer().connection(CONNECTION))
    assert flow["time"] == "2023-11-14T22:13:20.250000Z"
    assert (flow["verdict"], flow["reason"], flow["Type"]) == ("FORWARDED", "NONE", "L3_L4")
    assert flow["IP"] == {"destination": "192.0.2.7", "ipVersion": "IPv4"}
    assert flow["l4"] == {"TCP": {"destination_port": 80}}
    assert flow["source"] == {"namespace": "default", "labels": ["app=tweeter"]}
    assert flow["process"] == {"pid": 4242, "uid": 2_000_000_000, "comm": "curl", "exe": "/usr/bin/curl"}
    assert flow["rule"] == {
        "policy": "tweeter",
        "namespace": "default",
        "kind": "CiliumNetworkPolicy",
        "file": "tweeter.yaml",
        "line": 14,
        "index": "egress[0].toPorts[0].rules.http[0]",
    }
    assert flow["racecar"] == {
        "instance": "exec-1",
        "reason": 0,
        "path": "splice",
        "kind": "tcp",
        "bytes_sent": 10,
        "bytes_received": 20,
        "duration_ms": 12.5,
        "dialled": {"address": "192.0.2.7", "port": 80},
    }
    assert (flow["socket_cookie"], flow["cgroup_id"]) == (77, 4711)


def test_a_connection_that_nobody_announced_has_no_process_and_no_address() -> None:
    entry = replace(
        CONNECTION, record=None, verdict=Verdict.DROPPED, reason=Reason.NO_RECORD, rule=0, kind="", dialled=None
    )
    flow = checked(writer().connection(replace(entry, path="relay")))
    assert flow["drop_reason_desc"] == "NO_RECORD"
    assert {"process", "IP", "l4"} & flow.keys() == set()
    assert denial_of_connection(entry) == "reset a connection that no workload announced: NO_RECORD"


@pytest.mark.parametrize(
    ("address", "version", "label"),
    [
        ("127.0.0.1", "IPv4", "reserved:host"),
        ("::1", "IPv6", "reserved:host"),
        ("2001:db8::7", "IPv6", "reserved:world"),
        ("192.0.2.7", "IPv4", "reserved:world"),
    ],
)
def test_an_address_has_its_family_and_its_entity(address: str, version: str, label: str) -> None:
    record = replace(RECORD, address=ip_address(address))
    flow = checked(writer().connection(replace(CONNECTION, record=record)))
    assert flow["IP"] == {"destination": address, "ipVersion": version}
    assert flow["destination"] == {"labels": [label]}


def test_an_unknown_process_has_no_executable() -> None:
    flow = checked(writer(exe=None).connection(CONNECTION))
    assert flow["process"]["exe"] is None


def test_a_rule_number_outside_the_list_is_no_rule() -> None:
    for number in (0, 2, -1):
        assert checked(writer().connection(replace(CONNECTION, rule=number)))["rule"] is None


def test_no_two_flows_have_one_id() -> None:
    one, other = writer(), writer()
    ids = [json.loads(w.connection(CONNECTION))["uuid"] for w in (one, one, other, other)]
    assert len(set(ids)) == 4


# --- Requests --------------------------------------------------------------------------------------------------------


def test_an_allowed_request() -> None:
    flow = checked(writer().request(request()))
    assert (flow["verdict"], flow["Type"]) == ("FORWARDED", "L7")
    assert flow["l7"] == {
        "type": "REQUEST",
        "latency_ns": 4_000_000,
        "http": {"code": 200, "method": "GET", "url": "/jobs", "protocol": "HTTP/1.1", "host": "jobs.example:80"},
    }
    assert flow["racecar"]["duration_ms"] == 5.0
    assert "detail" not in flow["racecar"]


def test_a_denied_request_carries_the_event_id_that_its_caller_was_told() -> None:
    flow = checked(writer().request(request(replace(DENIED_HTTP, detail="no rule matches"))))
    assert (flow["uuid"], flow["drop_reason_desc"], flow["rule"]) == ("e-1", "HTTP_NO_RULE", None)
    assert flow["racecar"]["detail"] == "no rule matches"


def test_a_request_without_a_readable_head() -> None:
    http = replace(DENIED_HTTP, reason=Reason.HTTP_TLS, method=b"", path=b"", host=b"", status=0, answered=0.0)
    flow = checked(writer().request(request(http)))
    assert flow["l7"]["http"]["url"] == ""


def test_an_audited_request_is_no_drop() -> None:
    http = replace(HTTP, verdict=Verdict.AUDIT, reason=Reason.HTTP_NO_RULE, rule=0)
    flow = checked(writer().request(request(http)))
    assert flow["verdict"] == "AUDIT"
    assert "drop_reason_desc" not in flow


def test_a_query_is_not_kept() -> None:
    flow = checked(writer().request(request(replace(HTTP, has_query=True))))
    assert flow["l7"]["http"]["url"] == "/jobs?redacted"


def test_the_schema_refuses_a_query_that_is_kept() -> None:
    flow = checked(writer().request(request()))
    flow["l7"]["http"]["url"] = "/jobs?token=secret"
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(flow)


@pytest.mark.parametrize("field", ["method", "path", "host"])
def test_control_bytes_of_a_request_are_escaped(field: str) -> None:
    hostile = b'\n{"verdict":"FORWARDED"}\r\x1b[2J\x00\x7f\x85\xff'
    line = writer().request(request(replace(DENIED_HTTP, **{field: hostile})))
    http = checked(line)["l7"]["http"]
    assert http["url" if field == "path" else field] == hostile.decode("latin-1")


def test_control_bytes_of_a_process_name_are_escaped() -> None:
    record = replace(RECORD, comm='a\n\x1b]0;x\x07"')
    flow = checked(writer(exe="/tmp/\udcff\x1b\n").connection(replace(CONNECTION, record=record)))
    assert flow["process"]["comm"] == record.comm
    assert flow["process"]["exe"] == "/tmp/\udcff\x1b\n"


# --- The kernel's events ---------------------------------------------------------------------------------------------


def test_a_refusal_at_a_hook() -> None:
    flow = checked(writer().kernel(EVENT))
    assert (flow["verdict"], flow["reason"], flow["rule"]) == ("DROPPED", "DEFAULT_DENY", None)
    assert flow["racecar"] | {"instance": ""} == {
        "instance": "",
        "reason": 1,
        "path": "hook",
        "kind": "l4",
        "bytes_sent": 0,
        "bytes_received": 0,
        "duration_ms": 0.0,
        "dialled": None,
        "policies": ["default/tweeter"],
    }


def test_a_packet_that_the_gate_dropped() -> None:
    event = replace(
        EVENT,
        kind=EventKind.DROPPED,
        reason=int(Reason.TRANSLATED),
        source=IPv4Address("192.0.2.1"),
        source_port=40000,
        peer=IPv4Address("198.51.100.9"),
        peer_port=8080,
    )
    flow = checked(writer().kernel(event))
    assert flow["racecar"]["path"] == "gate"
    assert flow["racecar"]["dialled"] == {"address": "198.51.100.9", "port": 8080}
    assert flow["IP"]["source"] == "192.0.2.1"
    assert flow["l4"] == {"TCP": {"destination_port": 81, "source_port": 40000}}


def test_a_native_connection_that_ended() -> None:
    event = replace(
        EVENT, kind=EventKind.CLOSED, reason=0, rule=1, bytes_sent=5, bytes_received=6, duration_ns=2_000_000
    )
    flow = checked(writer().kernel(event))
    assert (flow["verdict"], flow["rule"]["policy"], flow["racecar"]["path"]) == ("FORWARDED", "tweeter", "native")
    assert (flow["racecar"]["bytes_sent"], flow["racecar"]["duration_ms"]) == (5, 2.0)


@pytest.mark.parametrize("kind", [EventKind.AUDIT, EventKind.CLOSED])
def test_what_audit_mode_let_pass_in_the_kernel(kind: EventKind) -> None:
    assert checked(writer().kernel(replace(EVENT, kind=kind)))["verdict"] == "AUDIT"


@pytest.mark.parametrize("reason", [reason for reason in Reason if 0 < reason < 32])
@pytest.mark.parametrize("kind", [EventKind.DENIED, EventKind.DROPPED])
def test_every_reason_of_the_kernel_has_a_flow_and_a_line(kind: EventKind, reason: Reason) -> None:
    event = replace(EVENT, kind=kind, reason=int(reason))
    assert checked(writer().kernel(event))["drop_reason_desc"] == reason.name
    assert reason is Reason.RAW_SOCKET or reason.name in denial_of_event(event)


@pytest.mark.parametrize(
    ("protocol", "l4"),
    [
        (1, {"ICMPv4": {}}),
        (6, {"TCP": {"destination_port": 81, "source_port": 7}}),
        (17, {"UDP": {"destination_port": 81, "source_port": 7}}),
        (58, {"ICMPv6": {}}),
        (132, {"SCTP": {"destination_port": 81, "source_port": 7}}),
        (47, {"protocol 47": {}}),
        (0, {"protocol 0": {}}),
    ],
)
def test_a_protocol_without_ports_has_none(protocol: int, l4: dict[str, object]) -> None:
    event = replace(EVENT, kind=EventKind.DROPPED, protocol=protocol, source=PEER, source_port=7)
    assert checked(writer().kernel(event))["l4"] == l4


def test_an_event_without_an_address_says_none() -> None:
    event = replace(EVENT, address=IPv6Address("::"), port=0, protocol=1, reason=int(Reason.RAW_SOCKET))
    assert {"IP", "destination"} & checked(writer().kernel(event)).keys() == set()
    assert denial_of_event(event) == "refused a raw socket to curl[4242]"


def test_a_packet_of_nobody_has_no_process() -> None:
    event = replace(EVENT, kind=EventKind.DROPPED, pid=0, address=IPv6Address("::"), reason=int(Reason.IP_OPTIONS))
    assert "process" not in checked(writer().kernel(event))
    assert denial_of_event(event) == "dropped a packet of an unknown process: IP_OPTIONS"


# --- Lines for the terminal ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        (lambda: denial_of_event(EVENT), "denied TCP 192.0.2.7:81 to curl[4242]: DEFAULT_DENY"),
        (
            lambda: denial_of_event(replace(EVENT, address=IPv6Address("2001:db8::1"), protocol=17)),
            "denied UDP [2001:db8::1]:81 to curl[4242]: DEFAULT_DENY",
        ),
        (
            lambda: denial_of_request(request(DENIED_HTTP), "default deny (default/tweeter)"),
            "denied GET /jobs on 192.0.2.7:80 to curl[4242]: default deny (default/tweeter) (event e-1)",
        ),
        (
            lambda: denial_of_request(request(replace(DENIED_HTTP, reason=Reason.HTTP_TLS, method=b"", path=b"")), "x"),
            "denied a request on 192.0.2.7:80 to curl[4242]: HTTP_TLS (event e-1)",
        ),
        (
            lambda: denial_of_connection(replace(CONNECTION, reason=Reason.DIAL_FAILED)),
            "denied TCP 192.0.2.7:80 to curl[4242]: DIAL_FAILED",
        ),
    ],
)
def test_a_denial_is_one_line(line: Callable[[], str], wanted: str) -> None:
    assert line() == wanted


def test_nothing_in_a_denial_moves_the_cursor() -> None:
    hostile = "\x1b[2J\r\n\x07\x9b\u202e"
    record = replace(RECORD, comm=hostile)
    http = replace(DENIED_HTTP, method=hostile.encode(), path=b"/\x1b]0;x\x07\x9b")
    for line in (
        denial_of_request(request(http, record), hostile),
        denial_of_connection(replace(CONNECTION, record=record)),
        denial_of_event(replace(EVENT, comm=hostile)),
    ):
        assert line.isprintable()


def test_what_a_peer_says_is_ascii_on_the_terminal() -> None:
    """A letter of another script may look like one of ours."""
    record = replace(RECORD, comm="\u0441url")
    line = denial_of_request(request(replace(DENIED_HTTP, path="/j\u043ebs\\".encode()), record), "Regel f\u00fcr alle")
    assert line == (
        "denied GET /j\\xd0\\xbebs\\\\ on 192.0.2.7:80 to \\u0441url[4242]: Regel f\u00fcr alle (event e-1)"
    )


def test_what_is_not_printable_is_escaped_and_the_rest_left_alone() -> None:
    assert printable("gr\u00fc\u00df \u4e2d \x1b\n\t\udcff") == "gr\u00fc\u00df \u4e2d \\x1b\\n\\t\\udcff"


def test_records_of_the_kernel_become_flows() -> None:
    """From the bytes on: a record and an event as the programs write them."""
    name = b"curl\0garbage\xff\xff\xff\xff"
    raw = struct.pack(
        "=QQQQIIIIIIII16s2sBB4x16s",
        *(77, 4711, 5, 6, 0, 1, 1, 1, 1, 4242, 1000, 0),
        b"\0" * 10 + b"\xff\xff" + PEER.packed,
        b"\0\x50",
        2,
        6,
        name,
    )
    flow = checked(writer().connection(replace(CONNECTION, record=ConnectionRecord.unpack(raw))))
    assert (flow["IP"]["destination"], flow["l4"]["TCP"]["destination_port"]) == ("192.0.2.7", 80)
    assert flow["process"]["comm"] == "curl"


def test_a_default_deny_names_the_policies_that_cause_it() -> None:
    flow = checked(writer().kernel(replace(EVENT, kind=EventKind.DENIED, reason=Reason.DEFAULT_DENY, rule=0)))
    assert flow["rule"] is None
    assert flow["racecar"]["policies"] == ["default/tweeter"]


def test_a_repeated_request_has_the_line_of_a_first_one() -> None:
    """Lines are put together from texts that are kept: whatever the peer chose for a name, the record is the same."""
    http = replace(HTTP, path=b"/100%s%d%%/\x01", host=b"%(time)s", method=b"G%sT", has_query=True)
    later = replace(http, started=11.0, answered=11.25, finished=11.5, request_bytes=7, response_bytes=9)
    repeated, fresh = writer(), writer()
    repeated.request(request(http))
    one, other = checked(repeated.request(request(later))), checked(fresh.request(request(later)))
    assert one.pop("uuid") != other.pop("uuid")
    assert one == other
    assert (one["l7"]["latency_ns"], one["racecar"]["duration_ms"]) == (250_000_000, 500.0)
    assert (one["racecar"]["bytes_sent"], one["racecar"]["bytes_received"]) == (7, 9)
    assert one["l7"]["http"]["url"] == "/100%s%d%%/\x01?redacted"


def test_what_the_workload_and_its_policy_are_called_is_no_part_of_the_form() -> None:
    ref = replace(RULE, policy="100%s", file='%d"\n.yaml')
    source = replace(SOURCE, rules=(DEFAULT_DENY, ref), labels=("a=%s",), policies=("%(x)s/%",), instance="%d")
    flows = FlowWriter(source, lambda pid, start_ns: "/bin/%s")
    for entry in (request(), request(DENIED_HTTP)):
        flow = checked(flows.request(entry))
        assert (flow["source"]["labels"], flow["racecar"]["instance"]) == (["a=%s"], "%d")
        assert flow["process"]["exe"] == "/bin/%s"
    assert flow["racecar"]["policies"] == ["%(x)s/%"]
    assert checked(flows.connection(CONNECTION))["rule"]["file"] == '%d"\n.yaml'


def test_what_is_kept_is_bounded_and_no_line_is_of_another_connection() -> None:
    flows = writer()
    for number in range(1, MAX_ENDS + 3):
        flow = checked_once(flows.request(request(record=replace(RECORD, cookie=number))))
        assert flow["socket_cookie"] == number
    assert len(flows._ends) <= MAX_ENDS
    rules = (DEFAULT_DENY, *(replace(RULE, line=number) for number in range(1, MAX_SHAPES + 3)))
    flows = FlowWriter(replace(SOURCE, rules=rules), lambda pid, start_ns: None)
    for number in range(1, len(rules)):
        assert checked_once(flows.request(request(replace(HTTP, rule=number))))["rule"]["line"] == number
    assert len(flows._shapes) <= MAX_SHAPES


def checked_once(line: str) -> dict[str, Any]:
    """Without the schema, which takes its time."""
    flow: dict[str, Any] = json.loads(line)
    return flow


def test_a_connection_that_is_over_is_forgotten() -> None:
    flows = writer()
    flows.request(request())
    flows.connection(CONNECTION)
    assert flows._ends == {}


def test_an_executable_that_becomes_known_later_is_named_from_then_on() -> None:
    known: dict[int, str] = {}
    flows = FlowWriter(SOURCE, lambda pid, start_ns: known.get(pid))
    assert checked(flows.request(request()))["process"]["exe"] is None
    known[RECORD.pid] = "/usr/bin/curl"
    assert checked(flows.request(request()))["process"]["exe"] == "/usr/bin/curl"


def test_one_connection_may_have_been_dialled_to_two_places() -> None:
    flows = writer()
    for port in (80, 81, 80):
        flow = checked(flows.request(replace(request(), dialled=(PEER, port))))
        assert flow["racecar"]["dialled"] == {"address": "192.0.2.7", "port": port}


# --- Connections that came over the network --------------------------------------------------------------------------

UNANNOUNCED = replace(RECORD, cookie=0, cgroup_id=0, pid=0, uid=0, comm="", address=IPv4Address("127.0.0.1"))
CLIENT = (IPv4Address("198.51.100.3"), 50123)


def test_a_connection_over_the_network_has_its_client_and_no_process() -> None:
    for line in (
        writer().connection(replace(CONNECTION, record=UNANNOUNCED, source=CLIENT)),
        writer().request(replace(request(record=UNANNOUNCED), source=CLIENT)),
    ):
        flow = checked(line)
        assert flow["IP"] == {"destination": "127.0.0.1", "source": "198.51.100.3", "ipVersion": "IPv4"}
        assert flow["l4"] == {"TCP": {"destination_port": 80, "source_port": 50123}}
        assert {"process", "cgroup_id", "socket_cookie"} & flow.keys() == set()


def test_two_connections_of_one_record_keep_their_clients() -> None:
    """Connections in plain mode share the record of their upstream."""
    flows = writer()
    clients = [(CLIENT[0], port) for port in (1001, 1002)] * 2
    lines = [flows.request(replace(request(record=UNANNOUNCED), source=client)) for client in clients]
    assert [checked(line)["l4"]["TCP"]["source_port"] for line in lines] == [1001, 1002, 1001, 1002]


def test_on_ingress_the_workload_is_the_destination_and_the_peer_the_source() -> None:
    flows = FlowWriter(replace(SOURCE, direction="ingress"), lambda pid, start_ns: None)
    for line in (
        flows.connection(replace(CONNECTION, record=UNANNOUNCED, source=CLIENT)),
        flows.request(replace(request(DENIED_HTTP, record=UNANNOUNCED), source=CLIENT)),
    ):
        flow = checked(line)
        assert flow["traffic_direction"] == "INGRESS"
        assert flow["source"] == {"labels": ["reserved:world"]}
        assert flow["destination"] == {"namespace": "default", "labels": ["app=tweeter"]}
        assert (flow["IP"]["source"], flow["IP"]["destination"]) == ("198.51.100.3", "127.0.0.1")


def test_on_ingress_a_peer_without_an_address_is_unknown() -> None:
    flows = FlowWriter(replace(SOURCE, direction="ingress"), lambda pid, start_ns: None)
    assert checked(flows.connection(replace(CONNECTION, record=UNANNOUNCED)))["source"] == {
        "labels": ["reserved:unknown"]
    }


@pytest.mark.parametrize("end", ["source", "destination"])
def test_the_schema_wants_the_workload_on_its_side(end: str) -> None:
    direction = "egress" if end == "source" else "ingress"
    flows = FlowWriter(replace(SOURCE, direction=direction), lambda pid, start_ns: None)
    flow = checked(flows.connection(replace(CONNECTION, source=CLIENT)))
    del flow[end]["namespace"]
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(flow)


def test_a_denial_over_the_network_names_the_client_on_the_terminal() -> None:
    denied = replace(request(DENIED_HTTP, record=UNANNOUNCED), source=CLIENT)
    assert denial_of_request(denied, "r") == "denied GET /jobs on 127.0.0.1:80 to 198.51.100.3:50123: r (event e-1)"
    entry = replace(CONNECTION, record=UNANNOUNCED, source=CLIENT, reason=Reason.DEFAULT_DENY)
    assert denial_of_connection(entry) == "denied TCP 127.0.0.1:80 to 198.51.100.3:50123: DEFAULT_DENY"


# --- Nearest rules, protocols that are not read ----------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [Verdict.DROPPED, Verdict.AUDIT])
def test_a_denial_names_the_nearest_rules_and_what_of_them_failed(verdict: Verdict) -> None:
    nearest = (Near(1, ("path",)), Near(1, ("method", "headers")))
    flow = checked(writer().request(request(replace(DENIED_HTTP, verdict=verdict, nearest=nearest))))
    rule = checked(writer().request(request()))["rule"]
    assert flow["racecar"]["nearest"] == [
        {"rule": rule, "field": ["path"]},
        {"rule": rule, "field": ["method", "headers"]},
    ]


def test_a_nearest_rule_outside_the_list_is_left_out() -> None:
    flow = checked(writer().request(request(replace(DENIED_HTTP, nearest=(Near(0, ("path",)), Near(9, ("path",)))))))
    assert "nearest" not in flow["racecar"]


@pytest.mark.parametrize("opaque", ["websocket", "connect", "tls"])
def test_bytes_that_are_passed_on_unread_are_named(opaque: str) -> None:
    flow = checked(writer().request(request(replace(HTTP, status=101, opaque=opaque))))
    assert flow["racecar"]["opaque"] == opaque
    assert "opaque" not in checked(writer().request(request()))["racecar"]
