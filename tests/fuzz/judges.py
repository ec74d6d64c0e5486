"""The rules of the fuzzed conversations, three times: as policy text for the product's engine, as a plain judge that
needs no engine, and as the question that matters: would any way to read this request be forbidden?
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from ipaddress import IPv4Address
from urllib.parse import unquote_to_bytes

from racecar.policy.compile import compile_workload
from racecar.policy.engine import HttpCall, HttpMatcher, HttpVerdict
from racecar.policy.load import load_text
from racecar.policy.reasons import Reason
from racecar.policy.tables import RuleSet as RuleSet

WORLD_ADDRESS, LOOPBACK = IPv4Address("192.0.2.1"), IPv4Address("127.0.0.1")
POLICY = rb"""
apiVersion: racecar.io/v1
kind: RacecarPolicy
metadata: {name: fuzz}
spec:
  endpointSelector: {}
  egress:
  - toPorts:
    - ports: [{port: "80", protocol: TCP}]
      rules:
        http:
        - {method: "GET|HEAD", path: "/jobs(/.*)?", pathOnly: true}
        - {method: "POST|PUT", path: "/jobs(/.*)?", pathOnly: true}
        - {method: GET, path: "/search", allowBody: true}
        - {method: GET, path: "/keyed", headers: ["X-Key: one"]}
        - {method: GET, path: "/ws", websocket: true}
        - {method: CONNECT, host: "db:5432", connect: true}
        - {method: OPTIONS, path: "\\*"}
        - {method: GET, path: "/files/.*", allowEncoded: [slash]}
        - {method: CONNECT, host: "cache:6379"}
"""


@dataclass(frozen=True)
class Rule:
    number: int
    methods: str
    path: str | None  # of the path without its query
    with_query: bool = True
    host: bytes | None = None
    header: tuple[bytes, bytes] | None = None
    grants: frozenset[str] = frozenset()


RULES = (
    Rule(1, "GET|HEAD", "/jobs(/.*)?"),
    Rule(2, "POST|PUT", "/jobs(/.*)?"),
    Rule(3, "GET", "/search", with_query=False, grants=frozenset(("body",))),
    Rule(4, "GET", "/keyed", with_query=False, header=(b"x-key", b"one")),
    Rule(5, "GET", "/ws", with_query=False, grants=frozenset(("websocket",))),
    Rule(6, "CONNECT", None, host=b"db:5432", grants=frozenset(("connect",))),
    Rule(7, "OPTIONS", r"\*", with_query=False),
    Rule(8, "GET", "/files/.*", grants=frozenset(("slash",))),
    Rule(9, "CONNECT", None, host=b"cache:6379"),
)
_UNGRANTED = {
    "body": Reason.HTTP_BODY_NOT_ALLOWED,
    "websocket": Reason.HTTP_UPGRADE,
    "connect": Reason.HTTP_CONNECT,
}


def _matches(
    rule: Rule, method: bytes, paths: Iterable[bytes], query: bool, host: bytes, keys: Sequence[bytes]
) -> bool:
    return bool(
        re.fullmatch(rule.methods.encode(), method)
        and (rule.path is None or all(re.fullmatch(rule.path.encode(), path, re.DOTALL) for path in paths))
        and (rule.with_query or not query)
        and (rule.host is None or rule.host == host)
        and (rule.header is None or (keys and all(key == rule.header[1] for key in keys)))
    )


def _needs(method: bytes, *, has_body: bool, is_websocket: bool) -> set[str]:
    needs = set()
    if has_body and method in (b"GET", b"HEAD", b"DELETE"):
        needs.add("body")
    if is_websocket:
        needs.add("websocket")
    if method == b"CONNECT":
        needs.add("connect")
    return needs


def _without_dots(text: bytes) -> bytes:
    kept: list[bytes] = []
    for segment in text.split(b"/")[1:]:
        if segment == b"..":
            del kept[-1:]
        elif segment != b".":
            kept.append(segment)
    return b"/" + b"/".join(kept) + b"/" * (bool(kept) and segment in (b".", b".."))


_STEPS = (
    _without_dots,
    lambda text: re.sub(rb"/+", b"/", text),
    lambda text: re.sub(rb";[^/]*", b"", text),
    lambda text: text.replace(b"\\", b"/"),
)
MOST_READINGS = 200


@lru_cache(maxsize=4096)
def readings(path: bytes) -> frozenset[bytes]:
    """Every path that a server might serve for `path`: its steps in any order, done or not; decoded once at most."""
    todo = [(path, False)]
    found = set(todo)
    while todo and len(found) < MOST_READINGS:
        text, decoded = todo.pop()
        nexts = [(step(text), decoded) for step in _STEPS]
        if not decoded:
            nexts.append((unquote_to_bytes(text), True))
        for reading in nexts:
            if reading not in found:
                found.add(reading)
                todo.append(reading)
    return frozenset(text for text, _ in found)


_PLAIN_PATH = re.compile(rb"(?:/[A-Za-z0-9_-]+)+").fullmatch


def asks_for_websocket(method: bytes, version: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether a server may switch to it (RFC 6455 4.2.1). Any other 101 is not passed on."""
    options = {
        option.strip().lower() for name, value in headers if name == b"connection" for option in value.split(b",")
    }
    upgrades = [value.lower() for name, value in headers if name == b"upgrade"]
    return method == b"GET" and version == b"1.1" and b"upgrade" in options and upgrades == [b"websocket"]


def is_ever_forbidden(
    method: bytes, target: bytes, headers: Sequence[tuple[bytes, bytes]], *, has_body: bool, is_websocket: bool
) -> bool:
    """Whether the request, as an independent parser read it, has a reading that no rule of RULES allows.

    `headers` have names in lower case.
    """
    host = b"".join(value for name, value in headers if name == b"host").lower()
    keys = [value for name, value in headers if name == b"x-key"]
    needs = _needs(method, has_body=has_body, is_websocket=is_websocket)
    if method == b"CONNECT":
        host = target.lower()
        paths: Iterable[bytes] = {target}
        query = b""
    else:
        scheme, mark, rest = target.partition(b"://")
        if mark and not scheme.startswith(b"/"):
            _, slash, rest = rest.partition(b"/")
            target = slash + rest if slash else (b"*" if method == b"OPTIONS" else b"/")
        path, _, query = target.partition(b"?")
        paths = {path} if path == b"*" or _PLAIN_PATH(path) else readings(path)
    return not any(
        needs <= rule.grants and all(_matches(rule, method, [path], bool(query), host, keys) for path in paths)
        for rule in RULES
    )


class PlainJudge:
    """RULES, without an engine: one rule must match every reading of the path."""

    def judge(self, call: HttpCall, /) -> HttpVerdict:
        path, mark, _ = call.target.partition(b"?")
        needs = _needs(call.method, has_body=call.has_body, is_websocket=call.is_websocket)
        paths: Iterable[bytes] = (path,)
        if call.method != b"CONNECT" and call.target != b"*" and not _PLAIN_PATH(path):
            if _MALFORMED(call.target) or re.search(rb"%(?![0-9A-Fa-f]{2})|%00", path):
                return HttpVerdict(False, 0, Reason.HTTP_MALFORMED)
            if not path.startswith(b"/"):
                return HttpVerdict(False, 0, Reason.HTTP_TARGET_FORM)
            paths = readings(path)
            needs |= _encodings(path)
        elif call.target == b"*" and call.method != b"OPTIONS":
            return HttpVerdict(False, 0, Reason.HTTP_TARGET_FORM)
        elif _MALFORMED(call.target):
            return HttpVerdict(False, 0, Reason.HTTP_MALFORMED)
        keys = call.fields(b"x-key")
        found = [rule for rule in RULES if _matches(rule, call.method, paths, bool(mark), call.host, keys)]
        for rule in found:
            missing = needs - rule.grants
            if not missing:
                return HttpVerdict(True, rule.number, Reason.NONE)
        for rule in found:
            reason = _UNGRANTED.get(min(needs - rule.grants), Reason.HTTP_PATH_ENCODING)
            return HttpVerdict(False, 0 if reason is Reason.HTTP_PATH_ENCODING else rule.number, reason)
        return HttpVerdict(False, 0, Reason.HTTP_PATH_ENCODING if needs & _ENCODINGS else Reason.HTTP_NO_RULE)


_ENCODINGS = {"slash", "backslash", "dot", "bytes", "params"}
_MALFORMED = re.compile(rb"[^!-~]|[#\\]").search


def _encodings(path: bytes) -> set[str]:
    """What of a path servers read in different ways."""
    needs = set()
    for name, escape in (("slash", b"%2f"), ("backslash", b"%5c"), ("dot", b"%2e")):
        if escape in path.lower():
            needs.add(name)
    if re.search(rb"/\.{0,2}(;|%3b)", path, re.IGNORECASE):
        needs.add("params")
    try:
        unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        needs.add("bytes")
    return needs


@cache
def engine() -> HttpMatcher:
    """The product's engine for POLICY."""
    loaded = load_text(POLICY, "fuzz.yaml")
    assert loaded.ok, loaded.findings
    compiled = compile_workload(loaded.policies, namespace="default", cluster="default", labels={})
    (ruleset,) = (ruleset for ruleset in compiled.rulesets if ruleset.kind == "http")
    return HttpMatcher(ruleset)
