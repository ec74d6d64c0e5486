"""A configuration: what it says is in force, and what it says wrong is named with its place."""

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from racecar.policy.load import load_text
from racecar.proxy import cli
from racecar.proxy.config import (
    ORDERED,
    SETTINGS,
    Configuration,
    Setting,
    duration_text,
    load_configuration,
    read_configuration,
)
from racecar.proxy.core.http1_types import HttpConfig
from racecar.proxy.limits import EdgeConfig

HEADER = "apiVersion: racecar.io/v1\nkind: RacecarConfig\n"


@pytest.fixture
def path() -> Iterator[Path]:
    """Pytest's own lies below directories whose owners policy files may not have."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "config.yaml"


def loaded(path: Path, text: str) -> tuple[Configuration | None, list[str]]:
    """What a file holds, and its findings without the path."""
    path.write_text(text)
    configuration, findings = load_configuration(str(path))
    return configuration, [str(finding).removeprefix(f"{path}:") for finding in findings]


def error(path: Path, text: str) -> str:
    """The one finding of a file that does not load."""
    configuration, findings = loaded(path, text)
    assert configuration is None
    (finding,) = findings
    return finding


def test_what_is_not_said_is_as_without_a_file(path: Path) -> None:
    for spec in ("spec: {}", "spec: {timeouts: {}, limits: {}}", "spec: {timeouts: {connect: null}}"):
        assert loaded(path, HEADER + spec) == (Configuration(), [])


def test_every_field_can_be_set_and_none_that_is_none() -> None:
    for config in (EdgeConfig, HttpConfig):
        named = [setting.name for setting in SETTINGS if setting.config is config]
        assert sorted(named) == sorted(field.name for field in dataclasses.fields(config))
    assert len({setting.key for setting in SETTINGS}) == len(SETTINGS)


def said(setting: Setting, value: int | None) -> str:
    return f"{HEADER}spec:\n  {setting.section}:\n    {setting.key}: {setting.text(value)}\n"


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_a_default_said_aloud_changes_nothing(setting: Setting, path: Path) -> None:
    assert loaded(path, said(setting, setting.default)) == (Configuration(), [])


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_a_value_arrives_where_it_belongs(setting: Setting, path: Path) -> None:
    value = (setting.default or 1000) - 1
    configuration, findings = loaded(path, said(setting, value))
    assert findings == []
    assert configuration is not None
    part = configuration.edge if setting.config is EdgeConfig else configuration.http
    assert getattr(part, setting.name) == (value / 1000 if setting.section == "timeouts" else value)
    changed = dataclasses.replace(part, **{setting.name: getattr(setting.config(), setting.name)})
    assert changed == setting.config()


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_a_value_out_of_range_is_refused_with_the_range(setting: Setting, path: Path) -> None:
    for value in (setting.low - 1, setting.high + 1):
        if value >= 0:
            finding = error(path, said(setting, value))
            assert finding.startswith(f"5:{len(setting.key) + 7}: error: spec.{setting.section}.{setting.key} must be ")
            assert setting.text(setting.low) in finding
            assert setting.text(setting.high) in finding


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_the_ends_of_the_ranges_are_allowed(setting: Setting, path: Path) -> None:
    """Another limit may be in the way, and then says so."""
    for value in (setting.low, setting.high):
        _configuration, findings = loaded(path, said(setting, value))
        assert [finding for finding in findings if setting.range in finding or " from " in finding] == []


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.key)
def test_the_ends_of_the_ranges_are_sound_for_the_parts(setting: Setting) -> None:
    """What the configuration lets through, the constructor takes: its own refusal would have no place in the file."""
    for value in (setting.low, setting.high):
        others = {}
        if setting.key in ("headBytes", "cachedHeadBytes", "targetBytes"):
            others = {"max_target_bytes": 16, "max_head_bytes": 1 << 20}
        if setting.key == "targetBytes" and value == setting.high:
            continue  # below headBytes: ORDERED says so
        setting.config(**others | {setting.name: value / 1000 if setting.section == "timeouts" else value})


@pytest.mark.parametrize(
    ("value", "seconds"), [("500ms", 0.5), ("1500ms", 1.5), ("3s", 3), ("2m", 120), ('"2m"', 120), ("1h", 3600)]
)
def test_durations_have_a_unit(value: str, seconds: float, path: Path) -> None:
    configuration, findings = loaded(path, f"{HEADER}spec: {{timeouts: {{head: {value}}}}}")
    assert findings == []
    assert configuration is not None
    assert configuration.http.head_timeout_s == seconds


@pytest.mark.parametrize(
    "value",
    ["10", "1.5s", "-1s", "01s", "1 s", "1d", "1S", "s", "never", "true", '""', "[1s]", "{}", "1s1s", "9999999999s"],
)
def test_what_is_no_duration_is_refused(value: str, path: Path) -> None:
    finding = error(path, f"{HEADER}spec: {{timeouts: {{head: {value}}}}}")
    assert finding.startswith(
        "3:25: error: spec.timeouts.head must be a whole number with a unit (ms, s, m, h): 10ms to 1h, not "
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("1.5", ', not "1.5"'),
        ('"7"', ", without quotes, not a string"),
        ("0x10", ', not "0x10"'),
        ("yes", ", not a string"),
        ("many", ", not a string"),
        ("[7]", ", not a list"),
        ("1e3", ', not "1e3"'),
        ("7s", ", not a string"),
    ],
)
def test_what_is_no_number_is_refused(value: str, said: str, path: Path) -> None:
    assert error(path, f"{HEADER}spec: {{limits: {{headers: {value}}}}}") == (
        f"3:26: error: spec.limits.headers must be a decimal number{said}"
    )


def test_words_for_none_are_understood_where_allowed(path: Path) -> None:
    text = f"{HEADER}spec: {{timeouts: {{tcpIdle: never}}, limits: {{pipes: auto}}}}"
    assert loaded(path, text) == (Configuration(), [])
    assert error(path, f"{HEADER}spec: {{limits: {{pipes: some}}}}") == (
        '3:24: error: spec.limits.pipes must be 0 to 1048576, or auto, not "some"'
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1:1: error: holds no document; one RacecarConfig is wanted"),
        ("spec: {}", "1:1: error: apiVersion must be racecar.io/v1: this file is for --config"),
        ("[1]", "1:1: error: apiVersion must be racecar.io/v1: this file is for --config"),
        (HEADER.replace("v1", "v2") + "spec: {}", '1:13: error: apiVersion must be racecar.io/v1, not "racecar.io/v2"'),
        (
            HEADER.replace("Config", "Policy") + "spec: {}",
            '2:7: error: kind must be RacecarConfig, not "RacecarPolicy"',
        ),
        (HEADER, "1:1: error: RacecarConfig needs spec"),
        (HEADER + "spec: 3", "3:7: error: spec must be a mapping, not a number"),
        (
            HEADER + "spec: {}\nspecs: {}",
            '4:1: error: unknown field "specs" in RacecarConfig; allowed here: apiVersion',
        ),
        (HEADER + "spec: {limit: {}}", '3:8: error: unknown field "limit" in spec; allowed here: timeouts, limits'),
        (
            HEADER + "spec:\n  timeouts:\n    connects: 3s",
            '5:5: error: unknown field "connects" in spec.timeouts; allowed here: connect, head, idle',
        ),
        (HEADER + "spec: {limits: {connect: 3s}}", '3:17: error: unknown field "connect" in spec.limits'),
        (HEADER + "spec: {}\nspec: {}", '4:1: error: duplicate key "spec", first on line 3'),
        (
            HEADER + "spec: {}\n---\n" + HEADER + "spec: {}",
            "5:1: error: a second document; one RacecarConfig is wanted",
        ),
        (HEADER + "metadata: {name: 7}\nspec: {}", "3:18: error: name must be a string, not a number"),
        (HEADER + "spec: {limits: {headers: 0777}}", "3:26: error: spec.limits.headers must be a decimal number"),
        ("a: b: c", "1:5: error: not YAML"),
    ],
)
def test_a_mistake_is_named_with_its_place(text: str, said: str, path: Path) -> None:
    assert error(path, text).startswith(said)


@pytest.mark.parametrize(("small", "large", "may_equal"), ORDERED)
def test_limits_that_hide_each_other_are_refused(small: str, large: str, may_equal: bool, path: Path) -> None:
    by_key = {setting.key: setting for setting in SETTINGS}
    low, high = by_key[small], by_key[large]
    value = max(low.low, high.low, 17)
    sections: dict[str, str] = {"timeouts": "", "limits": ""}
    sections[high.section] += f"{large}: {high.text(value)}, "
    sections[low.section] += f"{small}: {low.text(value + 1)}, "
    text = f"{HEADER}spec: {{timeouts: {{{sections['timeouts']}}}, limits: {{{sections['limits']}}}}}"
    assert "must " + ("not be above " if may_equal else "be below ") + high.where in " ".join(loaded(path, text)[1])


def test_a_limit_is_held_against_the_default_of_another(path: Path) -> None:
    assert error(path, HEADER + "spec: {limits: {headBytes: 8192}}") == (
        "3:28: error: spec.limits.targetBytes (8192) must be below spec.limits.headBytes (8192)"
    )


def test_all_mistakes_are_named_at_once(path: Path) -> None:
    configuration, findings = loaded(path, HEADER + "spec: {timeouts: {head: 1, idle: 2}, limits: {headers: x, y: 1}}")
    assert configuration is None
    assert len(findings) == 4


def test_a_file_that_others_can_write_is_not_trusted(path: Path) -> None:
    path.write_text(HEADER + "spec: {}")
    path.chmod(0o666)
    configuration, findings = load_configuration(str(path))
    assert configuration is None
    assert "writable by others" in str(findings[0])


def test_durations_are_said_in_their_largest_whole_unit() -> None:
    texts = [duration_text(ms) for ms in (1, 999, 1000, 1500, 60_000, 90_000, 3_600_000, 86_400_000)]
    assert texts == ["1ms", "999ms", "1s", "1500ms", "1m", "90s", "1h", "24h"]


# --- racecar check ---------------------------------------------------------------------------------------------------


def test_check_reads_it_by_its_kind(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(HEADER + "spec: {limits: {headers: 0}}")
    assert cli.main(["check", str(path)]) == 1
    assert capsys.readouterr().err == f'{path}:3:26: error: spec.limits.headers must be from 1 to 10000, not "0"\n'
    path.write_text(HEADER + "spec: {limits: {headers: 7}}")
    assert cli.main(["check", str(path)]) == 0
    assert capsys.readouterr().err == ""


def test_beside_policies_it_is_no_mistake_and_not_read() -> None:
    text = (HEADER + "spec: {limits: {headers: 0}}").encode()
    (notice,) = load_text(text, "x.yaml").findings
    assert (notice.level, notice.text) == ("notice", "skipped: RacecarConfig is read by --config")
    assert not load_text(text, "x.yaml", config_reader=read_configuration).ok


def test_an_unknown_version_is_refused_everywhere() -> None:
    (finding,) = load_text((HEADER.replace("v1", "v2") + "spec: {}").encode(), "x.yaml").findings
    assert finding.level == "error"
    assert 'unknown version "v2"' in finding.text
