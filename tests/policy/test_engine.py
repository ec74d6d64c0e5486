"""What requests a rule set lets through."""

import timeit
from typing import Any

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from racecar.policy.engine import CACHED_VERDICTS, HttpCall, HttpMatcher, HttpVerdict
from racecar.policy.model import DEFAULT_DENY
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
    assert len(rules._young) <= CACHED_VERDICTS
    assert len(rules._old) <= CACHED_VERDICTS
    rules.judge(HttpCall(b"GET", b"/" + b"0" * 4000))
    assert all(isinstance(target, bytes) and len(target) < 1000 for _, target, *_ in rules._young)


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
