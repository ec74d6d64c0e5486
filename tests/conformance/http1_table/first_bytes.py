"""First bytes that are no HTTP/1.x: none of them reaches the server, and nobody waits for a blank line for ever."""

from http1_table.build import HEALTH, JOBS, refuse
from http1_table.model import Case, Group, Then, Turn, Verdict

# RFC 8446 6: a fatal alert, access_denied.
TLS_ALERT = b"\x15\x03\x01\x00\x02\x02\x31"
# RFC 9113 6.5, 6.8, 7: SETTINGS, then GOAWAY with HTTP_1_1_REQUIRED.
GOAWAY = b"\0\0\0\4\0\0\0\0\0" + b"\0\0\x08\7\0\0\0\0\0" + b"\0\0\0\0" + b"\0\0\0\x0d"
CLIENT_HELLO = bytes.fromhex("16030100310100002d0303" + "11" * 32 + "00" + "0002" + "1301" + "0100" + "0002" + "0000")
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def _foreign(name: str, sent: bytes, reason: str, said: bytes) -> Case:
    return Case(name, (Turn(sent, Verdict.REFUSE, reason, to_client=said),), Then.CLOSED)


def _no_http(name: str, sent: bytes, reason: str = "HTTP_NOT_HTTP") -> Case:
    return refuse(name, sent, reason)


FOREIGN = Group(
    "protocols that answer for themselves",
    "RFC 8446 5.1, 6 (TLS), RFC 9113 3.4, 7 (HTTP/2 preface); protocol confusion on a plaintext port",
    (
        _foreign("TLS ClientHello", CLIENT_HELLO, "HTTP_TLS", TLS_ALERT),
        _foreign("first byte of TLS", b"\x16", "HTTP_TLS", TLS_ALERT),
        _foreign("TLS record that holds a request", b"\x16\x03\x01\0\x40" + JOBS, "HTTP_TLS", TLS_ALERT),
        _foreign("HTTP/2 preface", PREFACE, "HTTP_HTTP2", GOAWAY),
        _foreign("HTTP/2 preface and SETTINGS", PREFACE + b"\0\0\0\4\0\0\0\0\0", "HTTP_HTTP2", GOAWAY),
        _foreign("half of the HTTP/2 preface, and a request", b"PRI * HTTP/2.0\r\n\r\n" + JOBS, "HTTP_HTTP2", GOAWAY),
        refuse("PRI as a request of HTTP/1.1", b"PRI * HTTP/1.1\r\nHost: a.example\r\n\r\n", "HTTP_TARGET_FORM"),
        refuse("PRI with a path", b"PRI /jobs HTTP/2.0\r\n\r\n"),
    ),
)

OTHERS = Group(
    "other protocols",
    "RFC 9112 2.2, 3; protocol confusion and cross-protocol request forgery (SSH, SMTP, Redis, databases, SOCKS)",
    (
        _no_http("SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
        _no_http("SSH with a comment", b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", "HTTP_MALFORMED"),
        _no_http("SMTP", b"EHLO client.example\r\n", "HTTP_MALFORMED"),
        _no_http("SMTP without a name", b"QUIT\r\n"),
        _no_http("FTP", b"USER anonymous\r\n", "HTTP_MALFORMED"),
        _no_http("POP3", b"STAT\r\n"),
        _no_http("IMAP", b"a1 LOGIN x y\r\n", "HTTP_MALFORMED"),
        _no_http("Redis", b"*1\r\n$4\r\nPING\r\n"),
        _no_http("Redis, inline", b"PING\r\n"),
        _no_http("Redis, inline SET", b"SET a b\r\n", "HTTP_MALFORMED"),
        _no_http("memcached", b"get jobs\r\n", "HTTP_MALFORMED"),
        _no_http("PROXY protocol", b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + HEALTH, "HTTP_MALFORMED"),
        _no_http("PROXY protocol 2", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + b"\0" * 12 + HEALTH),
        _no_http("PostgreSQL", b"\0\0\0\x08\x04\xd2\x16\x2f"),
        _no_http("MySQL", b"\x20\0\0\x01\x85\xa2\x1e\0"),
        _no_http("MongoDB", b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0"),
        _no_http("Kafka", b"\0\0\0\x10\0\x12\0\3\0\0\0\1\0\0"),
        _no_http("AMQP", b"AMQP\0\0\x09\x01"),
        _no_http("MQTT", b"\x10\x0c\0\4MQTT\4\2\0\x3c\0\0"),
        _no_http("LDAP", b"\x30\x0c\x02\x01\x01\x60\x07\x02\x01\x03\x04\0\x80\0"),
        _no_http("SOCKS 4", b"\4\1\0\x50\x7f\0\0\1\0"),
        _no_http("SOCKS 5", b"\5\1\0"),
        _no_http("SSL 2", b"\x80\x2e\x01\0\x02"),
        _no_http("TLS alert", TLS_ALERT),
        _no_http("Telnet", b"\xff\xfd\x18"),
        _no_http("BitTorrent", b"\x13BitTorrent protocol"),
        _no_http("an answer", b"HTTP/1.1 200 OK\r\n\r\n"),
        _no_http("JSON", b'{"method": "GET"}'),
        _no_http("byte order mark", b"\xef\xbb\xbf" + JOBS),
    ),
)

GARBAGE = Group(
    "garbage",
    "RFC 9112 2.2 (an empty line before a request may be ignored: here it is not), 3",
    (
        _no_http("NUL", b"\0"),
        _no_http("CRLF before the request", b"\r\n" + JOBS),
        _no_http("CRLF twice", b"\r\n\r\n" + JOBS),
        _no_http("LF before the request", b"\n" + JOBS),
        _no_http("CR before the request", b"\r" + JOBS),
        _no_http("spaces before the request", b"  " + JOBS),
        _no_http("a header line", b"Host: a.example\r\n\r\n"),
        _no_http("UTF-16", "GET /jobs".encode("utf-16-le")),
        _no_http("letters without end", b"A" * 200),
        _no_http("high bytes", b"\xfe\xff\xfd"),
    ),
)

GROUPS = (FOREIGN, OTHERS, GARBAGE)
