"""The harness itself: both ends of one exec, on every kind of rule."""

import pytest
from harness import EchoServer, HttpServer, TcpServer, UdpServer, cidr, http, policy, relayed, run_exec, workload

pytestmark = [pytest.mark.root, pytest.mark.slow]


def test_both_ends_of_every_kind_of_connection_are_seen() -> None:
    code = """
        say(exchange(dial("127.0.0.1", native), b"hello"))
        say(exchange(dial("127.0.0.1", relay), b"hello"))
        s = dial("127.0.0.1", api)
        s.sendall(b"GET /jobs HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        say(attempt(s.recv, 65536)[:15])
        s.sendall(b"GET /secret HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        say(attempt(s.recv, 65536)[:22])
        say(attempt(dial, "127.0.0.1", closed))
        say(attempt(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto, b"x", ("127.0.0.1", datagrams)))
    """
    with (
        EchoServer() as native,
        EchoServer() as relay,
        HttpServer() as api,
        TcpServer() as closed,
        UdpServer() as datagrams,
    ):
        rules = cidr("127.0.0.1", native.port), relayed("127.0.0.1", relay.port), http("127.0.0.1", api.port)
        ports = {
            "native": native.port,
            "relay": relay.port,
            "api": api.port,
            "closed": closed.port,
            "datagrams": datagrams.port,
        }
        result = run_exec(policy(*rules), workload(code, **ports))
        assert result.code == 0
        assert result.said == ["hello", "hello", "HTTP/1.1 200 OK", "HTTP/1.1 403 Forbidden", "EPERM", "EPERM"]
        assert native.received == [b"hello"]
        assert relay.received == [b"hello"]
        assert api.requests == [("GET", "/jobs")]
        assert closed.connections == []
        assert datagrams.close() == []
        assert sorted(result.reasons()) == ["DEFAULT_DENY", "DEFAULT_DENY", "HTTP_NO_RULE"]
