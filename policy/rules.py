"""Understand egress and ingress rules: peers, ports and the L7 rules on them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from racecar.policy.document import Node
from racecar.policy.fields import Fields, Report, fields, integer, items, string, strings
from racecar.policy.findings import shown
from racecar.policy.http_rules import read_http
from racecar.policy.model import (
    ANY_PROTOCOL,
    SCTP,
    TCP,
    UDP,
    CidrBlock,
    Direction,
    Layer7,
    Network,
    PortRange,
    PortRule,
    RuleRef,
    TrafficRule,
    is_inside,
)

Origin = tuple[str, str, str, str]  # name, namespace, kind, file

_PEER_FIELDS: dict[Direction, tuple[str, ...]] = {
    "egress": ("toCIDR", "toCIDRSet"),
    "ingress": ("fromCIDR", "fromCIDRSet", "fromEntities"),
}
_LATER: dict[Direction, tuple[str, ...]] = {
    "egress": (
        "toEndpoints",
        "toEntities",
        "toFQDNs",
        "toServices",
        "toGroups",
        "toNodes",
        "toRequires",
        "icmps",
        "authentication",
    ),
    "ingress": ("fromEndpoints", "fromRequires", "fromGroups", "fromNodes", "icmps", "authentication"),
}
_WORLD_IPV4, _WORLD_IPV6 = CidrBlock(IPv4Network("0.0.0.0/0")), CidrBlock(IPv6Network("::/0"))
_HOST = tuple(replace(block, is_host=True) for block in (_WORLD_IPV4, _WORLD_IPV6))
_ENTITIES = {
    "world": (_WORLD_IPV4, _WORLD_IPV6),
    "world-ipv4": (_WORLD_IPV4,),
    "world-ipv6": (_WORLD_IPV6,),
    "host": _HOST,
    "all": (_WORLD_IPV4, _WORLD_IPV6, *_HOST),
    "none": (),
}
_ENTITIES_LATER = ("remote-node", "kube-apiserver", "cluster", "init", "ingress", "health", "unmanaged")
_PORT_RULE_LATER = ("terminatingTLS", "originatingTLS", "serverNames", "listener")
_LAYER7_LATER = ("kafka", "dns", "l7")
_LAYER7_LATER_RACECAR = ("httpDeny", "grpc", "grpcDeny", "kafkaDeny")
_PROTOCOLS = {"TCP": (TCP,), "UDP": (UDP,), "SCTP": (SCTP,), "ANY": ANY_PROTOCOL}
_PROTOCOLS_LATER = ("ICMP", "ICMPv6", "VRRP", "IGMP")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
_PORT_NAME = re.compile(r"[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*")
_PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")
_MAPPED = IPv6Network("::ffff:0:0/96")


def read_rules(
    report: Report, node: Node | None, where: str, origin: Origin, direction: Direction
) -> tuple[TrafficRule, ...]:
    rules = (_Reader(report, origin, direction).rule(item, name) for name, item in items(report, node, where))
    return tuple(rule for rule in rules if rule is not None)


class _Reader:
    """Reads rules of one policy; `where` is always the path of what is read, as rule names show it."""

    def __init__(self, report: Report, origin: Origin, direction: Direction) -> None:
        self._report = report
        self._origin = origin
        self._direction = direction

    def _ref(self, node: Node, where: str) -> RuleRef:
        return RuleRef(*self._origin, node.line, where, node.column)

    @property
    def _is_racecar(self) -> bool:
        return self._origin[2] == "RacecarPolicy"

    def rule(self, node: Node, where: str) -> TrafficRule | None:
        peer_fields = _PEER_FIELDS[self._direction]
        rule = fields(self._report, node, where, (*peer_fields, "toPorts"), _LATER[self._direction])
        if rule is None:
            return None
        peers = self._peers(rule, peer_fields, where)
        ports_node = rule.get("toPorts")
        ports = [self._port_rule(item, name) for name, item in items(self._report, ports_node, f"{where}.toPorts")]
        if ports_node is not None and ports_node.kind == "sequence" and not ports_node.items:
            text = "an empty list of ports is every port and protocol; leave toPorts out to say so"
            self._report.warning(ports_node, text, "empty-ports")
        good = tuple(port for port in ports if port is not None)
        # Absent and empty are the same here: a rule with peers then allows all ports, a rule without allows nothing.
        has_ports = ports_node is not None and bool(ports_node.items)
        return TrafficRule(peers, good if has_ports else None, self._ref(node, where))

    def _peers(self, rule: Fields, names: Sequence[str], where: str) -> tuple[CidrBlock, ...] | None:
        errors = self._report.errors
        given = [(name, node) for name in names if (node := rule.get(name)) is not None]
        if not given:
            return None
        for name, node in given[1:]:
            text = f"{where}: {given[0][0]} and {name} cannot stand in one rule; write two rules"
            self._report.error(node, text)
        blocks = [block for name, node in given for block in self._blocks(name, node, f"{where}.{name}")]
        if not blocks and self._report.errors == errors:
            self._report.warning(given[0][1], f"{where} names no address: it allows nothing", "empty-peers")
        return tuple(dict.fromkeys(blocks))

    def _blocks(self, name: str, node: Node, where: str) -> Iterator[CidrBlock]:
        if name.endswith("Set"):
            for place, item in items(self._report, node, where):
                block = self._cidr_set(item, place)
                if block is not None:
                    yield block
            return
        for item, text in strings(self._report, node, where):
            if name.endswith("Entities"):
                yield from self._entity(item, text, where)
            elif (network := self._network(item, text)) is not None:
                yield CidrBlock(network)

    def _entity(self, node: Node, text: str, where: str) -> tuple[CidrBlock, ...]:
        if text not in _ENTITIES:
            problem = "is not supported yet" if text in _ENTITIES_LATER else "is unknown"
            self._report.error(node, f"{where} {shown(text)} {problem}; allowed here: {', '.join(_ENTITIES)}")
        return _ENTITIES.get(text, ())

    def _cidr_set(self, node: Node, where: str) -> CidrBlock | None:
        entry = fields(self._report, node, where, ("cidr", "except"), ("cidrGroupRef", "cidrGroupSelector"))
        cidr_node = entry.require("cidr") if entry is not None else None
        if entry is None or cidr_node is None:
            return None
        text = string(self._report, cidr_node, f"{where}.cidr")
        network = self._network(cidr_node, text) if text is not None else None
        holes = []
        for item, hole_text in strings(self._report, entry.get("except"), f"{where}.except"):
            hole = self._network(item, hole_text)
            if hole is None or network is None:
                continue
            if not is_inside(hole, network):
                self._report.error(item, f"except {shown(hole_text)} is not inside cidr {shown(str(network))}")
            holes.append(hole)
        return None if network is None else CidrBlock(network, tuple(dict.fromkeys(holes)))

    def _network(self, node: Node, text: str) -> Network | None:
        try:
            network = parse_network(text)
        except ValueError as error:
            self._report.error(node, f"{shown(text)} is not a CIDR: {error}")
            return None
        return network

    def _port_rule(self, node: Node, where: str) -> PortRule | None:
        rule = fields(self._report, node, where, ("ports", "rules"), _PORT_RULE_LATER)
        ports_node = rule.require("ports") if rule is not None else None
        if rule is None or ports_node is None:
            return None
        if ports_node.kind == "sequence" and not ports_node.items:
            self._report.error(ports_node, f"{where}.ports is empty; name ports, or leave toPorts out for all")
        pairs = [(item, self._port(item, name)) for name, item in items(self._report, ports_node, f"{where}.ports")]
        layer7 = self._layer7(rule.get("rules"), f"{where}.rules")
        ports = tuple(port for _, port in pairs if port is not None)
        for item, port in pairs:
            if layer7 is not None and port is not None:
                self._check_layer7_port(item, port)
        return PortRule(ports, layer7, self._ref(node, where)) if ports else None

    def _check_layer7_port(self, node: Node, port: PortRange) -> None:
        if port.protocols != (TCP,):
            self._report.error(node, "L7 rules need protocol: TCP (absent means ANY)")
        if port.first == 0:
            self._report.error(node, "L7 rules cannot stand on port 0, which is every port")

    def _port(self, node: Node, where: str) -> PortRange | None:
        port = fields(self._report, node, where, ("port", "endPort", "protocol"))
        if port is None:
            return None
        number = self._port_number(port, where)
        protocols = self._protocols(port, where)
        end_node = port.get("endPort")
        end = integer(self._report, end_node, f"{where}.endPort", 1, 65535) if end_node is not None else None
        if number is None or protocols is None or (end_node is not None and end is None):
            return None
        if end_node is not None and end is not None and (number == 0 or end < number):
            why = "cannot stand beside port 0" if number == 0 else f"{end} is below port {number}"
            self._report.error(end_node, f"{where}.endPort {why}")
            return None
        if number == 0:
            return PortRange(protocols, 0, 65535)
        return PortRange(protocols, number, number if end is None else end)

    def _port_number(self, port: Fields, where: str) -> int | None:
        node = port.require("port")
        text = string(self._report, node, f"{where}.port") if node is not None else None
        if node is None or text is None:
            return None
        if _PORT.fullmatch(text) and int(text) <= 65535:
            return int(text)
        if _PORT_NAME.fullmatch(text) and len(text) <= 15 and not text.isdigit() and not _is_hexadecimal(text):
            self._report.error(node, f"not supported yet: named port {shown(text)}; write its number, in quotes")
        else:
            self._report.error(node, f"{where}.port {shown(text)} is not a decimal number from 0 to 65535")
        return None

    def _protocols(self, port: Fields, where: str) -> tuple[int, ...] | None:
        node = port.get("protocol")
        if node is None:
            return ANY_PROTOCOL
        text = string(self._report, node, f"{where}.protocol")
        if text is None or text in _PROTOCOLS:
            return _PROTOCOLS.get(text or "")
        problem = "is not supported yet" if text in _PROTOCOLS_LATER else "is unknown"
        self._report.error(node, f"{where}.protocol {shown(text)} {problem}; allowed here: {', '.join(_PROTOCOLS)}")
        return None

    def _layer7(self, node: Node | None, where: str) -> Layer7 | None:
        known = ("http", "l7proto", "tls") if self._is_racecar else ("http", "l7proto")
        later = (*_LAYER7_LATER, *_LAYER7_LATER_RACECAR) if self._is_racecar else _LAYER7_LATER
        rules = fields(self._report, node, where, known, later)
        if rules is None or node is None:
            return None
        http_node, kind_node = rules.get("http"), rules.get("l7proto")
        passes_tls = self._tls(rules)
        kind = rules.string("l7proto")
        if kind_node is not None and kind is not None and kind != "tcp":
            self._report.error(kind_node, f"not supported yet: l7proto {shown(kind)}; allowed here: tcp")
        if kind_node is not None and (http_node is not None or passes_tls):
            other = "http" if http_node is not None else "tls"
            self._report.error(kind_node, f"{where}: {other} and l7proto cannot stand on one port")
        matches = [
            read_http(self._report, item, name, self._ref(item, name))
            for name, item in items(self._report, http_node, f"{where}.http")
        ]
        if kind_node is not None:
            return Layer7("tcp", (), self._ref(node, where))
        if not matches and not passes_tls:
            if http_node is None or not http_node.items:
                text = f"{where} holds no L7 rule: every request on these ports passes"
                self._report.warning(http_node or node, text, "empty-rules")
            return None
        good = tuple(match for match in matches if match is not None)
        return Layer7("http", good, self._ref(node, where), passes_tls)

    def _tls(self, rules: Fields) -> bool:
        node, text = rules.get("tls"), rules.string("tls")
        if node is None or text is None:
            return False
        if text != "passthrough":
            self._report.error(node, f"tls {shown(text)} is unknown; allowed here: passthrough")
            return False
        text = "TLS passes unread on these ports: no rule judges the calls inside it"
        self._report.warning(node, text, "tls-opaque")
        return True


def _is_hexadecimal(text: str) -> bool:
    return bool(re.fullmatch(r"0[xX][0-9a-fA-F]+|0[bBoO][0-9]+", text))


def parse_network(text: str) -> Network:
    """`ADDRESS/BITS`, or an address alone for all of its bits. Raises ValueError saying what is wrong."""
    address_text, slash, bits_text = text.partition("/")
    if "%" in address_text:
        raise ValueError("a scope cannot be matched")
    try:
        address: IPv4Address | IPv6Address = (IPv6Address if ":" in address_text else IPv4Address)(address_text)
    except ValueError:
        raise ValueError(f"{shown(address_text)} is not an IPv4 or IPv6 address") from None
    if slash and not (_PREFIX_LENGTH.fullmatch(bits_text) and int(bits_text) <= address.max_prefixlen):
        raise ValueError(f"the prefix length must be from 0 to {address.max_prefixlen}")
    bits = int(bits_text) if slash else address.max_prefixlen
    network = (IPv6Network if address.version == 6 else IPv4Network)((int(address), bits), strict=False)
    if network.network_address != address:
        raise ValueError(f"bits are set beyond the prefix; the network is {network}")
    if is_inside(network, _MAPPED):
        raise ValueError("v4-mapped addresses are judged as IPv4: write the IPv4 network")
    return network
