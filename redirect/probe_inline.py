"""Probes of what verdicts inside the workload's own connection would need. This release does not have them yet."""

import ctypes
import errno
import fcntl
import platform
import select
import socket
import struct
import termios
from collections.abc import Callable

from racecar.redirect import scratch
from racecar.redirect.ability import Ability, NotedError, Status, probe
from racecar.redirect.kernel_bugs import BUGS, INLINE_FLOOR, Standing, inline_refusal, parse_version, text_of
from racecar.redirect.libbpf import Map
from racecar.redirect.probe_bpf import loaded

_BYTES = 8
_PROG_ATTACH, _PROG_TEST_RUN, _SK_MSG_VERDICT = 8, 10, 7  # enum bpf_cmd, bpf_attach_type (uapi/linux/bpf.h)
_SERVES = "inline verdicts (a later release)"
_WITHOUT = "inline stays off; connections under L7 rules go through the proxy, which this does not concern"


def inline() -> list[Ability]:
    """Each condition by itself, and what `--inline auto` would answer."""
    running = parse_version(platform.release(), platform.version())

    def floor() -> str:
        if running is None or running < INLINE_FLOOR:
            raise NotedError(
                Status.INFO, f"{text_of(running) if running else 'unknown'} is below {text_of(INLINE_FLOOR)}"
            )
        return f"{text_of(running)}, at least {text_of(INLINE_FLOOR)}"

    def gate() -> str:
        refusal = inline_refusal(running)
        if refusal:
            raise NotedError(Status.INFO, refusal)
        return f"{text_of(running)} has every known fix" if running else "unknown"

    def condition(name: str, attempt: Callable[[], str]) -> Ability:
        return probe(f"inline: {name}", attempt, serves=_SERVES, without=_WITHOUT, absent=Status.INFO)

    conditions = [
        condition("kernel floor", floor),
        condition("callbacks verified", _loop),
        condition("FIONREAD, native bytes", _native_bytes),
        condition("FIONREAD, redirected bytes", _redirected_bytes),
        condition("version gate", gate),
    ]
    against = [f"{c.name.removeprefix('inline: ')}: {c.detail}" for c in conditions if c.status is not Status.OK]
    answer = "off because it is for a later release; this kernel "
    answer += f"would keep it off too ({'; '.join(against)})" if against else "meets its conditions"
    summary = Ability("inline", Status.INFO, answer, "verdicts at nearly the speed of no proxy", _WITHOUT)
    return [*conditions, summary]


def kernel_bugs() -> list[Ability]:
    """The known bugs of the running version, each with the release that fixes it."""
    running = parse_version(platform.release(), platform.version())
    serves = "sockets in a sockmap: inline verdicts; the terminating path keeps only its listeners in one"
    without = "a workload whose sockets are in a map could corrupt or stall the kernel"
    if running is None:
        return [Ability("kernel bugs", Status.INFO, f"{platform.release()} names no version", serves, without)]
    standings = [(bug, bug.standing(running)) for bug in BUGS]
    found = [
        Ability(
            f"kernel bug {bug.name}",
            Status.INFO,
            f"{bug.what}; running {text_of(running)}, fixed in {bug.fix_for(running)}",
            serves,
            without,
        )
        for bug, standing in standings
        if standing is Standing.AFFECTED
    ]
    unknown = [f"{bug.name} (fixed in {bug.releases})" for bug, standing in standings if standing is Standing.UNKNOWN]
    branch = f"{running[0]}.{running[1]}"
    if unknown:
        detail = f"no fixed release of {branch} is known for {', '.join(unknown)}"
        found.append(Ability("kernel bugs without a known fix", Status.INFO, detail, serves, without))
    if not found:
        found.append(Ability("kernel bugs", Status.OK, f"none known for {text_of(running)}", serves, without))
    return found


def _loop() -> str:
    with loaded("probe_inline", "probe_loop") as (target, _):
        packet = bytes(64)
        data = ctypes.create_string_buffer(packet, len(packet))
        request = struct.pack(
            "=IIIIQQII", target.program_fd("probe_loop"), 0, len(packet), 0, ctypes.addressof(data), 0, 1, 0
        )
        _, answer = scratch.bpf_call(_PROG_TEST_RUN, request)
    if struct.unpack_from("=I", answer, 4)[0] != 1:
        raise OSError(0, "the verifier checks a bpf_loop callback for its first run only and removes the rest")
    return "a bpf_loop callback runs as it was written"


def _waiting(sock: socket.socket) -> int:
    if not select.select([sock], [], [], 1)[0]:
        raise OSError(errno.ETIMEDOUT, "no bytes arrived")
    answer = bytearray(4)
    fcntl.ioctl(sock, termios.FIONREAD, answer)
    return int(struct.unpack("=i", answer)[0])


def _count(seen: int) -> str:
    if seen != _BYTES:
        raise OSError(0, f"{seen} of {_BYTES} waiting bytes are reported: programs that read by it stall")
    return f"{seen} of {_BYTES}"


def _native_bytes() -> str:
    with loaded("probe_inline", "probe_redirect") as (target, maps), scratch.loopback_pair() as (client, accepted):
        _enter(target.program_fd("probe_redirect"), maps["sockets"], client)
        accepted.sendall(b"x" * _BYTES)
        return _count(_waiting(client))


def _redirected_bytes() -> str:
    with (
        loaded("probe_inline", "probe_redirect") as (target, maps),
        scratch.loopback_pair() as (sender, _),
        scratch.loopback_pair() as (receiver, _),
    ):
        _enter(target.program_fd("probe_redirect"), maps["sockets"], sender, receiver)
        sender.sendall(b"x" * _BYTES)
        return _count(_waiting(receiver))


def _enter(program: int, sockets: int, *members: socket.socket) -> None:
    """Attach the program to the map, then put the sockets in: they inherit it at that moment."""
    scratch.bpf_call(_PROG_ATTACH, struct.pack("=IIII", sockets, program, _SK_MSG_VERDICT, 0))
    table = Map(sockets, 8, "sockets")
    for index, member in enumerate(members):
        table.put(struct.pack("=I", index), struct.pack("=Q", member.fileno()))
