"""Real curl through the proxy: what HTTP/1.1 can say arrives byte for byte, and what is refused never does."""

import contextlib
import hashlib
import re
import socket
from typing import Any

import h11
import pytest
from calls import curling
from harness import CanCall, HttpServer, Received, Result, http, policy, run_exec, workload

pytestmark = [pytest.mark.root, pytest.mark.slow]

MEGABYTES_20 = bytes(range(256)) * (20 << 12)
DIGEST = hashlib.sha256(MEGABYTES_20).hexdigest()
CALLS = [
    ("GET", "/jobs"),
    ("HEAD", "/jobs"),
    ("DELETE", "/jobs"),
    ("POST", "/up"),
    ("PUT", "/up"),
    ("GET", "/answer/.*"),
]
RECEIVE_FAILED = (52, 56)  # CURLE_GOT_NOTHING, CURLE_RECV_ERROR


class Origin(HttpServer):
    """Answers as the path asks; h11 alone says what was received."""

    def __init__(self, address: str = "127.0.0.1", netns: CanCall | None = None, *, port: int = 0) -> None:
        self.bodies: list[str] = []  # of each request, hashed
        self._hash = hashlib.sha256()
        super().__init__(address, netns, port=port)

    def answer(self, connection: Received, data: bytes) -> bytes:
        parser = self._parsers.setdefault(id(connection), h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20))
        parser.receive_data(data)
        reply = b""
        try:
            while (event := parser.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, h11.Request):
                    connection.requests.append((event.method.decode(), event.target.decode("latin-1")))
                    self._hash = hashlib.sha256()
                    if parser.they_are_waiting_for_100_continue:
                        reply += parser.send(h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue"))
                elif isinstance(event, h11.Data):
                    self._hash.update(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    self.bodies.append(self._hash.hexdigest())
                    reply += self._reply(parser, *connection.requests[-1])
                    if parser.our_state is not h11.DONE:
                        break
                    parser.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed):
                    break
        except h11.RemoteProtocolError as failed:
            connection.error = str(failed)
        return reply

    def _reply(self, parser: h11.Connection, method: str, target: str) -> bytes:
        status, headers, pieces = 200, [], [target.encode("latin-1")]
        if method in ("POST", "PUT"):
            pieces = [self.bodies[-1].encode()]
        match target.rpartition("/")[2]:
            case "long":
                pieces = [MEGABYTES_20]
            case "chunked":
                headers, pieces = [("Transfer-Encoding", "chunked")], [b"a" * 7, b"b" * 70_000, b"c"]
            case "until-close":
                headers, pieces = [("Connection", "close")], [b"until ", b"close"]
            case "nothing":
                status, headers, pieces = 204, [("X-Empty", "yes")], []
            case "unchanged":
                status, headers, pieces = 304, [("Content-Length", "5")], []
        if not headers:
            headers = [("Content-Length", str(sum(map(len, pieces))))]
        out = parser.send(h11.Response(status_code=status, headers=headers, reason=b"Fine")) or b""
        for piece in [] if method == "HEAD" else pieces:
            out += parser.send(h11.Data(data=piece)) or b""
        return out + (parser.send(h11.EndOfMessage()) or b"")

    def _serve(self, accepted: socket.socket, connection: Received) -> None:
        self._closes_after = accepted
        super()._serve(accepted, connection)


class Closing(Origin):
    """Ends each connection behind its first answer."""

    def answer(self, connection: Received, data: bytes) -> bytes:
        reply = super().answer(connection, data)
        if reply:
            with contextlib.suppress(OSError):
                self._closes_after.sendall(reply)
                self._closes_after.shutdown(socket.SHUT_WR)
        return b""


def curls(origin: Origin, code: str, **values: Any) -> Result:
    rules = policy(http("127.0.0.1", origin.port, calls=CALLS))
    base = f"http://127.0.0.1:{origin.port}"
    result = run_exec(rules, curling(code, base=base, **values))
    assert result.code == 0, result.stderr
    assert [one.error for one in origin.connections] == [""] * len(origin.connections)
    return result


def brief(result: Result) -> list[Any]:
    return [(one["exit"], one["status"], one["body"]) for one in result.said]


# --- What passes -----------------------------------------------------------------------------------------------------


def test_twenty_megabytes_arrive_whole_both_ways() -> None:
    with Origin() as origin:
        file = policy().parent / "body"
        file.write_bytes(MEGABYTES_20)
        code = """
say(curl(base + "/up", "-T", file))
say(curl(base + "/up", "--data-binary", "@" + file))
say(curl(base + "/answer/long"))
"""
        result = curls(origin, code, file=str(file))
        assert brief(result) == [(0, 200, DIGEST), (0, 200, DIGEST), (0, 200, DIGEST)]
        assert origin.bodies[:2] == [DIGEST, DIGEST]
        assert origin.requests == [("PUT", "/up"), ("POST", "/up"), ("GET", "/answer/long")]
    uploads = [flow["racecar"] for flow in result.flows if flow.get("Type") == "L7"]
    assert all(flow["bytes_sent"] > 20 << 20 for flow in uploads[:2])


def test_every_way_to_end_an_answer_ends_it() -> None:
    code = """
for name in ("nothing", "unchanged", "chunked"):
    say(curl(base + "/answer/" + name))
say(curl(base + "/jobs", "--head"))
say(curl(base + "/jobs", "-X", "DELETE"))
"""
    with Origin() as origin:
        nothing, unchanged, chunked, head, deleted = curls(origin, code).said
        assert (nothing["exit"], nothing["status"], nothing["body"]) == (0, 204, "")
        assert (unchanged["exit"], unchanged["status"], unchanged["body"]) == (0, 304, "")
        body = hashlib.sha256(b"a" * 7 + b"b" * 70_000 + b"c").hexdigest()
        assert (chunked["exit"], chunked["status"], chunked["body"]) == (0, 200, body)
        assert (head["exit"], head["status"]) == (0, 200)
        assert "Content-Length: 5\r\n" in head["body"]
        assert (deleted["exit"], deleted["status"], deleted["body"]) == (0, 200, "/jobs")
        assert len(origin.requests) == 5


def test_an_answer_may_end_with_the_connection() -> None:
    with Closing() as origin:
        assert brief(curls(origin, 'say(curl(base + "/answer/until-close"))')) == [(0, 200, "until close")]


def test_a_connection_is_kept_across_answers_and_denials() -> None:
    code = """
say(curl(base + "/jobs", base + "/answer/chunked", base + "/applicants", base + "/answer/nothing", base + "/jobs"))
"""
    with Origin() as origin:
        result = curls(origin, code)
        assert result.said[0]["exit"] == 0
        assert len(origin.connections) == 1
        assert sorted(origin.requests) == [
            ("GET", "/answer/chunked"),
            ("GET", "/answer/nothing"),
            ("GET", "/jobs"),
            ("GET", "/jobs"),
        ]
    assert result.reasons() == ["HTTP_NO_RULE"]


def test_a_body_waits_for_100_continue_and_a_denied_one_is_not_sent() -> None:
    code = """
say(curl(base + "/up", "-d", "hello", "-H", "Expect: 100-continue"))
say(curl(base + "/denied", "-d", "hello", "-H", "Expect: 100-continue"))
"""
    with Origin() as origin:
        passed, denied = curls(origin, code).said
        assert (passed["exit"], passed["status"]) == (0, 200)
        assert passed["body"] == hashlib.sha256(b"hello").hexdigest()
        assert (denied["exit"], denied["status"]) == (0, 403)
        assert origin.requests == [("POST", "/up")]


def test_the_origin_receives_what_curl_sent_byte_for_byte() -> None:
    code = """say(curl(base + "/jobs", "-A", "curl", "-H", "X-Odd:   spaced\\t value ", "-H", "accept:"))"""
    with Origin() as origin:
        curls(origin, code)
        assert origin.received == [
            f"GET /jobs HTTP/1.1\r\nHost: 127.0.0.1:{origin.port}\r\nUser-Agent: curl\r\n"
            "X-Odd:   spaced\t value \r\n\r\n".encode()
        ]


# --- What is refused -------------------------------------------------------------------------------------------------

REFUSED = [
    # what curl is asked for, its options, exit code and status, reason in the log
    ("/applicants", [], (0, 403), "HTTP_NO_RULE"),
    ("/jobs?id=1", [], (0, 403), "HTTP_NO_RULE"),
    ("/jobs", ["-X", "POST"], (0, 403), "HTTP_NO_RULE"),
    ("/jobs", ["-X", "get"], (0, 403), "HTTP_NO_RULE"),
    ("/answer/..%2fapplicants", [], (0, 403), "HTTP_PATH_ENCODING"),
    ("/answer/../applicants", ["--path-as-is"], (0, 403), "HTTP_NO_RULE"),
    ("/answer/%2e%2e/applicants", ["--path-as-is"], (0, 403), "HTTP_PATH_ENCODING"),
    ("/answer/..;/applicants", ["--path-as-is"], (0, 403), "HTTP_PATH_ENCODING"),
    ("/answer/a%00b", [], (0, 400), "HTTP_MALFORMED"),
    ("/jobs", ["-H", "Host:"], None, "HTTP_HOST"),
    ("/jobs", ["-H", "Content-Length: 1", "-H", "Content-Length: 2"], None, "HTTP_FRAMING"),
    ("/jobs", ["-X", "GET", "-d", "body"], None, "HTTP_BODY_NOT_ALLOWED"),
    ("/jobs", ["-X", "GET", "-d", "x", "-H", "Transfer-Encoding: chunked"], None, "HTTP_BODY_NOT_ALLOWED"),
    ("/up", ["-d", "x", "-H", "Transfer-Encoding: Chunked"], None, "HTTP_FRAMING"),
    ("/up", ["-d", "x", "-H", "Expect: miracles"], None, "HTTP_EXPECT"),
    ("/jobs", ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket"], None, "HTTP_UPGRADE"),
    ("/jobs", ["--http2-prior-knowledge"], None, "HTTP_HTTP2"),
    ("/jobs", ["--request-target", "*", "-X", "CONNECT"], None, "HTTP_TARGET_FORM"),
    ("/jobs", ["--request-target", "a:80", "-X", "CONNECT", "-H", "Host: a:80"], None, "HTTP_NO_RULE"),
    ("/jobs", ["--request-target", "http://127.0.0.2/jobs"], None, "HTTP_HOST"),
    ("/jobs", ["--request-target", "https://127.0.0.1/jobs"], None, "HTTP_TARGET_FORM"),
    ("/" + "a" * 9000, [], (0, 414), "HTTP_TARGET_TOO_LONG"),
    ("/jobs", ["-H", "X: " + "a" * 70_000], (0, 431), "HTTP_HEAD_TOO_LARGE"),
]


def test_what_no_rule_allows_or_nobody_can_judge_is_refused_with_its_reason_and_never_arrives() -> None:
    calls = [(path, options) for path, options, _, _ in REFUSED]
    code = """
for path, options in calls:
    say(curl(base + path, *options))
"""
    with Origin() as origin:
        result = curls(origin, code, calls=calls)
        assert origin.requests == []
        assert set(origin.received) <= {b""}
    told = [(one["exit"], one["status"]) for one in result.said]
    for (path, options, expected, _), got in zip(REFUSED, told, strict=True):
        if expected is None:
            assert 200 not in got, (path, options)
            assert 400 <= got[1] < 600 or got[0], (path, options)
        else:
            assert got == expected, (path, options)
    assert result.reasons() == [reason for *_, reason in REFUSED]


def test_tls_is_refused_before_a_byte_of_it_arrives() -> None:
    with Origin() as origin:
        code = 'say(curl(base.replace("http:", "https:") + "/jobs", "-k"))'
        result = curls(origin, code)
        assert result.said[0]["status"] == 0
        assert result.said[0]["exit"] in (35, 56)
        assert set(origin.received) <= {b""}
    assert result.reasons() == ["HTTP_TLS"]


def test_requests_behind_an_outstanding_one_are_judged_in_their_turn() -> None:
    code = """
        s = dial("127.0.0.1", port)
        one = b"GET /jobs HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n"
        say(exchange(s, one + one + one.replace(b"jobs", b"applicants") + one))
    """
    with Origin() as origin:
        rules = policy(http("127.0.0.1", origin.port, calls=CALLS))
        result = run_exec(rules, workload(code, port=origin.port))
        assert origin.requests == [("GET", "/jobs")] * 3
    (answers,) = result.said
    assert re.findall(r"HTTP/1\.1 (\d+)", answers) == ["200", "200", "403", "200"]
    assert result.reasons() == ["HTTP_NO_RULE"]


def test_an_upgrade_to_http_2_is_no_more_than_a_request_to_a_server_that_does_not_take_it() -> None:
    with Origin() as origin:
        result = curls(origin, 'say(curl(base + "/jobs", "--http2"))')
        assert origin.requests == [("GET", "/jobs")]
    assert (result.said[0]["exit"], result.said[0]["status"]) == (0, 200)


def test_a_chunked_body_arrives_as_it_was_sent() -> None:
    with Origin() as origin:
        result = curls(origin, 'say(curl(base + "/up", "-d", "x" * 70000, "-H", "Transfer-Encoding: chunked"))')
        assert origin.requests == [("POST", "/up")]
    assert (result.said[0]["exit"], result.said[0]["status"]) == (0, 200)


def test_a_body_left_on_a_denied_request_is_never_the_next_request() -> None:
    """The attack: bytes of a refused request that would be read as one of their own."""
    code = """
        s = dial("127.0.0.1", port)
        inner = b"GET /applicants HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n"
        head = b"POST /denied HTTP/1.1\\r\\nHost: a\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(inner)
        s.sendall(head + inner)
        say(attempt(s.recv, 65536)[:12])
        s.sendall(b"GET /jobs HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        say(attempt(s.recv, 65536)[:12])
    """
    with Origin() as origin:
        rules = policy(http("127.0.0.1", origin.port, calls=CALLS))
        result = run_exec(rules, workload(code, port=origin.port))
        assert result.said == ["HTTP/1.1 403", "HTTP/1.1 200"]
        assert origin.requests == [("GET", "/jobs")]
