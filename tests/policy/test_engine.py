"""What requests a rule set lets through."""

import dataclasses
import timeit
from collections.abc import Callable
from typing import Any

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from racecar.policy.engine import CACHED_VERDICTS, HttpCall, HttpMatcher, HttpVerdict, Near
from racecar.policy.model import DEFAULT_DENY, ENCODINGS, Encoding
from racecar.policy.paths import examine, readings
from racecar.policy.reasons import Reason
from racecar.policy.regex import SHARD_PATTERNS, PatternError, PatternSet, compile_pattern
from racecar.policy.tables import HttpRule, RuleSet


def matcher(*rules: tuple[str | None, str | None]) -> HttpMatcher:
    numbered = tuple(HttpRule(method, path, number) for number, (method, path) in enumerate(rules, 1))
    return HttpMatcher(RuleSet("http", numbered, DEFAULT_DENY))


def verdict_of(rules: HttpMatcher, call: HttpCall) -> HttpVerdict:
    return rules.judge(call)._replace(nearest=())


def allowed(rule: int) -> HttpVerdict:
    return HttpVerdict(True, rule, Reason.NONE)


def denied(reason: Reason) -> HttpVerdict:
    return HttpVerdict(False, 0, reason)


JOBS = matcher(("GET", "/healthz"), ("GET", "/jobs(\\?.*)?"), ("POST|PUT", "/jobs/[0-9]+"))


@pytest.mark.parametrize(
    ("method", "target", "verdict"),
    [
        (b"GET", b"/healthz", allowed(1)),
        (b"GET", b"/jobs", allowed(2)),
        (b"GET", b"/jobs?page=2", allowed(2)),
        (b"POST", b"/jobs/17", allowed(3)),
        (b"PUT", b"/jobs/17", allowed(3)),
        (b"GET", b"/applicants", denied(Reason.HTTP_NO_RULE)),
        (b"GET", b"/healthz?x", denied(Reason.HTTP_NO_RULE)),
        (b"GET", b"/healthz/", denied(Reason.HTTP_NO_RULE)),
        (b"GET", b"/xjobs", denied(Reason.HTTP_NO_RULE)),
        (b"GET", b"/jobsx", denied(Reason.HTTP_NO_RULE)),
        (b"POST", b"/jobs", denied(Reason.HTTP_NO_RULE)),
        (b"get", b"/jobs", denied(Reason.HTTP_NO_RULE)),
        (b"XPUT", b"/jobs/1", denied(Reason.HTTP_NO_RULE)),
        (b"POSTX", b"/jobs/1", denied(Reason.HTTP_NO_RULE)),
        (b"", b"/jobs", denied(Reason.HTTP_NO_RULE)),
        (b"GET", b"/jobs/../applicants", denied(Reason.HTTP_NO_RULE)),
        (b"GET", b"/jobs%2f..", denied(Reason.HTTP_PATH_ENCODING)),
        (b"GET", b"/jobs%00", denied(Reason.HTTP_MALFORMED)),
        (b"GET", b"http://h/jobs", denied(Reason.HTTP_TARGET_FORM)),
        (b"GET", b"*", denied(Reason.HTTP_TARGET_FORM)),
        (b"OPTIONS", b"*", denied(Reason.HTTP_NO_RULE)),
    ],
)
def test_patterns_are_anchored_and_see_the_query(method: bytes, target: bytes, verdict: HttpVerdict) -> None:
    assert verdict_of(JOBS, HttpCall(method, target)) == verdict
    assert verdict_of(JOBS, HttpCall(method, target)) == verdict


@pytest.mark.parametrize(
    "target", [b"/public/../private", b"/public/%2e%2e/private", b"/public/..;/private", b"/public//../../private"]
)
def test_the_path_that_servers_see_must_match_too(target: bytes) -> None:
    assert not matcher((None, "/public/.*")).judge(HttpCall(b"GET", target)).allow


def test_the_path_as_sent_must_match_too() -> None:
    assert not matcher((None, "/private")).judge(HttpCall(b"GET", b"/public/../private")).allow


def test_slashes_at_the_front_are_judged_as_sent_and_merged() -> None:
    assert verdict_of(JOBS, HttpCall(b"GET", b"//jobs")) == denied(Reason.HTTP_NO_RULE)
    assert verdict_of(matcher(("GET", "//jobs")), HttpCall(b"GET", b"//jobs")) == denied(Reason.HTTP_NO_RULE)
    assert verdict_of(matcher(("GET", "/+jobs")), HttpCall(b"GET", b"//jobs")) == allowed(1)


def test_a_path_encoded_twice_is_judged_as_sent() -> None:
    jobs = matcher(("GET", "/jobs/.*"))
    assert verdict_of(jobs, HttpCall(b"GET", b"/jobs/%252e%252e/applicants")) == allowed(1)
    assert verdict_of(jobs, HttpCall(b"GET", b"/jobs/../applicants")) == denied(Reason.HTTP_NO_RULE)


def test_raw_and_normal_path_must_match_the_same_rule() -> None:
    rules = matcher((None, "/a/\\.\\./b"), (None, "/b"))
    assert verdict_of(rules, HttpCall(b"GET", b"/a/../b")) == denied(Reason.HTTP_NO_RULE)
    assert verdict_of(matcher((None, "/a/\\.\\./b|/b")), HttpCall(b"GET", b"/a/../b")) == allowed(1)


def test_a_rule_set_without_rules_denies() -> None:
    assert verdict_of(matcher(), HttpCall(b"GET", b"/")) == denied(Reason.HTTP_NO_RULE)


def test_an_empty_rule_matches_every_well_formed_request() -> None:
    assert verdict_of(matcher((None, None)), HttpCall(b"DELETE", b"/a/../b?c")) == allowed(1)
    assert verdict_of(matcher((None, None)), HttpCall(b"OPTIONS", b"*")) == allowed(1)
    assert verdict_of(matcher((None, None)), HttpCall(b"GET", b"/%2e%2e")) == denied(Reason.HTTP_PATH_ENCODING)


def test_anchors_hold_for_alternatives() -> None:
    rules = matcher(("GET", "/a|/b"))
    assert not rules.judge(HttpCall(b"GET", b"/ax")).allow
    assert not rules.judge(HttpCall(b"GET", b"/x/b")).allow


def test_the_cache_stays_bounded_and_keeps_verdicts_right() -> None:
    rules = matcher(("GET", "/[0-9]*[02468]"))
    for number in range(3 * CACHED_VERDICTS):
        assert rules.judge(HttpCall(b"GET", b"/%d" % number)).allow == (number % 2 == 0)
    assert len(rules._verdicts.new) <= CACHED_VERDICTS
    assert len(rules._verdicts.old) <= CACHED_VERDICTS
    rules.judge(HttpCall(b"GET", b"/" + b"0" * 4000))
    assert all(isinstance(target, bytes) and len(target) < 1000 for _, target, *_ in rules._verdicts.new)


def test_a_rule_set_that_is_not_http_judges_nothing() -> None:
    with pytest.raises(ValueError, match="tcp"):
        HttpMatcher(RuleSet("tcp", (), DEFAULT_DENY))


def test_a_pattern_that_is_not_re2_is_an_error_and_not_no_rule() -> None:
    for rules in (
        [("(", None)],
        [("GET", "(")],
        [("GET", "/a+"), ("GET", "("), ("GET", "/b+")],
        [("GET", "\\pL{999}")],
    ):
        with pytest.raises(PatternError):
            matcher(*rules)


@pytest.mark.parametrize("text", ["GET", "/jobs", "/a-b_c~d,e;f=g&h@i:j!k'l\"m<n>o#p%q r/"])
def test_a_literal_matches_what_its_pattern_matches(text: str) -> None:
    literal = PatternSet([text])
    assert not literal._shards
    for sample in (text, text + "x", "x" + text, text[:-1], text.lower(), text.swapcase(), "", text + "\n"):
        by_pattern = compile_pattern(text).fullmatch(sample.encode()) is not None
        assert bool(literal.matching(sample.encode())) == by_pattern


@pytest.mark.parametrize("text", ["/a.", "/a*", "/a+", "/a?", "(a)", "[a]", "a|b", "a{2}", "^a", "a$", "a\\-"])
def test_syntax_makes_a_pattern(text: str) -> None:
    assert PatternSet([text])._shards


PATTERNS = [
    "/",
    "/a",
    "/a|/b",
    "/a.*",
    ".*",
    ".*b",
    "(?i)/A+",
    "^/a$",
    "/[^/]*",
    "/a/?",
    "/a\\b.b",
    "(/a|/ab)(c|bcd)?",
    "",
    "()",
    "$",
    "/a{2,3}",
    "\\x2fa",
    "/\\C",
    "/\u00e9.",
    "\\pL*",
]


@given(
    st.lists(st.sampled_from(PATTERNS) | st.integers(0, 99).map(lambda n: f"/a*{n}"), max_size=3 * SHARD_PATTERNS),
    st.text("/abcdA1\n\u00e9", max_size=6).map(str.encode) | st.binary(max_size=4),
)
def test_patterns_match_together_what_they_match_alone(texts: list[str], text: bytes) -> None:
    assert PatternSet(texts).matching(text) == {one for one in texts if compile_pattern(one).fullmatch(text)}


def test_the_first_rule_that_matches_is_named() -> None:
    rules = matcher(("POST", "/a"), ("GET", "/a.*"), (None, None), ("GET", "/a"), ("POST", "/a"))
    assert verdict_of(rules, HttpCall(b"GET", b"/a")) == allowed(2)
    assert verdict_of(rules, HttpCall(b"POST", b"/a")) == allowed(1)
    assert verdict_of(rules, HttpCall(b"PUT", b"/a")) == allowed(3)


def test_patterns_that_are_too_large_together_are_matched_apart() -> None:
    texts = ["/\\pL{150}1", "/\\pL{150}2"]
    large = PatternSet(texts)
    assert len(large._shards) == 2
    assert large.matching(b"/" + b"x" * 150 + b"2") == {texts[1]}


def test_memory_that_runs_out_while_matching_is_an_error_and_not_no_match(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = matcher(("GET", "/a+"), ("GET", "/b+"))

    def out_of_memory(_: Any, text: bytes) -> None:  # RE2's answer then, as if nothing matched
        return None

    monkeypatch.setattr(re2.Set, "Match", out_of_memory)
    for target in (b"/a", b"/c"):
        with pytest.raises(MemoryError):
            rules.judge(HttpCall(b"GET", target))


def test_a_verdict_on_many_rules_takes_a_fraction_of_the_time_of_asking_each() -> None:
    texts = [f"/r{number}/[0-9]+" for number in range(500)]
    rules, alone = matcher(*((None, text) for text in texts)), [compile_pattern(text) for text in texts]
    target = b"/r/" + b"1" * 1000  # too long for the cache
    together = min(timeit.repeat(lambda: rules.judge(HttpCall(b"GET", target)), number=1, repeat=20))
    assert together < min(timeit.repeat(lambda: [p.fullmatch(target) for p in alone], number=1, repeat=20)) / 3


# --- host, headers, query, grants ---

ANY = HttpRule(None, None, 1)


def rules_of(*rules: HttpRule) -> HttpMatcher:
    numbered = (dataclasses.replace(rule, rule=number) for number, rule in enumerate(rules, 1))
    return HttpMatcher(RuleSet("http", tuple(numbered), DEFAULT_DENY))


def rule(**fields: Any) -> HttpRule:
    return dataclasses.replace(ANY, **fields)


def fields_of(*lines: tuple[bytes, bytes]) -> Callable[[bytes], list[bytes]]:
    return lambda name: [value for key, value in lines if key == name]


def call(target: bytes = b"/", method: bytes = b"GET", **rest: Any) -> HttpCall:
    return HttpCall(method, target, **rest)


def is_allowed(one: HttpRule, request: HttpCall) -> bool:
    return rules_of(one).judge(request).allow


@pytest.mark.parametrize(
    ("pattern", "host", "expected"),
    [
        ("api", b"api", True),
        ("API", b"api", True),
        ("Api\\.X", b"api.x", True),
        ("api", b"API", True),
        ("api", b"api:80", False),
        ("api(:80)?", b"api:80", True),
        ("api", b"xapi", False),
        ("api", b"apix", False),
        ("api|web", b"web", True),
        ("api|web", b"webx", False),
        ("api\\.x", b"api-x", False),
        ("api", b"", False),
        (".*", b"", True),
    ],
)
def test_the_host_is_matched_with_its_port_and_in_any_letter_case(pattern: str, host: bytes, expected: bool) -> None:
    assert is_allowed(rule(host=pattern), call(host=host)) == expected


@pytest.mark.parametrize(
    ("wanted", "lines", "expected"),
    [
        ([("x-a", "v")], [(b"x-a", b"v")], True),
        ([("x-a", "v")], [(b"x-a", b"V")], False),
        ([("x-a", "v")], [(b"x-a", b"vv")], False),
        ([("x-a", "v.")], [(b"x-a", b"vx")], False),  # no pattern
        ([("x-a", "v")], [], False),
        ([("x-a", "v")], [(b"x-b", b"v")], False),
        ([("x-a", "v")], [(b"x-a", b"v"), (b"x-a", b"v")], True),
        ([("x-a", "v")], [(b"x-a", b"v"), (b"x-a", b"w")], False),
        ([("x-a", "v")], [(b"x-a", b"w"), (b"x-a", b"v")], False),
        ([("x-a", "v")], [(b"x-a", b"v,w")], False),
        ([("x-a", "")], [(b"x-a", b"")], True),
        ([("x-a", "")], [], False),
        ([("x-a", None)], [(b"x-a", b"")], True),
        ([("x-a", None)], [(b"x-a", b"1"), (b"x-a", b"2")], True),
        ([("x-a", None)], [], False),
        ([("x-a", None), ("x-a", "v")], [(b"x-a", b"w")], False),
        ([("x-a", None), ("x-a", "v")], [(b"x-a", b"v")], True),
        ([("x-a", "v"), ("x-a", "w")], [(b"x-a", b"v"), (b"x-a", b"w")], False),
        ([("x-a", "v"), ("x-a", "w")], [(b"x-a", b"v")], False),
        ([("x-a", "v"), ("x-a", "w")], [(b"x-a", b"w")], False),
        ([("x-a", "v"), ("x-b", "w")], [(b"x-a", b"v")], False),
        ([("x-a", "v"), ("x-b", "w")], [(b"x-a", b"v"), (b"x-b", b"w")], True),
        ([("x-a:v", None)], [(b"x-a:v", b""), (b"x-a", b"v")], False),
        ([("x-a", None), ("x-a:v", None)], [(b"x-a:v", b""), (b"x-a", b"v")], False),
    ],
)
def test_every_line_of_a_header_has_the_value(
    wanted: list[tuple[str, str | None]], lines: list[tuple[bytes, bytes]], expected: bool
) -> None:
    assert is_allowed(rule(headers=tuple(wanted)), call(fields=fields_of(*lines))) == expected


def test_headers_are_looked_up_only_where_rules_read_them() -> None:
    def never(name: bytes) -> list[bytes]:
        raise AssertionError(name)

    assert rules_of(rule(path="/a")).judge(call(b"/a", fields=never)).allow
    asked: list[bytes] = []

    def note(name: bytes) -> list[bytes]:
        asked.append(name)
        return []

    rules_of(rule(headers=(("x-a", None),)), rule(headers=(("x-a", "v"), ("x-b", "w")))).judge(call(fields=note))
    assert sorted(asked) == [b"x-a", b"x-b"]


@pytest.mark.parametrize(
    ("one", "target", "expected"),
    [
        (rule(path="/q", path_only=True), b"/q?x=1", True),
        (rule(path="/q", path_only=True), b"/q?", True),
        (rule(path="/q", path_only=True), b"/q", True),
        (rule(path="/q\\?x=1", path_only=True), b"/q?x=1", False),
        (rule(path="/q", path_only=True), b"/q/..?/../q", False),
        (rule(path="/q"), b"/q?x=1", False),
        (rule(query="v=[0-9]+"), b"/q?v=1", True),
        (rule(query="v=[0-9]+"), b"/q?v=1&w=2", False),
        (rule(query="v=[0-9]+"), b"/q?w=2&v=1", False),
        (rule(query="v=[0-9]+"), b"/q", False),
        (rule(query=""), b"/q", True),
        (rule(query=""), b"/q?", True),
        (rule(query=""), b"/q?x", False),
        (rule(query="a\\?b"), b"/q?a?b", True),
        (rule(path="/q", path_only=True, query="v=1"), b"/q?v=1", True),
        (rule(path="/q", path_only=True, query="v=1"), b"/q?v=2", False),
        (rule(path="/q.*", query="v=1"), b"/q?v=1", True),
        (rule(path="/q", query="v=1"), b"/q?v=1", False),
    ],
)
def test_the_query_belongs_to_the_path_unless_a_rule_takes_it_apart(
    one: HttpRule, target: bytes, expected: bool
) -> None:
    assert is_allowed(one, call(target)) == expected


GRANTS: list[tuple[str, dict[str, Any], HttpCall, Reason]] = [
    ("allowBody", {"allow_body": True}, call(has_body=True), Reason.HTTP_BODY_NOT_ALLOWED),
    ("allowBody", {"allow_body": True}, call(method=b"HEAD", has_body=True), Reason.HTTP_BODY_NOT_ALLOWED),
    ("allowBody", {"allow_body": True}, call(method=b"DELETE", has_body=True), Reason.HTTP_BODY_NOT_ALLOWED),
    ("allowBody", {"allow_body": True}, call(method=b"get", has_body=True), Reason.HTTP_BODY_NOT_ALLOWED),
    ("websocket", {"websocket": True}, call(is_websocket=True), Reason.HTTP_UPGRADE),
    ("connect", {"connect": True}, call(b"db:5432", b"CONNECT", host=b"db:5432"), Reason.HTTP_CONNECT),
    ("allowEncoded", {"encoded": frozenset({"slash"})}, call(b"/a%2fb"), Reason.HTTP_PATH_ENCODING),
]


@pytest.mark.parametrize(("field", "grant", "request_", "reason"), GRANTS)
def test_what_a_request_needs_besides_is_granted_by_the_rule_that_matches(
    field: str, grant: dict[str, Any], request_: HttpCall, reason: Reason
) -> None:
    named = 0 if reason is Reason.HTTP_PATH_ENCODING else 1
    assert rules_of(ANY).judge(request_) == HttpVerdict(False, named, reason, (Near(1, (field,)),))
    assert rules_of(rule(**grant)).judge(request_) == allowed(1)
    # Another rule's grant is of no use, nor is this one's where the rule does not match.
    elsewhere = rule(method="NONE", **grant)
    split = rules_of(ANY, elsewhere).judge(request_)
    assert (split.allow, split.rule, split.reason) == (False, named, reason)
    assert rules_of(elsewhere).judge(request_).reason is Reason.HTTP_NO_RULE
    assert rules_of(ANY, rule(**grant)).judge(request_) == allowed(2)


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"PATCH", b"OPTIONS", b"QUERY"])
def test_other_methods_carry_bodies_without_a_grant(method: bytes) -> None:
    assert is_allowed(ANY, call(method=method, has_body=True))


def test_several_grants_are_needed_together() -> None:
    request = call(b"/a%2fb", has_body=True)
    body, slash = rule(allow_body=True), rule(encoded=frozenset({"slash"}))
    assert rules_of(body, slash).judge(request)[:3] == (False, 0, Reason.HTTP_PATH_ENCODING)
    assert rules_of(slash).judge(request)[:3] == (False, 1, Reason.HTTP_BODY_NOT_ALLOWED)
    assert is_allowed(rule(allow_body=True, encoded=frozenset({"slash"})), request)


@pytest.mark.parametrize(
    ("method", "target", "expected"),
    [
        (b"CONNECT", b"db:5432", Reason.NONE),
        (b"CONNECT", b"[::1]:443", Reason.NONE),
        (b"CONNECT", b"db", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b"/db:1", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b"db:1?x", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b"u@db:1", Reason.HTTP_TARGET_FORM),
        (b"CONNECT", b"*", Reason.HTTP_TARGET_FORM),
        (b"connect", b"db:1", Reason.HTTP_TARGET_FORM),
        (b"GET", b"db:1", Reason.HTTP_TARGET_FORM),
        (b"options", b"*", Reason.HTTP_TARGET_FORM),
    ],
)
def test_each_form_of_target_goes_with_its_method(method: bytes, target: bytes, expected: Reason) -> None:
    assert rules_of(rule(connect=True)).judge(HttpCall(method, target)).reason is expected


def test_a_tunnels_path_is_its_authority() -> None:
    assert is_allowed(rule(path="db:[0-9]+", connect=True), call(b"db:5432", b"CONNECT"))
    assert not is_allowed(rule(path="/.*", connect=True), call(b"db:5432", b"CONNECT"))


# --- encodings ---

ALL = frozenset(ENCODINGS)


def opened(path: str, *encodings: Encoding) -> HttpRule:
    return rule(path=path, encoded=frozenset(encodings))


@pytest.mark.parametrize(
    ("one", "target", "expected"),
    [
        (opened("/files/.*", "slash"), b"/files/a%2fb", Reason.NONE),
        (opened("/files/.*", "slash"), b"/files/a%2Fb", Reason.NONE),
        (opened("/files/[^/]*", "slash"), b"/files/a%2fb", Reason.HTTP_NO_RULE),  # /files/a/b
        (opened("/files/.*", "slash"), b"/files%2f..%2fsecret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "slash"), b"/files/..%2fsecret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "slash"), b"/files/%2f../%2f../secret", Reason.HTTP_NO_RULE),
        (opened("/files/.*|/secret", "slash"), b"/files/..%2fsecret", Reason.NONE),
        (opened("/secret", "slash"), b"/files/..%2fsecret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "dot"), b"/files/a%2fb", Reason.HTTP_PATH_ENCODING),
        (opened("/files/.*", "slash", "dot"), b"/files/a%2fb", Reason.NONE),
        (opened("/files/.*", "backslash"), b"/files/a%5cb", Reason.NONE),
        (opened("/files/.*", "backslash"), b"/files/..%5csecret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "backslash"), b"/files%5c..%5csecret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "slash"), b"/files/a%5cb", Reason.HTTP_PATH_ENCODING),
        (opened("/files/.*", "dot"), b"/files/a%2eb", Reason.NONE),
        (opened("/files/.*", "dot"), b"/files/%2e%2e/secret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "dot"), b"/files/.%2e/secret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "dot"), b"/files/%2e%2e%2fsecret", Reason.HTTP_PATH_ENCODING),
        (opened("/files/.*", "dot", "slash"), b"/files/%2e%2e%2fsecret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "dot", "slash"), b"/files/a%2eb%2fc", Reason.NONE),
        (opened("/files/.*", "bytes"), b"/files/%ff", Reason.NONE),
        (opened("/files/.*", "bytes"), b"/files/%c0%ae%c0%ae/secret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "bytes"), b"/files/..%c0%afsecret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "bytes"), b"/files/..%e0%80%afsecret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "bytes"), b"/files/..%f8%80%80%80%afsecret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "bytes"), b"/files/..%c1%9csecret", Reason.HTTP_NO_RULE),  # a backslash
        (opened("/files/.*", "bytes"), b"/files/.%ff./secret", Reason.HTTP_NO_RULE),  # left out by a decoder
        (opened("/files/.*", "bytes"), b"/files/a%c0%80b", Reason.HTTP_NO_RULE),  # NUL
        (opened("/files/.*", "params"), b"/files/..;/secret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "params"), b"/files/..;x=y/secret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "params"), b"/files/..%3bx/secret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "params"), b"/files/;/../secret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "params"), b"/files/.;x/a", Reason.NONE),
        (opened("/files/.*", "params"), b"/files;v=1/.;x/a", Reason.HTTP_NO_RULE),  # raw
        (opened("/files.*", "params"), b"/files;v=1/.;x/a", Reason.NONE),
        (opened("/files/.*", "dot"), b"/files/%2e%2e;x/secret", Reason.HTTP_PATH_ENCODING),
        (opened("/files/.*", "dot", "params"), b"/files/%2e%2e;x/secret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", "slash"), b"/files/a%2f..;x/b", Reason.HTTP_PATH_ENCODING),
        (opened("/files/.*", "slash", "params"), b"/files/a%2f..;x/../../secret", Reason.HTTP_NO_RULE),
        (opened("/files/.*", *ENCODINGS), b"/files/%2e%2e%5c..%2f%c0%ae", Reason.HTTP_NO_RULE),
        (opened("/.*", *ENCODINGS), b"/files/%2e%2e%5c..%2f%c0%ae", Reason.NONE),
        (opened("/.*", *ENCODINGS), b"/%2f%5c%2e%c0%ae%ff/..;x/b;y", Reason.HTTP_NO_RULE),  # too many readings
        (rule(encoded=ALL), b"/%2f%5c%2e%c0%ae%ff/..;x/b;y", Reason.NONE),  # any path is as good as another
        (opened("/files/.*"), b"/files/%252e%252e%252fsecret", Reason.NONE),  # encoded twice: as sent
        (opened("/files/.*", "slash"), b"/files/%252f..%2fa", Reason.NONE),
        (opened("/a/.*"), b"/a//../b", Reason.HTTP_PATH_ENCODING),
        (opened("/a/.*", "slash"), b"/a//../b", Reason.HTTP_NO_RULE),
        (opened("/a/.*|/b", "slash"), b"/a//../b", Reason.NONE),
        (opened("/files/.*", *ENCODINGS), b"/files/%00", Reason.HTTP_MALFORMED),
        (opened("/files/.*", *ENCODINGS), b"/files/a\\b", Reason.HTTP_MALFORMED),
        (opened("/files/.*", *ENCODINGS), b"/files/a#b", Reason.HTTP_MALFORMED),
        (opened("/files/.*", *ENCODINGS), b"/files/\xff", Reason.HTTP_MALFORMED),
    ],
)
def test_a_rule_that_allows_an_encoding_matches_whatever_servers_make_of_it(
    one: HttpRule, target: bytes, expected: Reason
) -> None:
    assert rules_of(one).judge(call(target)).reason is expected


@pytest.mark.parametrize(
    ("path", "target", "allowed"),
    [
        ("/jobs(/.*)?", b"/jobs//x", True),
        ("/jobs(/.*)?", b"/jobs/a/..//x", True),
        ("/jobs(/.*)?", b"/jobs/..//jobs/x", False),  # //jobs/x
        ("/jobs(/.*)?", b"/jobs/../jobs/x", True),
        ("/jobs(/.*)?", b"//jobs/x", False),
        ("/?/jobs(/.*)?", b"//jobs/x", True),
        ("/?/jobs(/.*)?", b"/jobs/..//jobs/x", True),
        ("/a/x|/a//\\./x|/a//x", b"/a//./x", False),  # /a/./x
        ("/a/(\\./)?x|/a//\\./x|/a//x", b"/a//./x", True),
        ("/j//x|/j/x", b"/%6a//x", False),
        ("/(%6a|j)/x", b"/%6a//x", False),  # /j//x
        ("/(%6a|j)//?x", b"/%6a//x", True),
    ],
)
def test_dots_and_slashes_need_no_grant_but_match_however_servers_read_them(
    path: str, target: bytes, allowed: bool
) -> None:
    expected = Reason.NONE if allowed else Reason.HTTP_NO_RULE
    assert rules_of(rule(path=path)).judge(call(target)).reason is expected
    assert rules_of(opened(path, *ENCODINGS)).judge(call(target)).reason is expected


def test_what_is_decoded_to_slashes_is_not_only_read_merged() -> None:
    assert not is_allowed(opened("/jobs(/.*)?", "slash"), call(b"/jobs/..%2f%2fjobs/x"))


def test_the_query_stands_behind_every_form() -> None:
    assert is_allowed(opened("/a/b\\?x|/a%2[fF]b\\?x", "slash"), call(b"/a%2fb?x"))
    assert not is_allowed(opened("/a/b|/a%2[fF]b\\?x", "slash"), call(b"/a%2fb?x"))
    only = dataclasses.replace(opened("/a/b|/a%2[fF]b", "slash"), path_only=True)
    assert is_allowed(only, call(b"/a%2fb?x"))


def test_one_and_the_same_rule_matches_every_form() -> None:
    request = call(b"/files/..%2fsecret")
    rules = rules_of(opened("/files/.*", "slash"), opened("/secret", "slash"))
    assert rules.judge(request).reason is Reason.HTTP_NO_RULE


# --- nearest rules, cache, cost ---


def test_the_nearest_rules_are_those_that_fail_in_the_fewest_fields() -> None:
    rules = rules_of(
        rule(method="PUT", path="/a", host="x", query="q"),
        rule(method="GET", path="/b"),
        rule(method="PUT", path="/b"),
        rule(method="PUT", path="/a"),
        rule(method="GET", path="/c", headers=(("x-a", None),)),
    )
    verdict = rules.judge(call(b"/a"))
    assert verdict[:3] == (False, 0, Reason.HTTP_NO_RULE)
    assert verdict.nearest == (Near(2, ("path",)), Near(4, ("method",)), Near(3, ("method", "path")))
    assert rules_of(rule(method="PUT", path="/b", host="x", query="q", headers=(("x-a", None),))).judge(
        call(b"/a", has_body=True)
    ).nearest == (Near(1, ("method", "path", "host", "headers", "query", "allowBody")),)
    assert JOBS.judge(call(b"/jobs")).nearest == ()
    assert JOBS.judge(call(b"/jobs%00")).nearest == ()


def test_nearest_rules_are_found_in_bounded_work() -> None:
    far = [rule(method="PUT", path="/b", host="x", query=str(number)) for number in range(3000)]
    verdict = rules_of(*far, rule(method="PUT", path="/b")).judge(call(b"/a"))
    assert verdict.nearest[0] == Near(3001, ("method", "path"))
    assert [near.rule for near in verdict.nearest[1:]] == [1, 2]


@pytest.mark.parametrize(
    ("one", "good", "bad"),
    [
        (rule(host="a"), {"host": b"a"}, {"host": b"b"}),
        (rule(headers=(("x-a", "v"),)), {"fields": fields_of((b"x-a", b"v"))}, {}),
        (
            rule(headers=(("x-a", "v"),)),
            {"fields": fields_of((b"x-a", b"v"))},
            {"fields": fields_of((b"x-a", b"v"), (b"x-a", b"w"))},
        ),
        (rule(), {}, {"has_body": True}),
        (rule(), {}, {"is_websocket": True}),
    ],
)
def test_a_verdict_is_kept_for_all_that_it_depends_on(one: HttpRule, good: Any, bad: Any) -> None:
    rules = rules_of(one)
    for _ in range(2):
        assert rules.judge(call(b"/a", **good)).allow
        assert not rules.judge(call(b"/a", **bad)).allow


def test_a_kept_verdict_does_not_depend_on_what_no_rule_reads() -> None:
    rules = rules_of(rule(path="/a"))
    for number in range(10):
        rules.judge(call(b"/a", host=b"h%d" % number, fields=fields_of((b"x-a", b"%d" % number))))
    assert len(rules._verdicts.new) == 1


def test_what_is_long_is_not_kept() -> None:
    rules = rules_of(rule(host=".*", headers=(("x-a", None),)))
    for request in (
        call(b"/", host=b"h" * 600, fields=fields_of((b"x-a", b""))),
        call(b"/", fields=fields_of((b"x-a", b"v" * 600))),
        call(b"/", fields=fields_of(*[(b"x-a", b"")] * 600)),
    ):
        assert rules.judge(request).allow
    assert rules._verdicts.new == {}


# --- against a judge that reads rules one by one ---

TEXTS = [None, "", ".*", "a", "/a", "/a.*", "/.*", "/a|/b", "/b\\?q", "[^?]*", "(?i)/A.*", "q", "GET|PUT", "GET", "a:1"]
RULES = st.builds(
    HttpRule,
    st.sampled_from([None, "GET", "GET|PUT", "DELETE", "C.*", ".*"]),
    st.sampled_from(TEXTS),
    st.just(1),
    host=st.sampled_from([None, None, "a", "A", "a(:1)?", ".*"]),
    headers=st.lists(st.tuples(st.sampled_from(["x-a", "x-b"]), st.sampled_from([None, "v", "w"])), max_size=2).map(
        tuple
    ),
    path_only=st.booleans(),
    query=st.sampled_from([None, None, "", "q", "q?"]),
    allow_body=st.booleans(),
    websocket=st.booleans(),
    connect=st.booleans(),
    encoded=st.sets(st.sampled_from(ENCODINGS)).map(frozenset),
)
PATHS = st.lists(
    st.sampled_from(
        [b"/", b"/a", b"/b", b"..", b".", b"%2f", b"%5C", b"%2e", b"%ff", b"%c0%af", b";x", b"%61", b"%252f"]
    ),
    max_size=5,
).map(b"".join)
TARGETS = st.one_of(
    st.tuples(st.just(b"/"), PATHS, st.sampled_from([b"", b"?", b"?q", b"?/../q"])).map(b"".join),
    st.sampled_from([b"*", b"a:1", b"a", b"/a%00", b"/a?#", b"/a", b"/b?q"]),
)
LINES = st.lists(
    st.tuples(st.sampled_from([b"x-a", b"x-b"]), st.sampled_from([b"v", b"w", b""])),
    max_size=3,
)


def slow_judge(rules: list[HttpRule], request: HttpCall) -> bool:
    """Rule by rule, field by field, with RE2's own full match."""
    path, mark, query = request.target.partition(b"?")
    if request.method == b"CONNECT":
        if request.target != b"a:1":
            return False
        forms, needs = [path], set()
    elif request.target == b"*":
        if request.method != b"OPTIONS":
            return False
        forms, needs = [path], set()
    else:
        examined = examine(request.target)
        if examined.reason is not Reason.NONE:
            return False
        every = readings(examined)
        if every.forms is None:
            forms, needs = [], set(every.needs)
        else:
            forms, needs = [path, examined.normal, *every.forms], set(every.needs)
    for one in rules:
        if one.method is not None and not re2.fullmatch(one.method, request.method):
            continue
        if one.host is not None and not re2.fullmatch(f"(?i){one.host}", request.host):
            continue
        if one.query is not None and not re2.fullmatch(one.query, query):
            continue
        if one.path is not None:
            texts = [form if one.path_only else form + mark + query for form in forms]
            if not texts or not all(re2.fullmatch(one.path, text) for text in texts):
                continue
        if not all(slow_header(name, value, request) for name, value in one.headers):
            continue
        if not needs <= one.encoded:
            continue
        if request.method == b"CONNECT" and not one.connect:
            continue
        if request.is_websocket and not one.websocket:
            continue
        if request.has_body and request.method in (b"GET", b"DELETE") and not one.allow_body:
            continue
        return True
    return False


def slow_header(name: str, value: str | None, request: HttpCall) -> bool:
    values = request.fields(name.encode())
    return bool(values) and (value is None or all(one == value.encode() for one in values))


@settings(max_examples=400, deadline=None)
@given(
    st.lists(RULES, max_size=4),
    st.lists(
        st.builds(
            HttpCall,
            st.sampled_from([b"GET", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"GETX"]),
            TARGETS,
            st.sampled_from([b"", b"a", b"a:1", b"b"]),
            LINES.map(lambda lines: fields_of(*lines)),
            st.booleans(),
            st.booleans(),
        ),
        min_size=8,
        max_size=8,
    ),
)
@pytest.mark.slow
def test_a_rule_set_judges_as_its_rules_do_one_by_one(rules: list[HttpRule], requests: list[HttpCall]) -> None:
    matcher_ = rules_of(*rules)
    for request in (*requests, *requests):
        verdict = matcher_.judge(request)
        assert verdict.allow == slow_judge(rules, request), request
        if verdict.allow:
            assert slow_judge([rules[verdict.rule - 1]], request)
            assert not slow_judge(rules[: verdict.rule - 1], request)
        assert verdict.allow == (verdict.reason is Reason.NONE)
        for near in verdict.nearest:
            assert near.failed
            assert not slow_judge([rules[near.rule - 1]], request)
