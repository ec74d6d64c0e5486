"""Other owners' programs on a cgroup, as few instructions: one that loses packets, one that translates addresses."""

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from racecar.redirect.scratch import bpf_call

PROG_LOAD, LINK_CREATE = 5, 28
CGROUP_SKB, CGROUP_SOCK_ADDR = 8, 18
EGRESS = 1
REWRITERS = {"connect4": 10, "sendmsg4": 14}
USER_IP4, USER_PORT = 4, 24  # in struct bpf_sock_addr


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhI", code, target | source << 4, offset, value & 0xFFFFFFFF)


def _load(kind: int, attach_type: int, code: bytes) -> int:
    instructions = ctypes.create_string_buffer(code, len(code))
    licence = ctypes.create_string_buffer(b"GPL")
    places = ctypes.addressof(instructions), ctypes.addressof(licence)
    attributes = struct.pack("=IIQQIIQII16sII", kind, len(code) // 8, *places, 0, 0, 0, 0, 0, b"e2e", 0, attach_type)
    return bpf_call(PROG_LOAD, attributes)[0]


@contextlib.contextmanager
def attached(cgroup: Path, kind: int, attach_type: int, code: bytes) -> Iterator[None]:
    """Attach by a link, beside what is there; gone at the end of the block."""
    program = _load(kind, attach_type, code)
    target = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        link = bpf_call(LINK_CREATE, struct.pack("=IIII", program, target, attach_type, 0))[0]
        try:
            yield
        finally:
            os.close(link)
    finally:
        os.close(target)
        os.close(program)


def losing_packets(cgroup: Path) -> contextlib.AbstractContextManager[None]:
    """Nothing leaves the cgroup: handshakes wait for the block's end, and for the next try of their SYN."""
    code = _instruction(0xB7) + _instruction(0x95)  # r0 = 0; exit
    return attached(cgroup, CGROUP_SKB, EGRESS, code)


def translating(cgroup: Path, hook: str, port: int, to: tuple[str, int]) -> contextlib.AbstractContextManager[None]:
    """Calls to `port` of any IPv4 address go to `to`, as with a service address; run after the hooks of children."""
    address = int.from_bytes(socket.inet_aton(to[0]), "little")
    code = b"".join(
        (
            _instruction(0x61, 2, 1, USER_PORT),  # r2 = ctx->user_port
            _instruction(0x55, 2, 0, 4, socket.htons(port)),  # if r2 != port goto out
            _instruction(0xB4, 3, value=address),
            _instruction(0x63, 1, 3, USER_IP4),  # ctx->user_ip4 = r3
            _instruction(0xB4, 3, value=socket.htons(to[1])),
            _instruction(0x63, 1, 3, USER_PORT),
            _instruction(0xB7, 0, value=1),  # out: r0 = 1
            _instruction(0x95),
        )
    )
    return attached(cgroup, CGROUP_SOCK_ADDR, REWRITERS[hook], code)
