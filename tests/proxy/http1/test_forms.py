"""HTTP/1.0, and the forms of a target that are no path."""

from typing import Any

import pytest

from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import Close, CloseServer, Command, EndClient, ToClient, ToServer

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST_WORD: list[Command] = [CloseServer(), EndClient()]
SIZES = pytest.mark.parametrize("size", [1, 7, 100000])


# --- HTTP/1.0


@SIZES
def test_http_1_0_closes_unless_it_asks_to_stay(talk: Any, size: int) -> None:
    request = b"GET /jobs HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    for _ in range(2):
        assert talk.client(request, size) == [ToServer(request)]
        assert talk.server(OK, size) == [ToClient(OK)]
    request = b"GET /jobs HTTP/1.0\r\n\r\n"
    assert talk.client(request, size) == [ToServer(request)]
    assert talk.server(OK, size) == [ToClient(OK), Close()]
    assert [(record.host, record.status) for record in talk.records] == [(b"", 200)] * 3
    assert [call.host for call in talk.judge.asked] == [b"", b""]


def test_http_1_0_may_name_a_host(talk: Any) -> None:
    request = b"POST /jobs HTTP/1.0\r\nHost: Jobs\r\nContent-Length: 2\r\n\r\nab"
    assert talk.client(request) == [ToServer(request)]
    assert talk.judge.asked[0].host == b"jobs"
    assert talk.server(b"HTTP/1.0 200 OK\r\n\r\nbody") == [ToClient(b"HTTP/1.0 200 OK\r\n\r\nbody")]
    assert talk.server_eof() == [Close()]


def test_http_1_0_is_answered_by_a_close_whoever_refuses(talk: Any) -> None:
    talk.client(b"GET /applicants HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert (talk.statuses, talk.rest) == ([403], LAST_WORD)
    assert b"\r\nConnection: close\r\n" in talk.to_client


def test_what_waits_behind_a_last_http_1_0_request_is_dropped(talk: Any) -> None:
    request = b"GET /jobs HTTP/1.0\r\n\r\n"
    talk.sends(request + request).answers(OK)
    assert (talk.to_server, talk.to_client, talk.rest) == (request, OK, LAST_WORD)
    assert talk.reasons == [Reason.NONE, Reason.HTTP_PIPELINED]


# --- absolute-form, asterisk


@SIZES
@pytest.mark.parametrize(
    ("method", "target", "host", "judged"),
    [
        (b"GET", b"http://jobs/jobs", b"jobs", b"/jobs"),
        (b"GET", b"http://jobs/jobs?a=b", b"jobs", b"/jobs?a=b"),
        (b"GET", b"HTTP://Jobs:80/jobs", b"jobs:80", b"/jobs"),
        (b"GET", b"http://[::1]:8080/jobs", b"[::1]:8080", b"/jobs"),
        (b"GET", b"http://JOBS/jobs?http://x/y", b"Jobs", b"/jobs?http://x/y"),
        (b"OPTIONS", b"*", b"jobs", b"*"),
        (b"OPTIONS", b"http://jobs", b"jobs", b"*"),
        (b"OPTIONS", b"/jobs", b"jobs", b"/jobs"),
    ],
)
def test_a_target_is_judged_by_what_it_means_and_forwarded_untouched(
    talk: Any, method: bytes, target: bytes, host: bytes, judged: bytes, size: int
) -> None:
    request = method + b" " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n"
    for _ in range(2):
        assert talk.client(request, size) == [ToServer(request)]
        assert talk.server(OK, size) == [ToClient(OK)]
    (call,) = talk.judge.asked
    assert (call.method, call.target, call.host) == (method, judged, host.lower())


@pytest.mark.parametrize(
    ("target", "judged"),
    [
        (b"http://jobs", b"/"),
        (b"http://jobs?a", b"/?a"),
        (b"http://jobs/applicants", b"/applicants"),
        (b"http://jobs//jobs", b"//jobs"),
        (b"http://jobs/../jobs", b"/../jobs"),
    ],
)
def test_what_it_means_may_be_denied(talk: Any, target: bytes, judged: bytes) -> None:
    (answer,) = talk.client(b"GET " + target + b" HTTP/1.1\r\nHost: jobs\r\n\r\n")
    assert answer.data.startswith(b"HTTP/1.1 403 ")
    assert talk.judge.asked[0].target == judged


@pytest.mark.parametrize(
    ("target", "host", "reason"),
    [
        (b"https://jobs/jobs", b"jobs", Reason.HTTP_TARGET_FORM),
        (b"ftp://jobs/jobs", b"jobs", Reason.HTTP_TARGET_FORM),
        (b"http:/jobs/jobs", b"jobs", Reason.HTTP_TARGET_FORM),
        (b"http:///jobs", b"jobs", Reason.HTTP_TARGET_FORM),
        (b"jobs", b"jobs", Reason.HTTP_TARGET_FORM),
        (b"jobs:80", b"jobs:80", Reason.HTTP_TARGET_FORM),
        (b"*", b"jobs", Reason.HTTP_TARGET_FORM),
        (b"*/jobs", b"jobs", Reason.HTTP_TARGET_FORM),
        (b"http://jobs:80/jobs", b"jobs", Reason.HTTP_HOST),
        (b"http://jobs/jobs", b"jobs:80", Reason.HTTP_HOST),
        (b"http://jobs@other/jobs", b"jobs", Reason.HTTP_HOST),
        (b"http://jobs@other/jobs", b"other", Reason.HTTP_HOST),
        (b"http://other\\@jobs/jobs", b"jobs", Reason.HTTP_HOST),
        (b"http://jobs./jobs", b"jobs", Reason.HTTP_HOST),
    ],
)
@SIZES
def test_forms_that_two_servers_could_read_in_two_ways_are_refused(
    talk: Any, target: bytes, host: bytes, reason: Reason, size: int
) -> None:
    talk.client(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\n\r\n", size)
    assert (talk.to_server, talk.statuses, talk.rest, talk.reasons) == (b"", [400], LAST_WORD, [reason])
    assert talk.judge.asked == []
    assert talk.client_eof() == [Close()]
