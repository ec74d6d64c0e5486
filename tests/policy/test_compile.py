"""The compiled tables against a judge that reads the rules one by one."""

import dataclasses
import pickle
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from racecar.policy.compile import PolicyConflictError, compile_workload
from racecar.policy.engine import HttpCall, HttpMatcher
from racecar.policy.model import (
    ANY_PROTOCOL,
    TCP,
    UDP,
    CidrBlock,
    Direction,
    HttpMatch,
    Layer7,
    Network,
    Policy,
    PortRange,
    PortRule,
    RuleRef,
    Selector,
    TrafficRule,
)
from racecar.policy.tables import HOST, WORLD, CompiledWorkload, HttpRule, L4Verdict, Verdict, port_prefixes

Address = IPv4Address | IPv6Address

# Few addresses and ports, chosen so that networks nest, meet and leave holes.
ADDRESSES = [
    *(IPv4Address("10.0.0.0") + offset for offset in (0, 1, 2, 257, 65537, 1 << 24)),
    *(IPv4Address("127.0.0.0") + offset for offset in (1, 2, 65537)),
    *(IPv4Address(offset) for offset in (0, 2**32 - 1)),
    *(IPv6Address(offset) for offset in (0, 1, 2)),
    *(IPv6Address("fd00::") + offset for offset in (1, 2, (1 << 64) + 1)),
]
NETWORKS = [
    *(ip_network((10 << 24, bits)) for bits in (8, 16, 24, 31)),
    *(ip_network((127 << 24, bits)) for bits in (8, 30)),
    *map(ip_network, ("0.0.0.0/0", "10.0.0.1/32", "10.1.0.0/16", "126.0.0.0/7", "127.0.0.1/32")),
    *map(ip_network, ("::/0", "::/127", "::1/128", "fd00::/8", "fd00::/64", "fd00::1/128")),
]
PORTS = [0, 1, 2, 79, 80, 81, 443, 1023, 1024, 8079, 8080, 65534, 65535]
PROTOCOLS = [1, 6, 17, 58, 132, 41]


def ref(index: str) -> RuleRef:
    return RuleRef("p", "default", "CiliumNetworkPolicy", "p.yaml", 1, index)


def policy(*rules: TrafficRule, default_deny: bool = True, selector: Selector | None = None, name: str = "p") -> Policy:
    return Policy(name, "default", "CiliumNetworkPolicy", "p.yaml", 1, selector or Selector(), rules, default_deny)


def compiled(*policies: Policy, direction: Direction = "egress", audit: bool = False) -> CompiledWorkload:
    return compile_workload(
        policies, namespace="default", cluster="default", labels={}, direction=direction, audit=audit
    )


@st.composite
def blocks(draw: st.DrawFn) -> CidrBlock:
    network = draw(st.sampled_from(NETWORKS))
    inside = [hole for hole in NETWORKS if hole.version == network.version and hole.subnet_of(network)]  # type: ignore[arg-type]
    return CidrBlock(network, tuple(draw(st.lists(st.sampled_from(inside), max_size=2))), draw(st.booleans()))


@st.composite
def port_ranges(draw: st.DrawFn, protocols: tuple[tuple[int, ...], ...] = (ANY_PROTOCOL, (TCP,), (UDP,))) -> PortRange:
    first, last = sorted((draw(st.sampled_from(PORTS)), draw(st.sampled_from(PORTS))))
    return PortRange(draw(st.sampled_from(protocols)), first, last)


@st.composite
def policies(draw: st.DrawFn) -> list[Policy]:
    made = []
    for number in range(draw(st.integers(1, 3))):
        rules = []
        for index in range(draw(st.integers(0, 3))):
            where = f"policies[{number}].egress[{index}]"
            peers = draw(st.none() | st.lists(blocks(), max_size=3).map(tuple))
            items = draw(st.none() | st.lists(st.booleans(), min_size=1, max_size=2))
            ports = None
            if items is not None:
                ports = tuple(draw(port_rules(f"{where}.toPorts[{n}]", l7)) for n, l7 in enumerate(items))
            rules.append(TrafficRule(peers, ports, ref(where)))
        made.append(policy(*rules, default_deny=draw(st.sampled_from([True, True, False])), name=f"p{number}"))
    return made


@st.composite
def port_rules(draw: st.DrawFn, where: str, has_l7: bool) -> PortRule:
    kinds: tuple[tuple[int, ...], ...] = ((TCP,),) if has_l7 else (ANY_PROTOCOL, (TCP,), (UDP,))
    ranges = tuple(draw(st.lists(port_ranges(kinds), min_size=1, max_size=2)))
    layer7 = Layer7("http", (HttpMatch("GET", f"/{where}", ref(f"{where}.http")),), ref(where)) if has_l7 else None
    return PortRule(ranges, layer7, ref(where))


def reaches(block: CidrBlock, address: Address, scope: int) -> bool:
    network: Network = block.network
    if address not in network or any(address in hole for hole in block.excepted):
        return False
    if scope == WORLD or block.is_host:
        return not (scope == WORLD and block.is_host)
    loopback = ip_network("127.0.0.0/8") if network.version == 4 else ip_network("::1/128")
    return network.prefixlen == network.max_prefixlen or network.subnet_of(loopback)  # type: ignore[arg-type]


def oracle(
    made: list[Policy], address: Address, scope: int, protocol: int, port: int
) -> tuple[Verdict, set[str | None]]:
    """The verdict, and the paths of the rules that judge requests (None: every request passes)."""
    if not any(one.egress and one.egress_default_deny for one in made):
        return Verdict.ALLOW, set()
    paths: set[str | None] = set()
    is_redirected = False
    for one in made:
        for rule in one.egress:
            if rule.peers is not None and not any(reaches(block, address, scope) for block in rule.peers):
                continue
            if rule.ports is None:
                if rule.peers is not None:
                    return Verdict.ALLOW, set()
                continue
            for item in rule.ports:
                if not any(protocol in r.protocols and r.first <= port <= r.last for r in item.ports):
                    continue
                if item.layer7 is None:
                    return Verdict.ALLOW, set()
                is_redirected = True
                paths |= {match.path for match in item.layer7.http}
                paths |= set() if one.egress_default_deny else {None}
    return (Verdict.REDIRECT, paths) if is_redirected else (Verdict.DENY, set())


def peer_in_one_trie(tables: CompiledWorkload, address: Address, scope: int) -> int:
    """The peer where one trie of 128 bits holds both versions, IPv4 as v4-mapped, as in the kernel."""
    number = int(address) + ((0xFFFF << 32) if address.version == 4 else 0)
    best = (-1, 0)
    for entry in tables.peers:
        is_v4 = entry.network.version == 4
        first = int(entry.network.network_address) + ((0xFFFF << 32) if is_v4 else 0)
        bits = entry.network.prefixlen + (96 if is_v4 else 0)
        if entry.scope == scope and number >> (128 - bits) == first >> (128 - bits):
            best = max(best, (bits, entry.peer))
    return best[1]


QUESTIONS = [(address, scope) for address in ADDRESSES for scope in ((HOST,) if address.is_loopback else (WORLD, HOST))]


@settings(max_examples=150, deadline=None)
@given(
    policies(),
    st.lists(
        st.tuples(st.sampled_from(QUESTIONS), st.sampled_from(PROTOCOLS), st.sampled_from(PORTS)),
        min_size=60,
        max_size=60,
    ),
)
@pytest.mark.slow
def test_two_longest_prefix_matches_say_what_the_rules_say(
    made: list[Policy], questions: list[tuple[tuple[Address, int], int, int]]
) -> None:
    tables = compiled(*made)
    for (address, scope), protocol, port in questions:
        verdict, paths = oracle(made, address, scope, protocol, port)
        answer = tables.judge_l4(address, scope, protocol, port)
        assert answer.verdict == verdict, (address, scope, protocol, port)
        assert peer_in_one_trie(tables, address, scope) == tables._peer(address, scope)
        assert {rule.path for rule in tables.rulesets[answer.ruleset].http} == paths
        assert (answer.ruleset > 0) == (verdict is Verdict.REDIRECT)
        assert (answer.rule > 0) == (verdict is not Verdict.DENY and tables.selected)


@settings(max_examples=100, deadline=None)
@given(policies())
@pytest.mark.slow
def test_tables_hold_no_deny_no_duplicate_and_no_dangling_number(made: list[Policy]) -> None:
    tables = compiled(*made)
    peer_keys = [(e.scope, e.network) for e in tables.peers]
    port_keys = [(e.peer, e.protocol, e.port, e.port_bits) for e in tables.ports]
    assert len(set(peer_keys)) == len(peer_keys)
    assert len(set(port_keys)) == len(port_keys)
    for entry in tables.ports:
        assert entry.verdict in (Verdict.ALLOW, Verdict.REDIRECT)
        assert entry.ruleset < len(tables.rulesets)
        assert entry.rule < len(tables.rules)
        assert entry.port & (0xFFFF >> entry.port_bits) == 0
    for ruleset in tables.rulesets[1:]:
        assert all(0 < rule.rule < len(tables.rules) for rule in ruleset.http)
    assert pickle.loads(pickle.dumps(tables)) == tables


@given(st.integers(0, 65535), st.integers(0, 65535))
@example(0, 65535)
@example(1, 65535)
@example(0, 65534)
def test_prefixes_cover_a_range_of_ports_exactly(one: int, other: int) -> None:
    first, last = sorted((one, other))
    pieces = port_prefixes(first, last)
    expected = first
    for port, bits in pieces:
        size = 1 << (16 - bits)
        assert port == expected
        assert port % size == 0
        expected += size
    assert expected == last + 1
    assert len(pieces) <= 30


def tcp(port: int, layer7: Layer7 | None = None) -> PortRule:
    return PortRule((PortRange((TCP,), port, port),), layer7, ref(f"ports {port}"))


def cidr(*networks: str) -> tuple[CidrBlock, ...]:
    return tuple(CidrBlock(ip_network(network)) for network in networks)


HTTP = Layer7("http", (HttpMatch("GET", "/jobs", ref("http")),), ref("rules"))
RELAY = Layer7("tcp", (), ref("relay"))


def test_a_workload_that_no_policy_selects_may_do_everything() -> None:
    tables = compiled()
    assert not tables.selected
    assert tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 80) == L4Verdict(Verdict.ALLOW, 0, 0)
    assert tables.policies == ()


def test_a_rule_without_peers_and_ports_selects_and_matches_nothing() -> None:
    tables = compiled(policy(TrafficRule(None, None, ref("egress[0]"))))
    assert tables.selected
    assert tables.ports == ()
    assert tables.judge_l4(ip_address("127.0.0.1"), HOST, TCP, 80).verdict is Verdict.DENY


def test_tables_that_are_empty_deny() -> None:
    empty = CompiledWorkload(False, (), (), (), (), ())
    assert empty.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 80).verdict is Verdict.DENY


def test_the_world_is_not_the_host() -> None:
    tables = compiled(policy(TrafficRule(cidr("0.0.0.0/0", "::/0"), None, ref("world"))))
    assert tables.judge_l4(ip_address("10.0.0.1"), WORLD, 1, 0).verdict is Verdict.ALLOW
    assert tables.judge_l4(ip_address("10.0.0.1"), HOST, TCP, 80).verdict is Verdict.DENY
    assert tables.judge_l4(ip_address("127.0.0.1"), HOST, TCP, 80).verdict is Verdict.DENY
    assert tables.judge_l4(ip_address("::1"), HOST, TCP, 80).verdict is Verdict.DENY


def test_an_exact_address_names_the_host() -> None:
    tables = compiled(policy(TrafficRule(cidr("10.0.0.1/32", "127.0.0.0/8"), None, ref("host"))))
    assert tables.judge_l4(ip_address("10.0.0.1"), HOST, TCP, 80).verdict is Verdict.ALLOW
    assert tables.judge_l4(ip_address("127.9.9.9"), HOST, TCP, 80).verdict is Verdict.ALLOW


def test_mapped_addresses_are_judged_as_ipv4() -> None:
    tables = compiled(policy(TrafficRule(cidr("10.0.0.0/8"), None, ref("v4"))))
    assert tables.judge_l4(ip_address("::ffff:10.0.0.1"), WORLD, TCP, 80).verdict is Verdict.ALLOW
    other = compiled(policy(TrafficRule(cidr("::/0"), None, ref("v6"))))
    assert other.judge_l4(ip_address("::ffff:10.0.0.1"), WORLD, TCP, 80).verdict is Verdict.DENY


def test_all_of_ipv6_is_no_peer_of_ipv4_in_a_common_trie() -> None:
    tables = compiled(
        policy(TrafficRule(cidr("::/0"), None, ref("v6")), TrafficRule(None, (tcp(53),), ref("anywhere")))
    )
    assert peer_in_one_trie(tables, ip_address("10.0.0.1"), WORLD) == 0
    assert tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 53).verdict is Verdict.ALLOW
    assert tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 80).verdict is Verdict.DENY
    assert tables.judge_l4(ip_address("fd00::1"), WORLD, TCP, 80).verdict is Verdict.ALLOW


def test_a_narrow_network_keeps_what_wider_ones_allow() -> None:
    tables = compiled(
        policy(
            TrafficRule(cidr("10.0.0.0/8"), (tcp(80),), ref("wide")),
            TrafficRule(cidr("10.0.0.1/32"), (tcp(443),), ref("narrow")),
            TrafficRule(None, (tcp(53),), ref("anywhere")),
        )
    )
    for port in (80, 443, 53):
        assert tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, port).verdict is Verdict.ALLOW
    assert tables.judge_l4(ip_address("10.0.0.2"), WORLD, TCP, 443).verdict is Verdict.DENY
    assert tables.judge_l4(ip_address("11.0.0.2"), WORLD, TCP, 53).verdict is Verdict.ALLOW


def test_exceptions_are_cut_out() -> None:
    block = CidrBlock(ip_network("10.0.0.0/8"), (ip_network("10.1.0.0/16"),))
    tables = compiled(policy(TrafficRule((block,), None, ref("set"))))
    assert tables.judge_l4(ip_address("10.2.0.1"), WORLD, UDP, 80).verdict is Verdict.ALLOW
    assert tables.judge_l4(ip_address("10.1.0.1"), WORLD, UDP, 80).verdict is Verdict.DENY


def test_a_plain_allow_cancels_l7_rules_only_for_the_peers_it_covers() -> None:
    tables = compiled(
        policy(
            TrafficRule(cidr("10.0.0.0/8"), (tcp(80, HTTP),), ref("l7")),
            TrafficRule(cidr("10.0.0.1/32"), None, ref("plain")),
        )
    )
    assert tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 80).verdict is Verdict.ALLOW
    assert tables.judge_l4(ip_address("10.0.0.2"), WORLD, TCP, 80).verdict is Verdict.REDIRECT


def test_two_kinds_of_l7_rules_on_one_port_are_an_error() -> None:
    rules = (
        TrafficRule(None, (tcp(80, HTTP),), ref("a")),
        TrafficRule(cidr("10.0.0.0/8"), (tcp(80, RELAY),), ref("b")),
    )
    with pytest.raises(PolicyConflictError, match=r"http rules and .* tcp rules"):
        compiled(policy(*rules))


def test_rule_sets_and_rules_name_their_origin() -> None:
    tables = compiled(policy(TrafficRule(None, (tcp(80, HTTP),), ref("l7"))))
    answer = tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 80)
    assert tables.rules[0].name == "default deny"
    assert tables.rules[answer.rule].name == "default/p ports 80"
    (rule,) = tables.rulesets[answer.ruleset].http
    assert tables.rules[rule.rule].name == "default/p http"


def test_the_host_is_not_the_world() -> None:
    host = (CidrBlock(ip_network("0.0.0.0/0"), is_host=True), CidrBlock(ip_network("::/0"), is_host=True))
    tables = compiled(
        policy(TrafficRule(host, None, ref("host")), TrafficRule(cidr("10.0.0.0/8"), (tcp(80),), ref("w")))
    )
    for address in ("127.0.0.1", "::1", "10.0.0.1", "192.0.2.1", "fd00::1"):
        assert tables.judge_l4(ip_address(address), HOST, TCP, 443).verdict is Verdict.ALLOW
        assert tables.judge_l4(ip_address(address), WORLD, TCP, 443).verdict is Verdict.DENY
    assert tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 80).verdict is Verdict.ALLOW


def test_a_http_rule_reaches_the_tables_whole() -> None:
    match = HttpMatch(
        "GET",
        "/q",
        ref("whole"),
        host="h",
        headers=(("x-a", "v"), ("x-b", None)),
        path_only=True,
        query="q",
        allow_body=True,
        websocket=True,
        connect=True,
        encoded=frozenset({"dot"}),
    )
    tables = compiled(policy(TrafficRule(None, (tcp(80, Layer7("http", (match,), ref("rules"))),), ref("l7"))))
    ((made,),) = [ruleset.http for ruleset in tables.rulesets[1:]]
    for field in dataclasses.fields(HttpRule):
        if field.name != "rule":
            assert getattr(made, field.name) == getattr(match, field.name), field.name
    assert tables.rules[made.rule] == match.ref


def test_l7_rules_of_a_policy_without_default_deny_refuse_nothing() -> None:
    open_80 = policy(TrafficRule(None, (tcp(80, HTTP),), ref("open")), default_deny=False, name="open")
    closed = policy(TrafficRule(None, (tcp(443),), ref("closed")))
    tables = compiled(open_80, closed)
    ruleset = tables.rulesets[tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 80).ruleset]
    assert tables.rules[ruleset.tls].index == "rules"
    judge = HttpMatcher(ruleset).judge
    for call in (
        HttpCall(b"GET", b"/jobs"),
        HttpCall(b"PUT", b"/other?x", b"host"),
        HttpCall(b"DELETE", b"/a", has_body=True),
        HttpCall(b"GET", b"/ws", is_websocket=True),
        HttpCall(b"CONNECT", b"db:5432"),
        HttpCall(b"GET", b"/a%2f%5c%2e%ff/..;x"),
        HttpCall(b"GET", b"/a//../b"),
    ):
        assert judge(call).allow, call
    assert not judge(HttpCall(b"GET", b"/a%00")).allow


def test_tls_passes_where_one_of_the_rules_says_so() -> None:
    tls = dataclasses.replace(HTTP, http=(), passes_tls=True, ref=ref("tls"))
    rules = (
        TrafficRule(cidr("10.0.0.0/8"), (tcp(80, HTTP),), ref("a")),
        TrafficRule(cidr("10.1.0.0/16"), (tcp(80, tls),), ref("b")),
    )
    tables = compiled(policy(*rules))
    for address, name in (("10.0.0.1", "default deny"), ("10.1.0.1", "tls")):
        ruleset = tables.rulesets[tables.judge_l4(ip_address(address), WORLD, TCP, 80).ruleset]
        assert (ruleset.kind, len(ruleset.http), tables.rules[ruleset.tls].index) == ("http", 1, name)
    alone = compiled(policy(TrafficRule(None, (tcp(80, tls),), ref("b"))))
    (only,) = alone.rulesets[1:]
    assert (only.kind, only.http, only.tls > 0) == ("http", (), True)
    assert not HttpMatcher(only).judge(HttpCall(b"GET", b"/")).allow


ANYWHERE_80 = TrafficRule(None, (tcp(80),), ref("80"))
ANYWHERE_443 = TrafficRule(None, (tcp(443),), ref("443"))


def test_each_direction_has_the_rules_and_the_default_of_its_own() -> None:
    both = dataclasses.replace(policy(ANYWHERE_80), ingress=(ANYWHERE_443,), ingress_default_deny=True)
    expected: tuple[tuple[Direction, int], ...] = (("egress", 80), ("ingress", 443))
    for direction, port in expected:
        tables = compiled(both, direction=direction)
        assert (tables.direction, tables.selected) == (direction, True)
        allowed = [n for n in (80, 443) if tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, n).rule]
        assert allowed == [port]


def test_a_policy_without_rules_in_a_direction_does_not_select_there() -> None:
    tables = compiled(policy(ANYWHERE_80), direction="ingress")
    assert not tables.selected
    assert tables.policies == ()
    assert tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 81).verdict is Verdict.ALLOW


def audited(*rules: TrafficRule, default_deny: bool = True) -> Policy:
    return dataclasses.replace(policy(*rules, default_deny=default_deny, name="watched"), audit=True)


def test_an_audit_policy_widens_no_policy_that_denies() -> None:
    tables = compiled(policy(ANYWHERE_80), audited(ANYWHERE_443))
    assert (tables.selected, tables.audit, tables.policies) == (True, False, ("default/p",))
    assert tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 443).verdict is Verdict.DENY
    assert tables == compiled(policy(ANYWHERE_80))


@pytest.mark.parametrize("beside", [(), (policy(ANYWHERE_80, default_deny=False),)])
def test_an_audit_policy_is_judged_where_nothing_else_denies(beside: tuple[Policy, ...]) -> None:
    tables = compiled(*beside, audited(ANYWHERE_443))
    assert (tables.selected, tables.audit) == (True, True)
    assert tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 443).verdict is Verdict.ALLOW
    assert tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 81).verdict is Verdict.DENY
    assert (tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 80).verdict is Verdict.ALLOW) == bool(beside)


def test_audit_is_of_the_direction_that_has_an_audit_policy() -> None:
    watched = dataclasses.replace(audited(), ingress=(ANYWHERE_80,), ingress_default_deny=True)
    assert compiled(watched, policy(ANYWHERE_80), direction="ingress").audit
    assert not compiled(watched, policy(ANYWHERE_80)).audit


def test_audit_for_a_whole_run_makes_every_policy_an_audit_policy() -> None:
    tables = compiled(policy(ANYWHERE_80), audited(ANYWHERE_443), audit=True)
    assert (tables.selected, tables.audit, tables.policies) == (True, True, ("default/p", "default/watched"))
    assert tables.judge_l4(ip_address("10.0.0.1"), WORLD, TCP, 443).verdict is Verdict.ALLOW
    assert not compiled(audit=True).audit


@pytest.mark.slow
def test_thousands_of_networks_compile_in_seconds() -> None:
    rules = tuple(
        TrafficRule(cidr(f"10.{n >> 8}.{n & 255}.0/24"), (tcp(1 + n % 50),), ref(f"egress[{n}]")) for n in range(10000)
    )
    tables = compiled(policy(*rules))
    assert len(tables.peers) == 10000
    assert tables.judge_l4(ip_address("10.1.2.3"), WORLD, TCP, 1 + 258 % 50).verdict is Verdict.ALLOW
    assert tables.judge_l4(ip_address("10.1.2.3"), WORLD, TCP, 2 + 258 % 50).verdict is Verdict.DENY
