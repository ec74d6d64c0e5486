"""HTTP/1.0: curl as it was long ago, and keep-alive as `ab -k` asks for it."""

import http.client
import socket
from collections.abc import Callable

import pytest

from tests.peers.callers import Call, Callers, pattern
from tests.peers.origins import SERVERS, Origin
from tests.peers.proxies import Proxy
from tests.peers.test_pairs import DENIED, JOBS, LARGE, upload

pytestmark = [pytest.mark.peers, pytest.mark.slow]

OLD = frozenset({"http1.0"})


@pytest.mark.parametrize("server", SERVERS)
def test_curl_speaks_http_1_0_with_every_server(
    server: str, run: str, callers: Callers, origins: Callable[[str], Origin], proxies: Callable[[str], Proxy]
) -> None:
    origin, proxy = origins(server), proxies(server)
    calls = [
        Call("GET", f"/{run}/jobs", flags=OLD),
        Call("GET", f"/{run}/applicants", flags=OLD),
        Call("POST", f"/{run}/up", 5000, OLD),
        Call("GET", f"/{run}/large", flags=OLD),
        Call("POST", f"/{run}/applicants", 5000, OLD),
        Call("GET", f"/{run}/jobs", flags=OLD),
    ]
    got = callers.client("curl").run(proxy.base, calls)
    assert [(one.error, one.status) for one in got] == [("", status) for status in (200, 403, 200, 200, 403, 200)]
    assert [got[0].start, got[2].start, got[5].start] == [JOBS, upload(5000), JOBS]
    assert (got[3].length, got[3].start) == (len(LARGE), pattern(200))
    assert got[1].start.startswith(DENIED)
    seen = origin.wait_seen(run, 4)
    assert [entry.target for entry in seen] == [f"/{run}/{path}" for path in ("jobs", "up", "large", "jobs")]
    assert {entry.version for entry in seen} == {"HTTP/1.0"}


class Old:
    """A client that asks as `ab -k` does; without `keep` it reads to the end."""

    def __init__(self, port: int, *, keep: bool) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._keep = "Connection: Keep-Alive\r\n" if keep else ""

    def ask(self, path: str, host: str = "Host: a\r\n") -> tuple[int, bytes, bool]:
        """Status, body, and whether the connection goes on."""
        self._socket.sendall(f"GET {path} HTTP/1.0\r\n{self._keep}{host}\r\n".encode())
        response = http.client.HTTPResponse(self._socket, method="GET")
        response.begin()
        body = response.read()
        goes_on = not response.will_close
        response.close()
        return response.status, body, goes_on

    def ends(self) -> bool:
        """The server closes; a reset would not be in order."""
        return self._socket.recv(1) == b""

    def close(self) -> None:
        self._socket.close()


@pytest.mark.parametrize("server", SERVERS)
def test_keep_alive_of_http_1_0_lasts_as_long_as_the_server_says(
    server: str, run: str, origins: Callable[[str], Origin], proxies: Callable[[str], Proxy]
) -> None:
    client = Old(proxies(server).port, keep=True)
    asked = 0
    goes_on = True
    while goes_on and asked < 20:
        status, body, goes_on = client.ask(f"/{run}/jobs")
        assert (status, body) == (200, JOBS)
        asked += 1
    if goes_on:
        status, body, _ = client.ask(f"/{run}/applicants")
        assert (status, body[: len(DENIED)]) == (403, DENIED)
    assert client.ends()
    client.close()
    seen = origins(server).wait_seen(run, asked)
    assert (len(seen), len({entry.peer for entry in seen})) == (asked, 1)
    # Others say nothing of keep-alive to HTTP/1.0.
    assert asked == 20 or server in ("uvicorn", "gunicorn", "http_server")


def test_http_1_0_needs_no_host(run: str, origins: Callable[[str], Origin], proxies: Callable[[str], Proxy]) -> None:
    client = Old(proxies("http_server").port, keep=False)
    status, body, _ = client.ask(f"/{run}/jobs", host="")
    assert (status, body, client.ends()) == (200, JOBS, True)
    client.close()
    assert [entry.version for entry in origins("http_server").seen(run)] == ["HTTP/1.0"]


def test_a_refusal_of_http_1_0_closes_in_order(proxies: Callable[[str], Proxy], run: str) -> None:
    client = Old(proxies("http_server").port, keep=False)
    status, body, goes_on = client.ask(f"/{run}/applicants")
    assert (status, body[: len(DENIED)], goes_on, client.ends()) == (403, DENIED, False, True)
    client.close()
