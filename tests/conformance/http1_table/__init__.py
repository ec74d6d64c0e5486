"""HTTP/1.1 as the proxy must treat it: a table of connections, each with what its three parties then have.

Every case is judged by the one policy of `policy.py`. The table imports nothing of racecar and does no I/O: runners
(tests beside it, sockets, the kernel's programs) import `GROUPS` and `model`.
"""

from http1_table import (
    answers,
    bodies,
    chunks,
    connections,
    fields,
    first_bytes,
    framing,
    paths,
    pipelining,
    request_line,
    switching,
    time,
)
from http1_table.model import Case, Group, Then, Turn, Verdict

GROUPS: tuple[Group, ...] = (
    *request_line.GROUPS,
    *fields.GROUPS,
    *framing.GROUPS,
    *chunks.GROUPS,
    *bodies.GROUPS,
    *connections.GROUPS,
    *switching.GROUPS,
    *paths.GROUPS,
    *first_bytes.GROUPS,
    *pipelining.GROUPS,
    *answers.GROUPS,
    *time.GROUPS,
)

__all__ = ["GROUPS", "Case", "Group", "Then", "Turn", "Verdict"]
