"""Names of instances."""

import re

RESERVED = ("uids", "lock")

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def check_name(name: str) -> None:
    """Raises ValueError for what cannot name an instance."""
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise ValueError(f"instance name {name!r}: lower-case letters, digits, '.', '_', '-', at most 63")
