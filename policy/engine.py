"""Judge HTTP requests by a rule set.

Which rules match a field is a number with a bit for each rule, the first rule lowest: what every field leaves over is
found with one AND a field, whatever the number of rules.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import NamedTuple

from racecar.policy.generations import Generations
from racecar.policy.model import Encoding
from racecar.policy.paths import Examined, examine, readings
from racecar.policy.reasons import Reason
from racecar.policy.regex import SYNTAX, PatternSet, without_case
from racecar.policy.tables import RuleSet

CACHED_VERDICTS = 1024  # of each of two generations
CACHED_REQUEST_BYTES = 512
MAX_KNOWN_TEXTS = 64
MAX_KNOWN_TEXT_BYTES = 64
MAX_NEAREST = 3
MAX_COMPARED_RULES = 64  # of those that fail in more than two fields, for the nearest rules

_BODYLESS_METHODS = frozenset((b"GET", b"HEAD", b"DELETE"))  # a body needs a grant: servers differ on it
_AUTHORITY = re.compile(rb"[^/?#@\\\x00-\x20\x7f-\xff]+:[0-9]{1,5}")


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


_FIELDS = ("method", "path", "host", "headers", "query")
# What a request may need besides; a rule that matches but for one of them gives its reason.
_GRANTS = {
    "connect": Reason.HTTP_CONNECT,
    "websocket": Reason.HTTP_UPGRADE,
    "allowBody": Reason.HTTP_BODY_NOT_ALLOWED,
    "allowEncoded": Reason.HTTP_PATH_ENCODING,
}

_Rules = int  # a bit for each rule of the set
_Key = tuple[object, ...]


class _Field:
    """What the rules of a set ask of one text."""

    __slots__ = ("_any", "_by_literal", "_by_pattern", "_known", "_patterns", "is_used")

    def __init__(self, texts: Iterable[str | None]) -> None:
        """One pattern or None for each rule, in their order. Raises PatternError."""
        self._any: _Rules = 0
        self._known: dict[bytes, _Rules] = {}
        self._by_literal: dict[bytes, _Rules] = {}
        self._by_pattern: dict[str, _Rules] = {}
        for index, text in enumerate(texts):
            if text is None:
                self._any |= 1 << index
            elif SYNTAX.isdisjoint(text):
                self._by_literal[text.encode()] = self._by_literal.get(text.encode(), 0) | 1 << index
            else:
                self._by_pattern[text] = self._by_pattern.get(text, 0) | 1 << index
        self._patterns = PatternSet(self._by_pattern)
        self.is_used = bool(self._by_literal or self._by_pattern)

    def matching(self, text: bytes) -> _Rules:
        """Raises MemoryError, then none is known to match or not."""
        found = self._any | self._by_literal.get(text, 0)
        if self._by_pattern:
            for pattern in self._patterns.matching(text):
                found |= self._by_pattern[pattern]
        return found

    def matching_again(self, text: bytes) -> _Rules:
        """As `matching`, for texts of which there are few: methods, hosts, and no query."""
        found = self._known.get(text)
        if found is None:
            found = self.matching(text)
            if len(text) <= MAX_KNOWN_TEXT_BYTES:
                if len(self._known) >= MAX_KNOWN_TEXTS:
                    self._known.clear()
                self._known[text] = found
        return found


class _Header:
    """What the rules of a set ask of one header: nothing, that it is there, or a value of all its lines."""

    __slots__ = ("_by_value", "_present", "_silent")

    def __init__(self, wanted: Sequence[set[str | None]]) -> None:
        """What each rule asks for, in their order."""
        self._silent: _Rules = 0
        self._present: _Rules = 0
        self._by_value: dict[bytes, _Rules] = {}
        for index, values in enumerate(wanted):
            exact = [value.encode() for value in values if value is not None]
            if not values:
                self._silent |= 1 << index
            elif not exact:
                self._present |= 1 << index
            elif len(exact) == 1:  # no line has two values: such a rule matches nothing
                self._by_value[exact[0]] = self._by_value.get(exact[0], 0) | 1 << index

    def matching(self, values: Sequence[bytes]) -> _Rules:
        if not values:
            return self._silent
        found = self._silent | self._present
        if len(set(values)) == 1:
            found |= self._by_value.get(values[0], 0)
        return found


class HttpMatcher:
    """One rule set's rules, compiled. Verdicts of short requests are kept: a peer can fill the cache, not grow it."""

    def __init__(self, ruleset: RuleSet) -> None:
        if ruleset.kind != "http":
            raise ValueError(f"a rule set of kind {ruleset.kind} does not judge HTTP requests")
        # Patterns were checked at load: PatternError here is a bug, and no verdict.
        rules = ruleset.http
        self._numbers = [rule.rule for rule in rules]
        self._all: _Rules = (1 << len(rules)) - 1
        self._method = _Field(rule.method for rule in rules)
        self._path_and_query = _Field(None if rule.path_only else rule.path for rule in rules)
        self._path_alone = _Field(rule.path if rule.path_only else None for rule in rules)
        self._query = _Field(rule.query for rule in rules)
        self._host = _Field(None if rule.host is None else without_case(rule.host) for rule in rules)
        names = dict.fromkeys(name for rule in rules for name, _ in rule.headers if ":" not in name)
        self._names = [name.encode() for name in names]
        self._headers = [_Header([{v for n, v in rule.headers if n == name} for rule in rules]) for name in names]
        # No header has a colon in its name: such a rule matches nothing (warning header-colon).
        self._possible = _granting(all(name in names for name, _ in rule.headers) for rule in rules)
        self._body = _granting(rule.allow_body for rule in rules)
        self._websocket = _granting(rule.websocket for rule in rules)
        self._connect = _granting(rule.connect for rule in rules)
        encodings = {encoding for rule in rules for encoding in rule.encoded}
        self._encoded = {encoding: _granting(encoding in rule.encoded for rule in rules) for encoding in encodings}
        self._pathless = _granting(rule.path is None for rule in rules)
        self._verdicts: Generations[_Key, HttpVerdict] = Generations(CACHED_VERDICTS)

    @property
    def header_names(self) -> frozenset[bytes]:
        """The headers that some rule reads, in lower case."""
        return frozenset(self._names)

    def judge(self, call: HttpCall) -> HttpVerdict:
        """The verdict on a request.

        A denial with HTTP_MALFORMED or HTTP_TARGET_FORM is answered 400 and closes; any other is answered 403. Where
        rules match but for a grant, the reason names it, and `rule` is the first of them (but for an encoding).
        """
        size = len(call.method) + len(call.target)
        key: _Key = (call.method, call.target, call.has_body, call.is_websocket)
        fields: list[list[bytes]] = []
        if self._host.is_used:
            key += (call.host,)
            size += len(call.host)
        if self._names:
            fields = [call.fields(name) for name in self._names]
            key += tuple(tuple(values) for values in fields)
            size += sum(len(value) + 1 for values in fields for value in values)
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = self._judge(call, fields)
            if size <= CACHED_REQUEST_BYTES:
                self._verdicts.put(key, verdict)
        return verdict

    def _judge(self, call: HttpCall, fields: Sequence[Sequence[bytes]]) -> HttpVerdict:
        examined = examine(call.target) if call.method != b"CONNECT" and call.target != b"*" else _examine_other(call)
        if examined.reason is not Reason.NONE:
            return HttpVerdict(False, 0, examined.reason)
        path, encoded = self._paths(examined)
        method = self._method.matching_again(call.method)
        query = self._query.matching(examined.query[1:]) if self._query.is_used else self._all
        host = self._host.matching_again(call.host.lower()) if self._host.is_used else self._all
        headers = self._possible
        for header, values in zip(self._headers, fields, strict=True):
            headers &= header.matching(values)
        connect = self._connect if call.method == b"CONNECT" else self._all
        websocket = self._websocket if call.is_websocket else self._all
        # Letter case does not count: a server that takes `get` for GET ignores its body too.
        needs_body = call.has_body and call.method.upper() in _BODYLESS_METHODS
        body = self._body if needs_body else self._all
        found = path & encoded & method & query & host & headers & connect & websocket & body
        if found:
            return HttpVerdict(True, self._numbers[(found & -found).bit_length() - 1], Reason.NONE)
        return self._denial(
            {
                "method": method,
                "path": path,
                "host": host,
                "headers": headers,
                "query": query,
                "connect": connect,
                "websocket": websocket,
                "allowBody": body,
                "allowEncoded": encoded,
            }
        )

    def _paths(self, examined: Examined) -> tuple[_Rules, _Rules]:
        """The rules whose path matches every form of this one, and those that allow its encodings."""
        needs, path = examined.needs, examined.path
        if not needs and path is examined.normal:
            return self._path(path, examined.query), self._all
        forms: tuple[bytes, ...] | None = (path, examined.normal)
        if not needs or self._opening(needs):
            needs, forms = readings(examined)
        if forms is None:
            return self._pathless, self._opening(needs)
        found = self._all
        for form in forms:
            found &= self._path(form, examined.query)
        return found, self._opening(needs)

    def _path(self, path: bytes, query: bytes) -> _Rules:
        if not self._path_alone.is_used:
            return self._path_and_query.matching(path + query)
        return self._path_and_query.matching(path + query) & self._path_alone.matching(path)

    def _opening(self, needs: Iterable[Encoding]) -> _Rules:
        found = self._all
        for encoding in needs:
            found &= self._encoded.get(encoding, 0)
        return found

    def _denial(self, matching: dict[str, _Rules]) -> HttpVerdict:
        nearest = tuple(self._nearest(matching))
        if self._all and not matching["allowEncoded"]:
            return HttpVerdict(False, 0, Reason.HTTP_PATH_ENCODING, nearest)
        found = self._all
        for field in _FIELDS:
            found &= matching[field]
        for rule, failed in self._failing(matching, found):
            reason = _GRANTS[failed[0]]
            return HttpVerdict(False, 0 if reason is Reason.HTTP_PATH_ENCODING else rule, reason, nearest)
        return HttpVerdict(False, 0, Reason.HTTP_NO_RULE, nearest)

    def _nearest(self, matching: dict[str, _Rules]) -> Iterator[Near]:
        """The rules that fail in the fewest fields, in their order among equals."""
        return islice((Near(rule, failed) for rule, failed in self._failing(matching, self._all)), MAX_NEAREST)

    def _failing(self, matching: dict[str, _Rules], among: _Rules) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Rules with the fields that they fail in, fewest first, then in their order; not all of those alike."""
        names = [name for name in (*_FIELDS, *_GRANTS) if among & ~matching[name]]
        rest = among
        for size in (1, 2):
            alike: list[tuple[int, tuple[str, ...]]] = []
            for failed in combinations(names, size):
                found = among
                for name in names:
                    found &= ~matching[name] if name in failed else matching[name]
                rest &= ~found
                alike += ((index, failed) for index in islice(_indexes(found), MAX_NEAREST))
            for index, failed in sorted(alike)[:MAX_NEAREST]:
                yield self._numbers[index], failed
        compared = []
        for index in islice(_indexes(rest), MAX_COMPARED_RULES):
            failed = tuple(name for name in names if not matching[name] >> index & 1)
            compared.append((len(failed), index, failed))
        for _, index, failed in sorted(compared):
            yield self._numbers[index], failed


def _examine_other(call: HttpCall) -> Examined:
    """Targets that are no path stand as they are, each with its own method only."""
    is_good = _AUTHORITY.fullmatch(call.target) if call.method == b"CONNECT" else call.method == b"OPTIONS"
    return Examined(Reason.NONE, call.target, call.target) if is_good else Examined(Reason.HTTP_TARGET_FORM)


def _granting(grants: Iterable[bool]) -> _Rules:
    return sum(1 << index for index, is_granted in enumerate(grants) if is_granted)


def _indexes(rules: _Rules) -> Iterator[int]:
    """The places of the bits that are set, lowest first."""
    while rules:
        lowest = rules & -rules
        yield lowest.bit_length() - 1
        rules ^= lowest
