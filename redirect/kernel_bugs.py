"""Known bugs of the kernel's sockmap code, and which of them the running kernel has by its version.

A version says what a stable release contains. Distributions move fixes between versions, so this list informs and may
only turn things off, never on.
"""

import re
from dataclasses import dataclass
from enum import Enum

Version = tuple[int, int, int]


class Standing(Enum):
    FIXED = "fixed"
    AFFECTED = "affected"
    UNKNOWN = "unknown"  # no fixed release of this branch is known


@dataclass(frozen=True, slots=True)
class KernelBug:
    """`fixed_in`: the first good release of each branch; X.Y.0 means that the branch was born with the fix."""

    name: str
    what: str
    fixed_in: tuple[Version, ...]

    @property
    def releases(self) -> str:
        return ", ".join(text_of(version) for version in self.fixed_in)

    def standing(self, running: Version) -> Standing:
        """Compare within the branch; a branch without an entry is fixed only if an older one was born fixed."""
        for fixed in self.fixed_in:
            if fixed[:2] == running[:2]:
                return Standing.FIXED if running >= fixed else Standing.AFFECTED
        born_fixed = any(fixed[2] == 0 and fixed < running for fixed in self.fixed_in)
        return Standing.FIXED if born_fixed else Standing.UNKNOWN

    def fix_for(self, running: Version) -> str:
        """The release to update to, of the same branch where there is one."""
        same = [fixed for fixed in self.fixed_in if fixed[:2] == running[:2]]
        return text_of(same[0]) if same else self.releases


def text_of(version: Version) -> str:
    major, minor, patch = version
    return f"{major}.{minor}.{patch}" if patch else f"{major}.{minor}"


def parse_version(release: str, build: str = "") -> Version | None:
    """The stable release behind `uname -r` and `uname -v`; None if neither names one.

    Debian calls every 6.1 kernel 6.1.0 in its release and names the real one in the build: "Debian 6.1.192-1".
    """
    found = re.search(r"Debian (\d+)\.(\d+)\.(\d+)", build) or re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    if not found:
        return None
    major, minor, patch = found.groups()
    return int(major), int(minor), int(patch or 0)


def _versions(*texts: str) -> tuple[Version, ...]:
    parsed = [parse_version(text) for text in texts]
    return tuple(version for version in parsed if version)


BUGS = (
    KernelBug(
        "CVE-2026-74589",
        "use after free: two senders while a redirect spans their messages",
        _versions("7.1.9", "6.18.45", "6.12.104", "6.6.152", "6.1.183", "5.15.216"),
    ),
    KernelBug(
        "CVE-2026-68284",
        "use after free: two senders on a corked message",
        _versions("7.2", "7.1.6", "6.18.42", "6.12.101", "6.6.148", "6.1.183", "5.15.216"),
    ),
    KernelBug(
        "CVE-2026-64548",
        "push_data and pop_data write out of bounds",
        _versions("6.18.40", "6.12.97", "6.6.145", "6.1.178", "5.15.212"),
    ),
    KernelBug(
        "CVE-2026-74256",
        "push_data and pop_data write out of bounds",
        _versions("6.18.40", "6.12.97", "6.6.145", "6.1.178", "5.15.212"),
    ),
    KernelBug(
        "CVE-2026-63926",
        "pop_data at a wrong offset",
        _versions("6.18.35", "6.12.93", "6.6.143", "6.1.176", "5.15.210"),
    ),
    KernelBug(
        "CVE-2026-63830",
        "page cache writable through a message's data",
        _versions("6.18.38", "6.12.95", "6.6.144", "6.1.177", "5.15.212"),
    ),
    KernelBug(
        "CVE-2026-43016",
        "use after free when a stream verdict's socket has data",
        _versions("7.0", "6.19.12", "6.18.22", "6.12.81", "6.6.134", "6.1.191"),
    ),
    KernelBug(
        "CVE-2026-64025",
        "use after free: stream verdict against kTLS",
        _versions("7.1", "6.18.34", "6.12.92", "6.6.142", "6.1.191"),
    ),
    KernelBug("CVE-2026-93824", "kTLS and sockmap on one socket", _versions("6.12.111", "6.1.189")),
    KernelBug("CVE-2026-68399", "use after free when a socket's clone fails early", _versions("6.12.114", "6.1.191")),
    KernelBug(
        "CVE-2025-39913",
        "leak when corking runs out of memory",
        _versions("6.17", "6.12.48", "6.6.107", "6.1.153", "5.15.194"),
    ),
    KernelBug(
        "CVE-2025-68227",
        "MPTCP falling back on a socket in a map",
        _versions("6.18", "6.17.10", "6.12.60", "6.6.118", "6.1.159", "5.15.197"),
    ),
    KernelBug(
        "CVE-2025-38154",
        "use after free: backlog against close",
        _versions("6.16", "6.12.34", "6.6.94", "6.1.142", "5.15.186"),
    ),
    KernelBug(
        "CVE-2025-38165",
        "panic on fragmented packets",
        _versions("6.16", "6.12.34", "6.6.94", "6.1.142", "5.15.190"),
    ),
    KernelBug(
        "CVE-2025-38112",
        "use after free: poll against close",
        _versions("6.16", "6.12.34", "6.6.94", "6.1.142", "5.15.186"),
    ),
    KernelBug(
        "CVE-2024-56664, -56633, -56694",
        "replacing against closing, wrong accounting, a deadlock on pass",
        _versions("6.13", "6.12.6", "6.6.67", "6.1.125", "5.15.180"),
    ),
    KernelBug(
        "CVE-2024-46783",
        "a negative result of sendmsg stops the kernel",
        _versions("6.11", "6.6.51", "6.1.110", "5.15.167"),
    ),
    KernelBug(
        "CVE-2024-39500, -36938, -35895, -26731",
        "races on close, null pointers, lock inversion",
        _versions("6.10", "6.6.35", "6.1.95", "5.15.162"),
    ),
    KernelBug(
        "CVE-2022-50536, -49209, -49877",
        "references put twice, leaks when a message is full",
        _versions("6.2", "6.1.2", "5.15.86"),
    ),
)

# Releases from which every bug above is known to be fixed that verdicts inside a connection could meet. Branches
# 7.1, 6.18 and 6.6 are missing: whether they have the fix of CVE-2026-68399 is not known.
INLINE_MINIMUM: tuple[Version, ...] = _versions("6.12.114")
INLINE_FLOOR: Version = (6, 6, 15)  # below it a callback of bpf_loop is verified for its first run only


def inline_refusal(running: Version | None) -> str | None:
    """Why the version alone keeps verdicts out of this kernel; None if it does not."""
    if running is None:
        return "the kernel's version cannot be read"
    if running < INLINE_FLOOR:
        return f"{text_of(running)} is below {text_of(INLINE_FLOOR)}"
    for minimum in INLINE_MINIMUM:
        if minimum[:2] == running[:2]:
            return None if running >= minimum else f"{text_of(running)} is below {text_of(minimum)}"
    standings = [(bug, bug.standing(running)) for bug in BUGS]
    affected = [f"{bug.name} (fixed in {bug.fix_for(running)})" for bug, s in standings if s is Standing.AFFECTED]
    unknown = [bug.name for bug, s in standings if s is Standing.UNKNOWN]
    said = [f"{text_of(running)} has {', '.join(affected)}"] if affected else []
    if unknown:
        said.append(f"no fixed {running[0]}.{running[1]} release is known for {', '.join(unknown)}")
    return "; ".join(said) or f"{running[0]}.{running[1]} was not examined"
