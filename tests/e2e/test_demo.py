"""The demo's judgement: it must fail when nothing is enforced, and when one part of the picture does not fit."""

import io
import shutil
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from racecar.policy.load import load_text
from racecar.proxy import demo
from racecar.proxy.demo_calls import DROPPED, FORWARDED, Call, Request, policy_text
from racecar.proxy.demo_services import Services, running_services

DENIED = Call(("true",), (Request("POST /jobs", DROPPED, 80, "POST", "/jobs"),), 0, "403\n")
DENIED_ENTRY = {
    "verdict": "DROPPED",
    "l4": {"TCP": {"destination_port": 80}},
    "l7": {"http": {"method": "POST", "url": "/jobs"}},
}
RIGHT = demo.Outcome(exit_code=0, output="403\n", errors="", received={}, log=[DENIED_ENTRY])


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with running_services() as running:
        yield running


def test_a_call_with_everything_as_expected_is_right() -> None:
    assert demo.judge(DENIED, RIGHT) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"output": "201\n"},
        {"exit_code": 7},
        {"received": {"jobs": ["POST /jobs"]}},
        {"log": []},
        {"log": [DENIED_ENTRY | {"verdict": FORWARDED}]},
        {"log": [DENIED_ENTRY | {"l4": {"TCP": {"destination_port": 81}}}]},
        {"log": [DENIED_ENTRY | {"l7": {"http": {"method": "GET", "url": "/jobs"}}}]},
        {"log": [DENIED_ENTRY | {"l7": {"http": {"method": "POST", "url": "/applicants"}}}]},
    ],
)
def test_one_part_that_does_not_fit_is_enough(wrong: dict[str, object]) -> None:
    assert len(demo.judge(DENIED, replace(RIGHT, **wrong))) == 1


def test_a_call_without_http_is_not_found_among_http_entries() -> None:
    assert demo.find_entry(Request("TCP", FORWARDED, 80), [DENIED_ENTRY]) is None


@pytest.mark.slow
def test_without_enforcement_the_demo_fails_and_says_what_got_through() -> None:
    for command in ("curl", "bash"):
        if shutil.which(command) is None:
            pytest.skip(f"needs {command}")
    screen = io.StringIO()
    assert demo.run(Console(file=screen, width=140), lambda policy, log: ()) == 1
    text = screen.getvalue()
    assert "GET /applicants: the services received {'jobs': ['GET /applicants']}, expected {}" in text
    assert "UDP datagram: the services received {'datagrams': ['hello']}, expected {}" in text


def test_the_policy_of_the_demo_loads_without_a_word(services: Services) -> None:
    loaded = load_text(policy_text(services).encode(), "tweeter.yaml")
    assert loaded.ok
    known = ("path-exact", "override-headers")
    assert [str(finding) for finding in loaded.findings if finding.slug not in known] == []


def test_two_jobs_services_differ_by_their_address_alone(services: Services) -> None:
    assert services.jobs.port == services.other_jobs.port
    assert services.jobs.address != services.other_jobs.address


def test_the_jobs_service_answers_in_one_segment(services: Services) -> None:
    """Else the answer's second half waits for an acknowledgement, and the demo's times are Nagle's."""
    with socket.create_connection((services.jobs.address, services.jobs.port), timeout=10) as client:
        for _ in range(3):
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(65536).endswith(b'\r\n\r\n{"ok": true}\n')


@pytest.mark.root
@pytest.mark.slow
def test_the_demo_is_right_and_leaves_nothing(no_leftovers: object, tmp_path: Path) -> None:
    screen = io.StringIO()
    assert demo.run(Console(file=screen, width=140), demo.under_exec) == 0, screen.getvalue()
