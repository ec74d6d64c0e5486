"""The table itself."""

import re
from collections import Counter
from pathlib import Path

import http1_table
import pytest
from http1_table import GROUPS, Group, Then, Verdict

from racecar.policy.reasons import Reason


def test_has_enough_cases() -> None:
    assert sum(len(group.cases) for group in GROUPS) >= 1000
    by_verdict = Counter(turn.verdict for group in GROUPS for case in group.cases for turn in case.turns)
    assert min(by_verdict[verdict] for verdict in Verdict) >= 150


def test_is_data_that_other_runners_can_read_too() -> None:
    for path in Path(http1_table.__file__).parent.glob("*.py"):
        imported = re.findall(r"^(?:from|import) ([a-z_0-9]+)", path.read_text(), re.MULTILINE)
        assert set(imported) <= {"http1_table", "dataclasses", "enum", "typing"}, path.name


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_each_group_names_its_source(group: Group) -> None:
    assert re.search(r"RFC \d{4} [A-Z]?\d?|smuggling|[Aa]dvisories", group.source)
    names = [case.name for case in group.cases]
    assert len(names) == len(set(names))


def test_group_names_are_unique() -> None:
    assert len({group.name for group in GROUPS}) == len(GROUPS)


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_cases_are_consistent(group: Group) -> None:
    for case in group.cases:
        for turn in case.turns:
            assert turn.reason in Reason.__members__, case.name
            assert not turn.bodiless or turn.status, case.name
            if turn.verdict is Verdict.DENY:
                assert (turn.status, turn.at_origin) == (403, b""), case.name
            if turn.verdict is Verdict.REFUSE and turn.at_origin:
                assert turn is case.turns[-1], case.name
                assert case.then in (Then.CLOSED, Then.CUT), case.name
