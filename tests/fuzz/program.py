"""Bytes that are a little program: a setting, cuts, then steps. Every string of bytes is one, so that a fuzzer can bend
it as it likes; every talk of some steps can be written as one, so that a test's case is a fuzzer's seed.

    byte 0          bits: audit, tells_rules (not), tls, small limits, answers_dials
    byte 1          how many cut sizes follow (0 to 7), each a byte
    then, per step  a byte that names it, and what that needs:
      client, server    bit 7: a byte, number of a whole message or fragment; else two bytes of length, and the bytes
      time, late, swap  a byte
"""

from collections.abc import Iterable

from tests.fuzz.pieces import (
    ALERT,
    ANSWERS,
    CLIENT_HELLO,
    DENIED_REQUESTS,
    FRAGMENTS,
    MALFORMED_REQUESTS,
    OPEN_ANSWERS,
    REQUESTS,
    SERVER_HELLO,
)
from tests.fuzz.talk import STEPS, Setting, Step

WHOLE = 0x80
MESSAGES = [
    *REQUESTS, *DENIED_REQUESTS, *MALFORMED_REQUESTS, *ANSWERS, *OPEN_ANSWERS, CLIENT_HELLO, SERVER_HELLO, ALERT,
    *FRAGMENTS,
]  # fmt: skip
MOST_STEPS = 64
_WITH_NUMBER = ("time", "late", "swap")


def decode(program: bytes) -> tuple[Setting, tuple[int, ...], list[Step]]:
    """Read a program; what is missing at its end is taken as absent."""
    flags, count = (*program[:2], 0, 0)[:2]
    setting = Setting(bool(flags & 1), not flags & 2, bool(flags & 4), bool(flags & 8), bool(flags & 16))
    pos = 2 + count % 8
    sizes = tuple(size or 1 for size in program[2:pos])
    steps: list[Step] = []
    while pos < len(program) and len(steps) < MOST_STEPS:
        code = program[pos]
        what = STEPS[(code & ~WHOLE) % len(STEPS)]
        pos += 1
        if what in _WITH_NUMBER:
            steps.append(Step(what, number=int.from_bytes(program[pos : pos + 1], "big")))
            pos += 1
        elif what not in ("client", "server"):
            steps.append(Step(what))
        elif code & WHOLE:
            index = int.from_bytes(program[pos : pos + 1], "big")
            steps.append(Step(what, MESSAGES[index % len(MESSAGES)]))
            pos += 1
        else:
            length = int.from_bytes(program[pos : pos + 2], "big")
            data = program[pos + 2 : pos + 2 + length]
            if data:
                steps.append(Step(what, data))
            pos += 2 + length
    return setting, sizes, steps


def encode(setting: Setting, sizes: Iterable[int], steps: Iterable[Step], *, by_number: bool = True) -> bytes:
    """Write a talk as a program. Whole messages stand there by number, so that a fuzzer can exchange them."""
    flags = (
        setting.audit
        | (not setting.tells_rules) << 1
        | setting.tls << 2
        | setting.small << 3
        | setting.answers_dials << 4
    )
    cuts = bytes(sizes)[:7]
    out = bytearray((flags, len(cuts))) + cuts
    for step in steps:
        code = STEPS.index(step.what)
        if step.what in _WITH_NUMBER:
            out += bytes((code, step.number))
        elif step.what not in ("client", "server"):
            out.append(code)
        elif by_number and step.data in MESSAGES:
            out += bytes((code | WHOLE, MESSAGES.index(step.data)))
        else:
            out += bytes((code, *len(step.data).to_bytes(2, "big"))) + step.data
    return bytes(out)


def spelled_out(program: bytes) -> bytes:
    """The same program without numbers of messages, which change when one is added."""
    return encode(*decode(program), by_number=False)
