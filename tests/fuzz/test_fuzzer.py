"""The fuzzer's own machinery: seeds, programs, findings, how the time is shared out."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from racecar.policy.reasons import Reason
from racecar.proxy.core.http1 import HttpConversation
from racecar.proxy.core.http1_types import NOTHING, ToClient, ToServer
from tests.fuzz import __main__ as command
from tests.fuzz import corpus, findings, targets
from tests.fuzz.pieces import ANSWERS, DENIED_REQUESTS, REQUESTS
from tests.fuzz.program import MESSAGES, decode, encode, spelled_out
from tests.fuzz.strategies import SETTINGS, STEP
from tests.fuzz.talk import Setting, Step


@pytest.mark.slow
@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_seeds_of_a_target_pass(name: str) -> None:
    seeds = corpus.seeds(name)
    assert len(seeds) == len(set(seeds)) >= 3
    for seed in seeds:
        targets.check(name, seed)


@pytest.mark.parametrize("name", targets.TARGETS)
def test_words_fit_the_fuzzer(name: str) -> None:
    assert all(0 < len(word) <= 64 for word in corpus.words(name))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(SETTINGS, st.lists(st.integers(1, 255), max_size=7).map(tuple), st.lists(STEP, max_size=8))
def test_a_talk_is_the_same_when_it_was_written_as_a_program(
    setting: Setting, sizes: tuple[int, ...], steps: list[Step]
) -> None:
    assert decode(encode(setting, sizes, steps)) == (setting, sizes, steps)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_program(program: bytes) -> None:
    setting, sizes, steps = decode(program)
    assert decode(encode(setting, sizes, steps)) == (setting, sizes, steps)


def test_whole_messages_have_a_number() -> None:
    assert len(MESSAGES) <= 256
    program = encode(Setting(), (), [Step("client", REQUESTS[0])])
    assert len(program) == 4
    assert REQUESTS[0] in spelled_out(program)
    assert decode(spelled_out(program)) == decode(program)


def test_every_finding_is_repaired() -> None:
    failures = {path: str(findings.failure(name, data)) for path, name, data in findings.every()}
    assert {path: text for path, text in failures.items() if text != "None"} == {}


def test_a_finding_is_made_small_and_reads_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def check(data: bytes) -> None:
        if b"bad" in data:
            raise AssertionError("it holds\nwhat is bad")

    monkeypatch.setitem(targets.TARGETS, "path", check)
    monkeypatch.setattr(findings, "FOLDER", tmp_path / "found")
    small = findings.shrink("path", b"x" * 100 + b"bad" + b"y" * 99, 20.0)
    assert small == b"bad"
    path = findings.write("path", small, str(findings.failure("path", small)))
    assert path.read_text() == "# it holds\n# what is bad\nb'bad'\n"
    assert list(findings.every()) == [(path.name, "path", b"bad")]


def test_a_python_without_the_fuzzer_is_told_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command.main(["--seconds", "1"]) == 2
    assert "no atheris for this Python" in capsys.readouterr().err


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_time_is_shared_out_and_a_finding_is_exit_code_1(
    jobs: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, int] = {}

    def run(name: str, seconds: int) -> command.Result:
        given[name] = seconds
        return command.Result(name, 10, 20, 30, seconds, "something" if name == "tls" else "")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(command, "_run", run)
    assert command.main(["--seconds", "600", "--jobs", str(jobs)]) == 1
    assert set(given) == set(targets.TARGETS)
    assert abs(sum(given.values()) - 600 * jobs) <= len(given)
    assert max(given.values()) == given["conversation"] <= 600
    summary = capsys.readouterr().out.rpartition("\n\n")[2].splitlines()
    assert [line.split()[0] for line in summary] == list(targets.TARGETS)
    assert "FOUND: something" in next(line for line in summary if line.startswith("tls"))
    assert command.main(["--target", "chunks"]) == 0


# --- Each promise is one that breaks the checks if it is broken

TALK = [Step("client", REQUESTS[0] + DENIED_REQUESTS[0] + REQUESTS[3]), Step("server", ANSWERS[0])]
_PARTS = [Step("client", REQUESTS[3][:-2]), Step("client", REQUESTS[3][-2:])]
BODY_ALONE = [*_PARTS, Step("server", ANSWERS[0]), Step("client", REQUESTS[0])]
BODY = [Step("client", REQUESTS[3][:-2]), Step("client", REQUESTS[3][-2:] + REQUESTS[0]), Step("server", ANSWERS[0])]


def _forwards_what_is_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HttpConversation._client_bytes

    def client_bytes(self: Any, data: bytes, now: float) -> Any:
        commands = whole(self, data, now)
        if data.startswith(b"GET /applicants"):
            return (ToServer(data), *commands)
        return commands

    monkeypatch.setattr(HttpConversation, "_client_bytes", client_bytes)


def _does_not_wait_for_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HttpConversation._client_bytes

    def client_bytes(self: Any, data: bytes, now: float) -> Any:
        commands = tuple(whole(self, data, now))
        behind, self._pipelined = self._pipelined, b""
        self._request_bytes += len(behind)
        return (*commands, ToServer(behind)) if behind else commands

    monkeypatch.setattr(HttpConversation, "_client_bytes", client_bytes)


def _refuses_inside_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HttpConversation._say

    def say(self: Any, reason: Reason, *rest: Any, out: list[Any], **more: Any) -> None:
        whole(self, reason, *rest, out=out, **more)
        out.insert(0, ToClient(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"))

    monkeypatch.setattr(HttpConversation, "_say", say)


def _logs_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpConversation, "_record", lambda self, *rest, **more: None)


def _holds_in_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpConversation, "held", property(lambda self: 0))


def _counts_the_last_byte_as_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    from racecar.parsers.http1 import CountedBody

    monkeypatch.setattr(CountedBody, "unread", property(lambda self: self.left))


def _forgets_the_body(monkeypatch: pytest.MonkeyPatch) -> None:
    from racecar.proxy.core import http1_requests

    monkeypatch.setattr(http1_requests, "body_of", lambda length, **more: None)


def _drops_what_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = HttpConversation._client_bytes

    def client_bytes(self: Any, data: bytes, now: float) -> Any:
        commands = whole(self, data, now)
        return NOTHING if len(data) < 20 else commands

    monkeypatch.setattr(HttpConversation, "_client_bytes", client_bytes)


@pytest.mark.parametrize(
    ("break_it", "steps"),
    [
        (_forwards_what_is_denied, [Step("client", DENIED_REQUESTS[0])]),
        (_does_not_wait_for_the_answer, TALK),
        (_refuses_inside_an_answer, TALK),
        (_logs_too_little, TALK),
        (_holds_in_secret, TALK),
        (_counts_the_last_byte_as_unread, BODY_ALONE),
        (_forgets_the_body, BODY),
        (_drops_what_is_allowed, BODY),
    ],
)
def test_a_broken_promise_is_found(break_it: Any, steps: list[Step], monkeypatch: pytest.MonkeyPatch) -> None:
    targets.check_talk(Setting(), (7, 3), steps)
    break_it(monkeypatch)
    with pytest.raises((AssertionError, ValueError)):
        targets.check_talk(Setting(), (7, 3), steps)
