"""Judge HTTP requests by a rule set."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from racecar.policy.paths import examine
from racecar.policy.reasons import Reason
from racecar.policy.regex import Pattern, PatternSet, matcher
from racecar.policy.tables import RuleSet

CACHED_VERDICTS = 1024  # of each of two generations
CACHED_REQUEST_BYTES = 512


def no_fields(_: bytes) -> list[bytes]:
    """The header look-up of a request without headers."""
    return []


@dataclass(slots=True)
class HttpCall:
    """What a request asks for, as far as rules can look at it."""

    method: bytes
    target: bytes  # origin form (`/path?query`), `*` for OPTIONS, `host:port` for CONNECT
    host: bytes = b""  # the authority as sent, in lower case; empty in HTTP/1.0 without Host
    fields: Callable[[bytes], list[bytes]] = (
        no_fields  # lower-case name -> values of all its lines, without outer space
    )
    has_body: bool = False
    is_websocket: bool = False  # asks for `Upgrade: websocket`


class Near(NamedTuple):
    """A rule that came close, and what of it failed: method, path, host, headers, query, or a grant."""

    rule: int
    failed: tuple[str, ...]


class HttpVerdict(NamedTuple):
    """`rule` is the number of the rule that decided, 0 for none. `nearest`: at most three, for the log alone."""

    allow: bool
    rule: int
    reason: Reason
    nearest: tuple[Near, ...] = ()


_NO_RULE = HttpVerdict(False, 0, Reason.HTTP_NO_RULE)
_WRONG_FORM = HttpVerdict(False, 0, Reason.HTTP_TARGET_FORM)


class HttpMatcher:
    """One rule set's rules, compiled. Verdicts of short requests are kept: a peer can fill the cache, not grow it."""

    def __init__(self, ruleset: RuleSet) -> None:
        if ruleset.kind != "http":
            raise ValueError(f"a rule set of kind {ruleset.kind} does not judge HTTP requests")
        # Patterns were checked at load: PatternError here is a bug, and no verdict.
        self._rules: list[tuple[Pattern | None, int]] = []
        self._by_path: dict[str | None, list[int]] = {None: []}  # path -> indexes in _rules; None: any path
        for index, rule in enumerate(ruleset.http):
            self._rules.append((matcher(rule.method) if rule.method is not None else None, rule.rule))
            self._by_path.setdefault(rule.path, []).append(index)
        self._paths = PatternSet(path for path in self._by_path if path is not None)
        self._young: dict[tuple[bytes, bytes], HttpVerdict] = {}
        self._old: dict[tuple[bytes, bytes], HttpVerdict] = {}

    def judge(self, call: HttpCall) -> HttpVerdict:
        """The verdict on a request.

        A denial with HTTP_NO_RULE or HTTP_PATH_ENCODING is answered 403; HTTP_MALFORMED and HTTP_TARGET_FORM are
        answered 400 and close.
        """
        method, target = call.method, call.target
        key = (method, target)
        verdict = self._young.get(key)
        if verdict is not None:
            return verdict
        verdict = self._old.get(key) or self._judge(method, target)
        if len(method) + len(target) <= CACHED_REQUEST_BYTES:
            if len(self._young) >= CACHED_VERDICTS:
                self._old, self._young = self._young, {}
            self._young[key] = verdict
        return verdict

    def _judge(self, method: bytes, target: bytes) -> HttpVerdict:
        if target == b"*":
            return self._match(method, target, target) if method == b"OPTIONS" else _WRONG_FORM
        normal, reason = examine(target)
        if reason is not Reason.NONE:
            return HttpVerdict(False, 0, reason)
        return self._match(method, target, normal)

    def _match(self, method: bytes, raw: bytes, normal: bytes) -> HttpVerdict:
        """One and the same rule must match the path as sent and as servers understand it."""
        paths = self._paths.matching(raw)
        if normal is not raw:
            paths &= self._paths.matching(normal)
        for index in sorted(index for path in (None, *paths) for index in self._by_path[path]):
            pattern, rule = self._rules[index]
            if pattern is None or pattern.fullmatch(method):
                return HttpVerdict(True, rule, Reason.NONE)
        return _NO_RULE
