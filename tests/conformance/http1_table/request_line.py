"""Request lines: versions, methods, the forms of a target, their lengths."""

from http1_table.build import HOST, allow, deny, head, raw, refuse
from http1_table.model import Case, Group, Then

_HOST_LINE = f"Host: {HOST}"


def _line(name: str, line: str | bytes, reason: str = "HTTP_MALFORMED", status: int = 400) -> Case:
    return refuse(name, raw(line, _HOST_LINE), reason, status)


VERSIONS = Group(
    "versions",
    "RFC 9112 2.3 (HTTP-version), 2.2 and 3 (one SP, CRLF); request smuggling by lenient request lines",
    (
        allow("1.1", head("GET /jobs HTTP/1.1")),
        allow("1.0", head("GET /jobs HTTP/1.0"), then=Then.CLOSED),
        _line("0.9", "GET /jobs"),
        _line("0.9 named", "GET /jobs HTTP/0.9"),
        _line("1.2", "GET /jobs HTTP/1.2"),
        _line("2.0", "GET /jobs HTTP/2.0"),
        _line("3", "GET /jobs HTTP/3"),
        _line("no minor digit", "GET /jobs HTTP/1."),
        _line("no dot", "GET /jobs HTTP/11"),
        _line("two minor digits", "GET /jobs HTTP/1.10"),
        _line("leading zero", "GET /jobs HTTP/01.1"),
        _line("comma", "GET /jobs HTTP/1,1"),
        _line("lower case", "GET /jobs http/1.1"),
        _line("mixed case", "GET /jobs Http/1.1"),
        _line("another name", "GET /jobs HTTPS/1.1"),
        _line("RTSP", "OPTIONS * RTSP/1.0"),
        _line("SIP", "INVITE /jobs SIP/2.0"),
        _line("space behind", "GET /jobs HTTP/1.1 "),
        _line("tab behind", "GET /jobs HTTP/1.1\t"),
        _line("letters behind", "GET /jobs HTTP/1.1x"),
        _line("space before the slash", "GET /jobs HTTP /1.1"),
        _line("superscript digit", b"GET /jobs HTTP/1.\xb9"),
        _line("NUL behind", "GET /jobs HTTP/1.1\0"),
        _line("a version as the target", "GET HTTP/1.1", "HTTP_MALFORMED"),
        _line("two versions", "GET /jobs HTTP/1.1 HTTP/1.1"),
        refuse("bare LF behind the line", b"GET /jobs HTTP/1.1\nHost: a.example\r\n\r\n"),
        refuse("bare CR behind the line", b"GET /jobs HTTP/1.1\rHost: a.example\r\n\r\n"),
        refuse("CR CR LF", b"GET /jobs HTTP/1.1\r\r\nHost: a.example\r\n\r\n"),
        refuse("a head of bare LF", b"GET /jobs HTTP/1.1\nHost: a.example\n\n"),
    ),
)

SPACES = Group(
    "spaces in the request line",
    "RFC 9112 3 (a single SP; lenient parsing is a security risk), 2.2; request splitting by odd white space",
    (
        _line("two before the target", "GET  /jobs HTTP/1.1"),
        _line("two before the version", "GET /jobs  HTTP/1.1"),
        _line("tab before the target", "GET\t/jobs HTTP/1.1", "HTTP_NOT_HTTP"),
        _line("tab before the version", "GET /jobs\tHTTP/1.1"),
        _line("vertical tab before the target", "GET\x0b/jobs HTTP/1.1", "HTTP_NOT_HTTP"),
        _line("form feed before the version", "GET /jobs\x0cHTTP/1.1"),
        _line("no-break space before the version", b"GET /jobs\xa0HTTP/1.1"),
        _line("inside the target", "GET /jobs /healthz HTTP/1.1"),
        _line("leading space", " GET /jobs HTTP/1.1", "HTTP_NOT_HTTP"),
        _line("leading tab", "\tGET /jobs HTTP/1.1", "HTTP_NOT_HTTP"),
        _line("no target", "GET  HTTP/1.1"),
        _line("method and version only", "GET HTTP/1.1"),
        _line("bare CR inside", "GET /jobs\rHTTP/1.1"),
    ),
)

METHODS = Group(
    "methods",
    "RFC 9110 9.1 (token, case-sensitive), 5.6.2; a method that a rule does not name is not granted",
    (
        allow("GET", head("GET /jobs")),
        allow("HEAD", head("HEAD /jobs")),
        allow("DELETE", head("DELETE /jobs/17")),
        allow("PUT without a body", head("PUT /files/a", "Content-Length: 0")),
        allow("OPTIONS of the server", head("OPTIONS *")),
        deny("OPTIONS of a path", head("OPTIONS /jobs")),
        deny("lower case", head("get /jobs")),
        deny("mixed case", head("Get /jobs")),
        deny("PATCH", head("PATCH /jobs")),
        deny("TRACE", head("TRACE /jobs")),
        deny("PROPFIND", head("PROPFIND /jobs")),
        deny("PURGE", head("PURGE /jobs")),
        deny("M-SEARCH", head("M-SEARCH /jobs")),
        deny("a prefix of an allowed one", head("GE /jobs")),
        deny("an allowed one with a tail", head("GETS /jobs")),
        deny("every token character", head("!#$%&'*+-.^_`|~09aZ /jobs")),
        deny("32 letters", head("A" * 32 + " /jobs")),
        _line("33 letters", "A" * 33 + " /jobs HTTP/1.1", "HTTP_NOT_HTTP"),
        _line("no letter at all", "\x01 /jobs HTTP/1.1", "HTTP_NOT_HTTP"),
        _line("parenthesis", "GE(T /jobs HTTP/1.1", "HTTP_NOT_HTTP"),
        _line("slash", "GET/ /jobs HTTP/1.1", "HTTP_NOT_HTTP"),
        _line("quotes", '"GET" /jobs HTTP/1.1', "HTTP_NOT_HTTP"),
        _line("NUL", "GET\0 /jobs HTTP/1.1", "HTTP_NOT_HTTP"),
        _line("colon", "GET: /jobs HTTP/1.1", "HTTP_NOT_HTTP"),
        _line("not ASCII", b"G\xc3\x8bT /jobs HTTP/1.1", "HTTP_NOT_HTTP"),
    ),
)

FORMS = Group(
    "forms of a target",
    "RFC 9112 3.2 (origin-, absolute-, authority-, asterisk-form), 3.2.2; routing by an authority other than Host",
    (
        allow("origin", head("GET /jobs/17")),
        allow("root", head("GET /")),
        allow("absolute", head(f"GET http://{HOST}/jobs")),
        allow("absolute with a query", head(f"GET http://{HOST}/search?q=abc")),
        allow("absolute, scheme in capitals", head(f"GET HTTP://{HOST}/jobs")),
        allow("absolute, letter case of the authority", head("GET http://A.Example/jobs")),
        allow("absolute with a port", head("GET http://a.example:8080/jobs", host="a.example:8080")),
        allow("absolute with an address", head("GET http://[::1]:80/jobs", host="[::1]:80")),
        allow("absolute without a path is /", head(f"GET http://{HOST}")),
        allow("absolute for OPTIONS without a path is *", head(f"OPTIONS http://{HOST}")),
        deny("absolute for OPTIONS of /", head(f"OPTIONS http://{HOST}/")),
        deny("absolute without a path but with a query", head(f"GET http://{HOST}?q=abc")),
        deny("absolute, path not allowed", head(f"GET http://{HOST}/applicants")),
        deny("absolute, path allowed only once normalised", head(f"GET http://{HOST}/x/../jobs")),
        refuse("absolute, other host", head("GET http://b.example/jobs"), "HTTP_HOST"),
        refuse("absolute, port in the target only", head(f"GET http://{HOST}:80/jobs"), "HTTP_HOST"),
        refuse("absolute, port in Host only", head(f"GET http://{HOST}/jobs", host="a.example:80"), "HTTP_HOST"),
        refuse("absolute, trailing dot", head(f"GET http://{HOST}./jobs"), "HTTP_HOST"),
        refuse("absolute, userinfo", head(f"GET http://u@{HOST}/jobs"), "HTTP_HOST"),
        refuse("absolute, userinfo that looks like Host", head("GET http://a.example@b.example/jobs"), "HTTP_HOST"),
        refuse("absolute, Host missing", head(f"GET http://{HOST}/jobs", host=None), "HTTP_HOST"),
        refuse("absolute, Host twice", head(f"GET http://{HOST}/jobs", "Host: b.example"), "HTTP_HOST"),
        refuse("absolute, 1.0, Host missing", head(f"GET http://{HOST}/jobs HTTP/1.0", host=None), "HTTP_HOST"),
        refuse("absolute, https", head(f"GET https://{HOST}/jobs"), "HTTP_TARGET_FORM"),
        refuse("absolute, ws", head(f"GET ws://{HOST}/chat"), "HTTP_TARGET_FORM"),
        refuse("absolute, ftp", head(f"GET ftp://{HOST}/jobs"), "HTTP_TARGET_FORM"),
        refuse("absolute, file", head("GET file:///etc/passwd"), "HTTP_TARGET_FORM"),
        refuse("absolute, no authority", head("GET http:///jobs"), "HTTP_TARGET_FORM"),
        refuse("absolute, one slash", head("GET http:/jobs"), "HTTP_TARGET_FORM"),
        refuse("absolute, no slash", head("GET http:jobs"), "HTTP_TARGET_FORM"),
        refuse("absolute, backslashes", head(f"GET http:\\\\{HOST}\\jobs"), "HTTP_TARGET_FORM"),
        refuse("absolute, backslash behind the authority", head(f"GET http://{HOST}\\jobs"), "HTTP_HOST"),
        refuse("absolute, space in front", raw(f"GET  http://{HOST}/jobs HTTP/1.1", f"Host: {HOST}")),
        deny("origin that looks like an authority", head(f"GET //{HOST}/jobs")),
        refuse("authority with another method", head(f"GET {HOST}:80"), "HTTP_TARGET_FORM"),
        refuse("host name alone", head(f"GET {HOST}"), "HTTP_TARGET_FORM"),
        refuse("asterisk with another method", head("GET *"), "HTTP_TARGET_FORM"),
        refuse("asterisk with a tail", head("OPTIONS */jobs"), "HTTP_TARGET_FORM"),
        refuse("path without a slash", head("GET jobs"), "HTTP_TARGET_FORM"),
        refuse("dots without a slash", head("GET ../jobs"), "HTTP_TARGET_FORM"),
        refuse("query without a path", head("GET ?q=abc"), "HTTP_TARGET_FORM"),
        refuse("escaped slash", head("GET %2fjobs"), "HTTP_TARGET_FORM"),
    ),
)

_LONGEST = 8192

LENGTHS = Group(
    "lengths of a target",
    "RFC 9110 4.1 (at least 8000 octets are to be supported), 15.5.15 (414)",
    (
        allow("8000 bytes", head("GET /files/" + "a" * 7993)),
        allow("at the limit", head("GET /files/" + "a" * (_LONGEST - 7))),
        refuse("one beyond", head("GET /files/" + "a" * (_LONGEST - 6)), "HTTP_TARGET_TOO_LONG", 414),
        refuse("a query beyond", head("GET /search?q=" + "a" * _LONGEST), "HTTP_TARGET_TOO_LONG", 414),
        refuse("beyond, with no end", b"GET /files/" + b"a" * 9000, "HTTP_TARGET_TOO_LONG", 414),
        refuse("beyond, of a path that is not allowed", head("GET /" + "a" * 9000), "HTTP_TARGET_TOO_LONG", 414),
    ),
)

GROUPS = (VERSIONS, SPACES, METHODS, FORMS, LENGTHS)
