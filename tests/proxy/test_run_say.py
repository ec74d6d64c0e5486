"""Lines for the user: one line each, bounded in length and in number."""

import os
import time

import pytest

from racecar.proxy.flows import escaped
from racecar.proxy.journal import DENIALS_PER_SECOND
from racecar.proxy.say import MAX_SAID_CHARACTERS, Rate, say


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("denied", "denied"),
        ("two\nlines\r\x1b[2J", "two\\nlines\\r\\x1b[2J"),
        (f"of a peer: {escaped(chr(27) + '[2J')}", "of a peer: \\x1b[2J"),
        ("Jörg, but not turned round \u202e", "Jörg, but not turned round \\u202e"),
    ],
)
def test_nothing_moves_the_cursor_and_nothing_is_escaped_twice(
    text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say(text)
    assert capsys.readouterr().err == f"racecar: {said}\n"


def test_a_line_is_cut_where_a_pipe_might_wait(capsys: pytest.CaptureFixture[str]) -> None:
    say("\n" * 5000)
    (line,) = capsys.readouterr().err.splitlines()
    assert len(line) == MAX_SAID_CHARACTERS
    assert len(("\N{FULL BLOCK}" * MAX_SAID_CHARACTERS).encode()) < os.pathconf("/", "PC_PIPE_BUF")


def test_so_many_a_second_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [7.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    rate = Rate(DENIALS_PER_SECOND)
    for _ in range(3):
        assert [rate.take() for _ in range(DENIALS_PER_SECOND + 2)] == [True] * DENIALS_PER_SECOND + [False] * 2
        now[0] += 1
