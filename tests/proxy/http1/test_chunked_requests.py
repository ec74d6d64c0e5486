"""Chunked requests: forwarded as judged, chunk by chunk, and refused where a server may read them otherwise."""

from collections.abc import Callable
from typing import Any

import pytest

from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import (
    FORWARD,
    Abort,
    Close,
    CloseServer,
    Command,
    EndClient,
    ResetServer,
    ToClient,
    ToServer,
    Verdict,
)

GET = b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n\r\n"
DENIED = b"GET /applicants HTTP/1.1\r\nHost: jobs\r\n\r\n"
DENIED_HEAD = b"POST /applicants HTTP/1.1\r\nHost: jobs\r\nTransfer-Encoding: chunked\r\n\r\n"
HEAD = b"POST /jobs HTTP/1.1\r\nHost: jobs\r\nTransfer-Encoding: chunked\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LAST_WORD: list[Command] = [CloseServer(), EndClient()]
CUT_OFF: list[Command] = [ResetServer(), EndClient()]
SIZES = pytest.mark.parametrize("size", [1, 7, 100000])

BODIES = [
    b"0\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\r\n",
    b"00a\r\n0\r\n\r\n12345\r\nA\r\n1234567890\r\n000\r\n\r\n",
    b'1;a=b;c;d="e \\" f"\r\nx\r\n0;last\r\n\r\n',
    b"1\r\nx\r\n0\r\nX-Sum: 1\r\nX-Empty:\r\n\r\n",
    b"%x\r\n" % len(GET) + GET + b"\r\n0\r\n\r\n",  # data that looks like a request
]
MALFORMED = [
    b"\r\n0\r\n\r\n",
    b"g\r\n",
    b"-1\r\n",
    b"0x1\r\nx\r\n",
    b"1 \r\nx\r\n",
    b"1\nx\r\n0\r\n\r\n",
    b"1\r\nxx\r\n",
    b"1\r\nx\n0\r\n\r\n",
    b"1\r\nx\r\r\n",
    b"1;\r\nx\r\n",
    b"1;a=\r\nx\r\n",
    b"1; a\r\nx\r\n",
    b'1;a="b\r\nx\r\n',
    b"1;a\nb\r\nx\r\n",
    b"1;a\x00\r\nx\r\n",
    b"1" * 16 + b"\r\n",
    b"1;" + b"a" * 1100 + b"\r\n",
    b"0\r\nno colon\r\n\r\n",
    b"0\r\nname : x\r\n\r\n",
    b"0\r\n folded: x\r\n\r\n",
    b"0\r\nx: y\nz: 1\r\n\r\n",
    b"0\r\nContent-Length: 3\r\n\r\n",
    b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"0\r\nHost: x\r\n\r\n",
    b"0\r\na: " + b"b" * 9000 + b"\r\n\r\n",
]


@SIZES
@pytest.mark.parametrize("body", BODIES)
def test_a_chunked_request_is_forwarded_to_its_last_byte_and_the_next_behind_its_answer(
    talk: Any, body: bytes, size: int
) -> None:
    for _ in range(2):  # the second time its head is known
        assert talk.client(HEAD + body + GET, size) == [ToServer(HEAD + body)]
        assert talk.server(OK) == [ToClient(OK), ToServer(GET)]
        assert talk.server(OK) == [ToClient(OK)]
    assert talk.records[0].request_bytes == len(HEAD + body)
    assert set(talk.reasons) == {Reason.NONE}


def test_what_is_judged_is_forwarded_as_it_comes_and_half_a_line_waits(talk: Any) -> None:
    assert talk.client(HEAD) == [ToServer(HEAD)]
    assert talk.client(b"3;a") == []
    assert talk.conversation.held == 3
    assert talk.client(b"=b\r\nab") == [ToServer(b"3;a=b\r\nab")]
    assert talk.conversation.held == 0
    assert talk.client(b"c\r\n0\r\nX: y\r\n") == [ToServer(b"c\r\n0\r\n")]
    assert talk.conversation.held == len(b"X: y\r\n")
    assert talk.client(b"\r\n") == [ToServer(b"X: y\r\n\r\n")]
    assert talk.server(OK) == [ToClient(OK)]


def test_the_data_of_a_chunk_may_go_unread(talk: Any) -> None:
    talk.client(HEAD + b"ff\r\nabc")
    assert talk.conversation.client_unread == 252
    talk.conversation.client_moved(200, talk.now)
    assert talk.conversation.client_bytes(b"x" * 52, talk.now) is FORWARD
    assert talk.conversation.client_unread == 0
    assert talk.client(b"\r") == []
    assert talk.conversation.client_unread == 0
    with pytest.raises(ValueError, match="0 may go unread"):
        talk.conversation.client_moved(1, talk.now)
    assert talk.client(b"\n4\r\n") == [ToServer(b"\r\n4\r\n")]
    assert talk.conversation.client_unread == 4
    talk.conversation.client_moved(4, talk.now)
    assert talk.client(b"\r\n0\r\n\r\n") == [ToServer(b"\r\n0\r\n\r\n")]
    assert talk.server(OK) == [ToClient(OK)]
    assert talk.records[0].request_bytes == len(HEAD) + 4 + 255 + 5 + 4 + 7


@SIZES
@pytest.mark.parametrize("before", [b"", b"5\r\nhello\r\n"])
@pytest.mark.parametrize("bad", MALFORMED)
def test_a_malformed_chunk_is_refused_and_the_servers_leg_reset(
    talk: Any, before: bytes, bad: bytes, size: int
) -> None:
    if before and bad.startswith(b"\r\n"):
        bad = b"\r\n" + bad  # the data's own line end is before
    *forwarded, answer, reset, end = talk.client(HEAD + before + bad + GET, max(size, len(bad) // 2000))
    assert answer.data.startswith(b"HTTP/1.1 400 ")
    assert [reset, end] == CUT_OFF
    assert all(isinstance(command, ToServer) for command in forwarded)
    assert (HEAD + before + bad).startswith(talk.to_server)
    assert len(talk.to_server) < len(HEAD + before + bad)
    (record,) = talk.records
    assert (record.reason, record.status) == (Reason.HTTP_FRAMING, 400)
    decided = (Verdict.FORWARDED, 7) if talk.to_server else (Verdict.DROPPED, 0)
    assert (record.verdict, record.rule) == decided
    assert talk.sends(GET).answers(OK).statuses == [400]
    assert talk.client_eof() == [Close(Reason.HTTP_FRAMING)]


@pytest.mark.parametrize("audit", [True, False])
def test_what_was_not_forwarded_is_logged_as_dropped(start: Callable[..., Any], audit: bool) -> None:
    """Also behind a denial in the same read, and where the denial would pass."""
    talk = start(audit=audit).sends(DENIED + HEAD + b"g\r\n" if not audit else DENIED_HEAD + b"g\r\n")
    assert talk.to_server == b""
    record = talk.records[-1]
    assert (record.verdict, record.rule, record.reason) == (Verdict.DROPPED, 0, Reason.HTTP_FRAMING)
    talk = start(audit=audit).sends(HEAD).sends(b"g\r\n")
    assert (talk.records[0].verdict, talk.records[0].rule) == (Verdict.FORWARDED, 7)


def test_a_malformed_chunk_behind_an_interim_answer_is_refused_as_well(talk: Any) -> None:
    talk.sends(HEAD).answers(b"HTTP/1.1 100 Continue\r\n\r\n").sends(b"g\r\n")
    assert (talk.statuses, talk.rest) == ([100, 400], CUT_OFF)
    assert talk.to_server == HEAD


@pytest.mark.parametrize("answer", [OK[:-1], OK])
def test_a_malformed_chunk_behind_a_final_answer_cuts_both(talk: Any, answer: bytes) -> None:
    talk.sends(HEAD + b"1\r\nx\r\n").answers(answer).sends(b"g\r\n")
    assert (talk.to_client, talk.rest) == (answer, [Abort(Reason.HTTP_FRAMING)])
    assert (talk.reasons, talk.records[0].status) == ([Reason.HTTP_FRAMING], 200)
    assert talk.to_server.endswith(b"\r\nx\r\n"[:-2])


def test_half_an_answers_head_is_not_mixed_with_the_refusal(talk: Any) -> None:
    talk.sends(HEAD).answers(OK[:20]).sends(b"g\r\n")
    assert (talk.statuses, talk.rest) == ([400], CUT_OFF)
    assert talk.answers(OK[20:]).statuses == [400]


@SIZES
@pytest.mark.parametrize(
    "name",
    [b"Authorization", b"cookie", b"X-HTTP-Method-Override", b"x_original_url", b"X-Token", b"x_token", b"x.token"],
)
def test_no_trailer_may_be_a_header_that_decides(start: Callable[..., Any], name: bytes, size: int) -> None:
    """A server that merges trailers into the head would act on what no rule has seen."""
    talk = start(header_names=frozenset((b"x-token",))).sends(HEAD + b"0\r\nA: b\r\n" + name + b": x\r\n\r\n", size)
    assert (talk.statuses, talk.rest, talk.reasons) == ([400], CUT_OFF, [Reason.HTTP_FRAMING])
    assert name not in talk.to_server


def test_a_trailer_that_no_rule_reads_goes_on(start: Callable[..., Any]) -> None:
    request = HEAD + b"0\r\nX-Token: x\r\nX-Tokens: y\r\n\r\n"
    assert start().client(request) == [ToServer(request)]
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-Token: x\r\n\r\n"
    assert start(header_names=frozenset((b"x-token",))).sends(GET).server(answer) == [ToClient(answer)]


def test_a_size_line_and_trailers_are_bounded(start: Callable[..., Any]) -> None:
    for piece, most in ((b"1;" + b"a" * 100, 1024), (b"0\r\n" + b"X: y\r\n" * 20, 8192)):
        talk = start().sends(HEAD + piece)
        for _ in range(100):
            talk.client(piece[-6:] * 20)
            assert talk.conversation.held <= most
            if talk.rest:
                break
        assert (talk.statuses, talk.rest) == ([400], CUT_OFF)


def test_a_chunked_body_counts_as_a_body(talk: Any) -> None:
    chunked_get = HEAD.replace(b"POST", b"GET")
    talk.client(chunked_get + b"0\r\n\r\n" + GET)
    assert (talk.to_server, talk.statuses, talk.rest) == (b"", [403], LAST_WORD)
    assert talk.reasons == [Reason.HTTP_BODY_NOT_ALLOWED]
    assert talk.judge.asked[0].has_body


def test_a_chunked_body_that_is_granted_is_forwarded(talk: Any) -> None:
    request = HEAD.replace(b"POST /jobs", b"DELETE /free") + b"1\r\nx\r\n0\r\n\r\n"
    assert talk.client(request) == [ToServer(request)]


def test_a_chunked_upload_that_stops_is_told_so(talk: Any) -> None:
    talk.client(HEAD + b"ff\r\nabc")
    talk.now += 200.0
    talk.conversation.client_moved(10, talk.now)
    assert talk.later(299.0) == []
    (answer, *rest) = talk.later(1.0)
    assert answer.data.startswith(b"HTTP/1.1 408 ")
    assert (rest, talk.reasons) == (CUT_OFF, [Reason.IDLE_TIMEOUT])
