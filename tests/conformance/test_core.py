"""Every case of the table against a conversation and the real policy: whole, cut, pipelined, with bytes behind."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import pytest
from http1_table import GROUPS, Case, Group, Then
from http1_table.build import HEALTH, OK, allowed, refused
from talks import (
    Cut,
    Talk,
    before,
    behind,
    check,
    compiled_policy,
    finish,
    in_pieces,
    matcher_of,
    new_context,
    run,
    whole,
)

from racecar.policy.engine import HttpMatcher

BYTES, SEVENS, FORTIES = in_pieces(1), in_pieces(7), in_pieces(40)
every_group = pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)


@pytest.fixture(scope="session")
def matcher() -> HttpMatcher:
    return matcher_of(compiled_policy())


@contextlib.contextmanager
def named(case: Case, cut: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        error.add_note(f"case: {case.name}; cut: {cut}")
        raise


def attempt(case: Case, talk: Talk, cut: Cut = whole, answer_cut: Cut = whole) -> None:
    with named(case, f"{cut.__name__}, answers {answer_cut.__name__}"):
        run(case, talk, cut, answer_cut)
        check(case, talk)
        finish(talk)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=f"{group.name}: {case.name}") for group in GROUPS for case in group.cases]
)
def test_whole(case: Case, matcher: HttpMatcher) -> None:
    """Twice: with heads that were never seen, and with heads that are known."""
    context = new_context(matcher)
    attempt(case, Talk(matcher, context))
    attempt(case, Talk(matcher, context))


@every_group
def test_cut(group: Group, matcher: HttpMatcher) -> None:
    for case in group.cases:
        for cut, answer_cut in ((BYTES, BYTES), (SEVENS, SEVENS), (whole, BYTES), (BYTES, whole)):
            attempt(case, Talk(matcher), cut, answer_cut)


@every_group
def test_bodies_that_go_unread(group: Group, matcher: HttpMatcher) -> None:
    for case in group.cases:
        attempt(case, Talk(matcher, unread=True), FORTIES, FORTIES)


@every_group
def test_a_garbage_byte_behind(group: Group, matcher: HttpMatcher) -> None:
    """It never reaches the server: answered as no request, or dropped."""
    for case in group.cases:
        longer = behind(case, b"\0")
        if longer is None:
            continue
        if case.then is Then.OPEN:
            longer = replace(longer, turns=(*longer.turns, refused(b"", "HTTP_NOT_HTTP")), then=Then.CLOSED)
        for cut in (whole, BYTES, SEVENS):
            attempt(longer, Talk(matcher), cut)


@every_group
def test_an_allowed_request_behind(group: Group, matcher: HttpMatcher) -> None:
    """It is answered if the connection may be used, and dropped if not."""
    for case in group.cases:
        longer = followed(case)
        if longer is not None:
            attempt_in_three_ways(longer, matcher)


@every_group
def test_pipelined(group: Group, matcher: HttpMatcher) -> None:
    """An allowed request before it in the same bytes, and one behind."""
    for case in group.cases:
        opening = before(followed(case) or case, allowed(HEALTH))
        if opening is not None:
            attempt_in_three_ways(opening, matcher)


def attempt_in_three_ways(case: Case, matcher: HttpMatcher) -> None:
    for cut, answer_cut in ((whole, whole), (BYTES, whole if case.at_once else BYTES), (SEVENS, whole)):
        attempt(case, Talk(matcher), cut, answer_cut)


def followed(case: Case) -> Case | None:
    """`case` with an allowed request behind it."""
    longer = behind(case, HEALTH)
    if longer is None or case.then is not Then.OPEN:
        return longer
    last = replace(allowed(HEALTH), sent=b"", answer=OK, to_client=OK)
    return replace(longer, turns=(*longer.turns, last))
