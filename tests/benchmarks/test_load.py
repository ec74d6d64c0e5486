"""What the load generators print is read with suspicion: an answer too short is an error, not a request served."""

import json
import shutil
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks.checks import FRESH_PATH, wrong_answers
from benchmarks.load import (
    SCRIPT,
    LoadError,
    client_command,
    compile_client,
    parse_client,
    parse_wrk,
    run_text,
    wrk_command,
)
from benchmarks.rules import DENIED
from benchmarks.scenarios import BY_NAME

SMALL, BIG, FRESH, CLOSE = (BY_NAME[name] for name in ("keepalive", "1m", "fresh", "close"))
BODY = b"x" * 98
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 98\r\n\r\n" + BODY


def wrk_line(**changes: int) -> str:
    told = dict.fromkeys(("connect", "read", "write", "status", "timeout"), 0)
    told |= {"requests": 1000, "bytes": 1000 * 250, "duration_us": 2_000_000, "p50_us": 300, "p99_us": 900} | changes
    return f"Running 2s test\nRequests/sec: 500\nRESULT {json.dumps(told)}\n"


# --- wrk -------------------------------------------------------------------------------------------------------------


def test_a_round_of_wrk_is_read() -> None:
    load = parse_wrk(wrk_line(), SMALL)
    assert (load.requests, load.seconds, load.rate, load.p50_us, load.p99_us) == (1000, 2.0, 500.0, 300, 900)
    assert load.problems == ()


@pytest.mark.parametrize("name", ["connect", "read", "write", "status", "timeout"])
def test_every_error_that_wrk_counts_is_a_problem(name: str) -> None:
    assert parse_wrk(wrk_line(**{name: 3}), SMALL).problems == (f"3 {name} errors",)


@pytest.mark.parametrize("read", [0, 98 * 1000, 98 * 1000 - 1, (1000 + 32) * (98 + 1024) + 1])
def test_bytes_that_are_not_heads_and_whole_bodies_are_a_problem(read: int) -> None:
    (problem,) = parse_wrk(wrk_line(bytes=read), SMALL).problems
    assert problem == f"{read} bytes for 1000 answers of 98 bytes each"


def test_answers_under_way_at_the_end_are_no_problem() -> None:
    read = 1000 * (BIG.body_bytes + 250)
    assert parse_wrk(wrk_line(bytes=read), BIG).problems == ()
    assert parse_wrk(wrk_line(bytes=read + 16 * BIG.body_bytes), BIG).problems == ()
    assert parse_wrk(wrk_line(bytes=read + 17 * (BIG.body_bytes + 1024)), BIG).problems != ()


def test_no_answers_are_a_problem() -> None:
    assert parse_wrk(wrk_line(requests=0, bytes=0), SMALL).problems == ("no answers",)


@pytest.mark.parametrize("text", ["", "RESULT {}", "RESULT nonsense", wrk_line() * 2])
def test_wrk_without_its_result_is_an_error(text: str) -> None:
    with pytest.raises(LoadError, match="wrk printed no result"):
        parse_wrk(text, SMALL)


def test_the_command_says_what_the_scenario_is() -> None:
    assert wrk_command(CLOSE, 81, seconds=3, run=7)[-3:] == ["-H", "Connection: close", "http://127.0.0.1:81/jobs/1"]
    assert wrk_command(FRESH, 81, seconds=3, run=7)[-3:] == ["--", "fresh", "7"]
    assert {"-c16", "-d3s"} < set(wrk_command(BIG, 81, seconds=3, run=7))


# --- Our own client --------------------------------------------------------------------------------------------------


def client_line(**changes: Any) -> str:
    told = {"planned": 500, "requests": 500, "wrong": 0, "broken": 0, "missing": 0, "seconds": 1.0}
    latency = {"p50": 50.0, "p90": 80.0, "p99": 120.5, "p999": 900.0, "max": 1000.0}
    return json.dumps(told | {"latency_us": latency, "late_us": {"p50": 1.0, "p99": 9.0}} | changes)


def test_a_round_of_the_client_is_read() -> None:
    load = parse_client(client_line())
    assert (load.requests, load.p50_us, load.p99_us, load.problems) == (500, 50.0, 120.5, ())
    assert load.notes == {"p999_us": 900.0, "max_us": 1000.0, "late_p99_us": 9.0}


@pytest.mark.parametrize("name", ["wrong", "broken", "missing"])
def test_every_answer_that_the_client_misses_is_a_problem(name: str) -> None:
    assert parse_client(client_line(**{name: 2})).problems == (f"2 {name} answers",)


@pytest.mark.parametrize("text", ["", "{}", "[]"])
def test_the_client_without_its_result_is_an_error(text: str) -> None:
    with pytest.raises(LoadError, match="the client printed no result"):
        parse_client(text)


def test_a_generator_that_fails_is_an_error() -> None:
    with pytest.raises(LoadError, match="exit 3: no"):
        run_text(["sh", "-c", "echo no; exit 3"], 5)
    with pytest.raises(LoadError, match="no-such-program"):
        run_text(["no-such-program"], 5)


class Origin(socketserver.ThreadingTCPServer):
    """Answers every head with `answer`; keeps the heads; the request numbered `stall_at` waits while all wait."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, answer: bytes, stall_at: int = -1) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.stall_at = stall_at
        self.heads: list[bytes] = []
        self.turn = threading.Lock()


class Handler(socketserver.StreamRequestHandler):
    server: Origin
    disable_nagle_algorithm = True

    def handle(self) -> None:
        head = b""
        for line in self.rfile:
            head += line
            if line == b"\r\n":
                with self.server.turn:
                    self.server.heads.append(head)
                    if len(self.server.heads) == self.server.stall_at:
                        threading.Event().wait(0.2)
                self.wfile.write(self.server.answer)
                head = b""


@contextmanager
def serving(origin: Origin) -> Iterator[int]:
    thread = threading.Thread(target=origin.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield origin.server_address[1]
    finally:
        origin.shutdown()
        thread.join()
        origin.server_close()


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_client(tmp_path_factory.mktemp("client"))


def offered(client: Path, origin: Origin, *, rate: float = 500, seconds: float = 0.4) -> dict[str, Any]:
    with serving(origin) as port:
        told = json.loads(run_text(client_command(client, SMALL, port, rate=rate, seconds=seconds), 20))
        assert isinstance(told, dict)
        return told


@pytest.mark.slow
def test_the_client_offers_what_was_asked_for(client: Path) -> None:
    origin = Origin(ANSWER)
    told = offered(client, origin)
    assert len(origin.heads) == told["requests"] == told["planned"] == 200
    assert (told["wrong"], told["broken"], told["missing"]) == (0, 0, 0)
    assert 0.39 < told["seconds"] < 5
    assert 0 < told["latency_us"]["p50"] <= told["latency_us"]["p99"] <= told["latency_us"]["max"]


@pytest.mark.slow
def test_without_a_rate_the_client_asks_as_fast_as_it_is_answered(client: Path) -> None:
    origin = Origin(ANSWER)
    told = offered(client, origin, rate=0, seconds=0.2)
    assert len(origin.heads) == told["requests"] == told["planned"] > 200
    assert (told["wrong"], told["broken"], told["missing"]) == (0, 0, 0)
    assert 0.19 < told["seconds"] < 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "counter"),
    [
        (ANSWER.replace(b"200 OK", b"403 No"), "wrong"),
        (ANSWER.replace(b"98", b"97", 1)[:-1], "wrong"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 9000, "missing"),
    ],
)
def test_the_client_counts_wrong_answers(client: Path, answer: bytes, counter: str) -> None:
    assert offered(client, Origin(answer))[counter] == 200


@pytest.mark.slow
def test_a_stall_of_the_server_is_in_the_latency_of_all_that_were_due_meanwhile(client: Path) -> None:
    """200 ms in which 100 of 400 requests were due: a client that waits for answers would see 32 slow ones."""
    told = offered(client, Origin(ANSWER, stall_at=50), seconds=0.8)
    assert told["requests"] == 400
    assert told["latency_us"]["max"] > 190_000
    assert told["latency_us"]["p90"] > 100_000


# --- The checking client ---------------------------------------------------------------------------------------------


def test_a_proxy_that_denies_nothing_is_found_out() -> None:
    with serving(Origin(ANSWER)) as port:
        problems = wrong_answers(port, SMALL)
    assert problems[0] == "GET /jobs/1: 200 and 98 bytes"  # of the right length, with the wrong content
    assert problems[1:] == [f"{method} {target}: 200, expected 403" for method, target in DENIED]


def test_a_proxy_that_denies_everything_is_found_out() -> None:
    with serving(Origin(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")) as port:
        assert wrong_answers(port, SMALL) == ["GET /jobs/1: 403 and 0 bytes"]


def test_a_proxy_that_answers_nothing_is_found_out() -> None:
    with serving(Origin(b"nonsense\r\n\r\n")) as port:
        (problem,) = wrong_answers(port, SMALL)
    assert "BadStatusLine" in problem


# --- load.lua --------------------------------------------------------------------------------------------------------

# Not a skip: wrk comes with `make bench`, and only there this is needed.
if shutil.which("wrk"):

    @pytest.mark.slow
    def test_no_fresh_head_comes_twice() -> None:
        origin = Origin(ANSWER)
        with serving(origin) as port:
            for run in (1, 2):
                load = parse_wrk(run_text(wrk_command(FRESH, port, seconds=1, run=run), 20), FRESH)
                assert load.problems == ()
        fresh = [head for head in origin.heads if b"traceparent" in head]
        assert len(fresh) > 100
        assert len(set(fresh)) == len(fresh)
        assert len({FRESH_PATH.findall(head)[0] for head in fresh}) == len(fresh)
        traces = {line for head in fresh for line in head.split(b"\r\n") if line.startswith(b"traceparent: ")}
        assert len(traces) == len(fresh)
        assert len(next(iter(traces))) == len("traceparent: ") + 2 + 1 + 32 + 1 + 16 + 1 + 2


def test_the_script_is_beside_the_module() -> None:
    assert SCRIPT.is_file()
