"""HTTP/1.1 against bytes that nobody would write: events or ProtocolError, the same however they are cut, and whatever
is forwarded is read by h11, with its default settings, as the same requests and answers.
"""

import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from racecar.parsers.tls import client_hello_size
from racecar.policy.reasons import Reason
from racecar.proxy.core.http1_types import Abort, Close, CloseServer, EndClient, ResetServer, Verdict
from tests.fuzz import judges, oracle, targets
from tests.fuzz.pieces import (
    ANSWERS,
    CHUNKED_BODIES,
    CLIENT_HELLO,
    DENIED_REQUESTS,
    FRAGMENTS,
    OPEN_ANSWERS,
    REQUESTS,
    SERVER_HELLO,
    TARGETS,
)
from tests.fuzz.strategies import ALL_ANSWERS, ALL_REQUESTS, CUTS, SCRIPTS, SETTINGS, bent, streams
from tests.fuzz.talk import Delivery, Setting, Step, Talk

pytestmark = pytest.mark.slow
EXAMPLES = settings(max_examples=150, deadline=None)
MANY = settings(max_examples=400, deadline=None)

# Requests that leave the connection usable, each with the answers that such a request may get.
_ANY = range(len(ANSWERS) - 1)
_BRIEF = (0, 1, 2, 5)  # what HTTP/1.0 can read
ALLOWED = [(REQUESTS[n], _BRIEF if b"HTTP/1.0" in REQUESTS[n] else _ANY) for n in (*range(8), *range(10, 15), 17, 18)]
DENIED = [DENIED_REQUESTS[n] for n in (0, 1, 2, 5, 6, 7, 8, 9, 10, 12)]
LAST = [REQUESTS[8], REQUESTS[9]]


# --- parsers


@EXAMPLES
@given(streams([*ALL_REQUESTS, CLIENT_HELLO]))
def test_a_request_head_is_read_as_others_read_it_or_refused(data: bytes) -> None:
    targets.check("request-head", data)


@EXAMPLES
@given(streams(ALL_ANSWERS))
def test_a_response_head_is_read_as_others_read_it_or_refused(data: bytes) -> None:
    targets.check("response-head", data)


@EXAMPLES
@given(streams(CHUNKED_BODIES))
def test_a_chunked_body_ends_where_h11_ends_it_or_is_refused(data: bytes) -> None:
    targets.check("chunks", data)


@EXAMPLES
@given(st.binary(min_size=1, max_size=20))
def test_a_counted_body_ends_at_its_last_byte(data: bytes) -> None:
    targets.check("counted-body", data)


@EXAMPLES
@given(streams([CLIENT_HELLO, SERVER_HELLO], 2))
def test_a_hello_does_not_depend_on_what_follows(data: bytes) -> None:
    targets.check("tls", data)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("name", "protocols"), [(None, []), ("jobs.example", ["h2", "http/1.1"]), ("x" * 63, ["h2"])])
def test_the_hello_of_a_real_client_is_one(newest: ssl.TLSVersion, name: str | None, protocols: list[str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode, context.maximum_version = False, ssl.CERT_NONE, newest
    if protocols:
        context.set_alpn_protocols(protocols)
    said = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), said, server_hostname=name).do_handshake()
    hello = said.read()
    assert client_hello_size(hello) == len(hello)
    targets.check("tls", hello + b"what follows")
    assert all(client_hello_size(hello[:end]) is None for end in range(len(hello)))


@MANY
@given(st.integers(0, 127), bent(TARGETS) | st.lists(st.sampled_from(FRAGMENTS + TARGETS), max_size=5).map(b"".join))
def test_a_path_that_is_allowed_has_no_reading_that_is_not(choice: int, target: bytes) -> None:
    targets.check("path", bytes((choice,)) + target)


# --- conversations


@settings(MANY, max_examples=900)
@given(SETTINGS, CUTS, SCRIPTS)
def test_whatever_both_sides_send_nothing_passes_that_was_not_judged(
    setting: Setting, sizes: tuple[int, ...], steps: list[Step]
) -> None:
    targets.check_talk(setting, sizes, steps)


@EXAMPLES
@given(SETTINGS, CUTS, st.lists(bent([*REQUESTS, *DENIED_REQUESTS]), min_size=1, max_size=5))
def test_cuts_do_not_change_what_a_client_gets(setting: Setting, sizes: tuple[int, ...], requests: list[bytes]) -> None:
    targets.check_talk(setting, sizes, [Step("client", request) for request in requests if request])


@EXAMPLES
@given(CUTS, st.sampled_from(REQUESTS), streams(ALL_ANSWERS), st.booleans())
def test_cuts_do_not_change_what_a_server_does(
    sizes: tuple[int, ...], request: bytes, answers: bytes, ends: bool
) -> None:
    steps = [Step("client", request), Step("server", answers), *([Step("server_eof")] if ends else [])]
    targets.check_talk(Setting(), sizes, steps)


@EXAMPLES
@given(CUTS, st.sampled_from(REQUESTS[3:7]), st.integers(0, 400), bent(ALL_ANSWERS), st.booleans())
def test_an_answer_before_the_end_of_its_request_is_whole(
    sizes: tuple[int, ...], request: bytes, at: int, answer: bytes, stray: bool
) -> None:
    at %= len(request)
    steps = [
        Step("client", request[:at]),
        Step("server", answer + b"x" * stray),
        Step("client", request[at:] + REQUESTS[0]),
    ]
    targets.check_talk(Setting(), sizes, [step for step in steps if step.data])


class Origin:
    """A server that answers each whole request that reaches it, in order."""

    def __init__(self, talk: Talk, answers: list[bytes]) -> None:
        self.talk = talk
        self.answers = answers
        self.got: list[oracle.Message] = []

    def serve(self) -> None:
        while len(self.talk.to_server) > (pos := self.got[-1].end if self.got else 0):
            request = oracle.read_request(bytes(self.talk.to_server), pos)
            if not request.is_complete:
                return
            self.got.append(request)
            answer = self.answers[len(self.got) - 1]
            if request.method == b"HEAD":
                answer = answer[: answer.rindex(b"\r\n\r\n", 0, _head_end(answer)) + 4]
            self.talk.step(Step("server", answer))


def _head_end(answer: bytes) -> int:
    """Where the head of the final answer ends."""
    end = answer.index(b"\r\n\r\n") + 4
    return end if answer[9:10] != b"1" else end + _head_end(answer[end:])


@st.composite
def exchanges(draw: st.DrawFn) -> list[tuple[bytes, bytes]]:
    """Requests with their answers; none for a request that is refused. The last one may end the connection."""
    drawn: list[tuple[bytes, bytes]] = []
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            request, answers = draw(st.sampled_from(ALLOWED))
            drawn.append((request, ANSWERS[draw(st.sampled_from(answers))]))
        else:
            drawn.append((draw(st.sampled_from(DENIED)), b""))
    if draw(st.booleans()):
        drawn.append((draw(st.sampled_from(LAST)), ANSWERS[draw(st.sampled_from(_BRIEF))]))
    return drawn


@EXAMPLES
@given(exchanges(), CUTS, st.booleans(), st.booleans())
def test_ordinary_exchanges_are_relayed_byte_for_byte_and_refusals_stand_in_their_turn(
    script: list[tuple[bytes, bytes]], sizes: tuple[int, ...], pipelined: bool, moves: bool
) -> None:
    talk = Talk((judges.engine(),), Setting(), Delivery(sizes, moves=moves))
    origin = Origin(talk, [answer for _, answer in script if answer])
    for stream in [b"".join(request for request, _ in script)] if pipelined else [request for request, _ in script]:
        talk.step(Step("client", stream))
        origin.serve()
    assert bytes(talk.to_server) == b"".join(request for request, answer in script if answer)
    pos = 0
    for request, answer in script:
        method = request.partition(b" ")[0]
        said = oracle.read_answer(bytes(talk.to_client), pos, method, upgrades=False)
        assert said.is_complete
        if not answer:
            assert said.status == 403
            assert said.body.startswith(b"denied by policy: ") or method == b"HEAD"
        elif method != b"HEAD":
            assert bytes(talk.to_client[pos : said.end]) == answer
        pos = said.end
    assert pos == len(talk.to_client)
    assert [record.verdict is Verdict.DROPPED for record in talk.records] == [not answer for _, answer in script]
    assert talk.conversation.is_idle != (script[-1][0] in LAST)
    talk.play([])
    oracle.check(talk)


@EXAMPLES
@given(
    st.sampled_from([(REQUESTS[15], OPEN_ANSWERS[6]), (REQUESTS[16], OPEN_ANSWERS[8]), (CLIENT_HELLO, SERVER_HELLO)]),
    CUTS,
    st.booleans(),
    st.lists(st.tuples(st.booleans(), st.binary(min_size=1, max_size=80)), max_size=6),
    st.permutations(["client_eof", "server_eof"]),
)
def test_a_granted_switch_passes_everything_unread_in_order(
    switch: tuple[bytes, bytes], sizes: tuple[int, ...], moves: bool, talks: list[tuple[bool, bytes]], ends: list[str]
) -> None:
    request, answer = switch
    talk = Talk((judges.engine(),), Setting(tls=True), Delivery(sizes, moves=moves))
    talk.step(Step("client", request + b"early"))
    assert bytes(talk.to_server) == request
    talk.step(Step("server", answer))
    up, down = request + b"early", answer
    assert (bytes(talk.to_server), bytes(talk.to_client)) == (up, down)
    for from_client, data in talks:
        talk.step(Step("client" if from_client else "server", data))
        up, down = (up + data, down) if from_client else (up, down + data)
    talk.step(Step(ends[0]))
    late, data = ("server" if ends[0] == "client_eof" else "client"), b"the last word"
    talk.step(Step(late, data))
    up, down = (up + data, down) if late == "client" else (up, down + data)
    assert (bytes(talk.to_server), bytes(talk.to_client)) == (up, down)
    talk.step(Step(ends[1]))
    assert isinstance(talk.ends[-1][0], Close)
    (record,) = talk.records
    assert (record.reason, record.request_bytes, record.response_bytes) == (Reason.NONE, len(up), len(down))
    talk.play([])
    oracle.check(talk)


@EXAMPLES
@given(
    st.sampled_from([REQUESTS[15], REQUESTS[16], REQUESTS[17], REQUESTS[0]]),
    bent(ALL_ANSWERS),
    CUTS,
)
def test_a_switch_that_is_not_granted_lets_no_byte_behind_it_through(
    request: bytes, answer: bytes, sizes: tuple[int, ...]
) -> None:
    talk = targets.check_talk(
        Setting(), sizes, [Step("client", request), Step("client", b"\0smuggled"), Step("server", answer)]
    )
    opaque = [record.opaque for record in talk.records]
    assert (b"smuggled" in talk.to_server) == bool(opaque[0])
    assert not opaque[0] or request in REQUESTS[15:17]


@EXAMPLES
@given(st.lists(st.sampled_from([*ALL_REQUESTS, CLIENT_HELLO]), max_size=3), st.integers(0, 120), st.booleans())
def test_whatever_a_client_leaves_unfinished_ends_by_its_timer(requests: list[bytes], left: int, tls: bool) -> None:
    stream = b"".join(requests)
    talk = Talk((judges.engine(),), Setting(tls=tls), Delivery())
    talk.step(Step("client", stream[: max(1, len(stream) - left)]))
    for _ in range(40):
        if talk.conversation.is_over or talk.conversation.is_outstanding:
            break
        talk.step(Step("time", number=7))
    assert talk.conversation.is_over or talk.conversation.is_outstanding
    talk.play([])
    oracle.check(talk)


# --- memory


@pytest.mark.parametrize(
    ("first", "more", "answers"),
    [
        pytest.param(b"GET /jobs HTTP/1.1\r\nHost: jobs\r\n", b"X: aaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", b"", id="head"),
        pytest.param(b"GET /jobs?", b"aaaaaaaaaaaaaaaa", b"", id="target"),
        pytest.param(REQUESTS[4][:-16], b"5;a=bbbbbbbbbbbbbbbbbbb", b"", id="extensions"),
        pytest.param(REQUESTS[4][:-16] + b"0\r\n", b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n", b"", id="trailers"),
        pytest.param(REQUESTS[0], REQUESTS[0], b"", id="pipelined"),
        pytest.param(REQUESTS[15], b"\x81\x02hi", b"", id="behind an upgrade"),
        pytest.param(
            b"\x16\x03\x01\x40\x00\x01\0\x3f\xfc\3\3", b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", b"", id="hello"
        ),
        pytest.param(CLIENT_HELLO, b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", b"", id="behind a hello"),
        pytest.param(REQUESTS[0], b"", b"HTTP/1.1 200 OK\r\n", id="answer's head"),
        pytest.param(REQUESTS[0], b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="interim answers"),
        pytest.param(DENIED_REQUESTS[0], DENIED_REQUESTS[0], b"", id="denials"),
    ],
)
def test_what_is_held_is_bounded_whatever_comes_without_end(first: bytes, more: bytes, answers: bytes) -> None:
    talk = Talk((judges.engine(),), Setting(tls=True), Delivery((16384,)))
    talk.step(Step("client", first))
    for _ in range(20):
        if more and len(talk.waiting) < 3:
            talk.step(Step("client", more * (65536 // len(more))))
        if answers:
            line = answers if answers.endswith(b"\r\n\r\n") else b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"
            talk.step(Step("server", line * 1000))
    assert talk.conversation.held <= 65537 + 65536
    talk.play([])


# --- what the checks are worth


def _said(talk: Talk) -> set[type]:
    return {type(command) for command, _, _ in talk.ends}


def test_the_scripts_reach_what_they_are_meant_to_reach() -> None:
    """The corpus alone sees every way in which a connection ends, and most reasons."""
    from tests.fuzz import corpus, program

    reasons: set[Reason] = set()
    ends: set[type] = set()
    opaque: set[str] = set()
    for seed in corpus.seeds("conversation"):
        setting, sizes, steps = program.decode(seed)
        talk = targets.check_talk(setting, sizes, steps)
        reasons |= {record.reason for record in talk.records}
        ends |= _said(talk)
        opaque |= {record.opaque for record in talk.records}
    assert ends >= {Abort, Close, CloseServer, EndClient, ResetServer}
    assert opaque == {"", "websocket", "connect", "tls"}
    assert reasons >= {
        Reason.NONE, Reason.HTTP_NO_RULE, Reason.HTTP_MALFORMED, Reason.HTTP_FRAMING, Reason.HTTP_HOST,
        Reason.HTTP_UPGRADE, Reason.HTTP_CONNECT, Reason.HTTP_BODY_NOT_ALLOWED, Reason.HTTP_PATH_ENCODING,
        Reason.HTTP_EXPECT, Reason.HTTP_TLS, Reason.HTTP_HTTP2, Reason.HTTP_NOT_HTTP, Reason.HTTP_PIPELINED,
        Reason.HTTP_RESPONSE_MALFORMED, Reason.UPSTREAM_CLOSED, Reason.DOWNSTREAM_RESET, Reason.UPSTREAM_RESET,
    }  # fmt: skip
