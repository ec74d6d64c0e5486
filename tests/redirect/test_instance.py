"""The programs in the kernel judge as the tables' walk in user space does, and leave nothing when they are taken down.

A child in a throw-away cgroup and an empty network namespace (no packet can leave it) makes one system call an attempt;
its errno, and the record that the hook left with the socket, are the kernel's verdict.
"""

import ctypes
import errno
import itertools
import json
import os
import random
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from racecar.policy.compile import compile_workload
from racecar.policy.load import load_text
from racecar.policy.model import TCP, UDP
from racecar.policy.reasons import Reason
from racecar.policy.tables import HOST, WORLD, CompiledWorkload, PeerEntry, Verdict
from racecar.redirect import libbpf
from racecar.redirect.abi import ConnectionState
from racecar.redirect.instance import (
    MAX_PEERS,
    MAX_PORTS,
    ConnectionRecords,
    Instance,
    ListenPorts,
    ensure_bpffs,
    pin_root,
)
from racecar.redirect.netlink import Own

pytestmark = [pytest.mark.root, pytest.mark.slow]

ATTEMPTS = 300
SEEDS = range(20)
OWN = {ip_network(text) for text in ("127.0.0.0/8", "::1/128", "192.0.2.1/32", "fd99::1/128")}
LISTEN = ListenPorts(59_001, 59_002)
LABELS = {"app": "x"}
CLONE_NEWNET = 0x40000000

CIDRS = (
    "0.0.0.0/0", "::/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "10.1.2.3/32", "127.0.0.0/8", "127.0.0.1/32",
    "::1/128", "192.0.2.0/24", "192.0.2.1/32", "fd00::/8", "fd99::/64", "fd99::1/128", "2001:db8::/32", "128.0.0.0/1",
    "::fffe:0:0/95",
)  # fmt: skip
PORTS = (1, 79, 80, 81, 443, 1023, 1024, 1025, 8000, 8079, 8080, 8191, 8192, 32767, 32768, 65534, 65535)
ADDRESSES = (
    "10.0.0.1", "10.1.0.1", "10.1.2.2", "10.1.2.3", "10.1.3.0", "11.0.0.1", "127.0.0.1", "127.0.0.2", "127.255.255.254",
    "128.0.0.1", "192.0.2.1", "192.0.2.2", "192.0.3.1", "8.8.8.8", "0.0.0.0", "::", "::1", "::2", "fd00::1", "fd99::1",
    "fd99::2", "fd99:0:0:1::1", "2001:db8::1", "2001:db9::1", "2606::1", "::ffff:10.1.2.3", "::ffff:10.1.2.4",
    "::ffff:127.0.0.1", "::ffff:192.0.2.1", "::ffff:8.8.8.8", "::fffe:0:1", "::ffff:0.0.0.0",
)  # fmt: skip

MAPS_H = (Path(__file__).resolve().parents[2] / "redirect/bpf/maps.h").read_text()

_serial = itertools.count()


@dataclass(frozen=True)
class Attempt:
    call: str  # 'connect' or 'sendto'
    protocol: int
    address: str
    port: int

    @property
    def judged(self) -> IPv4Address | IPv6Address:
        """The address that the kernel really dials: none means loopback, v4-mapped is IPv4."""
        address = ip_address(self.address)
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if address.is_unspecified:
            return ip_address("127.0.0.1" if address.version == 4 else "::1")
        return address

    @property
    def scope(self) -> int:
        if self.judged.is_multicast or str(self.judged) == "255.255.255.255":
            return HOST
        return HOST if any(self.judged in network for network in OWN) else WORLD


@dataclass(frozen=True)
class Seen:
    """What became of one attempt."""

    refused: bool
    state: str
    ruleset: int
    rule: int
    address: str
    port: int


# --- Random policies and attempts ---


def random_ports(dice: random.Random) -> dict[str, Any]:
    first = dice.choice(PORTS)
    entry: dict[str, Any] = {"port": str(first), "protocol": dice.choice(("TCP", "TCP", "UDP", "ANY"))}
    if dice.random() < 0.4:
        entry["endPort"] = dice.choice([port for port in PORTS if port >= first])
    return entry


def random_rule(dice: random.Random) -> dict[str, Any]:
    rule: dict[str, Any] = {}
    if dice.random() < 0.85:
        rule["toCIDR"] = dice.sample(CIDRS, dice.randint(1, 3))
    if dice.random() < 0.9:
        rule["toPorts"] = []
        for _ in range(dice.randint(1, 2)):
            ports = [random_ports(dice) for _ in range(dice.randint(1, 3))]
            group: dict[str, Any] = {"ports": ports}
            if dice.random() < 0.4:
                for entry in ports:
                    entry["protocol"] = "TCP"
                group["rules"] = {"http": [{"method": "GET"}]}
            rule["toPorts"].append(group)
    return rule


def random_policies(dice: random.Random) -> CompiledWorkload:
    documents = [
        {
            "apiVersion": "cilium.io/v2",
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": f"p{number}"},
            "spec": {
                "endpointSelector": {"matchLabels": LABELS},
                "egress": [random_rule(dice) for _ in range(dice.randint(0, 4))] or [{}],
            },
        }
        for number in range(dice.randint(1, 3))
    ]
    return compiled("\n---\n".join(json.dumps(document) for document in documents))


def compiled(text: str) -> CompiledWorkload:
    loaded = load_text(text.encode(), "policy.yaml")
    assert loaded.ok, [str(finding) for finding in loaded.findings]
    return compile_workload(loaded.policies, namespace="default", cluster="default", labels=LABELS)


def random_attempt(dice: random.Random) -> Attempt:
    if dice.random() < 0.8:
        address = dice.choice(ADDRESSES)
    else:
        address = str(dice.choice((IPv4Address(dice.getrandbits(32)), IPv6Address(1 << 125 | dice.getrandbits(124)))))
    port = dice.choice(PORTS) if dice.random() < 0.8 else dice.randint(1, 65535)
    call, protocol = dice.choice((("connect", TCP), ("connect", UDP), ("sendto", UDP)))
    return Attempt(call, protocol, address, port)


def expected(policy: CompiledWorkload, attempt: Attempt) -> Seen:
    verdict = policy.judge_l4(attempt.judged, attempt.scope, attempt.protocol, attempt.port)
    states = {
        Verdict.ALLOW: ConnectionState.NATIVE,
        Verdict.REDIRECT: ConnectionState.REDIRECTED,
        Verdict.DENY: ConnectionState.REFUSED,
    }
    state = states[verdict.verdict]
    refused = verdict.verdict is Verdict.DENY
    if attempt.call == "sendto" and refused:
        return Seen(True, "", 0, 0, "", 0)  # nothing is left with a socket that may go on to other destinations
    return Seen(refused, state.name, verdict.ruleset, verdict.rule, str(attempt.judged), attempt.port)


# --- What the kernel says ---


def attempt_one(attempt: Attempt, records: ConnectionRecords) -> Seen:
    family = socket.AF_INET6 if ":" in attempt.address else socket.AF_INET
    kind = socket.SOCK_STREAM if attempt.protocol == TCP else socket.SOCK_DGRAM
    with socket.socket(family, kind | socket.SOCK_NONBLOCK) as sock:
        code = 0
        try:
            if attempt.call == "connect":
                sock.connect((attempt.address, attempt.port))
            else:
                sock.sendto(b"x", (attempt.address, attempt.port))
        except OSError as failed:
            code = failed.errno or 0
        record = records.lookup(sock.fileno())
        if record is None:
            return Seen(code == errno.EPERM, "", 0, 0, "", 0)
        return Seen(
            code == errno.EPERM, record.state.name, record.ruleset, record.rule, str(record.address), record.port
        )


def in_workload(cgroup: Path, work: Callable[[], list[Any]]) -> list[Any]:
    """The result of `work` in a child that is in the cgroup and in a network namespace with nothing in it."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "unshare")
            (cgroup / "cgroup.procs").write_text("0")
            result = json.dumps(work()).encode()
            os.close(reader)
            with open(writer, "wb") as out:
                out.write(result)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, "rb") as source:
        raw = source.read()
    assert os.waitpid(child, 0)[1] == 0
    result: list[Any] = json.loads(raw)
    return result


def judged_by_kernel(instance: Instance, cgroup: Path, attempts: list[Attempt]) -> list[Seen]:
    records = ConnectionRecords(instance.map_fd("conns"))
    fields = in_workload(cgroup, lambda: [astuple(attempt_one(attempt, records)) for attempt in attempts])
    return [Seen(*values) for values in fields]


@pytest.fixture
def instance(cgroup: Path) -> Iterator[Instance]:
    made = Instance(f"test-{os.getpid()}-{next(_serial)}")
    try:
        made.load(0, LISTEN)
        made.set_own(dict.fromkeys(OWN, Own.LOCAL))
        fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        made.attach_workload(fd, cgroup)
        os.close(fd)
        yield made
    finally:
        made.tear_down()


def use(instance: Instance, number: int, policy: CompiledWorkload, *, audit: bool = False) -> None:
    instance.fill(0, number, policy.peers, policy.ports, enforce_egress=policy.selected, audit=audit)


def test_kernel_and_user_space_judge_alike(instance: Instance, cgroup: Path) -> None:
    """One instance, one policy after the other: the last one filled is the one that judges."""
    verdicts: set[str] = set()
    for seed in SEEDS:
        dice = random.Random(seed)
        policy = random_policies(dice)
        attempts = [random_attempt(dice) for _ in range(ATTEMPTS)]
        use(instance, seed + 1, policy)
        seen = judged_by_kernel(instance, cgroup, attempts)
        for attempt, kernel in zip(attempts, seen, strict=True):
            assert kernel == expected(policy, attempt), f"seed {seed}: {attempt}"
        verdicts |= {kernel.state for kernel in seen}
    assert verdicts >= {"NATIVE", "REDIRECTED", "REFUSED"}, "the dice never showed one of the verdicts"


EGRESS = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {}
  egress: [%s]
"""
DENY_ALL, ALLOW_ALL = EGRESS % "{}", EGRESS % "{toCIDR: [0.0.0.0/0]}"
L7 = EGRESS % '{toCIDR: [10.1.2.3/32], toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}]}'
WORLD_TCP = Attempt("connect", TCP, "10.1.2.3", 80)


def test_without_a_policy_nothing_passes(instance: Instance, cgroup: Path) -> None:
    """Attached and not filled yet: the moment before the command starts, and what a crash there leaves."""
    attempts = [WORLD_TCP, Attempt("connect", UDP, "10.1.2.3", 53)]
    assert [seen.refused for seen in judged_by_kernel(instance, cgroup, attempts)] == [True, True]


def test_a_cidr_of_the_world_does_not_reach_the_host(instance: Instance, cgroup: Path) -> None:
    use(instance, 1, compiled(ALLOW_ALL))
    attempts = [Attempt("connect", TCP, address, 80) for address in ("10.1.2.3", "127.0.0.1", "192.0.2.1", "0.0.0.0")]
    assert [seen.refused for seen in judged_by_kernel(instance, cgroup, attempts)] == [False, True, True, True]
    instance.set_own(dict.fromkeys(OWN - {ip_network("192.0.2.1/32")}, Own.LOCAL))
    assert [seen.refused for seen in judged_by_kernel(instance, cgroup, attempts)] == [False, True, False, True]


def test_a_workload_that_is_not_selected_passes(instance: Instance, cgroup: Path) -> None:
    policy = compile_workload((), namespace="default", cluster="default", labels=LABELS)
    assert not policy.selected
    use(instance, 1, policy)
    assert [seen.state for seen in judged_by_kernel(instance, cgroup, [WORLD_TCP])] == ["NATIVE"]


def test_audit_lets_pass_what_the_rules_deny_and_still_redirects(instance: Instance, cgroup: Path) -> None:
    use(instance, 1, compiled(L7), audit=True)
    attempts = [WORLD_TCP, Attempt("connect", TCP, "10.1.2.3", 81), Attempt("sendto", UDP, "10.1.2.3", 53)]
    seen = judged_by_kernel(instance, cgroup, attempts)
    assert [(s.refused, s.state) for s in seen] == [(False, "REDIRECTED"), (False, "NATIVE"), (False, "NATIVE")]


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::ffff:127.0.0.1"])
def test_the_proxys_own_listener_is_nobodys_destination(instance: Instance, cgroup: Path, address: str) -> None:
    use(instance, 1, compiled(EGRESS % "{toCIDR: [127.0.0.0/8]}"))
    attempts = [Attempt("connect", TCP, address, port) for port in (LISTEN.ipv4, LISTEN.ipv4 + 7)]
    assert [seen.refused for seen in judged_by_kernel(instance, cgroup, attempts)] == [True, False]
    assert instance.refusals()[Reason.PROXY_ADDRESS] == 1


def test_refusals_are_counted_by_reason_and_told(instance: Instance, cgroup: Path) -> None:
    use(instance, 1, compiled(DENY_ALL))
    ring = libbpf.RingBuffer(instance.map_fd("events"))
    try:
        judged_by_kernel(instance, cgroup, [WORLD_TCP] * 5)
        assert instance.refusals() == {Reason.DEFAULT_DENY: 5}
        assert len(ring.read()) == 5
        assert ring.read() == []
    finally:
        ring.close()


def test_raw_sockets_are_refused(instance: Instance, cgroup: Path) -> None:
    use(instance, 1, compiled(ALLOW_ALL))

    def raw() -> list[int]:
        codes = []
        for family, protocol in ((socket.AF_INET, 255), (socket.AF_INET, 1), (socket.AF_INET6, 58)):
            try:
                socket.socket(family, socket.SOCK_RAW, protocol).close()
                codes.append(0)
            except OSError as failed:
                codes.append(failed.errno or 0)
        return codes

    assert in_workload(cgroup, raw) == [errno.EPERM] * 3


def test_a_read_only_descriptor_changes_no_map(instance: Instance) -> None:
    fd = instance.read_only_fd("workloads")
    try:
        table = libbpf.Map(fd, 24, "workloads")
        assert table.get(bytes(4)) is not None
        with pytest.raises(libbpf.BpfError, match="not permitted"):
            table.put(bytes(4), bytes(24))
    finally:
        os.close(fd)


def test_a_cgroup_goes_on_refusing_when_descriptors_and_pins_are_gone(instance: Instance, cgroup: Path) -> None:
    use(instance, 1, compiled(DENY_ALL))
    instance.close()

    def refused() -> list[bool]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            return [sock.connect_ex(("10.1.2.3", 53)) == errno.EPERM]

    assert in_workload(cgroup, refused) == [True]
    instance.tear_down()
    assert in_workload(cgroup, refused) == [True]


def test_a_policy_too_large_for_the_tables_is_said_so_and_not_used(instance: Instance, cgroup: Path) -> None:
    policy = compiled(ALLOW_ALL)
    peers = (PeerEntry(WORLD, IPv4Network((n << 8, 24)), 1) for n in range(MAX_PEERS + 1))
    with pytest.raises(OSError, match=f"too large for the kernel's tables: at most {MAX_PEERS} networks"):
        instance.fill(0, 1, peers, policy.ports, enforce_egress=True, audit=False)
    assert [seen.refused for seen in judged_by_kernel(instance, cgroup, [WORLD_TCP])] == [True]
    sizes = dict(re.findall(r"max_entries, (\d+)\);\t/\* loader \*/\n\t__type\(key, struct (rc_p\w+_key)", MAPS_H))
    assert {name: int(size) for size, name in sizes.items()} == {"rc_peer_key": MAX_PEERS, "rc_port_key": MAX_PORTS}


def test_a_name_is_taken_once_and_its_directory_closed_to_others(instance: Instance) -> None:
    assert instance.directory == pin_root() / instance.name
    assert instance.directory.stat().st_mode & 0o777 == 0o700
    assert pin_root().stat().st_mode & 0o777 == 0o700
    with pytest.raises(FileExistsError):
        Instance(instance.name)
    instance.tear_down()
    assert not instance.directory.exists()
    instance.tear_down()


def test_a_directory_that_is_no_bpffs_cannot_be_made_one_by_name(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot mount bpffs at .*: No such file or directory; mount -t bpf bpf"):
        ensure_bpffs(tmp_path / "missing")
