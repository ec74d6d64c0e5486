"""Probes of what the proxy's relay uses: splice, pipes, descriptors, destroying connections, IPv6."""

import fcntl
import os
import resource
import socket
import struct
from pathlib import Path

from racecar.redirect import scratch
from racecar.redirect.ability import Ability, NotedError, Status, probe

PIPE_BYTES = 256 * 1024
WANTED_DESCRIPTORS = 65536
WANTED_PIPES = 64


def relay() -> list[Ability]:
    """What the proxy's relay uses: splice, pipes, descriptors, killing connections."""

    def splice() -> str:
        reader, writer = os.pipe()
        try:
            size = fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            with scratch.loopback_pair() as (client, accepted):
                accepted.sendall(b"x" * 8)
                moved = os.splice(client.fileno(), writer, 8)
            if moved != 8:
                raise OSError(0, f"splice moved {moved} of 8 bytes")
        finally:
            os.close(reader)
            os.close(writer)
        return f"8 bytes moved through a pipe of {size >> 10} KB"

    def descriptors() -> str:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = hard if hard != resource.RLIM_INFINITY else 1 << 30
        text = f"soft {soft}, hard {hard}"
        if limit < WANTED_DESCRIPTORS:
            raise NotedError(Status.WARNING, f"{text}: about {max(0, limit - 100) // 2} relayed connections")
        return text

    def pipe_pages() -> str:
        soft, hard = (
            int(Path(f"/proc/sys/fs/pipe-user-pages-{kind}").read_text(encoding="ascii")) for kind in ("soft", "hard")
        )
        pages = PIPE_BYTES // os.sysconf("SC_PAGE_SIZE")
        text = f"soft {soft or 'none'}, hard {hard or 'none'} pages a user"
        if soft and soft // pages < WANTED_PIPES:
            raise NotedError(Status.WARNING, f"{text}: {soft // pages} pipes of 256 KB")
        return text + (f": {soft // pages} pipes of 256 KB" if soft else "")

    def ipv6() -> str:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return "a listener on ::1 could be made"

    destroy = "cutting connections that a new policy forbids"
    return [
        probe(
            "SOCK_DESTROY",
            _destroy_own_connection,
            serves=destroy,
            without="the release gate stops their packets; the peer sees silence instead of a reset",
            absent=Status.WARNING,
        ),
        probe(
            "splice(2)",
            splice,
            serves="long bodies and byte relays move inside the kernel",
            without="they are copied through the proxy: slower, as safe",
            absent=Status.WARNING,
        ),
        probe("descriptors", descriptors, serves="two a relayed connection", without="more are refused with a reset"),
        probe(
            "pipe pages",
            pipe_pages,
            serves="pipes for splice",
            without="beyond the soft limit pipes shrink and transfers are slower",
            absent=Status.INFO,
        ),
        probe(
            "IPv6",
            ipv6,
            serves="redirecting IPv6 connections",
            without="IPv6 connections under L7 rules are refused",
            absent=Status.WARNING,
        ),
    ]


def _destroy_own_connection() -> str:
    with scratch.loopback_pair() as (client, _), socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4) as diagnosis:
        (_, source), (_, destination) = client.getsockname(), client.getpeername()
        loopback = socket.inet_aton("127.0.0.1").ljust(16, b"\0")
        # struct inet_diag_req_v2: family, protocol, ext, pad, states, sockid (ports, addresses, interface, no cookie)
        request = struct.pack("=BBBBI", socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
        request += (
            struct.pack(">HH", source, destination) + loopback + loopback + struct.pack("=III", 0, *[0xFFFFFFFF] * 2)
        )
        header = struct.pack("=IHHII", 16 + len(request), 21, 5, 1, 0)  # SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK
        diagnosis.settimeout(1)
        diagnosis.send(header + request)
        code = -struct.unpack_from("=i", diagnosis.recv(4096), 16)[0]
        if code:
            raise OSError(code, os.strerror(code))
        code = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not code:
            raise OSError(0, "the kernel said yes and the connection lives")
        return f"own connection cut ({os.strerror(code)})"
