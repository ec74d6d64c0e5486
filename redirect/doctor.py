"""Ask this machine what racecar can do on it: by loading, attaching and trying, never by version alone.

Nothing is left behind: the throw-away cgroup, pins and links are gone when `examine` returns.
"""

import platform
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from racecar.redirect import probe_bpf, probe_host, probe_inline, probe_others, probe_relay, scratch
from racecar.redirect.ability import Ability, Status, reason_of


@dataclass(frozen=True, slots=True)
class Report:
    """All results, in the order in which they were tried."""

    kernel: str
    abilities: tuple[Ability, ...]

    @property
    def blockers(self) -> tuple[Ability, ...]:
        """What keeps the terminating path from running here; empty when it can."""
        return tuple(a for a in self.abilities if a.required and a.status is Status.MISSING)


@dataclass(frozen=True, slots=True)
class _Ground:
    """Where probes may work; a place that could not be made is None, with the reason."""

    cgroup_mount: str | None
    cgroup: Path | None
    cgroup_trouble: str
    bpffs_mount: str | None
    pins: Path | None
    pins_trouble: str


@contextmanager
def _ground() -> Iterator[_Ground]:
    cgroup_mount = next(iter(scratch.mounts("cgroup2")), None)
    bpffs_mounts = scratch.mounts("bpf")
    bpffs_mount = "/sys/fs/bpf" if "/sys/fs/bpf" in bpffs_mounts else next(iter(bpffs_mounts), None)
    cgroup = pins = None
    cgroup_trouble = "no cgroup2 is mounted"
    pins_trouble = ""
    with ExitStack() as stack:
        if cgroup_mount is not None:
            try:
                cgroup = stack.enter_context(scratch.scratch_cgroup(cgroup_mount))
            except OSError as error:
                cgroup_trouble = reason_of(error)
        try:
            place = bpffs_mount or stack.enter_context(scratch.scratch_bpffs())
            pins = stack.enter_context(scratch.scratch_pins(place))
        except OSError as error:
            pins_trouble = reason_of(error)
        yield _Ground(cgroup_mount, cgroup, cgroup_trouble, bpffs_mount, pins, pins_trouble)


def examine() -> Report:
    """Run every probe. Never raises for what a machine lacks."""
    with _ground() as ground:
        abilities = [
            *probe_host.privileges(),
            *probe_host.system_calls(),
            *probe_host.bpf_files(ground.bpffs_mount, ground.pins, ground.pins_trouble),
            *probe_host.cgroups(ground.cgroup_mount, ground.cgroup, ground.cgroup_trouble),
            *probe_bpf.hooks(),
            *probe_bpf.attachment(ground.cgroup),
            *probe_bpf.end_to_end(ground.cgroup, ground.pins),
            *probe_others.others(ground.cgroup, ground.cgroup_mount),
            *probe_relay.relay(),
            *probe_inline.inline(),
            *probe_inline.kernel_bugs(),
        ]
    return Report(f"{platform.release()} {platform.version()}", tuple(abilities))
