"""What inputs are made of: whole messages, and fragments that change what a message means."""


def _request(line: str, *lines: str, body: bytes = b"", host: str | None = "jobs") -> bytes:
    head = [line, *([f"Host: {host}"] if host is not None else []), *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


def _answer(line: str, *lines: str, body: bytes = b"") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {line}", *lines, "", ""]).encode("latin-1") + body


_INNER = b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"
_WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: eA==")

# Allowed by `judges.POLICY`, but for those that name what is denied.
REQUESTS = [
    _request("GET /jobs HTTP/1.1"),
    _request("HEAD /jobs HTTP/1.1", "Accept: */*", host="jobs:80"),
    _request("GET /jobs/1?page=2 HTTP/1.1", "Connection: keep-alive"),
    _request("POST /jobs HTTP/1.1", "Content-Length: 5", body=b"hello"),
    _request("POST /jobs HTTP/1.1", CHUNKED, body=b"5\r\nhello\r\n0\r\n\r\n"),
    _request(
        "POST /jobs HTTP/1.1", CHUNKED, body=b'3;a=b;c="d\\"e"\r\nabc\r\nA\r\n0123456789\r\n0\r\nX-Sum: 1\r\n\r\n'
    ),
    _request(
        "PUT /jobs/2?a=b HTTP/1.1", "Expect: 100-continue", "Content-Length: 2", "X: \xe9", host="[::1]", body=b"ok"
    ),
    _request("GET /jobs HTTP/1.0", "Connection: keep-alive", host=None),
    _request("GET /jobs HTTP/1.0", host=None),
    _request("GET /jobs HTTP/1.1", "Connection: close"),
    _request("GET http://jobs/jobs HTTP/1.1"),
    _request("OPTIONS * HTTP/1.1"),
    _request("OPTIONS http://jobs HTTP/1.1"),
    _request("GET /search HTTP/1.1", "Content-Length: 3", body=b"q=1"),
    _request("GET /keyed HTTP/1.1", "X-Key: one"),
    _request("GET /ws HTTP/1.1", *_WEBSOCKET),
    _request("CONNECT db:5432 HTTP/1.1", host="db:5432"),
    _request(
        "GET /jobs HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ"
    ),
    _request("GET /files/a%2fb HTTP/1.1"),
]
DENIED_REQUESTS = [
    _request("GET /applicants HTTP/1.1"),
    _request("HEAD /applicants HTTP/1.1"),
    _request("POST /applicants HTTP/1.1", f"Content-Length: {len(_INNER)}", body=_INNER),
    _request("POST /applicants HTTP/1.1", CHUNKED, body=b"22\r\n" + _INNER + b"\r\n0\r\n\r\n"),
    _request("POST /applicants HTTP/1.1", "Expect: 100-continue", "Content-Length: 3", body=b"abc"),
    _request("GET /jobs HTTP/1.1", "Content-Length: 3", body=b"abc"),
    _request("GET /jobs/../applicants HTTP/1.1"),
    _request("GET /jobs/..%2fapplicants HTTP/1.1"),
    _request("GET /keyed HTTP/1.1", "X-Key: one", "X-Key: two"),
    _request("GET /jobs HTTP/1.1", *_WEBSOCKET),
    _request("CONNECT jobs:80 HTTP/1.1", host="jobs:80"),
    _request("GET /applicants HTTP/1.0", host=None),
    _request("GET http://jobs/applicants HTTP/1.1"),
    _request("CONNECT cache:6379 HTTP/1.1", host="cache:6379"),
    _request("GET /jobs/a%2fb HTTP/1.1"),
]
MALFORMED_REQUESTS = [
    _request("POST /jobs HTTP/1.1", "Content-Length: 3", CHUNKED, body=b"0\r\n\r\n"),
    _request("POST /jobs HTTP/1.1", CHUNKED, body=b"5 \r\nhello\r\n0\r\n\r\n"),
    _request("GET /jobs HTTP/1.1", "Host: applicants"),
    _request("GET /jobs HTTP/1.1", "X : y"),
    _request("POST /jobs HTTP/1.1", CHUNKED, body=b"0\r\nX_Key: one\r\n\r\n"),
    _request("GET /jobs HTTP/1.1", "Expect: 200-ok"),
    _request("GET http://applicants/jobs HTTP/1.1"),
    _request("CONNECT db:5432 HTTP/1.1", "Content-Length: 1", host="db", body=b"x"),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
]

ANSWERS = [
    _answer("200 OK", "Content-Length: 2", body=b"ok"),
    _answer("204 No Content"),
    _answer("304 Not Modified", "Content-Length: 7"),
    _answer("200 OK", CHUNKED, body=b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n"),
    _answer("103 Early Hints", "Link: <a>") + _answer("200 OK", "Content-Length: 0"),
    _answer("403 Forbidden", "Content-Length: 3", body=b"no\n"),
    _answer("417 Expectation Failed", "Content-Length: 0"),
    _answer("502 Bad Gateway", "Content-Length: 0", "Connection: close"),
]
OPEN_ANSWERS = [
    _answer("100 Continue"),
    _answer("100 Continue") + _answer("200 OK", "Connection: close", "Content-Length: 1", body=b"x"),
    b"HTTP/1.0 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx",
    _answer("200 OK", "Connection: close", body=b"until the end"),
    _answer("200 OK", "Content-Length: 9", body=b"half"),
    _answer("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket", body=b"\x81\x02hi"),
    _answer("101 Switching Protocols", "Connection: Upgrade", "Upgrade: h2c", body=b"\0\0\0\4\0\0\0\0\0"),
    _answer("200 Connection established"),
    _answer("200 OK", "Content-Length: 1", CHUNKED, body=b"x"),
    _answer("200 OK", CHUNKED, body=b"5\r\nhelloX"),
    _answer("200 OK", "Content-Length: 2", body=b"ok") * 2,
    b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
]

CLIENT_HELLO = bytes.fromhex("160301002f" "0100002b" "0303") + bytes(range(32)) + bytes.fromhex(
    "00" "0002" "1301" "0100" "0000"
)  # fmt: skip
SERVER_HELLO = bytes.fromhex("160303002a020000260303") + bytes(range(32)) + bytes.fromhex("00130100")
ALERT = bytes.fromhex("15030300020228")

CHUNKED_BODIES = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b'5;a=b;c="d\\"e"\r\nhello\r\nA;x\r\n0123456789\r\n00\r\nX: y\r\nZ: \r\n\r\n',
    b"5\r\nhello\r\n0\r\nContent-Length: 3\r\n\r\n",
    b"1ff\r\n" + bytes(511),
    b"5\r\nhello\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"0\r\nX-Key: one\r\n\r\n",
]

FRAGMENTS = [
    *b'\r\n|\r|\n| |\t|:|;|,|\r\n\r\n|\x00|\xff|\x7f|0\r\n\r\n|5\r\nhello\r\n|ffffffffffffffff|-1'.split(b"|"),
    *b'+5|0x5|5,5|00|GET |/jobs| HTTP/1.1\r\n| HTTP/1.0\r\n|HTTP/1.1 200 OK\r\n'.split(b"|"),
    *b'HTTP/1.1 100 Continue\r\n\r\n|PRI * HTTP/2.0|Host: jobs\r\n|Host: x\r\n'.split(b"|"),
    *b'Content-Length: 5\r\n|content-length: 0\r\n|Content-Length|Content_Length: 3\r\n'.split(b"|"),
    *b'Transfer-Encoding: chunked\r\n|Transfer-Encoding: gzip, chunked\r\n'.split(b"|"),
    *b'Transfer-Encoding: Chunked\r\n|Connection: close\r\n|Connection: content-length\r\n'.split(b"|"),
    *b'Connection: keep-alive\r\n|Connection: Upgrade\r\n|Upgrade: websocket\r\n|Upgrade: h2c\r\n'.split(b"|"),
    *b'Expect: 100-continue\r\n|X: a\r\n b\r\n|X : y\r\n|X-Key: one\r\n|/../|/./|//|%2f|%2e|%5c'.split(b"|"),
    *b'%00|%c0%af|;|#|\\|?|/applicants|/jobs/|http://jobs|*|db:5432|CONNECT |HEAD |POST |0;a=b\r\n'.split(b"|"),
    *b'1;a="\\""\r\nx\r\n|X: y\r\n\r\n|Content-Length: 1\r\n\r\n|\x16\x03\x01'.split(b"|"),
    CLIENT_HELLO,
]  # fmt: skip

TARGETS = [
    *b'/jobs|/jobs/1?x=/../|/jobs/../applicants|/jobs/%2e%2e/applicants|/jobs//a/../../b'.split(b"|"),
    *b'/jobs/..;/applicants|/files/a%2fb|/files/a%2F..%2f..%2fapplicants|/files/%5c..|/%6a%6fbs'.split(b"|"),
    *b'/jobs%00|/jobs#a|/jobs\\..\\x|/jobs/%c0%ae|/|//|/.|/..|/./jobs|/jobs/.|/jobs/..|/jobs;a=b/c'.split(b"|"),
    *b'/jobs/%E2%82%AC|/jobs/\xe2\x82\xac|*|jobs:80|http://jobs/jobs||/jobs/%zz|/jobs/%|/jobs?%00'.split(b"|"),
    *b'/jobs?#|/applicants|/search?q=1|/search?q=1&admin=1|/jobs/%252e%252e'.split(b"|"),
]  # fmt: skip
