"""What becomes opaque, if a rule says so and never else: CONNECT, and TLS by passthrough."""

import contextlib
import http.client
import re
import select
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.origins import Process, listen
from tests.peers.proxies import Proxy
from tests.peers.raw_servers import Line, RawServer

pytestmark = [pytest.mark.peers, pytest.mark.slow]

PAGE = b"<h1>the page</h1>\n"


# --- Certificates and servers ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(directory: Path, tool: Callable[[str], str]) -> tuple[Path, Path]:
    """A self-signed one for 127.0.0.1, and its key."""
    certificate, key = directory / "certificate.pem", directory / "key.pem"
    argv = [tool("openssl"), "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    argv += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(argv, capture_output=True, check=True, timeout=50)
    return certificate, key


@pytest.fixture(scope="module")
def tls_nginx(directory: Path, tool: Callable[[str], str], certificate: tuple[Path, Path]) -> Iterator[int]:
    """nginx with TLS; the port."""
    folder = directory / "tls"
    folder.mkdir()
    (folder / "page.html").write_bytes(PAGE)
    listener = listen()
    port = listener.getsockname()[1]
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(f"""
        daemon off;
        pid {folder}/nginx.pid;
        events {{}}
        http {{
            access_log off;
            {temporary}
            server {{
                listen 127.0.0.1:{port} ssl;
                ssl_certificate {certificate[0]};
                ssl_certificate_key {certificate[1]};
                root {folder};
            }}
        }}
        """)
    if directory.owner() == "root":
        (folder / "nginx.conf").write_text("user root;\n" + (folder / "nginx.conf").read_text())
    argv = [tool("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]
    server = Process(argv, listener=listener, env={"NGINX": "3;"})
    listener.close()
    yield port
    server.stop()


@pytest.fixture(scope="module")
def openssl_server(tool: Callable[[str], str], certificate: tuple[Path, Path]) -> Iterator[int]:
    """`openssl s_server`; the port."""
    argv = [tool("openssl"), "s_server", "-accept", "127.0.0.1:0", "-www"]
    argv += ["-cert", str(certificate[0]), "-key", str(certificate[1])]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        assert server.stdout is not None
        port = 0
        for line in server.stdout:
            if found := re.match(rb"ACCEPT \S+:(\d+)", line):
                port = int(found[1])
                break
        assert port, "openssl s_server says no port"
        yield port
        server.terminate()


def splice(one: socket.socket, other: socket.socket) -> None:
    """Both ways, until both have ended."""
    ways = {one: other, other: one}
    while ways:
        for ready in select.select(list(ways), [], [], 20)[0]:
            data = ready.recv(1 << 16)
            if data:
                ways[ready].sendall(data)
                continue
            with contextlib.suppress(OSError):
                ways.pop(ready).shutdown(socket.SHUT_WR)


def connect_proxy(line: Line) -> None:
    """A forward proxy that knows CONNECT alone."""
    method, place, _ = line.head().split(b" ", 2)
    assert method == b"CONNECT"
    host, _, port = place.decode().partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as upstream:
        line.say(b"HTTP/1.1 200 Connection established\r\n\r\n")
        splice(line.socket, upstream)


def page(line: Line) -> None:
    line.head()
    line.say(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(PAGE), PAGE))


def curl(tool: Callable[[str], str], *arguments: str) -> tuple[int, bytes, str]:
    argv = [tool("curl"), "-sS", "--max-time", "30", *arguments]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=50)
    return done.returncode, done.stdout, done.stderr.decode()


# --- CONNECT ---------------------------------------------------------------------------------------------------------


def connect_rules(port: int, *, granted: bool = True) -> dict[str, Any]:
    rule: dict[str, Any] = {"method": "CONNECT", "path": f"127\\.0\\.0\\.1:{port}"}
    return {"http": [rule | ({"connect": True} if granted else {})]}


def test_a_granted_tunnel_carries_http(tool: Callable[[str], str], make_proxy: Callable[..., Proxy]) -> None:
    with RawServer(page) as origin, RawServer(connect_proxy) as forward:
        proxy = make_proxy(forward.port, connect_rules(origin.port))
        said = curl(tool, "-p", "-x", proxy.base, f"http://127.0.0.1:{origin.port}/page.html")
        assert said == (0, PAGE, "")
        assert proxy.reasons() == []


def test_a_granted_tunnel_carries_tls(
    tool: Callable[[str], str], make_proxy: Callable[..., Proxy], tls_nginx: int, certificate: tuple[Path, Path]
) -> None:
    with RawServer(connect_proxy) as forward:
        proxy = make_proxy(forward.port, connect_rules(tls_nginx))
        url = f"https://127.0.0.1:{tls_nginx}/page.html"
        assert curl(tool, "-x", proxy.base, "--cacert", str(certificate[0]), url) == (0, PAGE, "")


@pytest.mark.parametrize("case", ["another port", "not granted"])
def test_a_tunnel_that_no_rule_grants_is_refused(
    case: str, tool: Callable[[str], str], make_proxy: Callable[..., Proxy]
) -> None:
    with RawServer(page) as origin, RawServer(connect_proxy) as forward:
        rules = connect_rules(1) if case == "another port" else connect_rules(origin.port, granted=False)
        proxy = make_proxy(forward.port, rules)
        code, body, said = curl(tool, "-p", "-x", proxy.base, f"http://127.0.0.1:{origin.port}/page.html")
        assert (code, body) == (56, b"")
        assert "403" in said
        assert origin.lines == []
        assert [line.read for line in forward.lines] == [b""] * len(forward.lines)
        # curl leaves the body of a refusal unread, and so resets.
        assert proxy.reasons()[0] == ("HTTP_NO_RULE" if case == "another port" else "HTTP_CONNECT")


def test_a_proxy_that_refuses_the_tunnel_is_heard(tool: Callable[[str], str], make_proxy: Callable[..., Proxy]) -> None:
    def refuse(line: Line) -> None:
        line.head()
        line.say(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
        line.drain()

    with RawServer(refuse) as forward:
        proxy = make_proxy(forward.port, connect_rules(81))
        code, _, said = curl(tool, "-p", "-x", proxy.base, "http://127.0.0.1:81/")
    assert code == 56
    assert "407" in said


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [{"tls": "passthrough"}, {"http": [{"path": "/plain"}], "tls": "passthrough"}])
def test_tls_passes_where_a_rule_says_so(
    rules: dict[str, Any],
    tool: Callable[[str], str],
    make_proxy: Callable[..., Proxy],
    tls_nginx: int,
    certificate: tuple[Path, Path],
) -> None:
    proxy = make_proxy(tls_nginx, rules)
    url = f"https://127.0.0.1:{proxy.port}/page.html"
    assert curl(tool, "--cacert", str(certificate[0]), url) == (0, PAGE, "")
    assert curl(tool, "--cacert", str(certificate[0]), "--tlsv1.2", "--tls-max", "1.2", url) == (0, PAGE, "")


def test_tls_passes_from_python_to_openssl(
    make_proxy: Callable[..., Proxy], openssl_server: int, certificate: tuple[Path, Path]
) -> None:
    proxy = make_proxy(openssl_server, {"tls": "passthrough"})
    context = ssl.create_default_context(cafile=str(certificate[0]))
    connection = http.client.HTTPSConnection("127.0.0.1", proxy.port, timeout=20, context=context)
    connection.request("GET", "/")
    response = connection.getresponse()
    assert response.status == 200
    assert b"s_server" in response.read()
    connection.close()


def test_tls_is_refused_where_no_rule_lets_it_pass(
    tool: Callable[[str], str], make_proxy: Callable[..., Proxy]
) -> None:
    with RawServer(Line.drain) as server:
        proxy = make_proxy(server.port, {"http": [{}]})
        code, body, said = curl(tool, "-k", f"https://127.0.0.1:{proxy.port}/page.html")
        assert (code, body) == (35, b"")
        assert "access denied" in said
        assert proxy.reasons() == ["HTTP_TLS"]
    assert [line.read for line in server.lines] == [b""] * len(server.lines)


def test_plain_http_is_refused_where_only_tls_may_pass(
    tool: Callable[[str], str], make_proxy: Callable[..., Proxy], tls_nginx: int
) -> None:
    proxy = make_proxy(tls_nginx, {"tls": "passthrough"})
    code, body, _ = curl(tool, f"{proxy.base}/page.html", "-w", "%{http_code}")
    assert (code, body[-3:]) == (0, b"403")
