"""What policy files mean, and what each mistake in them says."""
# ruff: noqa: E501  (a case is one line)

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from racecar.policy.compile import compile_workload
from racecar.policy.document import parse
from racecar.policy.load import Loaded, load_text
from racecar.policy.model import CidrBlock, HttpMatch, Policy

HEAD = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {matchLabels: {app: x}}
"""


def load(text: str | bytes) -> Loaded:
    return load_text(text.encode() if isinstance(text, str) else text, "p.yaml")


def spec(text: str) -> Loaded:
    """Load a policy whose spec has these lines after its selector, which are line 6 and following."""
    return load(HEAD + "".join(f"  {line}\n" for line in text.splitlines()))


def only(loaded: Loaded) -> Policy:
    assert [str(finding) for finding in loaded.findings if finding.level == "error"] == []
    (policy,) = loaded.policies
    return policy


def errors(loaded: Loaded) -> list[str]:
    assert loaded.policies == ()
    assert not loaded.ok
    return [str(finding) for finding in loaded.findings if finding.level == "error"]


def test_a_whole_policy_loads() -> None:
    policy = only(
        spec(
            'egress:\n- toCIDR: ["10.0.0.0/8", 192.0.2.1]\n  toPorts:\n  - ports: [{port: "80", protocol: TCP}]\n'
            "    rules:\n      http:\n      - {method: GET, path: /jobs.*}\n      - {}\n"
        )
    )
    assert policy.full_name == "default/p"
    assert policy.egress_default_deny
    (rule,) = policy.egress
    assert rule.peers is not None
    assert [block.network for block in rule.peers] == [ip_network("10.0.0.0/8"), ip_network("192.0.2.1/32")]
    assert rule.ports is not None
    layer7 = rule.ports[0].layer7
    assert layer7 is not None
    assert [(match.method, match.path) for match in layer7.http] == [("GET", "/jobs.*"), (None, None)]
    assert layer7.http[1].ref.name == "default/p egress[0].toPorts[0].rules.http[1]"
    assert layer7.http[1].ref.place == "p.yaml:13"


def test_a_racecar_policy_has_the_same_shape() -> None:
    text = HEAD.replace("cilium.io/v2", "racecar.io/v1").replace("CiliumNetworkPolicy", "RacecarPolicy")
    policy = only(load(text + '  egress: [{toPorts: [{ports: [{port: "0"}], rules: {}}]}]\n'))
    assert policy.kind == "RacecarPolicy"


@pytest.mark.parametrize(
    ("egress", "peers", "ports"),
    [
        ("egress: [{}]", None, None),
        ("egress: [{toPorts: null}]", None, None),
        ("egress: [{toCIDR: []}]", (), None),
        ("egress: [{toCIDR: [10.0.0.0/8], toPorts: []}]", 1, None),
    ],
)
def test_empty_rules_mean_what_they_mean_in_cilium(egress: str, peers: object, ports: object) -> None:
    (rule,) = only(spec(egress)).egress
    assert (rule.peers if peers in (None, ()) else len(rule.peers or ())) == peers
    assert rule.ports == ports


def test_port_zero_and_an_absent_protocol_are_every_port_and_protocol() -> None:
    (rule,) = only(spec('egress: [{toPorts: [{ports: [{port: "0"}, {port: "1", endPort: 9, protocol: UDP}]}]}]')).egress
    assert rule.ports is not None
    assert [(p.protocols, p.first, p.last) for p in rule.ports[0].ports] == [((6, 17, 132), 0, 65535), ((17,), 1, 9)]


@pytest.mark.parametrize("value", ["false", "False", "FALSE"])
def test_default_deny_can_be_switched_off(value: str) -> None:
    loaded = spec(
        f"enableDefaultDeny: {{egress: {value}}}\n"
        'egress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: "/a.*"}]}}]}]'
    )
    assert not only(loaded).egress_default_deny
    tables = compile_workload(loaded.policies, namespace="default", cluster="default", labels={"app": "x"})
    assert not tables.selected
    assert tables.policies == ("default/p",)


def test_specs_are_policies_of_one_name() -> None:
    one = "{endpointSelector: {}, egress: [{}, {toCIDR: [10.0.0.0/8]}]}"
    loaded = load(HEAD.split("spec:")[0] + f"specs: [{one}, {one}]\n")
    assert [policy.egress[1].ref.index for policy in loaded.policies] == ["specs[0].egress[1]", "specs[1].egress[1]"]


def test_a_list_and_several_documents_load() -> None:
    item = HEAD + "  egress: [{}]\n"
    listed = "apiVersion: v1\nkind: List\nmetadata: {resourceVersion: ''}\nitems:\n- " + item.replace("\n", "\n  ")
    loaded = load(listed + "\n---\n---\n" + item.replace("name: p", "name: q"))
    assert [policy.name for policy in loaded.policies] == ["p", "q"]


def test_exported_objects_load() -> None:
    text = HEAD.replace(
        "{name: p}",
        "{name: p, uid: 1-2, creationTimestamp: 2024-01-01T00:00:00Z, managedFields: [{f: {'f:a': {.: {}}}}]}",
    )
    only(load(text + "  egress: [{}]\nstatus: {conditions: [{status: 'True'}]}\n"))


def test_json_loads() -> None:
    only(
        load(
            '{"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy",\n\t"metadata": {"name": "p"}, '
            '"spec": {"endpointSelector": {}, "egress": [{"toPorts": [{"ports": [{"port": "80"}]}]}]}}'
        )
    )


def test_aliases_are_expanded() -> None:
    loaded = spec('egress:\n- toCIDR: &c [10.0.0.0/8]\n  toPorts: [{ports: &p [{port: "80"}]}]\n- {toCIDR: *c}')
    first, second = only(loaded).egress
    assert first.peers == second.peers


def test_other_objects_are_skipped_with_a_notice() -> None:
    loaded = load("apiVersion: v1\nkind: ConfigMap\ndata: {yes: no}\n---\napiVersion: apps/v1\nkind: Deployment\n")
    assert loaded.ok
    assert [str(finding) for finding in loaded.findings] == [
        'p.yaml:1:1: notice: skipped: "ConfigMap" of "v1" is no policy',
        'p.yaml:5:1: notice: skipped: "Deployment" of "apps/v1" is no policy',
    ]


PORT = 'egress: [{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: %s}]}]'

SPEC_ERRORS = {
    # unknown fields, and fields that nothing enforces yet
    "egress: [{toCidr: [10.0.0.0/8]}]": ('6:13: error: unknown field "toCidr" in egress[0]; allowed here: toCIDR, toCIDRSet, toPorts'),
    "egress: [{toEntities: [world]}]": "6:13: error: not supported yet: toEntities in egress[0]",
    "egress: [{toFQDNs: []}]": "6:13: error: not supported yet: toFQDNs in egress[0]",
    "egressDeny: [{}]\negress: [{}]": "6:3: error: not supported yet: egressDeny in spec",
    "audit: true\negress: [{}]": '6:3: error: unknown field "audit" in spec',
    PORT % "{dns: [{matchPattern: '*'}]}": "error: not supported yet: dns in egress[0].toPorts[0].rules",
    PORT % "{kafka: [{}]}": "error: not supported yet: kafka",
    PORT % "{http: [{headerMatches: []}]}": "error: not supported yet: headerMatches in egress[0].toPorts[0].rules.http[0]",
    PORT % "{http: [{query: a}]}": 'error: unknown field "query" in egress[0].toPorts[0].rules.http[0]; allowed here: method, path, host, headers',
    PORT % "{http: [{allowBody: true}]}": 'error: unknown field "allowBody"',
    PORT % "{http: [{allowEncoded: [slash]}]}": 'error: unknown field "allowEncoded"',
    PORT % "{http: [{websocket: true}]}": 'error: unknown field "websocket"',
    PORT % "{http: [{connect: true}]}": 'error: unknown field "connect"',
    PORT % "{tls: passthrough}": 'error: unknown field "tls" in egress[0].toPorts[0].rules; allowed here: http, l7proto',
    "ingress: [{fromEndpoints: []}]": "6:14: error: not supported yet: fromEndpoints in ingress[0]; allowed here: fromCIDR, fromCIDRSet, fromEntities, toPorts",
    "ingress: [{toCIDR: [10.0.0.0/8]}]": '6:14: error: unknown field "toCIDR" in ingress[0]',
    "egress: [{fromCIDR: [10.0.0.0/8]}]": '6:13: error: unknown field "fromCIDR" in egress[0]',
    "ingress: [{icmps: []}]": "error: not supported yet: icmps in ingress[0]",
    "ingressDeny: [{}]\negress: [{}]": "6:3: error: not supported yet: ingressDeny in spec",
    "ingress: [{fromEntities: [World]}]": '6:29: error: ingress[0].fromEntities "World" is unknown; allowed here: world, world-ipv4, world-ipv6, host, all, none',
    "ingress: [{fromEntities: [cluster]}]": '6:29: error: ingress[0].fromEntities "cluster" is not supported yet; allowed here: world,',
    "ingress: [{fromEntities: world}]": "ingress[0].fromEntities must be a list, not a string",
    "ingress: [{fromCIDR: [10.0.0.1/8]}]": "is not a CIDR: bits are set beyond the prefix",
    "ingress: [{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]}]": "is not inside cidr",
    "ingress: [{fromCIDR: [10.0.0.0/8], fromEntities: [host]}]": "6:52: error: ingress[0]: fromCIDR and fromEntities cannot stand in one rule; write two rules",
    "ingress: [{fromCIDRSet: [], fromEntities: []}]": "error: ingress[0]: fromCIDRSet and fromEntities cannot stand in one rule",
    "ingress: [{toPorts: [{ports: [{port: '80'}], rules: {http: [{}]}}]}]": "L7 rules need protocol: TCP",
    "enableDefaultDeny: {ingress: no}\ningress: [{}]": "enableDefaultDeny.ingress must be true or false",
    PORT % "{http: [{pathOnly: true}]}": 'error: unknown field "pathOnly"',
    PORT % "{http: [{Method: GET}]}": 'error: unknown field "Method"',
    PORT % "{l7proto: envoy}": 'error: not supported yet: l7proto "envoy"; allowed here: tcp',
    PORT % "{l7proto: tcp, http: [{}]}": "error: egress[0].toPorts[0].rules: http and l7proto",
    "egress: [{toPorts: [{ports: [{port: '80'}], serverNames: [a]}]}]": "error: not supported yet: serverNames",
    # nothing to enforce
    "egress: []": "6:11: error: spec needs egress or ingress rules; an empty list selects nothing",
    "ingress: []": "6:12: error: spec needs egress or ingress rules",
    "ingress: []\negress: []": "error: spec needs egress or ingress rules",
    "egress: null": "5:3: error: spec needs egress or ingress rules",
    # wrong types
    "egress: {}": "6:11: error: egress must be a list, not a mapping",
    "egress: [null]": "6:12: error: egress[0] is empty",
    "egress: [x]": "6:12: error: egress[0] must be a mapping, not a string",
    "egress: [{toCIDR: 10.0.0.0/8}]": "6:21: error: egress[0].toCIDR must be a list, not a string",
    "egress: [{toCIDR: [10]}]": '6:22: error: egress[0].toCIDR[0] must be a string, not a number: write "10" in quotes',
    "egress: [{toPorts: [{}]}]": "6:23: error: egress[0].toPorts[0] needs ports",
    "egress: [{toPorts: [{ports: []}]}]": "error: egress[0].toPorts[0].ports is empty",
    "egress: [{toPorts: [{ports: [{}]}]}]": "error: egress[0].toPorts[0].ports[0] needs port",
    "egress: [{toPorts: [{ports: [{port: 80}]}]}]": '6:39: error: egress[0].toPorts[0].ports[0].port must be a string, not a number: write "80" in quotes',
    "egress: [{toPorts: [{ports: [{port: '80', endPort: '90'}]}]}]": "must be a decimal number, without quotes, not a string",
    "egress: [{toPorts: [{ports: [{port: '80', endPort: 0x5a}]}]}]": "error: egress[0].toPorts[0].ports[0].endPort must be a decimal",
    "enableDefaultDeny: {egress: no}\negress: [{}]": '6:31: error: enableDefaultDeny.egress must be true or false, not "no"',
    "enableDefaultDeny: {egress: 'false'}\negress: [{}]": "6:31: error: enableDefaultDeny.egress must be true or false",
    "enableDefaultDeny: false\negress: [{}]": "6:22: error: enableDefaultDeny must be a mapping, not a boolean",
    "description: yes\negress: [{}]": '6:16: error: description: yes is a boolean to some YAML readers: write "yes" in quotes',
    PORT % "{http: {}}": "error: egress[0].toPorts[0].rules.http must be a list, not a mapping",
    PORT % "{http: [GET]}": "rules.http[0] must be a mapping, not a string",
    PORT % "{http: [null]}": "rules.http[0] is empty",
    PORT % "[]": "error: egress[0].toPorts[0].rules must be a mapping, not a list",
    PORT % "{http: [{method: [GET]}]}": "error: method must be a string, not a list",
    PORT % "{http: [{method: on}]}": "error: method: on is a boolean to some YAML readers",
    PORT % "{http: [{path: 1.10}]}": "error: path must be a string, not a number",
    PORT % "{http: [{host: 1.10}]}": "error: host must be a string, not a number",
    PORT % "{http: [{headers: 'X-A: v'}]}": "rules.http[0].headers must be a list, not a string",
    PORT % "{http: [{headers: [X-A: v]}]}": 'rules.http[0].headers[0] must be a string, not a mapping: write "NAME: VALUE" in quotes',
    PORT % "{http: [{headers: ['']}]}": 'error: "" names no header: NAME, or NAME: VALUE',
    PORT % "{http: [{headers: [' v']}]}": 'error: " v" names no header',
    PORT % "{http: [{headers: ['X(A): v']}]}": 'error: "X(A): v" names no header',
    PORT % "{http: [{headers: ['X:A: v']}]}": 'error: "X:A: v" names no header',
    PORT % "{http: [{headers: [':path: /a']}]}": 'error: ":path: /a" names no header: use method, path or host',
    PORT % "{http: [{headers: [':authority']}]}": "names no header: use method, path or host",
    # ports
    "egress: [{toPorts: [{ports: [{port: '65536'}]}]}]": 'port "65536" is not a decimal number from 0 to 65535',
    "egress: [{toPorts: [{ports: [{port: '080'}]}]}]": 'port "080" is not a decimal number',
    "egress: [{toPorts: [{ports: [{port: '0x50'}]}]}]": 'port "0x50" is not a decimal number',
    "egress: [{toPorts: [{ports: [{port: '-1'}]}]}]": 'port "-1" is not a decimal number',
    "egress: [{toPorts: [{ports: [{port: ''}]}]}]": 'port "" is not a decimal number',
    "egress: [{toPorts: [{ports: [{port: ' 80'}]}]}]": 'port " 80" is not a decimal number',
    "egress: [{toPorts: [{ports: [{port: '80\\u0661'}]}]}]": "is not a decimal number",
    "egress: [{toPorts: [{ports: [{port: http}]}]}]": 'error: not supported yet: named port "http"',
    "egress: [{toPorts: [{ports: [{port: '80', endPort: 79}]}]}]": "endPort 79 is below port 80",
    "egress: [{toPorts: [{ports: [{port: '0', endPort: 79}]}]}]": "endPort cannot stand beside port 0",
    "egress: [{toPorts: [{ports: [{port: '1', endPort: 65536}]}]}]": "endPort must be from 1 to 65535",
    "egress: [{toPorts: [{ports: [{port: '1', endPort: %s}]}]}]" % ("9" * 5000): "endPort must be from 1 to 65535",
    "egress: [{toPorts: [{ports: [{port: '1', protocol: tcp}]}]}]": 'protocol "tcp" is unknown; allowed here: TCP, UDP, SCTP, ANY',
    "egress: [{toPorts: [{ports: [{port: '1', protocol: ICMP}]}]}]": 'protocol "ICMP" is not supported yet',
    "egress: [{toPorts: [{ports: [{port: '80'}], rules: {http: [{}]}}]}]": "L7 rules need protocol: TCP",
    "egress: [{toPorts: [{ports: [{port: '80', protocol: UDP}], rules: {l7proto: tcp}}]}]": "L7 rules need protocol: TCP",
    "egress: [{toPorts: [{ports: [{port: '0', protocol: TCP}], rules: {http: [{}]}}]}]": "L7 rules cannot stand on port 0",
    # addresses
    "egress: [{toCIDR: [10.0.0.1/8]}]": 'error: "10.0.0.1/8" is not a CIDR: bits are set beyond the prefix; the network is 10.0.0.0/8',
    "egress: [{toCIDR: [10.0.0.0/33]}]": "the prefix length must be from 0 to 32",
    "egress: [{toCIDR: [10.0.0.0/08]}]": "the prefix length must be",
    "egress: [{toCIDR: [10.0.0.0/]}]": "the prefix length must be",
    "egress: [{toCIDR: [10.0.0.0/255.0.0.0]}]": "the prefix length must be",
    "egress: [{toCIDR: [10.0.0/8]}]": '"10.0.0" is not an IPv4 or IPv6 address',
    "egress: [{toCIDR: [010.0.0.0/8]}]": "is not an IPv4 or IPv6 address",
    "egress: [{toCIDR: ['']}]": "is not an IPv4 or IPv6 address",
    "egress: [{toCIDR: [localhost]}]": "is not an IPv4 or IPv6 address",
    "egress: [{toCIDR: ['fe80::1%eth0']}]": "a scope cannot be matched",
    "egress: [{toCIDR: ['fe80::/129']}]": "the prefix length must be from 0 to 128",
    "egress: [{toCIDR: ['::ffff:10.0.0.0/104']}]": "write the IPv4 network",
    "egress: [{toCIDR: [10.0.0.0/8], toCIDRSet: [{cidr: 11.0.0.0/8}]}]": "toCIDR and toCIDRSet cannot stand in one rule",
    "egress: [{toCIDRSet: [{}]}]": "error: egress[0].toCIDRSet[0] needs cidr",
    "egress: [{toCIDRSet: [{cidrGroupRef: g}]}]": "error: not supported yet: cidrGroupRef",
    "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]}]": 'except "11.0.0.0/16" is not inside cidr "10.0.0.0/8"',
    "egress: [{toCIDRSet: [{cidr: 10.0.0.0/8, except: ['::/16']}]}]": "is not inside cidr",
    # patterns
    PORT % "{http: [{path: '/('}]}": 'rules.http[0].path "/(" is not an RE2 pattern: missing )',
    PORT % "{http: [{path: '/(?=a)'}]}": "is not an RE2 pattern: invalid perl operator: (?=",
    PORT % "{http: [{path: '/\\1'}]}": "is not an RE2 pattern: invalid escape sequence",
    PORT % "{http: [{host: '*.example.com'}]}": 'rules.http[0].host "*.example.com" is not an RE2 pattern: no argument for repetition operator',
    PORT % "{http: [{method: '*'}]}": "is not an RE2 pattern: no argument for repetition operator",
    PORT % "{http: [{path: '/((a{1000}){1000}){1000}'}]}": "is not an RE2 pattern",
    # duplicate keys, in the policy and beside it
    "egress: [{}]\negress: [{toCIDR: [0.0.0.0/0]}]": '7:3: error: duplicate key "egress", first on line 6',
    "egress: [{}]\n'egress': [{}]": '7:3: error: duplicate key "egress"',
    "egress: [{<<: {}}]": 'error: unknown field "<<"',
    "egress: [{? [a] : b}]": "a key must be a string, not a sequence",
    "egress: [{1: b}]": "error: a key must be a string, not a number",
    # YAML itself
    "egress: [": "error: not YAML: ",
    "egress: [{}}": "error: not YAML: ",
    "egress: *nothing": 'alias "nothing" names no anchor',
    "egress: &a [*a]": 'alias "a" stands inside what it names',
    "egress: !!python/object:os.system [x]": "is not supported: leave it out",
    "egress: !mine [x]": "is not supported: leave it out",
    "egress: !!binary aGk=": "is not supported: leave it out",
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), SPEC_ERRORS.items())
def test_mistakes_in_a_spec_are_errors_with_their_place(text: str, message: str) -> None:
    found = errors(spec(text))
    assert any(message in error for error in found), found
    assert all(error.startswith("p.yaml:") for error in found)


SELECTORS = {
    "{matchLabels: {app: 1}}": "matchLabels.app must be a string, not a number",
    "{matchLabels: {app: yes}}": "matchLabels.app: yes is a boolean",
    "{matchLabels: {app: true}}": "must be a string, not a boolean",
    "{matchLabels: {on: x}}": "a key of endpointSelector.matchLabels: on is a boolean",
    "{matchLabels: {app: null}}": "must be a string, not null",
    "{matchLabels: [app]}": "matchLabels must be a mapping, not a list",
    "{matchLabels: {'a b': x}}": '"a b" is not a label key',
    "{matchLabels: {'/x': x}}": '"/x" is not a label key',
    "{matchLabels: {app: 'a b'}}": '"a b" is not a label value',
    "{matchLabel: {app: x}}": 'unknown field "matchLabel" in endpointSelector; allowed here: matchLabels, matchExpressions',
    "{matchExpressions: [{key: a, operator: in, values: [b]}]}": 'operator "in" is unknown; allowed here: In, NotIn, Exists',
    "{matchExpressions: [{key: a, operator: In}]}": "operator In needs values",
    "{matchExpressions: [{key: a, operator: NotIn, values: []}]}": "operator NotIn needs values",
    "{matchExpressions: [{key: a, operator: Exists, values: [b]}]}": "operator Exists takes no values",
    "{matchExpressions: [{operator: Exists}]}": "matchExpressions[0] needs key",
    "{matchExpressions: [{key: a}]}": "matchExpressions[0] needs operator",
    "{matchExpressions: {key: a}}": "matchExpressions must be a list",
    "null": "spec needs endpointSelector",
    "x": "endpointSelector must be a mapping, not a string",
}  # fmt: skip


@pytest.mark.parametrize(("selector", "message"), SELECTORS.items())
def test_mistakes_in_a_selector_are_errors(selector: str, message: str) -> None:
    text = HEAD.replace("{matchLabels: {app: x}}", selector) + "  egress: [{}]\n"
    found = errors(load(text))
    assert any(message in error for error in found), found


GOOD = HEAD + "  egress: [{}]\n"

OBJECTS = {
    "x": "1:1: error: a document must be a mapping, not a string",
    "[]": "1:1: error: a document must be a mapping, not a list",
    "kind: X": "1:1: error: a document needs apiVersion",
    "apiVersion: v1": "1:1: error: a document needs kind",
    "apiVersion: 1\nkind: X": "1:13: error: apiVersion must be a string, not a number",
    GOOD.replace("cilium.io/v2", "cilium.io/v3"): '1:13: error: unknown version "v3" of cilium.io',
    GOOD.replace("cilium.io/v2", "Cilium.io/v2"): '1:13: error: apiVersion "Cilium.io/v2" is unknown',
    GOOD.replace("cilium.io/v2", "cilium.io"): '1:13: error: apiVersion "cilium.io" is unknown',
    GOOD.replace("CiliumNetworkPolicy", "CiliumNetworkPolicies"): '2:7: error: unknown kind "CiliumNetworkPolicies"',
    GOOD.replace("CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"): "2:7: error: not supported yet: kind Cilium",
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy": "2:7: error: not supported yet: kind NetworkPolicy",
    GOOD.replace("{name: p}", "{}"): "3:11: error: metadata needs name",
    GOOD.replace("{name: p}", "{name: P_}"): 'metadata.name "P_" must be lower-case',
    GOOD.replace("{name: p}", "{name: p, namespace: a.b}"): 'metadata.namespace "a.b" must be',
    GOOD.replace("{name: p}", "{name: p, namespace: no}"): "namespace: no is a boolean",
    GOOD.replace("{name: p}", "{name: p, labels: {a: 1}}"): "metadata.labels.a must be a string",
    GOOD.replace("{name: p}", "{name: p, nmespace: x}"): 'unknown field "nmespace" in metadata',
    GOOD.replace("spec:", "sepc:"): '4:1: error: unknown field "sepc" in CiliumNetworkPolicy',
    GOOD.split("spec:")[0]: "1:1: error: CiliumNetworkPolicy needs spec or specs",
    GOOD.split("spec:")[0] + "specs: []": "1:1: error: CiliumNetworkPolicy needs spec or specs",
    GOOD + "---\n" + GOOD: "8:1: error: CiliumNetworkPolicy default/p stands already at p.yaml:1",
    GOOD + "---\napiVersion: v1\nkind: ConfigMap\ndata: {a: 1, a: 2}\n": '10:14: error: duplicate key "a", first on line 10',
    GOOD + "status: {a: 1, a: 2}\n": 'error: duplicate key "a"',
    GOOD + "---\nx: [": "error: not YAML",
    GOOD.replace("app: x", "app: x\u2028"): "character U+2028 is not allowed",
    GOOD + "# \u202e": "7:3: error: character U+202E is not allowed",
    GOOD + "# \x07": "7:3: error: character U+0007 is not allowed",
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), OBJECTS.items())
def test_mistakes_in_an_object_are_errors(text: str, message: str) -> None:
    found = errors(load(text))
    assert any(message in error for error in found), found


def test_bytes_that_are_not_utf8_are_errors_with_their_place() -> None:
    assert errors(load(b"a: b\nc: \xff\n")) == ["p.yaml:2:4: error: byte 0xff is not UTF-8"]
    assert "UTF-8" in errors(load("a: b".encode("utf-16")))[0]


def test_half_a_surrogate_pair_is_an_error_with_either_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    assert errors(spec('description: "\\ud800"\negress: [{}]'))
    monkeypatch.delattr("yaml.CSafeLoader")
    assert "surrogate" in errors(spec('description: "\\ud800"\negress: [{}]'))[0]


def test_a_byte_order_mark_is_no_column() -> None:
    assert errors(load(b"\xef\xbb\xbfx"))[0].startswith("p.yaml:1:1: ")


def test_bombs_are_refused_before_they_unfold() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    assert "aliases expand to more than" in errors(load("\n".join(levels)))[0]


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 100_000, "- " * 100_000, "? " * 100_000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert "nested deeper than 64" in errors(load(text))[0]


def test_nesting_through_aliases_is_refused() -> None:
    half = "[" * 40 + "]" * 40
    assert "nested deeper than 64 levels by an alias" in errors(load(f"a: &a {half}\nb: {'[' * 40}*a{']' * 40}"))[0]


def test_a_file_over_the_limit_is_refused_unread() -> None:
    assert errors(load(b"#" * (16 * 1024 * 1024 + 1))) == ["p.yaml:1:1: error: larger than 16777216 bytes"]


def test_findings_are_bounded_and_still_an_error() -> None:
    loaded = spec("egress:\n" + "- {toPorts: []}\n" * 500 + "- {x: y}\n")
    assert not loaded.ok
    assert len(loaded.findings) < 300


def test_duplicate_keys_count_among_the_findings_of_their_file() -> None:
    loaded = load("d: [" + "{a: , a: }, " * 150 + "]\n---\n" + "- x: y\n" * 100 + "---\n" + "x\n---\n" * 100)
    assert not loaded.ok
    assert len(loaded.findings) == 201
    assert "more than 200 findings" in str(loaded.findings[-1])


def test_reading_stops_at_too_many_duplicate_keys() -> None:
    parsed = parse(b"a: 1\n" * 1000, "p.yaml")
    assert len(parsed.findings) == 200
    assert parsed.error is not None
    assert (parsed.error.line, parsed.documents) == (202, [])


def test_a_finding_is_one_line_without_control_bytes() -> None:
    (error,) = errors(spec('egress: [{"a\\n\\e[31m": x}]'))
    assert error.isprintable()


def test_one_error_leaves_no_policy_at_all() -> None:
    loaded = load(GOOD + "---\n" + GOOD.replace("name: p", "name: q").replace("[{}]", "[{x: y}]"))
    assert loaded.policies == ()
    assert not loaded.ok


RACECAR = HEAD.replace("cilium.io/v2", "racecar.io/v1").replace("CiliumNetworkPolicy", "RacecarPolicy")

RACECAR_ERRORS = {
    "audit: yes\negress: [{}]": '6:10: error: spec.audit must be true or false, not "yes"',
    "audit: 'true'\negress: [{}]": "6:10: error: spec.audit must be true or false",
    PORT % "{http: [{allowBody: 1}]}": "rules.http[0].allowBody must be true or false",
    PORT % "{http: [{websocket: 'yes'}]}": "rules.http[0].websocket must be true or false",
    PORT % "{http: [{connect: [x]}]}": "rules.http[0].connect must be true or false",
    PORT % "{http: [{path: /a.*, pathOnly: x}]}": "rules.http[0].pathOnly must be true or false",
    PORT % "{http: [{pathOnly: true}]}": "error: egress[0].toPorts[0].rules.http[0]: pathOnly needs path",
    PORT % "{http: [{query: '('}]}": 'rules.http[0].query "(" is not an RE2 pattern: missing )',
    PORT % "{http: [{allowEncoded: slash}]}": "rules.http[0].allowEncoded must be a list, not a string",
    PORT % "{http: [{allowEncoded: [Slash]}]}": 'rules.http[0].allowEncoded "Slash" is unknown; allowed here: slash, backslash, dot, bytes, params',
    PORT % "{http: [{allowEncoded: [true]}]}": "rules.http[0].allowEncoded[0] must be a string, not a boolean",
    PORT % "{tls: true}": "error: tls must be a string, not a boolean",
    PORT % "{tls: terminate}": 'error: tls "terminate" is unknown; allowed here: passthrough',
    PORT % "{tls: passthrough, l7proto: tcp}": "rules: tls and l7proto cannot stand on one port",
    PORT % "{httpDeny: [{}]}": "error: not supported yet: httpDeny",
    PORT % "{grpc: [{}]}": "error: not supported yet: grpc",
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), RACECAR_ERRORS.items())
def test_mistakes_in_what_racecar_adds_are_errors(text: str, message: str) -> None:
    found = errors(racecar(text))
    assert any(message in error for error in found), found


def racecar(text: str) -> Loaded:
    return load(RACECAR + "".join(f"  {line}\n" for line in text.splitlines()))


def match(http: str, reader: Callable[[str], Loaded] = racecar) -> HttpMatch:
    (rule,) = only(reader(PORT % f"{{http: [{http}]}}")).egress
    assert rule.ports is not None
    assert rule.ports[0].layer7 is not None
    (found,) = rule.ports[0].layer7.http
    return found


def test_every_field_of_a_http_rule_is_read() -> None:
    empty = HttpMatch(None, None, match("{}").ref)
    assert match("{}") == empty
    for text, field, value in (
        ("method: GET|PUT", "method", "GET|PUT"),
        ("path: /a.*", "path", "/a.*"),
        ("host: 'a\\.b'", "host", "a\\.b"),
        ("query: 'v=[0-9]+'", "query", "v=[0-9]+"),
        ("query: ''", "query", ""),
        ("allowBody: true", "allow_body", True),
        ("websocket: true", "websocket", True),
        ("connect: true", "connect", True),
        ("allowBody: false", "allow_body", False),
        ("allowEncoded: [slash, dot, slash]", "encoded", frozenset({"slash", "dot"})),
        ("allowEncoded: []", "encoded", frozenset()),
    ):
        assert match(f"{{{text}}}") == dataclasses.replace(empty, **{field: value}), text
    both = match("{path: /a.*, pathOnly: true}")
    assert (both.path, both.path_only) == ("/a.*", True)


@pytest.mark.parametrize(
    ("text", "header"),
    [
        ("X-A: v", ("x-a", "v")),
        ("X-A", ("x-a", None)),
        ("X-A v", ("x-a", "v")),  # as Cilium reads it
        ("X-A: v w", ("x-a", "v w")),
        ("X-A: ", ("x-a", "")),
        ("X-A:  v", ("x-a", " v")),
        ("X-A:v", ("x-a:v", None)),
        ("X-A:", ("x-a:", None)),
        ("X-A:: v", ("x-a", "v")),
    ],
)
def test_headers_are_cut_where_cilium_cuts_them(text: str, header: tuple[str, str | None]) -> None:
    for reader in (spec, racecar):
        assert match(f"{{headers: ['{text}']}}", reader).headers == (header,)


def test_tls_passthrough_stands_alone_or_beside_http() -> None:
    for text, count in (("{tls: passthrough}", 0), ("{tls: passthrough, http: [{}]}", 1)):
        loaded = racecar(PORT % text)
        (rule,) = only(loaded).egress
        assert rule.ports is not None
        layer7 = rule.ports[0].layer7
        assert layer7 is not None
        assert (layer7.kind, len(layer7.http), layer7.passes_tls) == ("http", count, True)
        assert [finding.slug for finding in loaded.findings] == ["tls-opaque"]
        tables = compile_workload(loaded.policies, namespace="default", cluster="default", labels={"app": "x"})
        (ruleset,) = tables.rulesets[1:]
        assert tables.rules[ruleset.tls].index == "egress[0].toPorts[0].rules"


def test_audit_is_read() -> None:
    assert only(racecar("audit: true\negress: [{}]")).audit
    assert not only(racecar("audit: false\negress: [{}]")).audit
    assert not only(racecar("egress: [{}]")).audit


WHOLE_IPV4, WHOLE_IPV6 = CidrBlock(ip_network("0.0.0.0/0")), CidrBlock(ip_network("::/0"))
HOST_BLOCKS = tuple(dataclasses.replace(block, is_host=True) for block in (WHOLE_IPV4, WHOLE_IPV6))


@pytest.mark.parametrize(
    ("rule", "peers"),
    [
        ("{}", None),
        ("{fromCIDR: []}", ()),
        ("{fromCIDR: [10.0.0.0/8]}", (CidrBlock(ip_network("10.0.0.0/8")),)),
        (
            "{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [10.1.0.0/16]}]}",
            (CidrBlock(ip_network("10.0.0.0/8"), (ip_network("10.1.0.0/16"),)),),
        ),
        ("{fromEntities: []}", ()),
        ("{fromEntities: [none]}", ()),
        ("{fromEntities: [world]}", (WHOLE_IPV4, WHOLE_IPV6)),
        ("{fromEntities: [world-ipv4]}", (WHOLE_IPV4,)),
        ("{fromEntities: [world-ipv6]}", (WHOLE_IPV6,)),
        ("{fromEntities: [host]}", HOST_BLOCKS),
        ("{fromEntities: [host, none, world-ipv4]}", (*HOST_BLOCKS, WHOLE_IPV4)),
        ("{fromEntities: [all, host]}", (WHOLE_IPV4, WHOLE_IPV6, *HOST_BLOCKS)),
    ],
)
@pytest.mark.parametrize("reader", [spec, racecar])
def test_peers_of_ingress(reader: Callable[[str], Loaded], rule: str, peers: object) -> None:
    policy = only(reader(f"ingress: [{rule}]"))
    (read,) = policy.ingress
    assert read.peers == peers
    assert policy.egress == ()
    assert (policy.egress_default_deny, policy.ingress_default_deny) == (False, True)


INGRESS = 'ingress: [{fromEntities: [world], toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: "/a.*"}]}}]}]'


def test_rules_of_ingress_are_named_by_their_place() -> None:
    (rule,) = only(spec(INGRESS)).ingress
    assert rule.ports is not None
    assert rule.ports[0].layer7 is not None
    assert rule.ports[0].layer7.http[0].ref.name == "default/p ingress[0].toPorts[0].rules.http[0]"


@pytest.mark.parametrize("direction", ["ingress", "egress"])
def test_default_deny_is_of_each_direction_with_rules(direction: str) -> None:
    policy = only(spec(f"enableDefaultDeny: {{{direction}: false}}\ningress: [{{}}]\negress: [{{}}]"))
    assert (policy.egress_default_deny, policy.ingress_default_deny) == (direction != "egress", direction != "ingress")


WARNINGS = {
    PORT % "{http: [{path: '/a.*', host: 'api.example.com'}]}": "host-dot",
    PORT % "{http: [{host: 'a.b'}]}": "host-dot",
    PORT % "{http: [{headers: ['X-A: v']}]}": "header-case",
    PORT % "{http: [{headers: ['X-A: v']}, {headers: ['X-B: w', 'X-C: x']}]}": "header-case",  # once
    PORT % "{http: [{headers: ['X-A:v']}]}": "header-colon",
    PORT % "{http: [{headers: ['X-A:']}]}": "header-colon",
    PORT % "{http: [{headers: ['X-A:  1']}]}": "header-space",
    PORT % "{http: [{path: '/logs/_search.*'}]}": "body-refused",
    PORT % "{http: [{method: DELETE, path: '/items/batch.*'}]}": "body-refused",
    PORT % "{http: [{method: GET, path: '/ws.*'}]}": "websocket-refused",
    PORT % "{http: [{path: '/ws(/.*)?'}]}": "websocket-refused",
    PORT % "{http: [{path: '/socket\\.io/.*'}]}": "websocket-refused",
    PORT % "{http: [{path: '/api/websocket/.*'}]}": "websocket-refused",
    PORT % "{http: [{method: CONNECT}]}": "connect-refused",
    PORT % "{http: [{method: 'GET|CONNECT'}]}": "connect-refused",
    "egress: []\ningress: [{}]": "empty-direction",
    "enableDefaultDeny: {ingress: true}\negress: [{}]": "default-deny",
    "ingress: [{fromEntities: [none]}]": "empty-peers",
    PORT % "{http: [{path: /jobs}]}": "path-exact",
    PORT % "{http: [{path: ''}]}": "empty-pattern",
    PORT % "{http: []}": "empty-rules",
    PORT % "{}": "empty-rules",
    "egress: [{toCIDR: []}]": "empty-peers",
    "egress: [{toPorts: []}]": "empty-ports",
    (PORT % "{http: [{}]}") + "\n- {toCIDR: [10.0.0.0/8]}": None,
}


@pytest.mark.parametrize(("text", "slug"), [pair for pair in WARNINGS.items() if pair[1]])
def test_doubtful_rules_load_with_a_warning(text: str, slug: str) -> None:
    loaded = spec(text)
    only(loaded)
    assert slugs(loaded) == [slug]


QUIET = [
    "{path: /jobs.*}",
    "{path: '', method: GET}",
    "{host: 'api\\.example\\.com(:[0-9]+)?'}",
    "{host: '.*'}",
    "{host: '.+\\.example'}",
    "{host: '[a.]x'}",
    "{headers: [X-A, 'X-B: 17']}",
    "{method: POST, path: '/logs/_search.*'}",
    "{method: DELETE, path: '/items/[0-9]+'}",
    "{method: GET}",
    "{method: POST, path: '/ws/.*'}",
    "{path: '/wsdl.*'}",
    "{path: '/news.*'}",
    "{method: '.*'}",
]


@pytest.mark.parametrize("http", QUIET)
def test_what_is_plain_draws_no_warning(http: str) -> None:
    assert slugs(spec(PORT % f"{{http: [{http}]}}")) in ([], ["empty-pattern"])


@pytest.mark.parametrize(
    ("http", "found"),
    [
        ("{path: /jobs, pathOnly: true}", []),
        ("{path: /jobs, query: 'v=1'}", ["path-exact"]),
        ("{path: /jobs, pathOnly: true, query: 'v=1'}", []),
        ("{path: '/x/_search.*'}", ["body-refused"]),
        ("{path: '/x/_search.*', allowBody: true}", []),
        ("{path: '/x/_search.*', allowBody: false}", []),
        ("{path: '/ws.*', websocket: true}", []),
        ("{method: CONNECT, connect: true}", []),
    ],
)
def test_what_a_grant_answers_draws_no_warning(http: str, found: list[str]) -> None:
    assert slugs(racecar(PORT % f"{{http: [{http}]}}")) == found


def slugs(loaded: Loaded) -> list[str | None]:
    """But for override-headers, which nearly every file with HTTP rules has."""
    return [finding.slug for finding in loaded.findings if finding.slug != "override-headers"]


OVERRIDE = PORT % "{http: [{method: GET, headers: ['X-HTTP-Method-Override: GET']}, {path: '/a.*'}]}"


def test_headers_that_change_the_call_are_one_warning_a_load() -> None:
    plain = PORT % "{http: [{}, {path: '/a.*'}, {path: '/b.*'}]}"
    loaded = load(f"{HEAD}  {plain}\n---\n{HEAD.replace('name: p', 'name: q')}  {plain}\n")
    assert [finding.slug for finding in loaded.findings] == ["override-headers"]
    assert str(loaded.findings[0]).startswith("p.yaml:6:81: warning: servers that honour X-HTTP-Method-Override,")
    assert "override-headers" not in [finding.slug for finding in spec(OVERRIDE).findings]
    assert spec(PORT % "{http: [{}]}").findings == ()
    assert [finding.slug for finding in spec(INGRESS).findings] == ["override-headers"]


L7_80 = '{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{path: "/a.*"}]}}]}'
RELAY_80 = '{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {l7proto: tcp}}]}'


@pytest.mark.parametrize(
    "plain",
    [
        "{toCIDR: [10.0.0.0/8]}",
        '{toPorts: [{ports: [{port: "80", protocol: TCP}]}]}',
        '{toPorts: [{ports: [{port: "0"}]}]}',
        '{toPorts: [{ports: [{port: "79", endPort: 81}]}]}',
    ],
)
def test_an_allow_that_cancels_l7_rules_is_a_warning(plain: str) -> None:
    loaded = spec(f"egress:\n- {L7_80}\n- {plain}")
    only(loaded)
    (finding,) = [finding for finding in loaded.findings if finding.slug != "override-headers"]
    assert finding.slug == "l4-cancels-l7"
    assert "default/p egress[1]" in finding.text
    assert "p.yaml:8" in finding.text


@pytest.mark.parametrize(
    "plain", ['{toPorts: [{ports: [{port: "80", protocol: UDP}]}]}', '{toPorts: [{ports: [{port: "81"}]}]}', "{}"]
)
def test_an_allow_beside_l7_rules_is_no_warning(plain: str) -> None:
    assert slugs(spec(f"egress:\n- {L7_80}\n- {plain}")) == []


@pytest.mark.parametrize(
    ("peers", "plain", "found"),
    [
        ("fromEntities: [world]", "fromCIDR: [10.0.0.0/8]", ["l4-cancels-l7"]),
        ("fromEntities: [all]", "fromEntities: [host]", ["l4-cancels-l7"]),
        ("fromEntities: [host]", "fromCIDR: [127.0.0.0/8]", ["l4-cancels-l7"]),
        ("fromEntities: [host]", "fromCIDR: [10.0.0.1/32]", ["l4-cancels-l7"]),
        ("fromEntities: [host]", "fromCIDR: [10.0.0.0/8]", []),
        ("fromEntities: [world]", "fromEntities: [host]", []),
        ("fromEntities: [world-ipv4]", "fromEntities: [world-ipv6]", []),
    ],
)
def test_an_allow_of_ingress_cancels_l7_rules_too(peers: str, plain: str, found: list[str]) -> None:
    l7 = L7_80.replace("{to", f"{{{peers}, to", 1)
    assert slugs(spec(f"ingress:\n- {l7}\n- {{{plain}}}")) == found


def test_directions_do_not_meet() -> None:
    assert slugs(spec(f"ingress:\n- {L7_80}\negress:\n- {{toCIDR: [10.0.0.0/8]}}\n- {RELAY_80}")) == ["l4-cancels-l7"]
    assert len(errors(spec(f"ingress:\n- {L7_80}\n- {RELAY_80}"))) == 1


def test_two_kinds_on_one_port_are_an_error_that_names_both() -> None:
    (error,) = errors(spec(f"egress:\n- {L7_80}\n- {RELAY_80}"))
    assert error.startswith("p.yaml:8:")
    assert (
        "default/p egress[1].toPorts[0] has l7proto: tcp rules where default/p egress[0].toPorts[0] (p.yaml:7) has http"
        in error
    )


def test_two_kinds_meet_across_policies_unless_their_selectors_exclude_each_other() -> None:
    one, two = f"{HEAD}  egress: [{L7_80}]\n", f"{HEAD}  egress: [{RELAY_80}]\n".replace("name: p", "name: q")
    assert len(errors(load(f"{one}---\n{two}"))) == 1
    assert load(f"{one}---\n{two.replace('app: x', 'app: z')}").ok
    assert load(f"{one}---\n{two.replace('name: q', 'name: q, namespace: other')}").ok


def test_two_kinds_for_disjoint_peers_load() -> None:
    one, two = (
        L7_80.replace("{to", "{toCIDR: [10.0.0.0/8], to", 1),
        RELAY_80.replace("{to", "{toCIDR: [11.0.0.0/8], to", 1),
    )
    assert spec(f"egress:\n- {one}\n- {two}").ok
    hole = RELAY_80.replace("{to", "{toCIDRSet: [{cidr: 0.0.0.0/0, except: [10.0.0.0/8]}], to", 1)
    assert spec(f"egress:\n- {one}\n- {hole}").ok


def selects(selector: str, labels: dict[str, str], namespace: str = "default") -> bool:
    loaded = load(HEAD.replace("{matchLabels: {app: x}}", selector) + "  egress: [{}]\n")
    assert loaded.ok
    return compile_workload(loaded.policies, namespace=namespace, cluster="default", labels=labels).selected


def test_selectors_match_labels_of_the_policys_own_namespace() -> None:
    assert selects("{}", {})
    assert not selects("{}", {}, namespace="other")
    assert selects("{matchLabels: {app: x}}", {"app": "x"})
    assert selects("{matchLabels: {'k8s:app': x}}", {"app": "x"})
    assert selects("{matchLabels: {'any:app': x}}", {"k8s:app": "x"})
    assert not selects("{matchLabels: {'container:app': x}}", {"app": "x"})
    assert selects("{matchLabels: {'container:app': x}}", {"container:app": "x"})
    assert not selects("{matchLabels: {app: x}}", {"app": "y"})
    assert not selects("{matchLabels: {app: x, tier: z}}", {"app": "x"})


def test_expressions_match_as_in_kubernetes() -> None:
    assert selects("{matchExpressions: [{key: app, operator: In, values: [x, z]}]}", {"app": "z"})
    assert not selects("{matchExpressions: [{key: app, operator: In, values: [x, z]}]}", {})
    assert selects("{matchExpressions: [{key: app, operator: NotIn, values: [x]}]}", {})
    assert not selects("{matchExpressions: [{key: app, operator: NotIn, values: [x]}]}", {"app": "x"})
    assert selects("{matchExpressions: [{key: app, operator: Exists}]}", {"app": ""})
    assert not selects("{matchExpressions: [{key: app, operator: Exists}]}", {})
    assert selects("{matchExpressions: [{key: app, operator: DoesNotExist}]}", {})


def test_namespace_and_cluster_are_labels_that_nobody_can_claim() -> None:
    cluster = "{matchLabels: {'k8s:io.cilium.k8s.policy.cluster': default}}"
    assert selects(cluster, {})
    assert selects(cluster, {"io.cilium.k8s.policy.cluster": "other"})
    assert selects("{matchLabels: {'k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name': default}}", {})
    assert not selects("{}", {"io.kubernetes.pod.namespace": "default"}, namespace="other")


def test_a_foreign_namespace_in_a_selector_is_replaced_with_a_warning() -> None:
    text = HEAD.replace("{app: x}", "{'k8s:io.kubernetes.pod.namespace': other}") + "  egress: [{}]\n"
    loaded = load(text)
    assert [finding.slug for finding in loaded.findings] == ["foreign-namespace"]
    assert compile_workload(loaded.policies, namespace="default", cluster="c", labels={}).selected


SNIPPETS = st.sampled_from(
    [
        *[
            "apiVersion",
            "kind",
            "metadata",
            "spec",
            "specs",
            "egress",
            "toCIDR",
            "toCIDRSet",
            "cidr",
            "except",
            "toPorts",
            "ports",
            "port",
            "endPort",
            "protocol",
        ],
        *[
            "rules",
            "http",
            "l7proto",
            "method",
            "path",
            "endpointSelector",
            "matchLabels",
            "matchExpressions",
            "key",
            "operator",
            "values",
        ],
        *[
            '"80"',
            "80",
            "TCP",
            "yes",
            "null",
            "~",
            "tcp",
            "10.0.0.0/8",
            "In",
            "cilium.io/v2",
            "CiliumNetworkPolicy",
            "List",
            "v1",
            "items",
        ],
        *[
            "&a",
            "*a",
            "(",
            "[",
            "]",
            "{",
            "}",
            ",",
            ":",
            "-",
            "?",
            "|",
            ">",
            "'",
            '"',
            "#",
            "---",
            "...",
            "!",
            "!!str",
            "%YAML",
            "\\",
        ],
        *("\n", "\n  ", "\n- ", ": ", " ", "\t", "\n---\n"),
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(SNIPPETS, max_size=30).map("".join).map(str.encode) | st.binary(max_size=60))
@pytest.mark.slow
def test_any_bytes_give_findings_and_no_exception(data: bytes) -> None:
    for text in (data, HEAD.encode() + b"  egress: " + data):
        loaded = load(text)
        assert loaded.ok or loaded.policies == ()
        assert all(
            finding.line > 0 and finding.column > 0 and str(finding).isprintable() for finding in loaded.findings
        )


VALUES = st.recursive(
    st.sampled_from(["x", "80", '"80"', "yes", "null", "''", "10.0.0.0/8", "TCP", "true", "1.5"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda found: f"[{', '.join(found)}]")
        | st.dictionaries(
            st.sampled_from(
                [
                    "egress",
                    "fromEntities",
                    "headers",
                    "host",
                    "toCIDR",
                    "toCIDRSet",
                    "cidr",
                    "except",
                    "toPorts",
                    "ports",
                    "port",
                    "rules",
                    "http",
                    "path",
                    "method",
                    "key",
                    "x",
                ]
            ),
            inner,
            max_size=3,
        ).map(lambda found: "{" + ", ".join(f"{key}: {value}" for key, value in found.items()) + "}")
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        ["egress", "ingress", "endpointSelector", "metadata", "enableDefaultDeny", "labels", "spec", "rules"]
    ),
    VALUES,
)
@pytest.mark.slow
def test_any_value_in_any_place_gives_findings_and_no_exception(place: str, value: str) -> None:
    document = {
        "egress": f"{HEAD}  egress: {value}",
        "ingress": f"{RACECAR}  ingress: {value}",
        "endpointSelector": GOOD.replace("{matchLabels: {app: x}}", value),
        "metadata": GOOD.replace("{name: p}", value),
        "enableDefaultDeny": f"{GOOD}  enableDefaultDeny: {value}",
        "labels": f"{GOOD}  labels: {value}",
        "spec": f"{HEAD.split('spec:')[0]}spec: {value}",
        "rules": f"{HEAD}  {PORT % value}",
    }[place]
    loaded = load(document)
    assert loaded.ok or loaded.policies == ()
    compile_workload(loaded.policies, namespace="default", cluster="default", labels={"app": "x"})


@pytest.mark.slow
def test_loading_starts_without_the_heavy_imports() -> None:
    code = (
        "import sys, racecar.policy.load, racecar.policy.compile, racecar.policy.engine;"
        "print(sorted({'yaml', 're2', 'asyncio', 'socket'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
