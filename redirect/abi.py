"""The structures that BPF programs and Python share (redirect/bpf/racecar_abi.h); a test compares the two layouts."""

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum

type_address = ipaddress.IPv4Address | ipaddress.IPv6Address

CONNECTION_STRUCT = struct.Struct("=QQQQIIIIIIII16sHBB4x16s")


class ConnectionState(IntEnum):
    """What the connect hook decided for a socket."""

    NONE = 0
    NATIVE = 1  # allowed as it is, never redirected
    REDIRECTED = 2  # on its way to the proxy
    INBOUND = 3  # accepted by the workload
    REFUSED = 4


def address_of(raw: bytes) -> type_address:
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
    address: type_address  # the original destination, canonical
    port: int
    state: ConnectionState
    protocol: int
    comm: str

    @classmethod
    def unpack(cls, raw: bytes) -> "ConnectionRecord":
        """Raises struct.error for a value of another size and ValueError for an unknown state."""
        *numbers, address, port, state, protocol, comm = CONNECTION_STRUCT.unpack(raw)
        text = comm.split(b"\0", 1)[0].decode("utf-8", "replace")
        port = ((port & 0xFF) << 8) | (port >> 8)
        return cls(*numbers, address_of(address), port, ConnectionState(state), protocol, text)
