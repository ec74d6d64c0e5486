"""Chunked bodies of requests: sizes, extensions, data, trailers."""

from http1_table.build import APPLICANTS, allow, chunked, cut, head
from http1_table.model import Case, Group, Then, Turn, Verdict

_LAST = b"0\r\n\r\n"
_SMUGGLED = APPLICANTS


def _passes(name: str, body: bytes, *lines: str | bytes) -> Case:
    return allow(name, chunked(body, *lines))


def _cut(name: str, body: bytes) -> Case:
    """Malformed; behind it stands what would be a request if the body had ended."""
    return cut(name, chunked(body) + _SMUGGLED)


def _waits(name: str, body: bytes) -> Case:
    """The CRLF behind the data waits for the size that follows it."""
    sent = chunked(body)
    return Case(name, (Turn(sent, Verdict.ALLOW, at_origin=sent.removesuffix(b"\r\n")),), Then.WAITING)


DATA = Group(
    "chunks",
    "RFC 9112 7.1 (chunk-size, CRLF behind the data); request smuggling by lenient chunk readers",
    (
        _passes("one", b"5\r\nhello\r\n" + _LAST),
        _passes("none", _LAST),
        _passes("several", b"1\r\nh\r\n4\r\nello\r\n" + _LAST),
        _passes("many", b"1\r\nx\r\n" * 500 + _LAST),
        _passes("hexadecimal, lower case", b"a\r\n0123456789\r\n" + _LAST),
        _passes("hexadecimal, upper case", b"A\r\n0123456789\r\n" + _LAST),
        _passes("leading zeros", b"0005\r\nhello\r\n" + _LAST),
        _passes("15 digits", b"000000000000005\r\nhello\r\n" + _LAST),
        _passes("last chunk of many zeros", b"5\r\nhello\r\n0000\r\n\r\n"),
        _passes("data that looks like the last chunk", b"5\r\n0\r\n\r\n\r\n" + _LAST),
        _passes("data that looks like a request", b"%x\r\n%s\r\n" % (len(_SMUGGLED), _SMUGGLED) + _LAST),
        _passes("data of line ends", b"4\r\n\r\n\r\n\r\n" + _LAST),
        _passes("20 KB", b"4e20\r\n" + b"x" * 20_000 + b"\r\n" + _LAST),
        _cut("no size", b"\r\nhello\r\n" + _LAST),
        _cut("no digit", b"g\r\nhello\r\n" + _LAST),
        _cut("prefix 0x", b"0x5\r\nhello\r\n" + _LAST),
        _cut("sign minus", b"-5\r\nhello\r\n" + _LAST),
        _cut("sign plus", b"+5\r\nhello\r\n" + _LAST),
        _cut("space in front", b" 5\r\nhello\r\n" + _LAST),
        _cut("tab in front", b"\t5\r\nhello\r\n" + _LAST),
        _cut("space behind", b"5 \r\nhello\r\n" + _LAST),
        _cut("tab behind", b"5\t\r\nhello\r\n" + _LAST),
        _cut("NUL behind", b"5\0\r\nhello\r\n" + _LAST),
        _cut("underscore", b"0_5\r\nhello\r\n" + _LAST),
        _cut("comma", b"5,0\r\nhello\r\n" + _LAST),
        _cut("16 digits", b"0000000000000005\r\nhello\r\n" + _LAST),
        _cut("32 bits over", b"100000000000000005\r\nhello\r\n" + _LAST),
        _cut("64 bits", b"ffffffffffffffff\r\nhello\r\n" + _LAST),
        _cut("endless digits", b"0" * 2000),
        _cut("bare LF behind the size", b"5\nhello\r\n" + _LAST),
        _cut("bare CR behind the size", b"5\rhello\r\n" + _LAST),
        _cut("CR CR LF behind the size", b"5\r\r\nhello\r\n" + _LAST),
        _cut("nothing behind the data", b"5\r\nhello" + _LAST),
        _cut("bare LF behind the data", b"5\r\nhello\n" + _LAST),
        _cut("bare CR behind the data", b"5\r\nhello\r" + _LAST),
        _cut("two bytes for CRLF", b"5\r\nhelloXX" + _LAST),
        _cut("more data than said", b"4\r\nhello\r\n" + _LAST),
        _cut("less data than said", b"6\r\nhello\r\n" + _LAST),
        _cut("an empty line between chunks", b"5\r\nhello\r\n\r\n" + _LAST),
        _cut("bare LF behind the last size", b"0\n\r\n"),
        _cut("the end of bare LF", b"0\r\n\n"),
        _cut("a sign on the last size", b"-0\r\n\r\n"),
        _waits("no last chunk", b"5\r\nhello\r\n"),
        _waits("half the data", b"5\r\nhel"),
    ),
)

# RFC 9112 7.1.1 allows bad white space around `;` and `=` and says that it must not be sent: nobody does.
EXTENSIONS = Group(
    "chunk extensions",
    "RFC 9112 7.1.1 (grammar, limits, bad white space); smuggling by line ends inside extensions (the classes "
    "TERM.EXT and EXT.TERM, ONE.TWO)",
    (
        _passes("name", b"5;a\r\nhello\r\n" + _LAST),
        _passes("name and value", b"5;a=b\r\nhello\r\n" + _LAST),
        _passes("two", b"5;a=b;c=d\r\nhello\r\n" + _LAST),
        _passes("quoted", b'5;a="b c;d\\"e"\r\nhello\r\n' + _LAST),
        _passes("quoted and empty", b'5;a=""\r\nhello\r\n' + _LAST),
        _passes("of the last chunk", b"5\r\nhello\r\n0;a=b\r\n\r\n"),
        _cut("no name", b"5;\r\nhello\r\n" + _LAST),
        _cut("no value", b"5;a=\r\nhello\r\n" + _LAST),
        _cut("value without a name", b"5;=b\r\nhello\r\n" + _LAST),
        _cut("space before the semicolon", b"5 ;a\r\nhello\r\n" + _LAST),
        _cut("space behind the semicolon", b"5; a\r\nhello\r\n" + _LAST),
        _cut("space around the equals sign", b"5;a = b\r\nhello\r\n" + _LAST),
        _cut("space in the value", b"5;a=b c\r\nhello\r\n" + _LAST),
        _cut("space behind", b"5;a=b \r\nhello\r\n" + _LAST),
        _cut("without a semicolon", b"5 a=b\r\nhello\r\n" + _LAST),
        _cut("quotes that do not end", b'5;a="b\r\nhello\r\n' + _LAST),
        _cut("text behind quotes", b'5;a="b"c\r\nhello\r\n' + _LAST),
        _cut("CRLF in quotes", b'5;a="\r\nhello\r\n0\r\n\r\n"\r\nhello\r\n' + _LAST),
        _cut("escaped CR in quotes", b'5;a="\\\r\n"\r\nhello\r\n' + _LAST),
        _cut("bare LF", b"5;\nhello\r\n" + _LAST),
        _cut("bare LF behind the name", b"5;a\nhello\r\n" + _LAST),
        _cut("bare LF, then CRLF", b"2;\nxx\r\n45\r\n0\r\n\r\n"),
        _cut("bare CR", b"5;a\rb\r\nhello\r\n" + _LAST),
        _cut("CR CR LF", b"5;a\r\r\nhello\r\n" + _LAST),
        _cut("NUL", b"5;a\0\r\nhello\r\n" + _LAST),
        _cut("vertical tab", b"5;a=\x0b\r\nhello\r\n" + _LAST),
        _cut("not ASCII in a name", b"5;\xc3\xa4\r\nhello\r\n" + _LAST),
        _cut("above 1,024 bytes", b"5;a=" + b"b" * 1100 + b"\r\nhello\r\n" + _LAST),
        _cut("no end", b"5;a=" + b"b" * 5000),
        _cut("bare LF in the last one", b"0;\n\r\n"),
    ),
)


def _trailer(*lines: bytes) -> bytes:
    return b"5\r\nhello\r\n0\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def _forbidden(line: bytes) -> Case:
    return _cut(f"{line.split(b':')[0].decode()} is no trailer", _trailer(line))


TRAILERS = Group(
    "trailers",
    "RFC 9112 7.1.2, RFC 9110 6.5.1 (fields that frame, route, authorise or modify are no trailers); header smuggling "
    "by servers that merge trailers",
    (
        _passes("one", _trailer(b"X-Sum: 1")),
        _passes("two", _trailer(b"X-Sum: 1", b"Server-Timing: a;dur=1")),
        _passes("empty value", _trailer(b"X-Sum:")),
        _passes("gRPC's", _trailer(b"grpc-status: 0", b"grpc-message: ok")),
        _passes("announced", _trailer(b"X-Sum: 1"), "Trailer: X-Sum"),
        _passes("checksum of S3", _trailer(b"x-amz-checksum-crc32: sOO8/Q==")),
        _cut("space before the colon", _trailer(b"X-Sum : 1")),
        _cut("no colon", _trailer(b"X-Sum")),
        _cut("no name", _trailer(b": 1")),
        _cut("name that is no token", _trailer(b"X(Sum): 1")),
        _cut("folded", _trailer(b"X-Sum: 1", b" 2")),
        _cut("bare LF", b"0\r\nX-Sum: 1\n\r\n"),
        _cut("bare CR", b"0\r\nX-Sum: 1\rY: 2\r\n\r\n"),
        _cut("NUL", _trailer(b"X-Sum: \0")),
        _cut("the end of bare LF", b"0\r\nX-Sum: 1\r\n\n\r\n\r\n"),
        _cut("a request in place of the end", b"0\r\n" + APPLICANTS),
        _cut("above 8 KB", _trailer(b"X-Sum: " + b"1" * 9000)),
        _cut("no end", b"0\r\n" + b"X-Sum: 1\r\n" * 1000),
        _forbidden(b"Content-Length: 5"),
        _forbidden(b"Transfer-Encoding: chunked"),
        _forbidden(b"Content_Length: 5"),
        _forbidden(b"Host: b.example"),
        _forbidden(b"Connection: close"),
        _forbidden(b"Upgrade: websocket"),
        _forbidden(b"Expect: 100-continue"),
        _forbidden(b"TE: trailers"),
        _forbidden(b"Trailer: X-Sum"),
        _forbidden(b"Authorization: Basic eDp5"),
        _forbidden(b"Cookie: a=b"),
        _forbidden(b"Content-Type: text/html"),
        _forbidden(b"Content-Encoding: gzip"),
        _forbidden(b"Range: bytes=0-1"),
        _forbidden(b"X-Forwarded-For: 127.0.0.1"),
        _forbidden(b"X-HTTP-Method-Override: DELETE"),
        _forbidden(b"x-original-url: /applicants"),
        cut(
            "a header that a rule reads is no trailer",
            head("PUT /secret", "X-Token: letmein", "Transfer-Encoding: chunked") + _trailer(b"X-Token: nope"),
        ),
        cut(
            "nor with an underscore",
            head("PUT /secret", "X-Token: letmein", "Transfer-Encoding: chunked") + _trailer(b"X_Token: nope"),
        ),
        cut(
            "nor with a dot",
            head("PUT /secret", "X-Token: letmein", "Transfer-Encoding: chunked") + _trailer(b"X.Token: nope"),
        ),
    ),
)

GROUPS = (DATA, EXTENSIONS, TRAILERS)
