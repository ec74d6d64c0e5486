"""What the network namespace is asked: which addresses are its own, to end a connection, to bring `lo` up.

rtnetlink(7) and sock_diag(7); include/uapi/linux/{rtnetlink,inet_diag}.h. Answers are checked before they are used.
"""

import errno
import fcntl
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from enum import IntEnum

from racecar.redirect.abi import IPAddress

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

NETLINK_ROUTE, NETLINK_SOCK_DIAG = 0, 4
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST = 2, 3, 4
RTA_DST = 1
RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE = 0x40, 0x400
SOCK_DESTROY = 21
SIOCGIFFLAGS, SIOCSIFFLAGS = 0x8913, 0x8914
IFF_UP = 1

_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg
_ATTRIBUTE = struct.Struct("=HH")
MAX_DEVICES = 64  # asked one by one
_DIAG_ID = struct.Struct("=2s2s16s16sIII")  # inet_diag_sockid
_DIAG = struct.Struct("=BBBBI")  # inet_diag_req_v2
_INTERFACE_FLAGS = struct.Struct("=16sH22x")  # ifreq with ifr_flags


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, _flags, _sequence, _port = _HEADER.unpack_from(data, position)
        if length < _HEADER.size or position + length > len(data):
            raise OSError(errno.EBADMSG, "netlink answer is cut off")
        yield kind, data[position + _HEADER.size : position + length]
        position += (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        if length < _ATTRIBUTE.size or position + length > len(data):
            raise OSError(errno.EBADMSG, "netlink attribute is cut off")
        yield kind, data[position + _ATTRIBUTE.size : position + length]
        position += (length + 3) & ~3


def _dump(family: int) -> Iterator[tuple[int, bytes]]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE) as netlink:
        netlink.bind((0, 0))
        body = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        netlink.send(_HEADER.pack(_HEADER.size + len(body), RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + body)
        while True:
            for kind, payload in _messages(netlink.recv(1 << 20)):
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    code = -struct.unpack_from("=i", payload)[0]
                    raise OSError(code, f"cannot list routes: {os.strerror(code)}")
                yield kind, payload


class Own(IntEnum):
    """How the kernel delivers to this host; numbers are those of racecar_abi.h."""

    LOCAL = 1  # to this host and to no other
    SHARED = 2  # broadcast and anycast: to this host among others


_OWN_ROUTES = {RTN_LOCAL: Own.LOCAL, RTN_BROADCAST: Own.SHARED, RTN_ANYCAST: Own.SHARED}


def own_networks() -> dict[IPNetwork, Own]:
    """Every network that the kernel delivers to this host itself, by its routes' type, whatever their table."""
    found: dict[IPNetwork, Own] = {}
    for family, maker in ((socket.AF_INET, ipaddress.IPv4Network), (socket.AF_INET6, ipaddress.IPv6Network)):
        for kind, payload in _dump(family):
            if kind != RTM_NEWROUTE or len(payload) < _ROUTE.size:
                continue
            route_family, bits, _source, _tos, _table, _protocol, _scope, route_type, _flags = _ROUTE.unpack_from(
                payload
            )
            own = _OWN_ROUTES.get(route_type)
            if route_family != family or own is None:
                continue
            for attribute, value in _attributes(payload[_ROUTE.size :]):
                if attribute == RTA_DST:
                    network = maker((value, bits))
                    found[network] = min(own, found.get(network, own))
    return found


def bring_up_loopback() -> bool:
    """Set `lo` up, where it is not: a fresh namespace has it down. True if it had to be. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        answer = fcntl.ioctl(sock, SIOCGIFFLAGS, _INTERFACE_FLAGS.pack(b"lo", 0))
        _name, flags = _INTERFACE_FLAGS.unpack(answer)
        if flags & IFF_UP:
            return False
        try:
            fcntl.ioctl(sock, SIOCSIFFLAGS, _INTERFACE_FLAGS.pack(b"lo", flags | IFF_UP))
        except OSError as failed:
            raise OSError(failed.errno, f"lo is down: {failed.strerror}; ip link set lo up") from None
    return True


class RouteWatch:
    """Becomes readable when routes change; the reader then asks `own_networks` again."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, NETLINK_ROUTE
        )
        self._socket.bind((0, RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE))

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> None:
        """Forget what was announced; an overrun (ENOBUFS) means the same: ask again."""
        while True:
            try:
                self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError as failed:
                if failed.errno != errno.ENOBUFS:
                    raise

    def close(self) -> None:
        self._socket.close()


def destroy_tcp(family: int, local: tuple[IPAddress, int], remote: tuple[IPAddress, int], cookie: int) -> bool:
    """End a TCP connection at once (SOCK_DESTROY): its owner gets ECONNABORTED, its peer a reset.

    False if it is gone already. Raises OSError, EPERM without CAP_NET_ADMIN.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as netlink:
        netlink.settimeout(1)
        netlink.bind((0, 0))
        if _destroy(netlink, family, local, remote, cookie, 0):
            return True
        # A socket that is bound to a device is found by that device alone (inet_sk_bound_dev_eq).
        devices = (index for index, _name in socket.if_nameindex()[:MAX_DEVICES])
        return any(_destroy(netlink, family, local, remote, cookie, device) for device in devices)


def _destroy(
    netlink: socket.socket,
    family: int,
    local: tuple[IPAddress, int],
    remote: tuple[IPAddress, int],
    cookie: int,
    device: int,
) -> bool:
    (source, source_port), (destination, destination_port) = local, remote
    identity = _DIAG_ID.pack(
        struct.pack("!H", source_port),
        struct.pack("!H", destination_port),
        _diag_address(source, family),
        _diag_address(destination, family),
        device,
        cookie & 0xFFFFFFFF,
        cookie >> 32,
    )
    body = _DIAG.pack(family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + identity
    netlink.send(_HEADER.pack(_HEADER.size + len(body), SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK, 1, 0) + body)
    for kind, payload in _messages(netlink.recv(1 << 16)):
        if kind == NLMSG_ERROR:
            code = -struct.unpack_from("=i", payload)[0]
            if code == errno.ENOENT:
                return False
            if code:
                raise OSError(code, f"cannot end the connection: {os.strerror(code)}")
            return True
    return False


def _diag_address(address: IPAddress, family: int) -> bytes:
    if family == socket.AF_INET:
        return address.packed[-4:].ljust(16, b"\0")
    if isinstance(address, ipaddress.IPv4Address):
        return b"\0" * 10 + b"\xff\xff" + address.packed
    return address.packed
