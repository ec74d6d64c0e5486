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
