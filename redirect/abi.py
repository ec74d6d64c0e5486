"""The structures that BPF programs and Python share (redirect/bpf/racecar_abi.h); a test compares the two layouts."""

import ipaddress
import struct
import sys
from dataclasses import dataclass
from enum import IntEnum

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

CONNECTION_STRUCT = struct.Struct("=QQQQIIIIIIII16sHBB4x16s")


class ConnectionState(IntEnum):
    """What the connect hook decided for a socket."""

    NONE = 0
    NATIVE = 1  # allowed as it is, never redirected
    REDIRECTED = 2  # on its way to the proxy
    INBOUND = 3  # accepted by the workload
    REFUSED = 4


def swap16(number: int) -> int:
    """Network order to host order and back: the programs keep ports as the packets have them."""
    return ((number & 0xFF) << 8 | number >> 8) if sys.byteorder == "little" else number


def address_of(raw: bytes) -> IPAddress:
    """Sixteen bytes to an address; IPv4 is stored v4-mapped (RFC 4291 2.5.5.2)."""
    address = ipaddress.IPv6Address(raw)
    return address.ipv4_mapped or address


@dataclass(frozen=True, slots=True)
class ConnectionRecord:
    """Where a workload's connection wanted to go and who opened it; kept in the socket's own storage."""

    cookie: int  # of the workload's socket, unique per boot
    cgroup_id: int  # of the task that connected: for the log only, never for a verdict
    task_start_ns: int  # boot time clock
    connected_ns: int  # boot time clock
    workload: int
    generation: int
    epoch: int
    ruleset: int
    rule: int
    pid: int
    uid: int
    flags: int
    address: IPAddress  # the original destination, canonical
    port: int
    state: ConnectionState
    protocol: int
    comm: str

    @classmethod
    def unpack(cls, raw: bytes) -> "ConnectionRecord":
        """Raises struct.error for a value of another size and ValueError for an unknown state."""
        fields = CONNECTION_STRUCT.unpack(raw)
        address, port, state, protocol, comm = fields[12:]
        text = comm.split(b"\0", 1)[0].decode("utf-8", "replace")
        values = [*fields[:12], address_of(address), swap16(port), ConnectionState(state), protocol, text]
        return cls(*values)


EVENT_STRUCT = struct.Struct("=QQQQQQQIIIIII16s16s16sHHHBB16s")


class EventKind(IntEnum):
    DENIED = 1  # refused at a hook: the caller got an error
    DROPPED = 2  # a packet stopped by the release gate, or a connection refused once it was established
    AUDIT = 3  # allowed by audit mode only
    NATIVE = 4
    CLOSED = 5  # a native connection ended


@dataclass(frozen=True, slots=True)
class KernelEvent:
    """One entry of the event ring."""

    time_ns: int  # boot time clock
    cookie: int
    cgroup_id: int
    task_start_ns: int
    bytes_sent: int
    bytes_received: int
    duration_ns: int
    kind: EventKind
    reason: int
    workload: int
    rule: int
    pid: int
    uid: int
    address: IPAddress  # as dialled
    source: IPAddress
    peer: IPAddress  # as the packet or socket has it
    port: int
    source_port: int
    peer_port: int
    protocol: int
    family: int
    comm: str

    @classmethod
    def unpack(cls, raw: bytes) -> "KernelEvent":
        """Raises struct.error for a value of another size and ValueError for an unknown kind."""
        fields = EVENT_STRUCT.unpack(raw)
        addresses = [address_of(raw_address) for raw_address in fields[13:16]]
        ports = [swap16(port) for port in fields[16:19]]
        comm = fields[21].split(b"\0", 1)[0].decode("utf-8", "replace")
        values = [*fields[:7], EventKind(fields[7]), *fields[8:13], *addresses, *ports, *fields[19:21], comm]
        return cls(*values)


WORKLOAD_STRUCT = struct.Struct("=IIIIIi")
PEER_KEY_STRUCT = struct.Struct("=III16s")
PORT_KEY_STRUCT = struct.Struct("=IIIBBH")
PORT_VALUE_STRUCT = struct.Struct("=III")
OWN_KEY_STRUCT = struct.Struct("=I16s")
CONFIG_STRUCT = struct.Struct("=IHH")


def mapped(address: IPAddress) -> bytes:
    """The sixteen bytes by which the kernel's tables know an address."""
    if isinstance(address, ipaddress.IPv4Address):
        return b"\0" * 10 + b"\xff\xff" + address.packed
    return address.packed


def mapped_bits(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> int:
    """The length of a prefix over those sixteen bytes."""
    return network.prefixlen + (96 if network.version == 4 else 0)
