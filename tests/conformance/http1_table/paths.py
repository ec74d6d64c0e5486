"""Paths: everything that one server reads as another path than the next. Judged in normal form, passed on as sent."""

from http1_table.build import allow, deny, head, refuse
from http1_table.model import Case, Group

_ENCODING = "HTTP_PATH_ENCODING"


def _get(target: str | bytes) -> bytes:
    text = target.decode("latin-1") if isinstance(target, bytes) else target
    return head(f"GET {text}")


def _allow(target: str) -> Case:
    return allow(target, _get(target))


def _deny(target: str, reason: str = "HTTP_NO_RULE") -> Case:
    return deny(target, _get(target), reason)


def _hidden(target: str) -> Case:
    return _deny(target, _ENCODING)


def _refuse(target: str | bytes, reason: str = "HTTP_MALFORMED") -> Case:
    return refuse(repr(target), _get(target), reason)


PLAIN = Group(
    "paths as rules name them",
    "RFC 9110 4.2.3, RFC 3986 6.2.2.1 (paths are case-sensitive); rules are anchored at both ends",
    (
        _allow("/"),
        _allow("/jobs"),
        _allow("/jobs/17"),
        _allow("/files/"),
        _allow("/files/a.b/c..d/...e/.well-known"),
        _allow("/files/a;v=1/b"),
        _allow("/files/a,b:c@d!$&'()*+="),
        _allow("/files/~user/-_"),
        _allow("/files/a%20b"),
        _allow("/files/%c3%a9"),
        _allow("/files/%3f%23%25"),
        _allow("/files/a|b^{c}"),
        _deny("/applicants"),
        _deny("/jobs/"),
        _deny("/jobs/x"),
        _deny("/jobs/17/"),
        _deny("/jobs/17/notes"),
        _deny("/JOBS"),
        _deny("/Jobs"),
        _deny("/jobsx"),
        _deny("/xjobs"),
        _deny("/x/jobs"),
        _deny("/jobs.json"),
        _deny("/files"),
        _deny("/jobs;x"),
        _deny("/jobs/17%0a"),
        _deny("/jobs%20"),
        _deny("/jobs%09"),
    ),
)

DOTS = Group(
    "dot segments and slashes",
    "RFC 3986 5.2.4, 6.2.2.3, RFC 9110 4.2.3; path traversal and access rules escaped by ..;/, // and encodings",
    (
        _allow("/files/./a"),
        _allow("/files/a/../b"),
        _allow("/files/a/."),
        _allow("/files/a/b/.."),
        _allow("/files//a"),
        _allow("/files///a//"),
        _deny("/files/../jobs"),
        _deny("/files/.."),
        _deny("/files/../applicants"),
        _deny("/files/../../jobs"),
        _deny("/files/a/../../applicants"),
        _deny("/files/./../applicants"),
        _deny("/x/../jobs"),
        _deny("/./jobs"),
        _deny("/../jobs"),
        _deny("/jobs/../jobs"),
        _deny("/jobs/."),
        _deny("/jobs/.."),
        _deny("//jobs"),
        _deny("///jobs"),
        _deny("/jobs//17"),
        _deny("//applicants"),
        _deny("/files//../applicants"),
        _deny("/files/a//../../applicants"),
        _allow("/files/a/..//b"),
        _deny("/files/..//files/a"),
        _deny("/files/a/../..//files/b"),
        _deny("/files/..;/applicants"),
        _deny("/files/..;x=y/applicants"),
        _hidden("/files/.;/a"),
        _deny("/files/;/../applicants"),
        _deny("/files/..%3b/applicants"),
        _deny("/files/..%3B/applicants"),
        _hidden("/files/;a/b"),
    ),
)

ENCODINGS = Group(
    "encodings",
    "RFC 3986 2.1, 6.2.2.2, RFC 3629 3 (overlong forms), RFC 9110 4.2.3; path confusion by %2f, %5c, %2e and UTF-8",
    (
        _allow("/files/%61bc"),
        _allow("/files/%7Euser%2D%5f"),
        _allow("/files/%252e%252e/x"),
        _allow("/files/%252fx"),
        _deny("/%6aobs"),
        _deny("/jobs/%31%37"),
        _deny("/%66iles/a"),
        _hidden("/files/a%2fb"),
        _hidden("/files/a%2Fb"),
        _deny("/files/..%2fapplicants"),
        _deny("/files%2f..%2fapplicants"),
        _deny("/files/%2e%2e/applicants"),
        _deny("/files/%2E%2e/applicants"),
        _deny("/files/.%2e/applicants"),
        _hidden("/files/%2e/a"),
        _hidden("/files/v1%2e2"),
        _deny("/files/%5c..%5capplicants"),
        _hidden("/files/a%5Cb"),
        _deny("/files/%c0%af..%c0%afapplicants"),
        _deny("/files/%c0%ae%c0%ae/applicants"),
        _hidden("/files/%e0%80%af"),
        _hidden("/files/%f0%80%80%af"),
        _hidden("/files/%c1%9c"),
        _hidden("/files/%ed%a0%80"),
        _hidden("/files/%f4%90%80%80"),
        _hidden("/files/%ff"),
        _hidden("/files/%c3"),
        _hidden("/files/%80"),
        _hidden("/files/%fe%fe"),
        _refuse("/files/%00"),
        _refuse("/files/a%00.txt"),
        _refuse("/jobs%00"),
        _refuse("/files/%"),
        _refuse("/files/%2"),
        _refuse("/files/%zz"),
        _refuse("/files/%u002f"),
        _refuse("/files/%%32%66"),
    ),
)

BYTES = Group(
    "bytes that a path must not hold",
    "RFC 9112 3.2, RFC 3986 3.3, 3.5 (a fragment is never sent); path confusion by #, backslash and raw bytes",
    (
        _refuse("/jobs#x"),
        _refuse("/files/a#/../../applicants"),
        _refuse("/files/#"),
        _refuse("/files/a\\b"),
        _refuse("/files/..\\applicants"),
        _refuse("\\jobs", "HTTP_TARGET_FORM"),
        _refuse("/\\jobs"),
        _refuse(b"/files/\xc3\xa9"),
        _refuse(b"/files/\x80"),
        _refuse(b"/files/\xff"),
        _refuse(b"/files/\x7f"),
        _refuse(b"/files/\x00"),
        _refuse(b"/files/\x01"),
        _refuse(b"/files/\x0b"),
        _refuse(b"/files/\x1b[0m"),
        _refuse("/files/a\tb"),
        _refuse("/files/a b"),
    ),
)

QUERIES = Group(
    "queries",
    "RFC 3986 3.4, RFC 9110 4.2.2; rules escaped by a query, a second question mark, a fragment",
    (
        _allow("/search?q=abc"),
        _allow("/search?q="),
        _allow("/search?q=abc&page=2"),
        _allow("/search?q=%2f%2e%2e"),
        _allow("/files/a?x=/../../applicants"),
        _allow("/files/a?x=..%2f..%2f&y=%00"),
        _allow("/files/a?b?c"),
        _allow("/files/a?"),
        _allow("/files/a?p=100%"),
        _deny("/search"),
        _deny("/search?"),
        _deny("/search?q=abc&admin=1"),
        _deny("/search?admin=1&q=abc"),
        _deny("/search?Q=abc"),
        _deny("/search?q=abc&page=x"),
        _deny("/search?q=abc?q=abc"),
        _deny("/search/?q=abc"),
        _deny("/search;x?q=abc"),
        _deny("/searching?q=abc"),
        _deny("/jobs?"),
        _deny("/jobs?x=1"),
        _deny("/applicants?/jobs"),
        _deny("/?/jobs"),
        _deny("/jobs%3fx=1"),
        _refuse("/search?q=abc#x"),
        _refuse("/search?q=a\\b"),
        _refuse(b"/search?q=\xe9"),
        _refuse(b"/files/a?\x00"),
    ),
)

GRANTS = Group(
    "encodings that a rule grants",
    "RFC 3986 2.2, 6.2.2; each granted encoding is judged in every form that a server may read",
    (
        _allow("/slash/a%2fb"),
        _allow("/slash/a%2Fb%2fc"),
        _allow("/backslash/a%5cb"),
        _allow("/dot/v1%2e2"),
        _allow("/bytes/%ff"),
        _allow("/bytes/%c3"),
        _allow("/params/.;v=1/a"),
        _deny("/slash/..%2f..%2fjobs"),
        _deny("/slash/%2e%2e/jobs"),
        _deny("/slash/a%5cb", _ENCODING),
        _deny("/slash/%ff", _ENCODING),
        _deny("/slash/..;/a"),
        _deny("/slash%2fa"),
        _deny("/backslash/..%5c..%5cjobs"),
        _deny("/backslash/a%2fb", _ENCODING),
        _deny("/dot/%2e%2e/jobs"),
        _deny("/dot/%2e%2e%2fjobs", _ENCODING),
        _deny("/bytes/%c0%ae%c0%ae/jobs"),
        _deny("/bytes/a%2fb", _ENCODING),
        _deny("/params/..;/jobs"),
        _refuse("/slash/%00"),
        _refuse("/bytes/%00"),
        _refuse(b"/bytes/\xff"),
        _refuse("/backslash/a\\b"),
    ),
)

GROUPS = (PLAIN, DOTS, ENCODINGS, BYTES, QUERIES, GRANTS)
