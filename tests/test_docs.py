"""What the documents say in tables and examples is what the code does."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from racecar.parsers.http1.heads import MAX_STATUS_LINE_BYTES
from racecar.policy.load import load_text
from racecar.policy.reasons import Reason
from racecar.proxy import cli
from racecar.proxy.config import SETTINGS, read_configuration
from racecar.proxy.journal import DENIALS_PER_SECOND, LAST_LINES_S
from racecar.proxy.processes import MAX_RESTARTS, RESTART_WINDOW_S
from racecar.proxy.sink import MAX_HELD_BYTES, MAX_OTHER_BYTES

CHECKOUT = Path(__file__).resolve().parent.parent
SCHEMA = json.loads((CHECKOUT / "docs/flow.schema.json").read_text())
DOCUMENTS = (*CHECKOUT.glob("*.md"), *(CHECKOUT / "docs").glob("*.md"))


def rows(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        if line.startswith("|"):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def section(document: str, heading: str) -> str:
    """From a heading to the next one of its level."""
    text = (CHECKOUT / document).read_text()
    return text.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]


@pytest.mark.parametrize("part", ["timeouts", "limits"])
def test_every_setting_is_documented_as_it_is(part: str) -> None:
    documented = list(rows(section("docs/configuration.md", part.capitalize())))[2:]
    known = [setting for setting in SETTINGS if setting.section == part]
    wanted = [[f"`{s.key}`", s.text(s.default), s.range, s.effect] for s in known]
    assert documented == wanted


def test_limits_that_cannot_be_set_are_documented() -> None:
    limits = {cells[0]: cells[1] for cells in rows(section("docs/configuration.md", "Not set by the file"))}
    assert limits["status line of an answer"] == f"{MAX_STATUS_LINE_BYTES} bytes"
    assert limits["deaths of the proxy, or of `run`'s workers"] == f"{MAX_RESTARTS} in {RESTART_WINDOW_S:g} s"
    assert limits["denials on stderr"] == f"{DENIALS_PER_SECOND} a second and process"
    held = f"{MAX_HELD_BYTES >> 20} MB, {MAX_OTHER_BYTES >> 20} MB of them for what was no denial"
    assert limits["lines that wait for the access log"] == held
    assert limits["last lines of the access log"] == f"{LAST_LINES_S:g} s"


def test_the_example_of_a_configuration_is_read() -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```", (CHECKOUT / "docs/configuration.md").read_text(), re.M | re.S)
    assert load_text(example.encode(), "x.yaml", config_reader=read_configuration).findings == ()


def test_every_reason_is_documented_under_its_number() -> None:
    table = [cells for cells in rows(section("SECURITY.md", "Reasons for refusals")) if cells[0].isdigit()]
    assert [(int(cells[0]), cells[1].strip("`")) for cells in table] == [
        (reason.value, reason.name) for reason in Reason if reason is not Reason.NONE
    ]
    assert all(cells[2] for cells in table)


def members(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Dotted names of what a flow may hold; a choice of objects counts by its object."""
    for choice in schema.get("oneOf", ()):
        yield from members(SCHEMA["$defs"].get(choice.get("$ref", "").rpartition("/")[2], choice), path)
    for name, inner in schema.get("properties", {}).items():
        name = "PROTOCOL" if path == "l4." else name
        inner = SCHEMA["$defs"].get(inner.get("$ref", "").rpartition("/")[2], inner)
        below = list(members(inner, f"{path}{name}.")) if f"{path}{name}" != "racecar.dialled" else []
        yield from below or [f"{path}{name}"]


def test_every_field_of_the_access_log_is_documented() -> None:
    documented = [cells[0].strip("`") for cells in rows(section("docs/access-log.md", "Fields"))][2:]
    assert len(documented) == len(set(documented))
    assert set(documented) == set(members(SCHEMA)) - {"l4.PROTOCOL"}  # ICMP has no ports


def test_the_example_of_the_access_log_keeps_to_its_schema() -> None:
    (example,) = re.findall(r"^```json\n(.*?)^```", (CHECKOUT / "docs/access-log.md").read_text(), re.M | re.S)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(example))


@pytest.mark.parametrize("verb", ["exec", "run"])
def test_every_option_is_documented(verb: str) -> None:
    _parser, commands = cli._parser()
    options = {name for action in commands[verb]._actions for name in action.option_strings if name[:2] == "--"}
    usage, table = (CHECKOUT / f"docs/{verb}.md").read_text().split("\n|", 1)
    for text in (usage, table):
        assert [option for option in options - {"--help"} if option not in text] == []


def test_every_call_that_the_filter_refuses_is_documented() -> None:
    source = (CHECKOUT / "redirect/launcher/filter.c").read_text()
    refused = set(re.findall(r"EQUAL\(SYS_(\w+),", source)) - {"socket", "socketpair", "ioctl"}  # by their arguments
    names = {"io_uring" if name.startswith("io_uring") else name for name in refused}
    documents = section("docs/exec.md", "What the command is left with"), section("SECURITY.md", "Threat model")
    assert [name for name in sorted(names) for text in documents if name not in text] == []


@pytest.mark.parametrize("document", ["README.md", "docs/policy.md"])
def test_policies_in_the_documents_load(document: str) -> None:
    policies = re.findall(r"^```yaml\n(.*?)^```", (CHECKOUT / document).read_text(), re.MULTILINE | re.DOTALL)
    assert policies
    for text in policies:
        loaded = load_text(text.encode(), document)
        assert loaded.ok, [str(finding) for finding in loaded.findings]


def test_links_between_documents_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


def test_commands_in_the_documents_are_make_targets() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        for target in re.findall(r"^(?:sudo )?make ([a-z-]+)", path.read_text(), re.MULTILINE):
            assert target in targets, f"{path.name} names make {target}"
