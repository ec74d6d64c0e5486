"""What requests a rule set lets through."""

import pytest

from racecar.policy.engine import CACHED_VERDICTS, HttpMatcher, HttpVerdict
from racecar.policy.model import DEFAULT_DENY
from racecar.policy.reasons import Reason
from racecar.policy.regex import Literal, PatternError, compile_pattern
from racecar.policy.regex import matcher as pattern_of
from racecar.policy.tables import HttpRule, RuleSet


def matcher(*rules: tuple[str | None, str | None]) -> HttpMatcher:
    numbered = tuple(HttpRule(method, path, number) for number, (method, path) in enumerate(rules, 1))
    return HttpMatcher(RuleSet("http", numbered, DEFAULT_DENY))


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
    assert JOBS.judge(method, target) == verdict
    assert JOBS.judge(method, target) == verdict


@pytest.mark.parametrize(
    "target", [b"/public/../private", b"/public/%2e%2e/private", b"/public/..;/private", b"/public//../../private"]
)
def test_the_path_that_servers_see_must_match_too(target: bytes) -> None:
    assert not matcher((None, "/public/.*")).judge(b"GET", target).allow


def test_the_path_as_sent_must_match_too() -> None:
    assert not matcher((None, "/private")).judge(b"GET", b"/public/../private").allow


def test_raw_and_normal_path_must_match_the_same_rule() -> None:
    rules = matcher((None, "/a/\\.\\./b"), (None, "/b"))
    assert rules.judge(b"GET", b"/a/../b") == denied(Reason.HTTP_NO_RULE)
    assert matcher((None, "/a/\\.\\./b|/b")).judge(b"GET", b"/a/../b") == allowed(1)


def test_a_rule_set_without_rules_denies() -> None:
    assert matcher().judge(b"GET", b"/") == denied(Reason.HTTP_NO_RULE)


def test_an_empty_rule_matches_every_well_formed_request() -> None:
    assert matcher((None, None)).judge(b"DELETE", b"/a/../b?c") == allowed(1)
    assert matcher((None, None)).judge(b"OPTIONS", b"*") == allowed(1)
    assert matcher((None, None)).judge(b"GET", b"/%2e%2e") == denied(Reason.HTTP_PATH_ENCODING)


def test_anchors_hold_for_alternatives() -> None:
    rules = matcher(("GET", "/a|/b"))
    assert not rules.judge(b"GET", b"/ax").allow
    assert not rules.judge(b"GET", b"/x/b").allow


def test_the_cache_stays_bounded_and_keeps_verdicts_right() -> None:
    rules = matcher(("GET", "/[0-9]*[02468]"))
    for number in range(3 * CACHED_VERDICTS):
        assert rules.judge(b"GET", b"/%d" % number).allow == (number % 2 == 0)
    assert len(rules._young) <= CACHED_VERDICTS
    assert len(rules._old) <= CACHED_VERDICTS
    rules.judge(b"GET", b"/" + b"0" * 4000)
    assert all(len(target) < 1000 for _, target in rules._young)


def test_a_rule_set_that_is_not_http_judges_nothing() -> None:
    with pytest.raises(ValueError, match="tcp"):
        HttpMatcher(RuleSet("tcp", (), DEFAULT_DENY))


def test_a_pattern_that_is_not_re2_is_an_error_and_not_no_rule() -> None:
    with pytest.raises(PatternError):
        matcher(("GET", "("))


@pytest.mark.parametrize("text", ["GET", "/jobs", "/a-b_c~d,e;f=g&h@i:j!k'l\"m<n>o#p%q r/"])
def test_a_literal_matches_what_its_pattern_matches(text: str) -> None:
    assert isinstance(pattern_of(text), Literal)
    for sample in (text, text + "x", "x" + text, text[:-1], text.lower(), text.swapcase(), "", text + "\n"):
        by_pattern = compile_pattern(text).fullmatch(sample.encode()) is not None
        assert (pattern_of(text).fullmatch(sample.encode()) is not None) == by_pattern


@pytest.mark.parametrize("text", ["/a.", "/a*", "/a+", "/a?", "(a)", "[a]", "a|b", "a{2}", "^a", "a$", "a\\-"])
def test_syntax_makes_a_pattern(text: str) -> None:
    assert not isinstance(pattern_of(text), Literal)
