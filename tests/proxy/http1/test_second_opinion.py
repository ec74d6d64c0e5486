"""Two parsers must read a head alike: what real peers send passes both, what they differ in is refused."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from racecar.parsers.http1 import read_request_head, read_response_head
from racecar.parsers.http1.second_opinion import check_request
from racecar.policy.reasons import Reason
from racecar.proxy.core import http1_context
from racecar.proxy.core.http1_types import CloseServer, Command, EndClient, ResetServer, ToClient, ToServer

GET = b"GET /jobs HTTP/1.1\r\nHost: jobs\r\nAccept: */*\r\n\r\n"
POST = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nContent-Length: 2\r\n\r\nab"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST_WORD: list[Command] = [CloseServer(), EndClient()]
SIZES = pytest.mark.parametrize("size", [1, 7, 100000])
Reader = Callable[..., Any]


def changed(reader: Reader, **fields: Any) -> Reader:
    """A reader that understands some of a head in another way."""
    return lambda raw, limits: dataclasses.replace(reader(raw, limits), **fields)


@SIZES
@pytest.mark.parametrize(
    "fields",
    [
        {"method": b"POST"},
        {"method": b"GE"},
        {"target": b"/job"},
        {"http_1_0": True},
        {"length": 1},
    ],
)
def test_a_request_that_two_parsers_read_in_two_ways_is_refused(
    talk: Any, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], size: int
) -> None:
    monkeypatch.setattr(http1_context, "read_request_head", changed(read_request_head, **fields))
    talk.client(GET + GET, size)
    assert (talk.to_server, talk.statuses, talk.rest) == (b"", [400], LAST_WORD)
    assert talk.reasons == [Reason.HTTP_SECOND_OPINION]
    assert talk.judge.asked == []


def test_a_body_that_one_parser_does_not_see_is_refused(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http1_context, "read_request_head", changed(read_request_head, length=0))
    talk.client(POST)
    assert (talk.to_server, talk.reasons) == (b"", [Reason.HTTP_SECOND_OPINION])


@pytest.mark.parametrize("name", [b"X: y\r\n", b"Accept: */* \r\n", b"Accept: *\r\n"])
def test_a_header_that_one_parser_does_not_see_is_refused(
    talk: Any, monkeypatch: pytest.MonkeyPatch, name: bytes
) -> None:
    """The second reader is given another head than the first."""
    other = GET.replace(b"Accept: */*\r\n", name)

    def differ(raw: bytes, head: Any) -> None:
        monkeypatch.setattr("racecar.parsers.http1.second_opinion._feed", lambda parser, *_: parser.feed_data(other))
        check_request(raw, head)

    monkeypatch.setattr(http1_context, "check_request", differ)
    talk.client(GET)
    assert (talk.to_server, talk.reasons) == (b"", [Reason.HTTP_SECOND_OPINION])


@SIZES
@pytest.mark.parametrize(
    "fields", [{"status": 201}, {"http_1_0": True}, {"declared": 0}, {"status": 304}, {"status": 100}]
)
def test_an_answer_that_two_parsers_read_in_two_ways_is_a_502(
    talk: Any, monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], size: int
) -> None:
    monkeypatch.setattr(http1_context, "read_response_head", changed(read_response_head, **fields))
    talk.sends(GET).answers(OK, size)
    assert (talk.statuses, talk.rest) == ([502], [ResetServer(), EndClient()])
    assert talk.reasons == [Reason.HTTP_RESPONSE_MALFORMED]


def test_a_head_that_the_cache_knows_is_not_read_again(talk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    talk.sends(GET).answers(OK)

    def fail(*_: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(http1_context, "check_request", fail)
    monkeypatch.setattr(http1_context, "check_response", fail)
    assert talk.client(GET) == [ToServer(GET)]
    assert talk.server(OK) == [ToClient(OK)]


# --- what is really sent


def lines(*fields: bytes) -> bytes:
    return b"\r\n".join(fields) + b"\r\n\r\n"


REQUESTS = {
    "curl": lines(b"GET /jobs HTTP/1.1", b"Host: jobs:8080", b"User-Agent: curl/7.88.1", b"Accept: */*"),
    "curl, h2c": lines(
        b"GET /jobs HTTP/1.1", b"Host: jobs", b"User-Agent: curl/7.88.1", b"Accept: */*",
        b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA",
    ),
    "curl, proxy": lines(
        b"GET http://jobs/jobs HTTP/1.1", b"Host: jobs", b"User-Agent: curl/8.5.0", b"Accept: */*",
        b"Proxy-Connection: Keep-Alive",
    ),
    "curl, upload": lines(
        b"PUT /jobs HTTP/1.1", b"Host: jobs", b"Transfer-Encoding: chunked", b"Expect: 100-continue",
    ),
    "Chrome": lines(
        b"GET /jobs HTTP/1.1", b"Host: jobs", b"Connection: keep-alive", b"Cache-Control: max-age=0",
        b'sec-ch-ua: "Chromium";v="124", "Google Chrome";v="124", "Not-A.Brand";v="99"', b"sec-ch-ua-mobile: ?0",
        b'sec-ch-ua-platform: "Linux"', b"Upgrade-Insecure-Requests: 1",
        b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0",
        b"Accept: text/html,application/xhtml+xml;q=0.9,image/avif,*/*;q=0.8", b"Sec-Fetch-Site: none",
        b"Accept-Encoding: gzip, deflate, br, zstd", b"Accept-Language: de-DE,de;q=0.9", b"Cookie: a=b; c=\"d e\"",
        b'If-None-Match: W/"5f-18e"',
    ),
    "Firefox, WebSocket": lines(
        b"GET /free HTTP/1.1", b"Host: jobs", b"User-Agent: Mozilla/5.0 (X11; rv:125.0) Gecko/20100101 Firefox/125.0",
        b"Accept: */*", b"Sec-WebSocket-Version: 13", b"Origin: http://jobs",
        b"Sec-WebSocket-Extensions: permessage-deflate", b"Sec-WebSocket-Key: YmFzZTY0IG5vbmNlIDE2IQ==",
        b"Connection: keep-alive, Upgrade", b"Pragma: no-cache", b"Upgrade: websocket",
    ),
    "Java, HttpURLConnection": lines(
        b"GET /jobs HTTP/1.1", b"User-Agent: Java/1.8.0_392", b"Host: jobs",
        b"Accept: text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", b"Connection: keep-alive",
    ),
    "Java, HttpClient": lines(
        b"POST /jobs HTTP/1.1", b"Connection: Upgrade, HTTP2-Settings", b"Content-Length: 12", b"Host: jobs:80",
        b"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA", b"Upgrade: h2c",
        b"User-Agent: Java-http-client/17.0.10", b"content-type: application/json",
    ),
    "Go": lines(b"GET /jobs HTTP/1.1", b"Host: jobs", b"User-Agent: Go-http-client/1.1", b"Accept-Encoding: gzip"),
    "Node": lines(b"GET /jobs HTTP/1.1", b"Host: jobs", b"Connection: close"),
    "Node, fetch": lines(
        b"POST /jobs HTTP/1.1", b"host: jobs", b"connection: keep-alive", b"content-type: text/plain;charset=UTF-8",
        b"accept: */*", b"accept-language: *", b"sec-fetch-mode: cors", b"user-agent: node", b"content-length: 2",
    ),
    "Python, urllib": lines(
        b"GET /jobs HTTP/1.1", b"Accept-Encoding: identity", b"Host: jobs", b"User-Agent: Python-urllib/3.11",
        b"Connection: close",
    ),
    "ApacheBench": lines(
        b"GET /jobs HTTP/1.0", b"Connection: Keep-Alive", b"Host: jobs", b"User-Agent: ApacheBench/2.3", b"Accept: */*"
    ),
    "nginx as a proxy": lines(b"GET /jobs HTTP/1.0", b"Host: jobs", b"Connection: close", b"X-Real-IP: 192.0.2.1"),
    "TE": lines(b"GET /jobs HTTP/1.1", b"TE: deflate, gzip;q=0.3", b"Connection: TE, close", b"Host: jobs"),
    "WebDAV": lines(b"PROPFIND /jobs HTTP/1.1", b"Host: jobs", b"Depth: 1", b"Content-Length: 0"),
    "M-SEARCH": lines(b"M-SEARCH * HTTP/1.1".replace(b"*", b"/jobs"), b"Host: jobs"),
    "QUERY": lines(b"QUERY /jobs HTTP/1.1", b"Host: jobs", b"Content-Length: 1"),
    "lower case": lines(b"get /jobs HTTP/1.1", b"Host: jobs"),
    "PRI as a method": lines(b"PRI /jobs HTTP/1.1", b"Host: jobs"),
    "OPTIONS": lines(b"OPTIONS * HTTP/1.1", b"Host: jobs"),
    "CONNECT": lines(b"CONNECT open:443 HTTP/1.1", b"Host: open:443", b"User-Agent: curl/8.5.0"),
    "CONNECT, HTTP/1.0": lines(b"CONNECT open:443 HTTP/1.0"),
    "space and empty values": lines(b"GET /jobs HTTP/1.1", b"Host:jobs \t", b"A:", b"B: \t ", b"C:\tx\ty \t", b"D:x:y"),
    "obs-text": lines(b"GET /jobs HTTP/1.1", b"Host: jobs", b"X-Name: Jos\xe9 \xff", b"X-Utf8: \xc3\xa9"),
    "query": lines(b"GET /jobs?a[]=b&c={d|e}^`\"<>\\&%20?/? HTTP/1.1", b"Host: jobs"),
    "names": lines(b"GET /jobs HTTP/1.1", b"Host: jobs", b"!#$%&'*+-.^_`|~09Az: x", b"Content-Lengthy: 5"),
    "repeated": lines(b"GET /jobs HTTP/1.1", b"Host: jobs", b"Cookie: a", b"Cookie: b", b"cookie: a"),
    "proxy-connection": lines(b"GET /jobs HTTP/1.1", b"Host: jobs", b"Proxy-Connection: close", b"Keep-Alive: 300"),
    "zero": lines(b"POST /jobs HTTP/1.1", b"Host: jobs", b"Content-Length: 0"),
}  # fmt: skip


@SIZES
@pytest.mark.parametrize("raw", REQUESTS.values(), ids=REQUESTS)
def test_heads_of_real_clients_are_read_alike_by_both(talk: Any, raw: bytes, size: int) -> None:
    assert talk.client(raw, size) == [ToServer(raw)]


DATE = b"Date: Mon, 01 Jan 2024 00:00:00 GMT"
ANSWERS = {
    "nginx": lines(
        b"HTTP/1.1 200 OK", b"Server: nginx/1.22.1", DATE, b"Content-Type: text/html", b"Content-Length: 615",
        b"Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT", b"Connection: keep-alive", b'ETag: "6592-267"',
        b"Accept-Ranges: bytes",
    ),
    "nginx, gzip": lines(
        b"HTTP/1.1 200 OK", b"Server: nginx", DATE, b"Transfer-Encoding: chunked", b"Connection: keep-alive",
        b"Vary: Accept-Encoding", b"Content-Encoding: gzip",
    ),
    "nginx, 304": lines(b"HTTP/1.1 304 Not Modified", b"Server: nginx", DATE, b'ETag: "6592-267"'),
    "nginx, 400": lines(b"HTTP/1.1 400 Bad Request", b"Server: nginx", b"Content-Length: 157", b"Connection: close"),
    "nginx, 204": lines(b"HTTP/1.1 204 No Content", b"Server: nginx/1.22.1", DATE, b"Connection: keep-alive"),
    "Apache": lines(
        b"HTTP/1.1 200 OK", DATE, b"Server: Apache/2.4.57 (Debian)", b"Upgrade: h2,h2c", b"Connection: Upgrade",
        b"Vary: Accept-Encoding", b"Content-Length: 10701", b"Content-Type: text/html",
    ),
    "Apache, keep-alive": lines(
        b"HTTP/1.1 404 Not Found", DATE, b"Server: Apache", b"Content-Length: 196", b"Keep-Alive: timeout=5, max=100",
        b"Connection: Keep-Alive", b"Content-Type: text/html; charset=iso-8859-1",
    ),
    "Apache, 304": lines(
        b"HTTP/1.1 304 Not Modified", DATE, b"Server: Apache", b'ETag: "29cd"', b"Connection: Upgrade, Keep-Alive",
        b"Upgrade: h2c",
    ),
    "IIS": lines(
        b"HTTP/1.1 200 OK", b"Cache-Control: private", b"Content-Type: text/html; charset=utf-8",
        b"Server: Microsoft-IIS/10.0", b"X-AspNet-Version: 4.0.30319", b"X-Powered-By: ASP.NET", DATE,
        b"Content-Length: 3026",
    ),
    "IIS, 401": lines(
        b"HTTP/1.1 401 Unauthorized", b"Server: Microsoft-IIS/10.0", b"WWW-Authenticate: Negotiate",
        b"WWW-Authenticate: NTLM", DATE, b"Content-Length: 1293",
    ),
    "Go": lines(b"HTTP/1.1 200 OK", DATE, b"Content-Length: 2", b"Content-Type: text/plain; charset=utf-8"),
    "Node, Express": lines(
        b"HTTP/1.1 200 OK", b"X-Powered-By: Express", b'ETag: W/"c-Lve9"', DATE, b"Connection: keep-alive",
        b"Keep-Alive: timeout=5", b"Transfer-Encoding: chunked",
    ),
    "Express, 304": lines(b"HTTP/1.1 304 Not Modified", b"X-Powered-By: Express", b"Content-Length: 12", DATE),
    "Tomcat": lines(b"HTTP/1.1 200 ", b"Content-Type: text/html", b"Transfer-Encoding: chunked", DATE),
    "Tomcat, 404": lines(b"HTTP/1.1 404 ", b"Content-Language: en", b"Content-Length: 682", DATE),
    "uvicorn": lines(b"HTTP/1.1 200 OK", b"date: x", b"server: uvicorn", b"transfer-encoding: chunked"),
    "http.server": lines(b"HTTP/1.0 200 OK", b"Server: SimpleHTTP/0.6 Python/3.11.2", DATE, b"Content-Length: 12"),
    "no length": lines(b"HTTP/1.1 200 OK", b"Connection: close"),
    "no reason": lines(b"HTTP/1.1 200", b"Content-Length: 0"),
    "a reason in another language": lines(b"HTTP/1.1 404 Introuvable \xe9", b"Content-Length: 0"),
    "Set-Cookie": lines(b"HTTP/1.1 302 Found", b"Set-Cookie: a=b; Path=/", b"Set-Cookie: c=d", b"Content-Length: 0"),
    "205": lines(b"HTTP/1.1 205 Reset Content", b"Content-Length: 0"),
    "206": lines(b"HTTP/1.1 206 Partial Content", b"Content-Range: bytes 0-1/9", b"Content-Length: 2"),
    "426": lines(b"HTTP/1.1 426 Upgrade Required", b"Upgrade: HTTP/2.0", b"Connection: Upgrade", b"Content-Length: 9"),
    "100": lines(b"HTTP/1.1 100 Continue"),
    "103": lines(b"HTTP/1.1 103 Early Hints", b"Link: </style.css>; rel=preload; as=style"),
    "999": lines(b"HTTP/1.1 999 Denied", b"Content-Length: 1"),
    "empty values": lines(b"HTTP/1.1 200 OK", b"A:", b"B: \t", b"C:x \t", b"Content-Length:  3 "),
}  # fmt: skip


@SIZES
@pytest.mark.parametrize("raw", ANSWERS.values(), ids=ANSWERS)
def test_heads_of_real_servers_are_read_alike_by_both(talk: Any, raw: bytes, size: int) -> None:
    talk.client(GET)
    assert talk.server(raw, size)[0] == ToClient(raw)
    assert talk.rest == []


@SIZES
@pytest.mark.parametrize("raw", [raw for raw in ANSWERS.values() if not raw.startswith(b"HTTP/1.1 1")])
def test_the_same_in_answer_to_head(talk: Any, raw: bytes, size: int) -> None:
    talk.client(GET.replace(b"GET", b"HEAD"))
    assert talk.server(raw, size)[0] == ToClient(raw)
    assert talk.rest in ([], LAST_WORD)
