"""`racecar uninstall`: take down what instances left in the kernel."""

import contextlib
import os
import signal
import sys
import time

from racecar.redirect import registry
from racecar.redirect.instance import pin_root

END_TIMEOUT_S = 60.0  # the guardian's own bound, and some


def uninstall(only: str | None, *, force: bool) -> int:
    """Remove dead instances; with `force` end living ones first. 0, or 1 if something had to stay."""
    if os.geteuid() != 0:
        print("racecar: uninstall needs root: pins and cgroups belong to it (sudo)", file=sys.stderr)
        return 1
    names = registry.names()
    if only is not None and only not in names:
        print(f"racecar: no instance {only}; there are: {', '.join(names) or 'none'}", file=sys.stderr)
        return 1
    kept = 0
    for name in names if only is None else [only]:
        if registry.is_alive(name) and not (force and _end(name)):
            print(f"racecar: instance {name} is running; stop it first, or pass --force", file=sys.stderr)
            kept = 1
            continue
        try:
            registry.remove(name)
        except OSError as failed:
            print(f"racecar: instance {name}: {failed.strerror or failed}", file=sys.stderr)
            kept = 1
            continue
        print(f"removed instance {name}")
    with contextlib.suppress(OSError):
        pin_root().rmdir()
    return kept


def _end(name: str) -> bool:
    """SIGKILL to the owner; its guardian ends the command and cleans up. False if it stays."""
    state = registry.read_state(name)
    if state is None:
        return False
    try:
        owner = os.pidfd_open(state.owner_pid)
    except ProcessLookupError:
        return not registry.is_alive(name)
    try:
        if not registry.is_alive(name):  # checked after the pidfd: the number was not another process's
            return True
        signal.pidfd_send_signal(owner, signal.SIGKILL)
    finally:
        os.close(owner)
    deadline = time.monotonic() + END_TIMEOUT_S
    while registry.is_alive(name) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not registry.is_alive(name)
