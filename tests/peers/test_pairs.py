"""Every client with every server, through racecar: the same calls, what the application got, what the server saw."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from tests.peers.callers import CLIENTS, Call, Callers, Client, Got, pattern
from tests.peers.origins import SERVERS, Origin, Seen
from tests.peers.proxies import Proxy

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(180)]  # Go builds its library first

LARGE = (bytes(range(251)) * 4200)[: 1 << 20]
JOBS = b"jobs\n"
DENIED = b"denied by policy: default deny (default/peers)\nevent "


def upload(size: int) -> bytes:
    """What servers answer to it."""
    return f"{size} {hashlib.sha256(pattern(size)).hexdigest()}\n".encode()


@dataclass(frozen=True)
class Step:
    """A call, what the application is to get, and what the server is to see of it."""

    call: Call
    status: int
    body: bytes | None  # None: a denial's text
    reaches: tuple[str, ...]  # targets without the run

    def fails(self, run: str, got: Got) -> str:
        """What is wrong with `got`; empty if nothing."""
        if got.error:
            return got.error
        if got.status != self.status:
            return f"status {got.status} instead of {self.status}: {got.start!r}"
        if self.call.method == "HEAD" and got.content_length != "5":
            return f"Content-Length {got.content_length} instead of 5"
        if self.body is None:
            return "" if got.start.startswith(DENIED) else f"a denial that says {got.start!r}"
        body = self.body.replace(b"RUN", run.encode())
        return "" if got.sha256 == hashlib.sha256(body).hexdigest() else f"{got.length} bytes: {got.start[:80]!r}"


def allowed(method: str, path: str, body: bytes, *flags: str, size: int = -1, group: str = "", **more: str) -> Step:
    call = Call(method, path, size, frozenset(flags), header=more.get("header", ""), group=group)
    return Step(call, 200, body, (path,))


def denied(method: str, path: str, *flags: str, size: int = -1, group: str = "") -> Step:
    return Step(Call(method, path, size, frozenset(flags), group=group), 403, None, ())


def jobs(group: str = "") -> Step:
    return allowed("GET", "/jobs", JOBS, group=group)


CONDITIONAL = Call("GET", "/unchanged", header='If-None-Match: "one"', flags=frozenset({"conditional"}))
UNCHANGED = Step(CONDITIONAL, 304, b"", ("/unchanged",))
SCRIPT = [
    jobs("denied"),
    denied("GET", "/applicants", group="denied"),
    jobs("denied"),
    allowed("POST", "/up", upload(10_000), size=10_000),
    allowed("POST", "/up", upload(100_000), "chunked", size=100_000),
    allowed("POST", "/up", upload(0), size=0),
    allowed("PUT", "/up", upload(300_000), size=300_000),
    allowed("HEAD", "/jobs", b""),
    Step(Call("GET", "/nothing"), 204, b"", ("/nothing",)),
    UNCHANGED,
    allowed("GET", "/large", LARGE),
    allowed("GET", "/gzip", b"racecar " * 2000, header="Accept-Encoding: gzip"),
    denied("POST", "/applicants", size=10_000),
    denied("POST", "/applicants", "chunked", size=10_000),
    denied("DELETE", "/jobs"),
    denied("GET", "/jobs/../applicants/x"),
    jobs(),
    denied("POST", "/applicants", size=1_000_000),
    denied("POST", "/applicants", "chunked", size=1_000_000),
    jobs(),
    Step(Call("GET", "/moved", flags=frozenset({"follow"})), 200, JOBS, ("/moved", "/jobs")),
    Step(Call("GET", "/moved-away", flags=frozenset({"follow"})), 403, None, ("/moved-away",)),
    allowed("GET", "/echo?x=1&y=%20z&x=2", b"/RUN/echo?x=1&y=%20z&x=2"),
    *[allowed("GET", f"/jobs?n={n}", JOBS, group="kept") for n in range(20)],
    allowed("POST", "/up", upload(10_000), "expect", size=10_000),
    denied("POST", "/applicants", "expect", "expect-refused", size=10_000),
    allowed("POST", "/up", upload(20_000), "expect", "chunked", size=20_000),
    allowed("GET", "/jobs?last", JOBS, "close"),
    jobs(),
    allowed("GET", "/close", b"closing\n"),
    jobs(),
    Step(Call("GET", "/jobs?together", parallel=8), 200, JOBS, ("/jobs?together",) * 8),
]


def placed(run: str, step: Step) -> Call:
    return replace(step.call, path=f"/{run}{step.call.path}")


def compare(run: str, steps: list[Step], got: list[Got]) -> list[str]:
    """What the application got amiss, a line each."""
    expected = [step for step in steps for _ in range(step.call.parallel)]
    wrong = [] if len(got) == len(expected) else [f"{len(got)} answers to {len(expected)} calls"]
    for number, (step, one) in enumerate(zip(expected, got, strict=False)):
        if failure := step.fails(run, one):
            flags = ",".join(sorted(step.call.flags))
            wrong.append(f"{number}: {step.call.method} {step.call.path} {step.call.size} {flags}: {failure}")
    return wrong


def check_connections(run: str, seen: list[Seen], most: int) -> list[str]:
    """What was to share a connection: the calls around a denial, and twenty in a row."""
    kept = {entry.peer for entry in seen if entry.target.startswith(f"/{run}/jobs?n=")}
    around = {entry.peer for entry in seen[:2]}
    wrong = [] if 1 <= len(kept) <= most else [f"20 calls in a row on {len(kept)} connections"]
    return wrong if len(around) <= most else [*wrong, "another connection after a denial"]


def check_chunks(run: str, steps: list[Step], seen: list[Seen]) -> list[str]:
    """How each upload was framed on its way."""
    uploads = [entry.is_chunked for entry in seen if entry.target == f"/{run}/up"]
    meant = ["chunked" in step.call.flags for step in steps if step.call.path == "/up"]
    return [] if uploads == meant else [f"chunked uploads: {uploads} instead of {meant}"]


def failures(caller: Client, origin: Origin, port: int, run: str) -> list[str]:
    """Go through the script at `port`; a line for everything that is not as it should be."""
    steps = [step for step in SCRIPT if not step.call.flags & caller.cannot]
    got = caller.run(f"http://127.0.0.1:{port}", [placed(run, step) for step in steps])
    wrong = compare(run, steps, got)
    meant = [(step.call.method, f"/{run}{path}") for step in steps for path in step.reaches]
    seen = origin.wait_seen(run, len(meant))
    if [(entry.method, entry.target) for entry in seen] != meant:
        wrong.append(f"the server saw {[(entry.method, entry.target) for entry in seen]}")
    wrong += check_connections(run, seen, caller.connections) + check_chunks(run, steps, seen)
    wrong += [f"Host: {entry.host}" for entry in seen if entry.host != f"127.0.0.1:{port}"][:1]
    return wrong + [entry.version for entry in seen if entry.version != "HTTP/1.1"][:1]


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_and_a_server_understand_each_other(
    client: str,
    server: str,
    run: str,
    callers: Callers,
    origins: Callable[[str], Origin],
    proxies: Callable[[str], Proxy],
) -> None:
    proxy = proxies(server)
    wrong = failures(callers.client(client), origins(server), proxy.port, run)
    assert not wrong, "\n".join([f"{client} and {server}:", *wrong])
