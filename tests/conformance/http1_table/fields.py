"""Header lines, Host, and the headers that rules read."""

from http1_table.build import HOST, allow, deny, head, raw, refuse
from http1_table.model import Case, Group, Then

_GET = "GET /jobs HTTP/1.1"
_HOST_LINE = f"Host: {HOST}"


def _with(*lines: str | bytes) -> bytes:
    return head("GET /jobs", *lines)


def _bad(name: str, line: str | bytes) -> Case:
    return refuse(name, _with(line))


NAMES = Group(
    "header names",
    "RFC 9110 5.1, 5.6.2 (token); RFC 9112 5, 5.1 (no white space before the colon: smuggling); obfuscated headers",
    (
        allow("every token character", _with("!#$%&'*+-.^_`|~09aZ: x")),
        allow("one letter", _with("X: y")),
        allow("underscore", _with("X_Trace: 1")),
        allow("letter case", _with("aCCept: */*")),
        allow("the same twice", _with("Accept: a", "Accept: b")),
        _bad("space before the colon", "X-A : b"),
        _bad("tab before the colon", "X-A\t: b"),
        _bad("space inside", "X A: b"),
        _bad("empty", ": b"),
        _bad("no colon", "X-A"),
        _bad("only spaces", "   "),
        _bad("parenthesis", "X(A): b"),
        _bad("slash", "X/A: b"),
        _bad("at", "X@A: b"),
        _bad("bracket", "X[A]: b"),
        _bad("brace", "X{A}: b"),
        _bad("quotes", '"X-A": b'),
        _bad("comma", "X,A: b"),
        _bad("semicolon", "X;A: b"),
        _bad("equals", "X=A: b"),
        _bad("NUL", "X\0A: b"),
        _bad("NUL before the colon", "X-A\0: b"),
        _bad("vertical tab", "X\x0bA: b"),
        _bad("not ASCII", b"X-\xc3\x84: b"),
        _bad("byte 0x80", b"X\x80A: b"),
        _bad("DEL", "X\x7fA: b"),
        _bad("bare CR before the colon", "X-A\r: b"),
        refuse("space before the first one", raw(_GET, " X-A: b", _HOST_LINE)),
        refuse("tab before the first one", raw(_GET, "\tX-A: b", _HOST_LINE)),
        refuse("a request line again", raw(_GET, _GET, _HOST_LINE)),
    ),
)

VALUES = Group(
    "header values",
    "RFC 9110 5.5 (field-content; CR, LF and NUL are dangerous), RFC 9112 5.2 (line folding), 2.2 (bare CR)",
    (
        allow("no space behind the colon", _with("X-A:b")),
        allow("many spaces around", _with("X-A:    b   ")),
        allow("tabs around", _with("X-A:\tb\t")),
        allow("tab inside", _with("X-A: a\tb")),
        allow("empty", _with("X-A:")),
        allow("spaces only", _with("X-A:   ")),
        allow("colons", _with("X-A: b: c: d")),
        allow("quotes that do not end", _with('X-A: "b')),
        allow("every visible character", _with(b"X-A: " + bytes(range(0x21, 0x7F)))),
        allow("obs-text", _with(b"X-A: \xe9\xff\x80")),
        allow("UTF-8", _with("X-A: grün".encode())),
        allow("8,000 bytes", _with("Cookie: " + "a" * 8000)),
        allow("text that looks like a request", _with("X-A: GET /applicants HTTP/1.1")),
        _bad("NUL", "X-A: b\0"),
        _bad("NUL in front", "X-A:\0b"),
        _bad("byte 0x01", "X-A: \x01"),
        _bad("vertical tab", "X-A: a\x0bb"),
        _bad("form feed", "X-A: a\x0cb"),
        _bad("backspace", "X-A: a\bb"),
        _bad("ESC", "X-A: \x1b[2J"),
        _bad("DEL", "X-A: \x7f"),
        _bad("bare CR", "X-A: a\rb"),
        _bad("bare CR that hides a header", "X-A: a\rContent-Length: 5"),
        _bad("bare LF that hides a header", "X-A: a\nContent-Length: 5"),
        _bad("CR CR LF", "X-A: a\r"),
        _bad("folded by a space", "X-A: a\r\n b"),
        _bad("folded by a tab", "X-A: a\r\n\tb"),
        _bad("folded and empty", "X-A: a\r\n "),
        refuse("folded request line", raw(_GET, " ", _HOST_LINE)),
        refuse("blank line of bare LF", b"GET /jobs HTTP/1.1\r\nHost: a.example\r\n\n"),
        refuse("blank line of bare CR", b"GET /jobs HTTP/1.1\r\nHost: a.example\r\n\rX"),
        refuse("LF LF", b"GET /jobs HTTP/1.1\r\nHost: a.example\n\n"),
        refuse("bare LF behind the last one", b"GET /jobs HTTP/1.1\r\nHost: a.example\n\r\n"),
    ),
)

_HEADERS = 100
_MAX_HEAD = 65536


def _of_size(size: int) -> bytes:
    """An allowed head of so many bytes."""
    return _with("X-A: " + "a" * (size - len(_with("X-A: "))))


SIZES = Group(
    "sizes of a head",
    "RFC 9110 5.4 (limits), RFC 6585 5 (431); exhaustion by heads",
    (
        allow("100 headers", _with(*(f"X-{n}: y" for n in range(_HEADERS - 1)))),
        refuse("101 headers", _with(*(f"X-{n}: y" for n in range(_HEADERS))), "HTTP_TOO_MANY_HEADERS", 431),
        refuse("300 headers", _with(*("X: y" for _ in range(300))), "HTTP_TOO_MANY_HEADERS", 431),
        allow("64 KB", _of_size(_MAX_HEAD)),
        refuse("64 KB and a byte", _of_size(_MAX_HEAD + 1), "HTTP_HEAD_TOO_LARGE", 431),
        refuse("no end", _of_size(_MAX_HEAD + 500)[:-4], "HTTP_HEAD_TOO_LARGE", 431),
    ),
)


def _host(*lines: str | bytes, start: str = _GET) -> bytes:
    return raw(start, *lines)


def _bad_host(name: str, *lines: str | bytes, reason: str = "HTTP_HOST") -> Case:
    return refuse(name, raw(_GET, *lines), reason)


HOSTS = Group(
    "Host",
    "RFC 9112 3.2 (exactly one, else 400), RFC 9110 7.2, RFC 3986 3.2; Host confusion, cache and routing attacks",
    (
        allow("name", _host("Host: a.example")),
        allow("name and port", _host("Host: a.example:8080")),
        allow("letter case of the name of the header", _host("hOsT: a.example")),
        allow("no space", _host("Host:a.example")),
        allow("spaces around", _host("Host:  a.example  ")),
        allow("underscore", _host("Host: my_service")),
        allow("trailing dot", _host("Host: a.example.")),
        allow("one label", _host("Host: db")),
        allow("IPv4", _host("Host: 127.0.0.1:80")),
        allow("IPv6", _host("Host: [::1]")),
        allow("IPv6 and port", _host("Host: [2001:db8::1]:8080")),
        allow("not the first header", _host("X-A: b", "Host: a.example")),
        allow("X-Forwarded-Host beside it", _host("Host: a.example", "X-Forwarded-Host: b.example")),
        _bad_host("missing", "X-A: b"),
        _bad_host("twice, equal", "Host: a.example", "Host: a.example"),
        _bad_host("twice, different", "Host: a.example", "Host: b.example"),
        _bad_host("twice, apart", "Host: a.example", "X-A: b", "hOST: b.example"),
        _bad_host("twice, one empty", "Host: a.example", "Host:"),
        _bad_host("empty", "Host:"),
        _bad_host("spaces only", "Host:   "),
        _bad_host("a list", "Host: a.example, b.example"),
        _bad_host("space inside", "Host: a.example b.example"),
        _bad_host("tab inside", "Host: a.example\tb.example"),
        _bad_host("userinfo", "Host: u@a.example"),
        _bad_host("a URL", "Host: http://a.example"),
        _bad_host("a path", "Host: a.example/jobs"),
        _bad_host("a query", "Host: a.example?x"),
        _bad_host("a fragment", "Host: a.example#x"),
        _bad_host("backslash", "Host: a.example\\b"),
        _bad_host("two ports", "Host: a.example:80:80"),
        _bad_host("port of letters", "Host: a.example:http"),
        _bad_host("port with a sign", "Host: a.example:+80"),
        _bad_host("port of six digits", "Host: a.example:000080"),
        _bad_host("port alone", "Host: :80"),
        _bad_host("bracket open", "Host: [::1"),
        _bad_host("bracket and name", "Host: [::1]a"),
        _bad_host("zone", "Host: [fe80::1%25eth0]"),
        _bad_host("IPv6 without brackets", "Host: ::1"),
        _bad_host("escape", "Host: a%2eexample"),
        _bad_host("quotes", 'Host: "a.example"'),
        _bad_host("not ASCII", "Host: ä.example".encode()),
        _bad_host("NUL", "Host: a.example\0.b.example", reason="HTTP_MALFORMED"),
        _bad_host("space before the colon", "Host : a.example", reason="HTTP_MALFORMED"),
        _bad_host("space in front", "X-A: b", " Host: a.example", reason="HTTP_MALFORMED"),
        _bad_host("folded", "Host:\r\n a.example", reason="HTTP_MALFORMED"),
    ),
)


def _tenant(host: str, *lines: str, start: str = "GET /tenant") -> bytes:
    return head(start, *lines, host=host)


HOST_RULES = Group(
    "rules that read Host",
    "RFC 9110 7.2, 4.2.3 (host without regard to letter case); virtual host confusion",
    (
        allow("the same", _tenant("blue.example")),
        allow("letter case", _tenant("BLUE.Example")),
        allow("absolute-form", _tenant("blue.example", start="GET http://blue.example/tenant")),
        deny("another", _tenant("red.example")),
        deny("with a port", _tenant("blue.example:80")),
        deny("with a dot", _tenant("blue.example.")),
        deny("longer", _tenant("blue.example.red.example")),
        deny("in front", _tenant("red-blue.example")),
        deny("X-Forwarded-Host", _tenant("red.example", "X-Forwarded-Host: blue.example")),
        deny("Forwarded", _tenant("red.example", "Forwarded: host=blue.example")),
        refuse("two, one right", _tenant("blue.example", "Host: red.example"), "HTTP_HOST"),
        refuse(
            "absolute-form, Host another", _tenant("red.example", start="GET http://blue.example/tenant"), "HTTP_HOST"
        ),
        Case("none in HTTP/1.0", deny("", head("GET /tenant HTTP/1.0", host=None)).turns, Then.CLOSED),
    ),
)


def _secret(*lines: str | bytes) -> bytes:
    return head("GET /secret", *lines)


HEADER_RULES = Group(
    "rules that read a header",
    "RFC 9110 5.2, 5.3 (several lines of one name), 7.6.1; a second line or another spelling that a server prefers",
    (
        allow("the value", _secret("X-Token: letmein")),
        allow("name in another case", _secret("x-tOKEN: letmein")),
        allow("spaces around the value", _secret("X-Token:   letmein  ")),
        allow("twice the value", _secret("X-Token: letmein", "X-Token: letmein")),
        deny("missing", _secret()),
        deny("another value", _secret("X-Token: nope")),
        deny("value in another case", _secret("X-Token: LetMeIn")),
        deny("a longer value", _secret("X-Token: letmeinn")),
        deny("a list that holds the value", _secret("X-Token: letmein, nope")),
        deny("two lines, the first right", _secret("X-Token: letmein", "X-Token: nope")),
        deny("two lines, the last right", _secret("X-Token: nope", "X-Token: letmein")),
        deny("two lines, one empty", _secret("X-Token: letmein", "X-Token:")),
        deny("underscore", _secret("X_Token: letmein")),
        deny("underscore beside it with another value", _secret("X-Token: letmein", "X_Token: nope")),
        *(
            deny(f"{mark} beside it with another value", _secret("X-Token: letmein", f"X{mark}Token: nope"))
            for mark in "!#$%&'*+.^`|~"
        ),
        deny("dot", _secret("X.Token: letmein")),
        deny("quoted", _secret('X-Token: "letmein"')),
        deny("in the query", head("GET /secret?X-Token=letmein")),
        deny("in a cookie", _secret("Cookie: X-Token=letmein")),
        deny("as the value of another", _secret("X-A: X-Token: letmein")),
        refuse("behind a bare CR", _secret("X-A: b\rX-Token: letmein")),
        refuse("folded", _secret("X-Token:\r\n letmein")),
        refuse("named by Connection", _secret("X-Token: letmein", "Connection: X-Token")),
        allow("present", head("GET /tagged", "X-Tag: y")),
        allow("present and empty", head("GET /tagged", "X-Tag:")),
        deny("not present", head("GET /tagged")),
        deny("not present, but a longer name is", head("GET /tagged", "X-Tags: y")),
    ),
)

OVERRIDES = Group(
    "headers that some frameworks obey",
    "Advisories on path and method override (X-Original-URL, X-Rewrite-URL, X-HTTP-Method-Override): documented, and "
    "never a way to satisfy a rule",
    (
        allow("X-Original-URL is passed on as sent", _with("X-Original-URL: /applicants")),
        allow("X-HTTP-Method-Override is passed on as sent", _with("X-HTTP-Method-Override: DELETE")),
        deny("X-Original-URL allows nothing", head("GET /applicants", "X-Original-URL: /jobs")),
        deny("X-Rewrite-URL allows nothing", head("GET /applicants", "X-Rewrite-URL: /jobs")),
        deny("X-HTTP-Method-Override allows nothing", head("PATCH /jobs", "X-HTTP-Method-Override: GET")),
        deny("X-Forwarded-Prefix allows nothing", head("GET /applicants", "X-Forwarded-Prefix: /jobs")),
    ),
)

GROUPS = (NAMES, VALUES, SIZES, HOSTS, HOST_RULES, HEADER_RULES, OVERRIDES)
