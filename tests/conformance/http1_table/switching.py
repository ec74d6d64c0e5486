"""Protocol switches: Upgrade, WebSocket, CONNECT. What is behind them is read by nobody, so they are granted or cut."""

from http1_table.build import (
    APPLICANTS,
    HEALTH,
    JOBS,
    OK,
    allow,
    allowed,
    answer,
    bad_gateway,
    denied,
    deny,
    dropped,
    goes_on,
    head,
    refuse,
    refused,
    torn,
)
from http1_table.model import Case, Group, Then, Turn, Verdict

_WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
_CHAT = head("GET /chat", *_WEBSOCKET)
_SWITCHED = answer("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket")
_TO_H2C = answer("101 Switching Protocols", "Connection: Upgrade", "Upgrade: h2c")
_FRAME = b"\x81\x85\x01\x02\x03\x04iggil"
_PUSHED = b"\x81\x05hello"
_UPGRADE_REQUIRED = answer("426 Upgrade Required", "Sec-WebSocket-Version: 13", "Content-Length: 0")
_H2C = head("GET /jobs", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")


def _asked(start: str = "GET /chat", *lines: str) -> bytes:
    return head(start, *lines)


def _switch_cut(name: str, sent: bytes, answered: bytes = _SWITCHED) -> Case:
    """A 101 that is not granted: what the server then says is another protocol."""
    turn = Turn(sent, Verdict.ALLOW, "HTTP_UPGRADE", at_origin=sent, answer=answered + _PUSHED, to_client=answered)
    return Case(name, (turn,), Then.CUT)


WEBSOCKET = Group(
    "WebSocket",
    "RFC 6455 4.1, 4.2, RFC 9110 7.8; smuggling through a tunnel that the server never opened (a wrong version, a "
    "health check that answers 101)",
    (
        Case("granted", (allowed(_CHAT, _SWITCHED), goes_on(_FRAME, _PUSHED), goes_on(_FRAME)), Then.OPAQUE),
        Case("the server speaks at once", (allowed(_CHAT, _SWITCHED + _PUSHED), goes_on(_FRAME)), Then.OPAQUE),
        Case(
            "bytes behind the request wait for the 101",
            (Turn(_CHAT + _FRAME, Verdict.ALLOW, "NONE", _CHAT, _SWITCHED, _SWITCHED), Turn(at_origin=_FRAME)),
            Then.OPAQUE,
        ),
        Case(
            "bytes sent before the answer wait too",
            (
                Turn(_CHAT, Verdict.ALLOW, at_origin=_CHAT),
                Turn(_FRAME, answer=_SWITCHED, to_client=_SWITCHED),
                Turn(at_origin=_FRAME, answer=_PUSHED, to_client=_PUSHED),
            ),
            Then.OPAQUE,
        ),
        Case(
            "behind an interim answer",
            (allowed(_CHAT, answer("103 Early Hints") + _SWITCHED), goes_on(_FRAME)),
            Then.OPAQUE,
        ),
        Case(
            "letter case",
            (allowed(_asked("GET /chat", "connection: upgrade", "upgrade: WebSocket"), _SWITCHED), goes_on(_FRAME)),
            Then.OPAQUE,
        ),
        Case(
            "beside keep-alive",
            (
                allowed(_asked("GET /chat", "Connection: keep-alive, Upgrade", "Upgrade: websocket"), _SWITCHED),
                goes_on(_FRAME),
            ),
            Then.OPAQUE,
        ),
        Case(
            "the client's half ends, the server's goes on",
            (
                allowed(_CHAT, _SWITCHED),
                Turn(_FRAME, at_origin=_FRAME, answer=_PUSHED, to_client=_PUSHED, client_ends=True, origin_ends=True),
            ),
            Then.CLOSED,
            extends=False,
        ),
        Case(
            "the server's half ends, the client's goes on",
            (
                allowed(_CHAT, _SWITCHED),
                Turn(answer=_PUSHED, to_client=_PUSHED, origin_ends=True),
                Turn(_FRAME, at_origin=_FRAME, client_ends=True),
            ),
            Then.CLOSED,
            extends=False,
        ),
        allow("not taken by the server", _CHAT, _UPGRADE_REQUIRED),
        Case(
            "not taken, and what waited is a request that is not allowed",
            (
                Turn(_CHAT + APPLICANTS, Verdict.ALLOW, "NONE", _CHAT, _UPGRADE_REQUIRED, _UPGRADE_REQUIRED),
                denied(b""),
            ),
            Then.OPEN,
        ),
        Case(
            "not taken, and what waited is a request that is allowed",
            (
                Turn(_CHAT + HEALTH, Verdict.ALLOW, "NONE", _CHAT, _UPGRADE_REQUIRED, _UPGRADE_REQUIRED),
                Turn(b"", Verdict.ALLOW, at_origin=HEALTH, answer=OK, to_client=OK),
            ),
            Then.OPEN,
        ),
        Case(
            "not taken, and what waited is no request",
            (
                Turn(_CHAT + b"\x81\x05hello", Verdict.ALLOW, "NONE", _CHAT, _UPGRADE_REQUIRED, _UPGRADE_REQUIRED),
                refused(b"", "HTTP_NOT_HTTP"),
            ),
            Then.CLOSED,
        ),
        Case(
            "wrong version, answered 426",
            (
                allowed(_asked("GET /chat", *_WEBSOCKET[:2], "Sec-WebSocket-Version: 1337"), _UPGRADE_REQUIRED),
                denied(APPLICANTS),
            ),
            Then.OPEN,
        ),
        deny("not granted by the rule", head("GET /jobs", *_WEBSOCKET), "HTTP_UPGRADE"),
        deny("no rule for the path", head("GET /applicants", *_WEBSOCKET)),
        Case(
            "denied, and what follows is judged",
            (denied(head("GET /jobs", *_WEBSOCKET) + APPLICANTS, "HTTP_UPGRADE"), denied(b"")),
            Then.OPEN,
        ),
        allow("a rule that grants it grants the call without it", head("GET /chat")),
        _switch_cut("101 without a request for it", JOBS),
        _switch_cut("101 to a granted path without a request for it", head("GET /chat")),
        _switch_cut("101 to another protocol", _CHAT, _TO_H2C),
        _switch_cut("101 that names none", _CHAT, answer("101 Switching Protocols")),
        _switch_cut("101 without Connection", _CHAT, answer("101 Switching Protocols", "Upgrade: websocket")),
        _switch_cut(
            "101 that names two",
            _CHAT,
            answer("101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket, h2c"),
        ),
    ),
)

OTHER = Group(
    "other upgrades",
    "RFC 9110 7.8 (a server may ignore Upgrade), RFC 7540 3.2 (h2c); h2c smuggling past a proxy's rules",
    (
        allow("h2c as JDK's client sends it, ignored", _H2C),
        allow(
            "h2c on POST, ignored",
            head("POST /jobs", "Connection: Upgrade", "Upgrade: h2c", "Content-Length: 5") + b"hello",
        ),
        allow("TLS, ignored", head("GET /jobs", "Connection: Upgrade", "Upgrade: TLS/1.0")),
        allow("unknown, ignored", head("GET /jobs", "Connection: Upgrade", "Upgrade: foo/2")),
        allow("empty, ignored", head("GET /jobs", "Connection: Upgrade", "Upgrade:")),
        allow("Connection only", head("GET /jobs", "Connection: Upgrade")),
        deny("h2c, path not allowed", head("GET /applicants", "Connection: Upgrade", "Upgrade: h2c")),
        _switch_cut("h2c taken", _H2C, _TO_H2C),
        _switch_cut(
            "h2c on a path that grants WebSocket", head("GET /chat", "Connection: Upgrade", "Upgrade: h2c"), _TO_H2C
        ),
        _switch_cut("a list that holds websocket", head("GET /chat", "Connection: Upgrade", "Upgrade: websocket, h2c")),
        _switch_cut("two lines", head("GET /chat", "Connection: Upgrade", "Upgrade: websocket", "Upgrade: h2c")),
        _switch_cut("websocket without Connection", head("GET /chat", "Upgrade: websocket")),
        _switch_cut("websocket with a version", head("GET /chat", "Connection: Upgrade", "Upgrade: websocket/13")),
        allow("websocket on HTTP/1.0, ignored", head("GET /chat HTTP/1.0", *_WEBSOCKET), then=Then.CLOSED),
        _switch_cut("websocket on HEAD", head("HEAD /jobs", *_WEBSOCKET)),
        _switch_cut("websocket on POST", head("POST /jobs", *_WEBSOCKET)),
        Case(
            "bytes behind it are judged once it is answered",
            (Turn(_H2C + APPLICANTS, Verdict.ALLOW, "NONE", _H2C, OK, OK), denied(b"")),
            Then.OPEN,
        ),
        Case(
            "an HTTP/2 preface behind it goes nowhere",
            (
                Turn(_H2C + b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Verdict.ALLOW, "NONE", _H2C, OK, OK),
                Turn(
                    b"",
                    Verdict.REFUSE,
                    "HTTP_HTTP2",
                    to_client=b"\0\0\0\4\0\0\0\0\0\0\0\x08\7\0\0\0\0\0\0\0\0\0\0\0\0\x0d",
                ),
            ),
            Then.CLOSED,
        ),
    ),
)

_TUNNEL = head("CONNECT db.example:5432", host="db.example:5432")
_OPENED = answer("200 Connection established")
_CLIENT_DATA = b"\x00\x00\x00\x08\x04\xd2\x16\x2f"


def _connect(target: str, *lines: str, host: str | None = "db.example:5432") -> bytes:
    return head(f"CONNECT {target}", *lines, host=host)


CONNECT = Group(
    "CONNECT",
    "RFC 9110 9.3.6, RFC 9112 3.2.3 (authority-form; a port is required); tunnels past a proxy's rules",
    (
        Case("granted", (allowed(_TUNNEL, _OPENED), goes_on(_CLIENT_DATA, b"S"), goes_on(b"x")), Then.OPAQUE),
        Case("any 2xx opens it", (allowed(_TUNNEL, answer("204 No Content")), goes_on(_CLIENT_DATA)), Then.OPAQUE),
        Case(
            "Host without the port",
            (allowed(_connect("db.example:5432", host="db.example"), _OPENED), goes_on(b"x")),
            Then.OPAQUE,
        ),
        Case(
            "Host in capitals",
            (allowed(_connect("db.example:5432", host="DB.example:5432"), _OPENED), goes_on(b"x")),
            Then.OPAQUE,
        ),
        Case(
            "HTTP/1.0 without Host",
            (allowed(_connect("db.example:5432 HTTP/1.0", host=None), _OPENED), goes_on(b"x", b"y")),
            Then.OPAQUE,
        ),
        Case(
            "bytes behind it wait for the answer",
            (
                Turn(_TUNNEL + _CLIENT_DATA, Verdict.ALLOW, "NONE", _TUNNEL, _OPENED, _OPENED),
                Turn(at_origin=_CLIENT_DATA),
            ),
            Then.OPAQUE,
        ),
        Case(
            "the server's first bytes in one piece", (allowed(_TUNNEL, _OPENED + b"hello"), goes_on(b"x")), Then.OPAQUE
        ),
        allow(
            "refused by the server",
            _TUNNEL,
            answer("407 Proxy Authentication Required", "Content-Length: 2", body=b"no"),
        ),
        Case(
            "refused by the server, and what waited is not allowed",
            (
                Turn(_TUNNEL + APPLICANTS, Verdict.ALLOW, "NONE", _TUNNEL, _UPGRADE_REQUIRED, _UPGRADE_REQUIRED),
                denied(b""),
            ),
            Then.OPEN,
        ),
        Case(
            "refused by the server, which closes: what waited is dropped",
            (
                Turn(
                    _TUNNEL + _CLIENT_DATA,
                    Verdict.ALLOW,
                    "NONE",
                    _TUNNEL,
                    answer("403 Forbidden", "Connection: close", "Content-Length: 0"),
                    answer("403 Forbidden", "Connection: close", "Content-Length: 0"),
                ),
                dropped(),
            ),
            Then.CLOSED,
        ),
        deny("no rule", _connect("other.example:5432", host="other.example:5432")),
        deny("another port", _connect("db.example:22", host="db.example:22")),
        deny("not granted by the rule", _connect("shut.example:5432", host="shut.example:5432"), "HTTP_CONNECT"),
        deny("an address", _connect("[::1]:5432", host="[::1]:5432")),
        deny("target in capitals", _connect("DB.example:5432")),
        deny("a longer name", _connect("db.example.evil.example:5432", host="db.example.evil.example:5432")),
        Case(
            "denied, and what follows is judged",
            (denied(_connect("other.example:5432", host="other.example:5432") + APPLICANTS), denied(b"")),
            Then.OPEN,
        ),
        refuse("Host missing", _connect("db.example:5432", host=None), "HTTP_HOST"),
        refuse("another Host", _connect("db.example:5432", host="a.example"), "HTTP_HOST"),
        refuse("Host with another port", _connect("db.example:5432", host="db.example:443"), "HTTP_HOST"),
        refuse("no port", _connect("db.example"), "HTTP_TARGET_FORM"),
        refuse("empty port", _connect("db.example:"), "HTTP_TARGET_FORM"),
        refuse("port of letters", _connect("db.example:pg"), "HTTP_TARGET_FORM"),
        refuse("no host", _connect(":5432"), "HTTP_TARGET_FORM"),
        refuse("a path", _connect("/jobs", host="a.example"), "HTTP_TARGET_FORM"),
        refuse("asterisk", _connect("*"), "HTTP_TARGET_FORM"),
        refuse("absolute-form", _connect("http://db.example:5432/"), "HTTP_TARGET_FORM"),
        refuse("a path behind", _connect("db.example:5432/jobs"), "HTTP_TARGET_FORM"),
        refuse("userinfo", _connect("u@db.example:5432"), "HTTP_TARGET_FORM"),
        refuse("fragment", _connect("db.example:5432#x"), "HTTP_TARGET_FORM"),
        refuse("escape", _connect("db%2eexample:5432"), "HTTP_TARGET_FORM"),
        refuse("with a body", _connect("db.example:5432", "Content-Length: 5") + b"hello", "HTTP_FRAMING"),
        refuse("with chunks", _connect("db.example:5432", "Transfer-Encoding: chunked") + b"0\r\n\r\n", "HTTP_FRAMING"),
        bad_gateway("opened with a length", answer("200 OK", "Content-Length: 5", body=b"hello"), sent=_TUNNEL),
        bad_gateway(
            "opened with chunks", answer("200 OK", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"), sent=_TUNNEL
        ),
        _switch_cut("101 to it", _TUNNEL),
        torn(
            "refused, and the answer ends early",
            answer("403 Forbidden", "Content-Length: 5", body=b"no"),
            "UPSTREAM_CLOSED",
            sent=_TUNNEL,
            origin_ends=True,
        ),
    ),
)

GROUPS = (WEBSOCKET, OTHER, CONNECT)
