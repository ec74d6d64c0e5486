"""However the bytes of both sides are cut, a conversation says, forwards and logs the same.

Conversations are put together at random, from a fixed seed. Left out is what cuts must change: which part of a chunked
request was forwarded before its malformed chunk came, and what a server says behind an answer (two answers to one
request, one read after the other, are an answer to the next request if that is out by then).
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

from racecar.policy.reasons import Reason

GET = b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n"


def request(line: bytes, *fields: bytes, body: bytes = b"") -> bytes:
    return b"\r\n".join((line + b" HTTP/1.1", b"Host: jobs", *fields)) + b"\r\n\r\n" + body


CHUNKED = b"Transfer-Encoding: chunked"
ALLOWED = [
    GET,
    request(b"HEAD /jobs"),
    request(b"POST /jobs", b"Content-Length: 34", body=GET),
    request(b"POST /jobs", CHUNKED, body=b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"),
    request(b"POST /jobs", b"Content-Length: 3", b"Expect: 100-continue", body=b"abc"),
    request(b"GET /jobs", b"Connection: close"),
    request(b"GET /jobs", b"Upgrade: h2c", b"Connection: Upgrade"),
    request(b"GET /free", b"Upgrade: websocket", b"Connection: Upgrade"),
    request(b"GET http://jobs/jobs"),
    request(b"OPTIONS *"),
    b"CONNECT open:443 HTTP/1.1\r\nHost: open\r\n\r\n",
    b"GET /jobs HTTP/1.0\r\n\r\n",
    b"GET /jobs HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
]
OTHERS = [
    request(b"GET /applicants"),
    request(b"HEAD /applicants"),
    request(b"POST /applicants", b"Content-Length: 34", body=GET),
    request(b"POST /applicants", CHUNKED, body=b"22\r\n" + GET + b"\r\n0\r\n\r\n"),
    request(b"GET /jobs", b"Content-Length: 3", body=b"abc"),
    request(b"GET /jobs", b"Upgrade: websocket", b"Connection: Upgrade"),
    b"CONNECT closed:443 HTTP/1.1\r\nHost: closed\r\n\r\n",
    request(b"GET /jobs", b"Name : value"),
    request(b"GET /jobs", b"Expect: x"),
    b"\x81\x85frame",
    b"\x16\x03\x01",
]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
ANSWERS = [
    OK,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    b"HTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nstream",
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx",
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    b"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc",
    b"HTTP/1.1 200 OK\nX: y",
    b"junk",
]


def play(talk: Any, parts: list[bytes], answers: list[bytes], client_size: int, server_size: int) -> Any:
    talk.client(b"".join(parts), client_size)
    for answer in answers:
        if not talk.conversation.is_outstanding:
            break
        last = talk.to_server.rpartition(b"HEAD /")[2]
        if last.partition(b" ")[2] == b"HTTP/1.1\r\nHost: jobs\r\n\r\n":  # its answer has no body
            answer = answer[: answer.find(b"\r\n\r\n", answer.rfind(b"HTTP/1.")) + 4]
        talk.server(answer, server_size)
    talk.client_eof()
    talk.server_eof()
    talk.later(1000.0)
    return talk


def outcome(talk: Any) -> tuple[Any, ...]:
    records = [
        (r.verdict, r.reason, r.rule, r.method, r.path, r.status, r.opaque, r.event, r.detail)
        if not r.method
        else (r.verdict, r.reason, r.method, r.path, r.status, r.opaque, r.request_bytes, r.response_bytes)
        for r in talk.records
        if r.reason is not Reason.HTTP_PIPELINED  # of what waits it is logged, of what is not read it is not
    ]
    return talk.to_server, talk.to_client, talk.rest, records


@pytest.mark.parametrize("seed", range(60))
def test_cuts_do_not_change_a_conversation(start: Callable[..., Any], seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(5):
        parts = draw.choices(ALLOWED + OTHERS, k=draw.randint(1, 5))
        answers = draw.choices([OK] * 8 + ANSWERS, k=draw.randint(0, 5))
        fields = {"audit": draw.random() < 0.2, "tls_rule": 5 if draw.random() < 0.1 else 0}
        whole = outcome(play(start(**fields), parts, answers, 1 << 20, 1 << 20))
        for sizes in ((1, 1 << 20), (1 << 20, 1), (1, 1), (draw.randint(2, 60), draw.randint(2, 40))):
            assert outcome(play(start(**fields), parts, answers, *sizes)) == whole, (parts, answers, sizes)


@pytest.mark.parametrize("seed", range(60))
def test_what_reaches_the_server_is_allowed_requests_one_at_a_time(start: Callable[..., Any], seed: int) -> None:
    draw = random.Random(seed)
    plain = [part for part in ALLOWED if b"Upgrade" not in part and not part.startswith(b"CONNECT")]
    for _ in range(10):
        parts = draw.choices(plain + OTHERS, k=draw.randint(1, 8))
        talk = start().sends(b"".join(parts), draw.choice((1, 7, 50, 1 << 20)))
        left = [part for part in parts if part in plain]
        while talk.to_server and talk.conversation.is_outstanding:
            assert talk.to_server.endswith(left[0])
            talk.to_server = talk.to_server[: -len(left.pop(0))]
            assert talk.to_server == b""
            talk.server(b"HTTP/1.1 204 No Content\r\n\r\n")
        assert talk.to_server == b""
