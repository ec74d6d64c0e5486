"""What the documents say in tables and examples is what the code does."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from racecar.parsers.http1 import MAX_HEAD_BYTES, MAX_HEADERS, MAX_TARGET_BYTES
from racecar.policy.load import load_text
from racecar.policy.reasons import Reason
from racecar.proxy import cli
from racecar.proxy.core.http1_types import HttpConfig
from racecar.proxy.limits import EdgeConfig

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


@pytest.mark.parametrize(("heading", "config"), [("Connections", EdgeConfig), ("HTTP/1.1", HttpConfig)])
def test_every_setting_is_documented_with_its_default(heading: str, config: Any) -> None:
    documented = {cells[0].strip("`"): cells[1] for cells in rows(section("docs/configuration.md", heading))}
    for field in dataclasses.fields(config):
        wanted = "none" if field.default is None else str(field.default)
        assert documented.get(field.name) == wanted, field.name


def test_no_setting_is_documented_that_is_gone() -> None:
    known = {field.name for config in (EdgeConfig, HttpConfig) for field in dataclasses.fields(config)}
    named = re.findall(r"^\| `(\w+)` \|", (CHECKOUT / "docs/configuration.md").read_text(), re.MULTILINE)
    assert set(named) == known


def test_limits_of_a_head_are_documented() -> None:
    limits = {cells[0]: cells[1] for cells in rows(section("docs/configuration.md", "HTTP/1.1"))}
    wanted = {"head": f"{MAX_HEAD_BYTES} bytes", "target": f"{MAX_TARGET_BYTES} bytes", "headers": str(MAX_HEADERS)}
    assert {name: limits[name] for name in wanted} == wanted


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


def test_every_option_of_exec_is_documented() -> None:
    _parser, commands = cli._parser()
    options = {name for action in commands["exec"]._actions for name in action.option_strings if name[:2] == "--"}
    text = (CHECKOUT / "docs/exec.md").read_text()
    assert [option for option in options - {"--help"} if option not in text.split("## Exit code")[0]] == []


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
