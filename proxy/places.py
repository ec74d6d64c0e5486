"""Addresses with ports as the command line has them, and listeners on them."""

import ipaddress
import os
import socket

from racecar.proxy.server import bequeath
from racecar.redirect.abi import IPAddress

BACKLOG = 4096

Place = tuple[IPAddress, int]


class PlaceError(ValueError):
    """An address that cannot be used. The text says which and why."""


def canonical(text: str) -> IPAddress:
    """An address as sockets give it; IPv4 that came to an IPv6 socket is IPv4."""
    address = ipaddress.ip_address(text)
    return getattr(address, "ipv4_mapped", None) or address


def reached(place: Place) -> Place:
    """Where a connection to `place` arrives: 0.0.0.0 and :: stand for this host."""
    address, port = place
    if not address.is_unspecified:
        return place
    return ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1"), port


def place_from(text: str, option: str, *, lowest_port: int) -> Place:
    """`HOST:PORT` or `[ADDRESS]:PORT`; of a name's addresses the first, IPv4 before IPv6. Raises PlaceError."""
    host, colon, number = text.rpartition(":")
    is_bracketed = host[:1] == "[" and host[-1:] == "]"
    name = host[1:-1] if is_bracketed else host
    if not colon or not name or (":" in name) != is_bracketed or "[" in name or "]" in name:
        raise PlaceError(f"{option} {text}: HOST:PORT is wanted, [ADDRESS]:PORT for IPv6")
    if not (number.isascii() and number.isdecimal()) or not lowest_port <= int(number[:6]) <= 65535:
        raise PlaceError(f"{option} {text}: the port is a number from {lowest_port} to 65535")
    try:
        found = socket.getaddrinfo(name, int(number), type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as failed:
        why = failed.strerror if isinstance(failed, OSError) else "this is no name"
        raise PlaceError(f"{option} {text}: {name} does not resolve: {why}") from None
    addresses = [str(entry[4][0]) for entry in sorted(found, key=lambda entry: entry[0] != socket.AF_INET)]
    return canonical(addresses[0]), int(number)


def shown(place: Place) -> str:
    """As `place_from` takes it."""
    address, port = place
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def listeners_on(place: Place, option: str, *, count: int) -> list[socket.socket]:
    """Sockets that listen there, the kernel spreads connections over them. Raises PlaceError."""
    made: list[socket.socket] = []
    try:
        if count > 1 and place[1]:  # SO_REUSEPORT would silently share the port with another of our user's processes
            _socket_for(place, is_shared=False).close()
        for _ in range(count):
            made.append(_listener(place, is_shared=count > 1))
            place = place[0], made[0].getsockname()[1]
    except OSError as failed:
        for sock in made:
            sock.close()
        raise PlaceError(f"{option} {shown(place)}: {os.strerror(failed.errno or 0)}") from None
    return made


def _listener(place: Place, *, is_shared: bool) -> socket.socket:
    sock = _socket_for(place, is_shared=is_shared)
    try:
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _socket_for(place: Place, *, is_shared: bool) -> socket.socket:
    """Bound, and not listening yet."""
    family = socket.AF_INET6 if place[0].version == 6 else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bequeath(sock)
        sock.bind((str(place[0]), place[1]))
    except OSError:
        sock.close()
        raise
    return sock
