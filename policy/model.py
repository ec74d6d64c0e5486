"""Loaded policies as values, checked and complete: nothing here can fail."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Literal

Network = IPv4Network | IPv6Network
Labels = frozenset[tuple[str, str, str]]  # (source, key, value)

Operator = Literal["In", "NotIn", "Exists", "DoesNotExist"]
Direction = Literal["egress", "ingress"]
Encoding = Literal["slash", "backslash", "dot", "bytes", "params"]
ENCODINGS: tuple[Encoding, ...] = ("slash", "backslash", "dot", "bytes", "params")
DIRECTIONS: tuple[Direction, ...] = ("egress", "ingress")

NAMESPACE_LABEL = "io.kubernetes.pod.namespace"
CLUSTER_LABEL = "io.cilium.k8s.policy.cluster"
NAMESPACE_NAME_LABEL = "io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name"

TCP, UDP, SCTP = 6, 17, 132
ANY_PROTOCOL = (TCP, UDP, SCTP)  # what `protocol: ANY` means; a rule without toPorts covers every other one too


@dataclass(frozen=True, slots=True)
class RuleRef:
    """Where a rule stands, for logs and for the denied caller. `line` counts from 1."""

    policy: str
    namespace: str
    kind: str
    file: str
    line: int
    index: str
    column: int = field(default=1, compare=False)

    @property
    def name(self) -> str:
        """`NAMESPACE/POLICY egress[0].toPorts[0].rules.http[1]`."""
        return f"{self.namespace}/{self.policy} {self.index}" if self.policy else self.index

    @property
    def place(self) -> str:
        """`FILE:LINE`."""
        return f"{self.file}:{self.line}"


DEFAULT_DENY = RuleRef("", "", "", "", 0, "default deny")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition of a selector; source `any` matches a label of every source."""

    source: str
    key: str
    operator: Operator
    values: frozenset[str] = frozenset()

    def matches(self, labels: Labels) -> bool:
        """As Kubernetes: NotIn is true of a workload without the label."""
        found = {value for source, key, value in labels if key == self.key and self.source in ("any", source)}
        if self.operator == "In":
            return bool(found & self.values)
        if self.operator == "NotIn":
            return not found & self.values
        return bool(found) == (self.operator == "Exists")


@dataclass(frozen=True, slots=True)
class Selector:
    """All requirements must hold; none at all matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Labels) -> bool:
        return all(requirement.matches(labels) for requirement in self.requirements)

    def is_disjoint(self, other: "Selector") -> bool:
        """Whether one key of one source is asked to have different values.

        A workload with the same key from two sources can still satisfy two `any` selectors: who needs to be sure
        looks at the workload (`compile_workload`).
        """
        mine = {(r.source, r.key): r.values for r in self.requirements if r.operator == "In"}
        return any(
            r.operator == "In" and (r.source, r.key) in mine and not mine[r.source, r.key] & r.values
            for r in other.requirements
        )


@dataclass(frozen=True, slots=True)
class CidrBlock:
    """Addresses of `network` that are in none of `excepted`."""

    network: Network
    excepted: tuple[Network, ...] = ()
    is_host: bool = False  # entity host: these addresses where they are the host's own, and only there

    def covers(self, network: Network) -> bool:
        """Whether all of `network` is meant; it must be no wider than any exception inside it."""
        return is_inside(network, self.network) and not any(is_inside(network, hole) for hole in self.excepted)


LOOPBACK_NETWORKS: tuple[Network, ...] = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
# Delivered to the host's own listeners among others: a rule for the world does not mean these.
GROUP_NETWORKS: tuple[Network, ...] = (
    IPv4Network("224.0.0.0/4"),
    IPv4Network("255.255.255.255/32"),
    IPv6Network("ff00::/8"),
)


def reaches_own_addresses(network: Network) -> bool:
    """Loopback, own addresses and groups are reached by a CIDR inside their range, or of full length, only."""
    ranges = (*LOOPBACK_NETWORKS, *GROUP_NETWORKS)
    return network.prefixlen == network.max_prefixlen or any(is_inside(network, outer) for outer in ranges)


def is_inside(inner: Network, outer: Network) -> bool:
    """Whether every address of `inner` is in `outer`; never across versions."""
    return (
        inner.version == outer.version
        and inner.prefixlen >= outer.prefixlen
        and int(inner.network_address) >> (inner.max_prefixlen - outer.prefixlen)
        == int(outer.network_address) >> (outer.max_prefixlen - outer.prefixlen)
    )


def network_key(network: Network, bits: int) -> tuple[int, int, int]:
    """What names the network of `bits` around `network`: version, bits and the bits themselves."""
    return network.version, bits, int(network.network_address) >> (network.max_prefixlen - bits)


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports `first` to `last` of some protocols; 0 to 65535 are all ports."""

    protocols: tuple[int, ...]
    first: int
    last: int

    def overlaps(self, other: "PortRange") -> bool:
        return (
            self.first <= other.last
            and other.first <= self.last
            and not frozenset(self.protocols).isdisjoint(other.protocols)
        )


@dataclass(frozen=True, slots=True)
class HttpMatch:
    """One HTTP rule: RE2 patterns, anchored at both ends; None matches everything. Fields as in tables.HttpRule."""

    method: str | None
    path: str | None
    ref: RuleRef
    host: str | None = None
    headers: tuple[tuple[str, str | None], ...] = ()
    path_only: bool = False
    query: str | None = None
    allow_body: bool = False
    websocket: bool = False
    connect: bool = False
    encoded: frozenset[Encoding] = frozenset()


@dataclass(frozen=True, slots=True)
class Layer7:
    """The L7 rules of one `toPorts` item. `http` is empty for kind tcp, and where only TLS passes."""

    kind: Literal["http", "tcp"]
    http: tuple[HttpMatch, ...]
    ref: RuleRef
    passes_tls: bool = False

    @property
    def shown(self) -> str:
        """What a file says: http, tls or l7proto."""
        return "l7proto: tcp" if self.kind == "tcp" else "http" if self.http else "tls"


@dataclass(frozen=True, slots=True)
class PortRule:
    """One item of `toPorts`; without `layer7` it allows the ports as they are."""

    ports: tuple[PortRange, ...]
    layer7: Layer7 | None
    ref: RuleRef


@dataclass(frozen=True, slots=True)
class TrafficRule:
    """One item of `egress` or `ingress`.

    `peers` None = every peer, () = nobody; `ports` None = every protocol and port.
    """

    peers: tuple[CidrBlock, ...] | None
    ports: tuple[PortRule, ...] | None
    ref: RuleRef


@dataclass(frozen=True, slots=True)
class Policy:
    """One rule section of a policy object (`spec`, or one of `specs`)."""

    name: str
    namespace: str
    kind: str
    file: str
    line: int
    selector: Selector
    egress: tuple[TrafficRule, ...]
    egress_default_deny: bool
    ingress: tuple[TrafficRule, ...] = ()
    ingress_default_deny: bool = False
    audit: bool = False  # what it alone denies passes, and is logged

    @property
    def full_name(self) -> str:
        return f"{self.namespace}/{self.name}"

    def rules(self, direction: Direction) -> tuple[TrafficRule, ...]:
        """Those of one direction; none: the policy does not select in that direction."""
        return self.egress if direction == "egress" else self.ingress

    def default_deny(self, direction: Direction) -> bool:
        return self.egress_default_deny if direction == "egress" else self.ingress_default_deny

    def selects(self, namespace: str, labels: Labels) -> bool:
        """Policies of these kinds reach workloads of their own namespace only."""
        return namespace == self.namespace and self.selector.matches(labels)


def parse_label_key(key: str, default_source: str) -> tuple[str, str]:
    """`k8s:app` to (`k8s`, `app`); `app` to (default_source, `app`)."""
    source, colon, name = key.partition(":")
    return (source, name) if colon and source else (default_source, key.removeprefix(":"))


def workload_labels(labels: Mapping[str, str], *, namespace: str, cluster: str) -> Labels:
    """A workload's labels with the implied ones, which nobody can claim otherwise."""
    own = {(*parse_label_key(key, "k8s"), value) for key, value in labels.items()}
    implied = {
        ("k8s", NAMESPACE_LABEL, namespace),
        ("k8s", CLUSTER_LABEL, cluster),
        ("k8s", NAMESPACE_NAME_LABEL, namespace),
    }
    taken = {key for _, key, _ in implied}
    return frozenset(_without_keys(own, taken) | implied)


def _without_keys(labels: Iterable[tuple[str, str, str]], keys: set[str]) -> set[tuple[str, str, str]]:
    return {label for label in labels if label[1] not in keys}
