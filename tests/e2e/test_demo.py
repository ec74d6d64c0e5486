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
from racecar.proxy.demo_tries import PYTHON

POST = Request("POST /jobs", DROPPED, 80, "POST", "/jobs", is_http=True, reason="HTTP_NO_RULE")
DENIED = Call(("true",), (POST,), 0, (("403",),))
DENIED_ENTRY = {
    "time": "2026-03-01T12:00:00.000001Z",
    "verdict": "DROPPED",
    "reason": "HTTP_NO_RULE",
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
        {"output": "403\n403\n"},
        {"output": ""},
        {"exit_code": 7},
        {"received": {"jobs": ["POST /jobs"]}},
        {"log": []},
        {"log": [DENIED_ENTRY | {"verdict": FORWARDED}]},
        {"log": [DENIED_ENTRY | {"reason": "HTTP_FRAMING"}]},
        {"log": [DENIED_ENTRY | {"l4": {"TCP": {"destination_port": 81}}}]},
        {"log": [DENIED_ENTRY | {"l7": {"http": {"method": "GET", "url": "/jobs"}}}]},
        {"log": [DENIED_ENTRY | {"l7": {"http": {"method": "POST", "url": "/applicants"}}}]},
    ],
)
def test_one_part_that_does_not_fit_is_enough(wrong: dict[str, object]) -> None:
    assert len(demo.judge(DENIED, replace(RIGHT, **wrong))) == 1


def test_a_call_without_http_is_not_found_among_http_entries() -> None:
    assert demo.find_entries([Request("TCP", FORWARDED, 80)], [DENIED_ENTRY]) == [None]
    connection = {name: value for name, value in DENIED_ENTRY.items() if name != "l7"}
    assert demo.find_entries([Request("HTTP", FORWARDED, 80, is_http=True)], [connection]) == [None]


def test_each_request_has_an_entry_of_its_own_in_the_order_of_time() -> None:
    """The log holds denials first."""
    later, earlier = (DENIED_ENTRY | {"time": f"2026-03-01T12:00:0{second}.000000Z"} for second in (2, 1))
    unread = Request("two Hosts", DROPPED, 80, is_http=True)
    assert demo.find_entries([unread, unread, unread], [later, earlier]) == [earlier, later, None]
    assert demo.find_entries([POST, unread], [later, earlier]) == [earlier, later]


def test_what_may_arrive_is_no_mistake_and_need_not_arrive() -> None:
    may = replace(DENIED, maybe=frozenset(("POST /cut",)))
    assert demo.judge(may, RIGHT) == []
    assert demo.judge(may, replace(RIGHT, received={"jobs": ["POST /cut"]})) == []
    assert len(demo.judge(may, replace(RIGHT, received={"jobs": ["POST /cut", "GET /applicants"]}))) == 1


def test_a_wrong_line_is_named_by_what_was_tried() -> None:
    call = replace(DENIED, output=(("403",), ("400", "reset")), titles=("one", "other"))
    assert demo.judge(call, replace(RIGHT, output="403\nreset\n")) == []
    (problem,) = demo.judge(call, replace(RIGHT, output="403\n200\n"))
    assert problem == "other: the caller saw '200', expected 400 or reset"


@pytest.mark.parametrize(
    ("sent", "lines"),
    [
        (b"GET /jobs HTTP/1.1\r\nContent-Length: 33\r\n\r\nGET /applicants HTTP/1.1\r\nA: b\r\n", "GET /applicants"),
        (b"POST /a HTTP/1.1\r\n\r\n0\r\n\r\nGET /applicants HTTP/1.1", "GET /applicants"),
        (b"\x16\x03\x01\x00\x05hello", "10 bytes that are no request"),
        (b"\r\nGET /jobs HTTP/1.1\r\n\r\n", "24 bytes that are no request"),
    ],
)
def test_the_book_of_the_jobs_service_misses_nothing(services: Services, sent: bytes, lines: str) -> None:
    """Wherever a request may hide; whether or not the service answers it."""
    before = len(services.jobs.received.lines())
    with socket.create_connection((services.jobs.address, services.jobs.port), timeout=10) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
    assert any(line.startswith(lines) for line in services.jobs.received.lines()[before:])


@pytest.mark.slow
def test_without_enforcement_the_demo_fails_and_says_what_got_through() -> None:
    for command in ("curl", "bash", PYTHON):
        if shutil.which(command) is None:
            pytest.skip(f"needs {command}")
    screen = io.StringIO()
    assert demo.run(Console(file=screen, width=140), lambda policy, log: ()) == 1
    text = screen.getvalue()
    for title in ("DELETE /jobs", "GET /jobs with two Hosts", "POST /clicks with both lengths", "TLS on the HTTP port"):
        assert f"wrong: {title}: the caller saw" in text
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
