"""Where a request ends: Content-Length and Transfer-Encoding, and everything that two servers may read differently."""

from http1_table.build import APPLICANTS, HELLO, allow, allowed, deny, head, posted, refuse
from http1_table.model import Case, Group, Then, Turn

_SMUGGLED = APPLICANTS
_EMPTY = b"0\r\n\r\n"
_CHUNKS = b"5\r\nhello\r\n" + _EMPTY


def _length(name: str, line: str | bytes, reason: str = "HTTP_FRAMING", *more: str | bytes) -> Case:
    return refuse(name, head("POST /jobs", line, *more) + b"hello", reason)


def _waiting(name: str, sent: bytes) -> Case:
    return Case(name, (Turn(sent, allowed(sent).verdict, at_origin=sent),), Then.WAITING)


LENGTHS = Group(
    "Content-Length",
    "RFC 9110 8.6 (1*DIGIT, lists), RFC 9112 6.2, 6.3; request smuggling of the kinds CL.CL and CL.0",
    (
        allow("a body", HELLO),
        allow("none", head("POST /jobs")),
        allow("zero", head("POST /jobs", "Content-Length: 0")),
        allow("zero on GET", head("GET /jobs", "Content-Length: 0")),
        allow("letter case of the name", head("POST /jobs", "cONTENT-lENGTH: 5") + b"hello"),
        allow("no space", head("POST /jobs", "Content-Length:5") + b"hello"),
        allow("spaces around", head("POST /jobs", "Content-Length:   5  ") + b"hello"),
        allow("a body that looks like a request", posted(_SMUGGLED)),
        allow("a body of CRLF", posted(b"\r\n\r\n")),
        allow("a body of every byte", posted(bytes(range(256)))),
        allow("20 KB", posted(b"x" * 20_000)),
        allow("PUT", head("PUT /files/a", "Content-Length: 5") + b"hello"),
        _waiting("body not complete", head("POST /jobs", "Content-Length: 9") + b"hello"),
        _waiting("15 digits", head("POST /jobs", "Content-Length: 999999999999999") + b"hello"),
        deny("denied, and its body is not a request", posted(_SMUGGLED, to="/applicants")),
        deny("denied, body of 64 KB is read", posted(b"x" * 65536, to="/applicants")),
        deny("denied, a longer body is not read", posted(b"x" * 65537, to="/applicants"), then=Then.CLOSED),
        _length("sign plus", "Content-Length: +5"),
        _length("sign minus", "Content-Length: -5"),
        _length("minus zero", "Content-Length: -0"),
        _length("space inside", "Content-Length: 5 5"),
        _length("list of equal ones", "Content-Length: 5, 5"),
        _length("list without a space", "Content-Length: 5,5"),
        _length("list of different ones", "Content-Length: 5, 0"),
        _length("list with an empty member", "Content-Length: 5,"),
        _length("twice, equal", "Content-Length: 5", "HTTP_FRAMING", "Content-Length: 5"),
        _length("twice, different", "Content-Length: 5", "HTTP_FRAMING", "Content-Length: 0"),
        _length("twice, apart, other letter case", "Content-Length: 0", "HTTP_FRAMING", "X: y", "content-length: 5"),
        _length("hexadecimal", "Content-Length: 0x5"),
        _length("hexadecimal digit", "Content-Length: a"),
        _length("fraction", "Content-Length: 5.0"),
        _length("exponent", "Content-Length: 5e0"),
        _length("underscore in the number", "Content-Length: 1_0"),
        _length("thousands", "Content-Length: 1,000"),
        _length("empty", "Content-Length:"),
        _length("spaces only", "Content-Length:   "),
        _length("letters", "Content-Length: five"),
        _length("letters behind", "Content-Length: 5x"),
        _length("semicolon behind", "Content-Length: 5;"),
        _length("quoted", 'Content-Length: "5"'),
        _length("not ASCII digits", "Content-Length: \uff15".encode()),
        _length("superscript digit", b"Content-Length: \xb2"),
        _length("16 digits", "Content-Length: 1000000000000000"),
        _length("16 digits, leading zeros", "Content-Length: 0000000000000005"),
        _length("2 to the 32, 64 bits over", "Content-Length: 18446744073709551621"),
        _length("2 to the 63", "Content-Length: 9223372036854775808"),
        _length("1,000 digits", "Content-Length: " + "9" * 1000),
        _length("octal for some", "Content-Length: 05"),
        _length("00", "Content-Length: 00"),
        _length("underscore for the hyphen", "Content_Length: 5"),
        *(_length(f"{mark} for the hyphen", f"Content{mark}Length: 5") for mark in "!#$%&'*+.^`|~"),
        _length("underscore beside the right one", "Content-Length: 5", "HTTP_FRAMING", "Content_Length: 0"),
        _length("underscore, letter case", "CONTENT_LENGTH: 5"),
        _length("space before the colon", "Content-Length : 5", "HTTP_MALFORMED"),
        _length("tab before the colon", "Content-Length\t: 5", "HTTP_MALFORMED"),
        _length("space in the name", "Content Length: 5", "HTTP_MALFORMED"),
        _length("space in front", "X: y\r\n Content-Length: 5", "HTTP_MALFORMED"),
        _length("folded", "Content-Length:\r\n 5", "HTTP_MALFORMED"),
        _length("vertical tab", "Content-Length: \x0b5", "HTTP_MALFORMED"),
        _length("NUL behind", "Content-Length: 5\0", "HTTP_MALFORMED"),
        _length("bare CR behind", "Content-Length: 5\r", "HTTP_MALFORMED"),
        _length("behind a bare LF", "X: y\nContent-Length: 5", "HTTP_MALFORMED"),
    ),
)


def _coding(name: str, line: str | bytes, reason: str = "HTTP_FRAMING", *more: str | bytes) -> Case:
    """Read as chunked or not: the body is harmless one way and a request the other way."""
    return refuse(name, head("POST /jobs", line, *more) + _EMPTY + _SMUGGLED, reason)


CODINGS = Group(
    "Transfer-Encoding",
    "RFC 9112 6.1, 6.3, 7 (TE with CL, TE in HTTP/1.0, final coding); request smuggling of the kinds CL.TE, TE.CL "
    "and TE.TE, with the obfuscations that advisories list",
    (
        allow("chunked", head("POST /jobs", "Transfer-Encoding: chunked") + _CHUNKS),
        allow("letter case of the name", head("POST /jobs", "tRANSFER-eNCODING: chunked") + _CHUNKS),
        allow("no space", head("POST /jobs", "Transfer-Encoding:chunked") + _CHUNKS),
        allow("a header that only ends like it", head("POST /jobs", "X-Transfer-Encoding: gzip")),
        allow("TransferEncoding is another header", head("POST /jobs", "TransferEncoding: chunked")),
        allow("TE: trailers", head("GET /jobs", "TE: trailers", "Connection: TE")),
        allow("TE: chunked means nothing", head("GET /jobs", "TE: chunked")),
        allow("Trailer is passed on", head("POST /jobs", "Trailer: X-Sum", "Transfer-Encoding: chunked") + _CHUNKS),
        _coding("capital", "Transfer-Encoding: Chunked"),
        _coding("capitals", "Transfer-Encoding: CHUNKED"),
        _coding("one capital inside", "Transfer-Encoding: chunKed"),
        _coding("tab in front", "Transfer-Encoding:\tchunked"),
        _coding("space and tab in front", "Transfer-Encoding: \tchunked"),
        _coding("tab behind", "Transfer-Encoding: chunked\t"),
        _coding("space behind", "Transfer-Encoding: chunked "),
        _coding("vertical tab in front", "Transfer-Encoding: \x0bchunked", "HTTP_MALFORMED"),
        _coding("vertical tab behind", "Transfer-Encoding: chunked\x0b", "HTTP_MALFORMED"),
        _coding("form feed in front", "Transfer-Encoding:\x0cchunked", "HTTP_MALFORMED"),
        _coding("NUL in front", "Transfer-Encoding: \0chunked", "HTTP_MALFORMED"),
        _coding("NUL behind", "Transfer-Encoding: chunked\0", "HTTP_MALFORMED"),
        _coding("no-break space", b"Transfer-Encoding: \xa0chunked"),
        _coding("no-break space in UTF-8", "Transfer-Encoding: \xa0chunked".encode()),
        _coding("byte 0xff behind", b"Transfer-Encoding: chunked\xff"),
        _coding("letter behind", "Transfer-Encoding: chunkedx"),
        _coding("letter in front", "Transfer-Encoding: xchunked"),
        _coding("word in front", "Transfer-Encoding: x chunked"),
        _coding("word behind", "Transfer-Encoding: chunked x"),
        _coding("quotes", 'Transfer-Encoding: "chunked"'),
        _coding("single quotes", "Transfer-Encoding: 'chunked'"),
        _coding("colon", "Transfer-Encoding: : chunked"),
        _coding("parameter", "Transfer-Encoding: chunked;q=1"),
        _coding("comma in front", "Transfer-Encoding: ,chunked"),
        _coding("comma behind", "Transfer-Encoding: chunked,"),
        _coding("gzip, chunked", "Transfer-Encoding: gzip, chunked"),
        _coding("chunked, gzip", "Transfer-Encoding: chunked, gzip"),
        _coding("chunked twice in a list", "Transfer-Encoding: chunked, chunked"),
        _coding("identity in a list", "Transfer-Encoding: identity, chunked"),
        _coding("identity behind in a list", "Transfer-Encoding: chunked, identity"),
        _coding("identity", "Transfer-Encoding: identity"),
        _coding("gzip", "Transfer-Encoding: gzip"),
        _coding("unknown", "Transfer-Encoding: cow"),
        _coding("unknown in a list", "Transfer-Encoding: cow, chunked"),
        _coding("empty", "Transfer-Encoding:"),
        _coding("twice", "Transfer-Encoding: chunked", "HTTP_FRAMING", "Transfer-Encoding: chunked"),
        _coding("twice, one identity", "Transfer-Encoding: chunked", "HTTP_FRAMING", "Transfer-Encoding: identity"),
        _coding("twice, identity first", "Transfer-Encoding: identity", "HTTP_FRAMING", "Transfer-Encoding: chunked"),
        _coding("twice, one empty", "Transfer-Encoding:", "HTTP_FRAMING", "Transfer-Encoding: chunked"),
        _coding("twice, other letter case", "transfer-encoding: cow", "HTTP_FRAMING", "Transfer-Encoding: chunked"),
        _coding("with Content-Length", "Transfer-Encoding: chunked", "HTTP_FRAMING", "Content-Length: 5"),
        _coding("behind Content-Length", "Content-Length: 5", "HTTP_FRAMING", "Transfer-Encoding: chunked"),
        _coding("with Content-Length 0", "Content-Length: 0", "HTTP_FRAMING", "Transfer-Encoding: chunked"),
        _coding("identity with Content-Length", "Content-Length: 5", "HTTP_FRAMING", "Transfer-Encoding: identity"),
        _coding("with Content_Length", "Content_Length: 5", "HTTP_FRAMING", "Transfer-Encoding: chunked"),
        _coding("underscore", "Transfer_Encoding: chunked"),
        _coding("dot", "Transfer.Encoding: chunked"),
        _coding("underscore with Content-Length", "Content-Length: 5", "HTTP_FRAMING", "Transfer_Encoding: chunked"),
        _coding("space before the colon", "Transfer-Encoding : chunked", "HTTP_MALFORMED"),
        _coding("tab before the colon", "Transfer-Encoding\t: chunked", "HTTP_MALFORMED"),
        _coding("NUL before the colon", "Transfer-Encoding\0: chunked", "HTTP_MALFORMED"),
        _coding("space in the name", "Transfer Encoding: chunked", "HTTP_MALFORMED"),
        _coding("space in front of the name", "X: y\r\n Transfer-Encoding: chunked", "HTTP_MALFORMED"),
        _coding("letter in front by a line end", "X: y\nTransfer-Encoding: chunked", "HTTP_MALFORMED"),
        _coding("behind a bare CR", "X: y\rTransfer-Encoding: chunked", "HTTP_MALFORMED"),
        _coding("folded value", "Transfer-Encoding:\r\n chunked", "HTTP_MALFORMED"),
        _coding("folded list", "Transfer-Encoding: chunked\r\n , identity", "HTTP_MALFORMED"),
        _coding("accent in the name", "Tränsfer-Encoding: chunked".encode(), "HTTP_MALFORMED"),
        _coding("CR CR LF", "Transfer-Encoding: chunked\r", "HTTP_MALFORMED"),
        refuse(
            "in HTTP/1.0",
            head("POST /jobs HTTP/1.0", "Transfer-Encoding: chunked") + _CHUNKS + _SMUGGLED,
            "HTTP_FRAMING",
        ),
        refuse(
            "in HTTP/1.0 with keep-alive",
            head("POST /jobs HTTP/1.0", "Connection: keep-alive", "Transfer-Encoding: chunked") + _CHUNKS,
            "HTTP_FRAMING",
        ),
        refuse(
            "on GET, with Content-Length",
            head("GET /query", "Transfer-Encoding: chunked", "Content-Length: 5") + _CHUNKS,
            "HTTP_FRAMING",
        ),
    ),
)

GROUPS = (LENGTHS, CODINGS)
