"""Servers that do what is odd and legal, and some that break off: the client sees what it would see without us."""

import hashlib
import http.client
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.callers import Call, Callers, Got, pattern
from tests.peers.proxies import Proxy
from tests.peers.raw_servers import Line, RawServer

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(180)]  # Go builds its library first

PATH = "/run/odd/x"
LENGTHS = ("go", "http_client", "curl", "node_http")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def curl(tool: Callable[[str], str], proxy: Proxy, folder: Path, *arguments: str) -> tuple[int, bytes, list[str]]:
    """Its exit code, the body, and every line of every head and trailer."""
    head, body = folder / "head", folder / "body"
    argv = [tool("curl"), "-sS", "--max-time", "30", "-D", str(head), "-o", str(body), *arguments, proxy.base + PATH]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=50)
    lines = head.read_text().splitlines() if head.exists() else []
    return done.returncode, body.read_bytes() if body.exists() else b"", [line for line in lines if line]


def ask(callers: Callers, client: str, proxy: Proxy, *calls: Call) -> list[Got]:
    return callers.client(client).run(proxy.base, calls)


# --- Answers that come early -----------------------------------------------------------------------------------------


def answers_early_and_closes(line: Line) -> None:
    line.head()
    line.say(b"HTTP/1.1 413 Too Large\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbig\n")
    line.drain()  # as a careful server does: no reset eats its answer


def answers_early_and_goes_on(line: Line) -> None:
    while True:
        head = line.head()
        line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nearly\n")
        if b"POST" in head:
            line.exactly(2_000_000)


@pytest.mark.parametrize("client", ["curl", "go", "node_http", "java", "aiohttp", "requests"])
def test_an_answer_before_the_upload_has_ended_arrives(
    client: str, callers: Callers, make_proxy: Callable[..., Proxy]
) -> None:
    with RawServer(answers_early_and_closes) as server:
        (got,) = ask(callers, client, make_proxy(server.port), Call("POST", PATH, 2_000_000))
    assert (got.error, got.status, got.start) == ("", 413, b"big\n")


@pytest.mark.parametrize("client", ["curl", "http_client", "requests", "httpx"])
def test_an_upload_is_taken_to_its_end_though_the_answer_came_early(
    client: str, callers: Callers, make_proxy: Callable[..., Proxy]
) -> None:
    with RawServer(answers_early_and_goes_on) as server:
        (got,) = ask(callers, client, make_proxy(server.port), Call("POST", PATH, 2_000_000))
        uploads = [body for line in server.lines for body in line.read.split(b"\r\n\r\n") if len(body) > 100_000]
    assert (got.error, got.status, got.start) == ("", 200, b"early\n")
    # curl gives the connection up when the answer came early; the others send all of it.
    assert client == "curl" or [body[:2_000_000] for body in uploads] == [pattern(2_000_000)]


def test_a_connection_outlives_an_answer_that_came_before_the_upload_had_ended(
    make_proxy: Callable[..., Proxy],
) -> None:
    with RawServer(answers_early_and_goes_on) as server:
        connection = http.client.HTTPConnection("127.0.0.1", make_proxy(server.port).port, timeout=20)
        connection.putrequest("POST", PATH)
        connection.putheader("Content-Length", "2000000")
        connection.endheaders(bytes(1_000_000))
        answer = http.client.HTTPResponse(connection.sock, method="POST")
        answer.begin()
        assert answer.read() == b"early\n"
        connection.send(bytes(1_000_000))
        connection.send(b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n" % PATH.encode())
        answer = http.client.HTTPResponse(connection.sock, method="GET")
        try:
            answer.begin()
            assert answer.read() == b"early\n"
        finally:
            answer.close()
            connection.close()


# --- Where an answer ends --------------------------------------------------------------------------------------------


def answers_once(line: Line) -> None:
    line.head()
    line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")


@pytest.mark.parametrize("client", ["curl", "go", "aiohttp", "java"])  # those that ask again by themselves
def test_a_server_that_closes_without_a_word_costs_no_call(
    client: str, callers: Callers, make_proxy: Callable[..., Proxy]
) -> None:
    with RawServer(answers_once) as server:
        got = ask(callers, client, make_proxy(server.port), *[Call("GET", PATH)] * 10)
        connections = len(server.lines)
    assert [(one.error, one.status, one.start) for one in got] == [("", 200, b"ok\n")] * 10
    assert connections >= 10


def answers_until_close(line: Line) -> None:
    line.head()
    line.say(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n")
    line.say(pattern(1 << 20))


@pytest.mark.parametrize("client", ["curl", "wget", "go", "requests", "aiohttp", "java", "node_http", "node_fetch"])
def test_a_body_that_ends_with_the_connection_arrives_whole(
    client: str, callers: Callers, make_proxy: Callable[..., Proxy]
) -> None:
    with RawServer(answers_until_close) as server:
        got = ask(callers, client, make_proxy(server.port), Call("GET", PATH), Call("GET", PATH))
    assert [(one.error, one.status, one.sha256) for one in got] == [("", 200, digest(pattern(1 << 20)))] * 2


def answers_half(line: Line) -> None:
    head = line.head()
    is_chunked = b"chunked" in head
    line.say(b"HTTP/1.1 200 OK\r\n" + (b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: 1000"))
    line.say(b"\r\n\r\n1f4\r\n" if is_chunked else b"\r\n\r\n")
    line.say(bytes(500))


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("client", ["curl", "go", "requests", "aiohttp", "java", "node_http", "node_fetch"])
def test_an_answer_that_breaks_off_is_never_taken_for_whole(
    client: str, framing: str, callers: Callers, make_proxy: Callable[..., Proxy]
) -> None:
    with RawServer(answers_half) as server:
        (got,) = ask(callers, client, make_proxy(server.port), Call("GET", PATH, header=f"X-Framing: {framing}"))
    assert got.error


# --- What comes before and after an answer ---------------------------------------------------------------------------


def answers_with_trailers(line: Line) -> None:
    line.head()
    line.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, X-Empty\r\n\r\n")
    line.say(b'5;name="a;b"\r\nhello\r\n0\r\nX-Sum: 42\r\nX-Empty:\r\n\r\n')


def test_trailers_and_chunk_extensions_arrive(
    tool: Callable[[str], str], make_proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    with RawServer(answers_with_trailers) as server:
        code, body, heads = curl(tool, make_proxy(server.port), tmp_path)
    assert (code, body) == (0, b"hello")
    assert heads[-2:] == ["X-Sum: 42", "X-Empty:"]


def hints_early(line: Line) -> None:
    line.head()
    line.say(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n")
    line.say(b"HTTP/1.1 102 Processing\r\n\r\n")
    line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")


def test_early_hints_arrive_before_the_answer(
    tool: Callable[[str], str], make_proxy: Callable[..., Proxy], tmp_path: Path
) -> None:
    with RawServer(hints_early) as server:
        code, body, heads = curl(tool, make_proxy(server.port), tmp_path)
    assert (code, body) == (0, b"ok\n")
    assert [line for line in heads if line.startswith("HTTP/")] == [
        "HTTP/1.1 103 Early Hints",
        "HTTP/1.1 102 Processing",
        "HTTP/1.1 200 OK",
    ]
    assert "Link: </a.css>; rel=preload" in heads


@pytest.mark.parametrize("client", ["go", "httpx", "aiohttp", "node_http", "node_fetch", "java"])  # not http.client
def test_interim_answers_disturb_no_client(client: str, callers: Callers, make_proxy: Callable[..., Proxy]) -> None:
    def hints_again(line: Line) -> None:
        while True:
            line.head()
            line.say(
                b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n"
            )

    calls = [Call("GET", PATH)] * 3
    with RawServer(hints_again) as server:
        got = ask(callers, client, make_proxy(server.port), *calls)
    assert [(one.error, one.status, one.start) for one in got] == [("", 200, b"ok\n")] * 3


# --- Slowly ----------------------------------------------------------------------------------------------------------


def dribbles(line: Line) -> None:
    pause = threading.Event()
    line.head()
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\ndribble\r\n3\r\n...\r\n0\r\n\r\n"
    for at in range(len(answer)):
        line.say(answer[at : at + 1])
        pause.wait(0.01)


@pytest.mark.parametrize("client", LENGTHS)
def test_an_answer_that_comes_byte_by_byte_arrives(
    client: str, callers: Callers, make_proxy: Callable[..., Proxy]
) -> None:
    with RawServer(dribbles) as server:
        (got,) = ask(callers, client, make_proxy(server.port), Call("GET", PATH))
    assert (got.error, got.status, got.start) == ("", 200, b"dribble...")


def test_a_dribble_is_passed_on_as_it_comes(make_proxy: Callable[..., Proxy]) -> None:
    go_on = threading.Event()

    def in_two_halves(line: Line) -> None:
        line.head()
        line.say(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
        assert go_on.wait(20)
        line.say(b"cd")

    with RawServer(in_two_halves) as server:
        connection = http.client.HTTPConnection("127.0.0.1", make_proxy(server.port).port, timeout=20)
        connection.request("GET", PATH)
        response = connection.getresponse()
        assert response.read(2) == b"ab"
        go_on.set()
        assert response.read() == b"cd"
        connection.close()
