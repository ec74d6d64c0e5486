"""What is fuzzed: each target takes bytes and raises AssertionError, or whatever it should not, where a promise breaks.

Hypothesis and the coverage-guided fuzzer call the same functions.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import h11
import httptools

from racecar.parsers.errors import ProtocolError
from racecar.parsers.http1 import (
    CHUNKED,
    UNTIL_CLOSE,
    ChunkReader,
    CountedBody,
    HeadBuffer,
    check_request_prefix,
    check_response_prefix,
    first_bytes,
    header_values,
    read_request_head,
    read_response_head,
    response_length,
)
from racecar.parsers.http1.chunks import MAX_SIZE_LINE_BYTES, MAX_TRAILER_BYTES
from racecar.parsers.http1.fields import plain_name
from racecar.parsers.http1.heads import Check
from racecar.parsers.http1.second_opinion import check_request, check_response
from racecar.parsers.tls import MAX_RECORD_BYTES, RECORD_HEADER_BYTES, client_hello_size, is_server_hello
from racecar.policy.compile import PolicyConflictError, compile_workload
from racecar.policy.engine import HttpCall, HttpMatcher, HttpVerdict
from racecar.policy.load import load_text
from racecar.policy.model import Direction
from racecar.policy.paths import examine
from racecar.policy.reasons import Reason
from racecar.policy.tables import WORLD
from tests.fuzz import judges, oracle
from tests.fuzz.program import decode
from tests.fuzz.talk import Delivery, Outcome, Setting, Step, Talk

HEAD_END = b"\r\n\r\n"


def cut(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    """Pieces of `data`, of these sizes in turn."""
    start = turn = 0
    while start < len(data):
        end = start + sizes[turn % len(sizes)]
        yield data[start:end]
        start, turn = end, turn + 1


def _cuts(data: bytes) -> tuple[list[int], ...]:
    """Whole, byte by byte as long as that is quick, and by sizes that depend on the data alone."""
    return [len(data) or 1], [1 if len(data) < 400 else 13], [byte % 23 + 1 for byte in data[:5]] or [1]


def _found(data: bytes, sizes: Sequence[int], check: Check) -> "tuple[bytes | Reason | None, int]":
    """The head that a buffer cuts out, the reason why not, or None if more must come; and what lies behind."""
    buffer, done = HeadBuffer(check), 0
    for piece in cut(data, sizes):
        try:
            head, pos = buffer.cut(piece, 0)
        except ProtocolError as error:
            return error.reason, 0
        assert pos <= len(piece)
        assert buffer.pending <= 65537, "more than a head is held"
        if head is not None:
            assert buffer.is_empty
            return head, done + pos
        assert pos == len(piece)
        done += len(piece)
    return None, done


def _check_cuts(data: bytes, check: Check, read: Callable[[bytes], object]) -> bytes | None:
    """However the bytes are cut, the same head or the same reason; return the head if it is read."""
    results = set()
    for sizes in _cuts(data):
        found, end = _found(data, sizes, check)
        if isinstance(found, bytes):
            assert data.startswith(found)
            assert end == len(found), "a head that is longer than it is"
            try:
                read(found)
            except ProtocolError as error:
                found = error.reason
        results.add(found)
    assert len(results) == 1, f"cuts change what is read: {results}"
    (result,) = results
    return result if isinstance(result, bytes) else None


def check_request_head(data: bytes) -> None:
    """A request's head is read alike however it is cut, and as h11 and llhttp read it."""
    first_bytes(data)
    head = _check_cuts(data, check_request_prefix, read_request_head)
    if head is None:
        return
    read = read_request_head(head)
    assert read.size == len(head)
    try:
        check_request(head, read)
    except ProtocolError:
        return  # refused: httptools reads it otherwise, or not at all
    request = oracle.read_request(head, 0)
    assert (request.method, request.target, request.head_end) == (read.method, read.target, len(head))
    names = [name for name, _ in request.headers]
    hosts = [value for name, value in request.headers if name == b"host"]
    if read.method == b"CONNECT":
        assert read.host == read.target.lower()
    else:
        assert [host.lower() for host in hosts] == [read.host] or (read.http_1_0 and not hosts and not read.host)
    lengths = [value for name, value in request.headers if name == b"content-length"]
    assert (b"transfer-encoding" in names) == (read.length == CHUNKED)
    assert [int(length) for length in lengths] == [read.length] or (not lengths and read.length in (0, CHUNKED))
    assert not (read.http_1_0 and read.length == CHUNKED)
    for name in set(names):
        alike = [value for other, value in request.headers if plain_name(other) == plain_name(name)]
        assert header_values(head, name) == alike


def check_response_head(data: bytes) -> None:
    """A response's head is read alike however it is cut, and as h11 and llhttp read it."""
    head = _check_cuts(data, check_response_prefix, read_response_head)
    if head is None:
        return
    read = read_response_head(head)
    assert read.size == len(head)
    try:
        check_response(head, read)
    except ProtocolError:
        return
    if read.status == 101:
        return  # h11 refuses it without a request that asks for it
    for method in (b"GET", b"HEAD"):
        length = response_length(read, method=method)
        answer = oracle.read_answer(head, 0, method, upgrades=False)
        assert answer.status == read.status
        assert answer.head_end == len(head)
        assert answer.is_complete == (length == 0 and read.status >= 200), f"{length} bytes follow"
        if not answer.is_complete and read.status >= 200:
            closed = oracle.read_answer(head, 0, method, upgrades=False, ended=True) if length == UNTIL_CLOSE else None
            assert closed is None or closed.is_complete


def _read_chunks(data: bytes, sizes: Sequence[int], *, moves: bool = False) -> tuple[Reason | None, bool, int]:
    """Why it is refused if it is, whether it ended, and how far it is judged."""
    reader, held, judged = ChunkReader(Reason.HTTP_FRAMING), b"", 0
    for piece in cut(data, sizes):
        if moves and reader.unread:
            assert not held
            count = min(reader.unread, len(piece))
            reader.moved(count)
            judged, piece = judged + count, piece[count:]
        text = held + piece
        if not text:
            continue
        try:
            pos, done = reader.feed(text, 0)
        except ProtocolError as error:
            return error.reason, False, judged
        judged += pos
        if done:
            return None, True, judged
        held = text[pos:]
        assert len(held) <= max(MAX_SIZE_LINE_BYTES, MAX_TRAILER_BYTES) + max(sizes), "more than a line is held"
        assert not (held and reader.unread)
    return None, False, judged


def check_chunks(data: bytes) -> None:
    """A chunked body ends at the same byte however it is cut, and where h11 and llhttp end it."""
    whole = _read_chunks(data, [len(data) or 1])
    for sizes in _cuts(data)[1:]:
        for moves in (False, True):
            pieces = _read_chunks(data, sizes, moves=moves)
            assert pieces[:2] == whole[:2], f"cuts change what is read: {pieces}, {whole}"
            assert whole[0] is not None or pieces[2] == whole[2]
    reason, done, end = whole
    if reason is not None:
        return
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    request = oracle.read_request(head + data[:end], 0)
    assert request.head_end == len(head)
    assert request.is_complete == done, f"h11 reads {request}, we end it at {end}: {done}"
    assert request.end == len(head) + end
    body, messages = _read_by_llhttp(head + data[:end])
    assert (body, messages) == (request.body, int(done)), f"llhttp reads {body!r} and {messages} messages"


def _read_by_llhttp(data: bytes) -> tuple[bytes, int]:
    """The bodies, and how many messages ended. Raises httptools.HttpParserError."""

    class Seen:
        body = b""
        messages = 0

        def on_body(self, data: bytes) -> None:
            self.body += data

        def on_message_complete(self) -> None:
            self.messages += 1

    seen = Seen()
    httptools.HttpRequestParser(seen).feed_data(data)
    return seen.body, seen.messages


def check_counted(data: bytes) -> None:
    """A body of known length ends at its last byte, whichever way its bytes go."""
    length = int.from_bytes(data[:1], "big") + 1
    body, taken = CountedBody(length), 0
    for size in data[1:]:
        if taken == length:
            return
        assert body.unread == length - taken - 1, "the last byte is not among those that may go unread"
        if size & 1:
            count = min(size, body.unread)
            body.moved(count)
            taken += count
        else:
            pos, done = body.feed(bytes(size), 0)
            taken += pos
            assert done == (taken == length)


def check_tls(data: bytes) -> None:
    """A hello's size does not depend on what follows, nor a refusal on how much of it is there."""
    _check_client_hello(data)
    _check_server_hello(data)


def _check_client_hello(data: bytes) -> None:
    results = []
    for end in range(min(len(data), 200) + 1):
        try:
            results.append(client_hello_size(data[:end]))
        except ProtocolError:
            results.append(-1)
    try:
        final = client_hello_size(bytearray(data))
    except ProtocolError:
        final = -1
    settled = [result for result in (*results, final) if result is not None]
    assert len(set(settled)) <= 1, f"more bytes change the verdict: {settled}"
    if final is None:
        assert len(data) < RECORD_HEADER_BYTES + MAX_RECORD_BYTES, "more is awaited than a record may hold"
    elif final > 0:
        assert data[:2] == b"\x16\x03"
        assert data[5] == 1
        assert RECORD_HEADER_BYTES + 4 < final <= len(data)
        assert final == RECORD_HEADER_BYTES + int.from_bytes(data[3:5], "big")
        # A hello is followed by whatever the client likes; nothing of that is part of it.
        assert client_hello_size(data + b"GET / HTTP/1.1\r\n\r\n") == final


def _check_server_hello(data: bytes) -> None:
    settled: set[object] = set()
    for end in range(min(len(data), 16) + 1):
        try:
            found = is_server_hello(data[:end])
        except ProtocolError as error:
            found, reason = None, error.reason
            assert reason is Reason.HTTP_TLS
            settled.add(reason)
        if found is not None:
            settled.add(found)
    assert len(settled) <= 1, f"more bytes change the verdict: {settled}"


# --- paths and rules


def check_path(data: bytes) -> None:
    """A path that is allowed has no reading that is not; normal form is a fixed point; a verdict is the same again."""
    choice, target = data[:1], data[1:]
    examined = examine(target)
    if examined.reason is Reason.NONE:
        path = target.partition(b"?")[0]
        assert (examined.path, examined.query) == (path, target[len(path) :]), "path or query was changed"
        again = examine(examined.normal)
        assert (again.reason, again.normal) == (Reason.NONE, examined.normal), f"not normal: {examined.normal!r}"
        assert not any(byte in reading for reading in judges.readings(path) for byte in b"\\\0") or examined.needs
    else:
        assert examined.reason in (Reason.HTTP_MALFORMED, Reason.HTTP_TARGET_FORM)
    number = int.from_bytes(choice, "big")
    method = (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"CONNECT", b"get")[number & 7]
    keys = ([], [b"one"], [b"one", b"two"], [b"one", b"one"])[number >> 3 & 3]
    headers = [(b"host", b"jobs"), *((b"x-key", key) for key in keys)]
    call = HttpCall(method, target, b"jobs", lambda name: keys if name == b"x-key" else [], has_body=bool(number & 32))
    if number & 64 and method == b"GET":
        call.is_websocket = True
    if method == b"CONNECT":
        call.host = target.lower()
    for judge in (judges.PlainJudge(), judges.engine()):
        verdict = judge.judge(call)
        assert verdict[:3] == judge.judge(call)[:3], "a verdict that changes"
        _check_verdict(verdict)
        if verdict.allow:
            forbidden = judges.is_ever_forbidden(
                method, target, headers, has_body=call.has_body, is_websocket=call.is_websocket
            )
            assert not forbidden, f"{type(judge).__name__} allows {method!r} {target!r}"
    plain, ours = judges.PlainJudge().judge(call), judges.engine().judge(call)
    if not examine(target).needs or method == b"CONNECT":
        assert plain.allow == ours.allow, f"{ours} for {method!r} {target!r}, the plain judge says {plain}"


def _check_verdict(verdict: HttpVerdict) -> None:
    assert verdict.allow == (verdict.reason is Reason.NONE)
    assert verdict.rule or not verdict.allow
    assert len(verdict.nearest) <= 3


def check_policy(data: bytes) -> None:
    """Whatever a policy file holds: findings with a place, or policies that compile."""
    loaded = load_text(data, "fuzz.yaml")
    assert loaded.ok or not loaded.policies, "half a policy"
    for finding in loaded.findings:
        assert finding.line >= 1
        assert finding.column >= 1
        assert str(finding).isprintable(), "a finding is one line"
        assert finding.level in ("error", "warning", "notice")
    if not loaded.ok:
        return
    directions: tuple[Direction, ...] = ("egress", "ingress")
    for labels, direction in product(({}, {"app": "a"}), directions):
        try:
            compiled = compile_workload(
                loaded.policies, namespace="default", cluster="default", labels=labels, direction=direction
            )
        except PolicyConflictError:
            continue
        _check_compiled(compiled.rulesets)
        for address in (judges.WORLD_ADDRESS, judges.LOOPBACK):
            verdict = compiled.judge_l4(address, WORLD, 6, 80)
            assert verdict.rule < len(compiled.rules)
            assert verdict.ruleset < len(compiled.rulesets)


def _check_compiled(rulesets: Sequence[judges.RuleSet]) -> None:
    for ruleset in rulesets:
        if ruleset.kind == "http":
            matcher = HttpMatcher(ruleset)
            for target in (b"/", b"/jobs?a=b", b"/%2f", b"*"):
                try:
                    _check_verdict(matcher.judge(HttpCall(b"GET", target)))
                except MemoryError:
                    continue  # a pattern that is too large to be run: refused, never "no match"


# --- conversations


class _SwappedJudge:
    """The policy that a talk may change to: GET of /jobs alone, whatever else it asks for."""

    def judge(self, call: HttpCall, /) -> HttpVerdict:
        if (call.method, call.target.partition(b"?")[0]) == (b"GET", b"/jobs") and not call.is_websocket:
            return HttpVerdict(True, oracle.SWAPPED_RULE, Reason.NONE)
        return HttpVerdict(False, 0, Reason.HTTP_NO_RULE)


def outcomes(setting: Setting, sizes: tuple[int, ...], steps: Sequence[Step]) -> dict[str, tuple[Talk, Outcome]]:
    """The same bytes delivered in different ways; each talk is checked by itself."""
    pieces = sizes or (1,)
    done: dict[str, tuple[Talk, Outcome]] = {}
    for name, delivery in (
        ("whole reads", Delivery()),
        ("in pieces", Delivery(pieces)),
        ("whole reads again", Delivery(warm=True)),
        ("in pieces that pass unread", Delivery(pieces, moves=True, warm=True)),
        ("whole reads that pass unread", Delivery(moves=True)),
    ):
        seen = done["whole reads"][0] if delivery.warm else None
        talk = Talk((judges.engine(), _SwappedJudge()), setting, delivery, seen)
        try:
            talk.play(steps)
            oracle.check(talk)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        done[name] = (talk, talk.outcome())
    return done


def check_talk(setting: Setting, sizes: tuple[int, ...], steps: Sequence[Step]) -> Talk:
    """One talk in several deliveries, all alike. Return the one of whole reads."""
    done = outcomes(setting, sizes, steps)
    talk, first = done["whole reads"]
    if not any(other.raced for other, _ in done.values()):
        for name, (_, outcome) in done.items():
            first.check_same(outcome, name)
    return talk


def check_conversation(program: bytes) -> None:
    """A program of `program`."""
    check_talk(*decode(program))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "conversation": check_conversation,
    "request-head": check_request_head,
    "response-head": check_response_head,
    "chunks": check_chunks,
    "counted-body": check_counted,
    "tls": check_tls,
    "path": check_path,
    "policy": check_policy,
}
# Shares of the time: a conversation has most states.
SHARES = {"conversation": 8, "policy": 3, "request-head": 2, "response-head": 2, "counted-body": 0.5}


def check(name: str, data: bytes) -> None:
    """Run one target; what h11 refuses is a finding too."""
    try:
        TARGETS[name](data)
    except h11.RemoteProtocolError as error:
        raise AssertionError(f"h11 refuses what we accept: {error}") from error
