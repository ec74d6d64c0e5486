"""What the fuzzer starts from: our own cases, written as inputs of each target."""

from collections.abc import Callable, Iterator

from tests.fuzz.judges import POLICY
from tests.fuzz.pieces import (
    ALERT,
    ANSWERS,
    CHUNKED_BODIES,
    CLIENT_HELLO,
    DENIED_REQUESTS,
    FRAGMENTS,
    MALFORMED_REQUESTS,
    OPEN_ANSWERS,
    REQUESTS,
    SERVER_HELLO,
    TARGETS,
)
from tests.fuzz.program import MESSAGES, encode
from tests.fuzz.real_heads import REQUEST_HEADS, RESPONSE_HEADS
from tests.fuzz.talk import Setting, Step

HEAD_END = b"\r\n\r\n"
POLICIES = [
    POLICY,
    b"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a, namespace: b}\nspec:\n"
    b"  endpointSelector: {matchLabels: {app: a}}\n  egress:\n  - toCIDR: [10.0.0.0/8]\n"
    b"    toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{method: GET, path: '/jobs.*'}]}}]\n"
    b"  - toEntities: [world]\n    toPorts: [{ports: [{port: '443'}]}]\n"
    b"  egressDeny:\n  - toCIDRSet: [{cidr: ::1/128}]\n",
    b"apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\nspec:\n  endpointSelector: {}\n"
    b"  ingress: [{fromCIDR: [192.0.2.0/24], toPorts: [{ports: [{port: '1', endPort: 9, protocol: ANY}]}]}]\n",
    b'{"apiVersion": "v1", "kind": "List", "items": [{"apiVersion": "racecar.io/v1", "kind": "RacecarPolicy"}]}',
    b"apiVersion: racecar.io/v1\nkind: RacecarConfig\nspec: {timeouts: {head: 10s}}\n",
    b"a: &a [1]\nb: *a\n---\nc: {<<: {d: e}}\n",
    b"spec: {spec: [yes, on, 0o7, 1e3, ~, null, !!str x, '', \"\\u0041\"]}\n",
]


def seeds(name: str) -> list[bytes]:
    """The seeds of one target, without repetition."""
    return list(dict.fromkeys(_SEEDS[name]()))


def words(name: str) -> list[bytes]:
    """What a fuzzer may put in anywhere (libFuzzer takes words of up to 64 bytes)."""
    found = {"path": [*FRAGMENTS, *TARGETS], "policy": _yaml_words()}.get(name, FRAGMENTS)
    return [word for word in dict.fromkeys(found) if 0 < len(word) <= 64]


def _yaml_words() -> list[bytes]:
    separators = b"{}[],:\"'"
    text = b" ".join(POLICIES).translate(bytes.maketrans(separators, b" " * len(separators)))
    return [b": ", b"- ", b"\n  ", b"---\n", b"&a ", b"*a", b"!!", b"{", b"}", b"[", b"]", *sorted(set(text.split()))]


def _heads(messages: list[bytes]) -> Iterator[bytes]:
    for message in messages:
        head, end, _ = message.partition(HEAD_END)
        yield head + end
        yield message


def _request_heads() -> Iterator[bytes]:
    yield from _heads([*REQUESTS, *DENIED_REQUESTS, *MALFORMED_REQUESTS, *REQUEST_HEADS.values(), CLIENT_HELLO])


def _response_heads() -> Iterator[bytes]:
    yield from _heads([*ANSWERS, *OPEN_ANSWERS, *RESPONSE_HEADS.values()])


def _hellos() -> Iterator[bytes]:
    for hello in (CLIENT_HELLO, SERVER_HELLO, ALERT):
        yield from (hello, hello[:7], hello + b"x")
    yield CLIENT_HELLO[:4] + b"\x33" + CLIENT_HELLO[5:8] + b"\x2f" + CLIENT_HELLO[9:-2] + b"\0\4\0\0\0\0"


def _conversations() -> Iterator[bytes]:
    plain, tls = Setting(), Setting(tls=True)
    requests = [*REQUESTS, *DENIED_REQUESTS, *MALFORMED_REQUESTS]
    answers = [*ANSWERS, *OPEN_ANSWERS]
    for number, request in enumerate(requests):
        answer = answers[number % len(answers)]
        yield encode(plain, (3, 1), [Step("client", request), Step("server", answer)])
        pair = [
            Step("client", request),
            Step("client", REQUESTS[0]),
            Step("server", answer),
            Step("server", ANSWERS[0]),
        ]
        yield encode(plain, (7,), pair)
    for number, answer in enumerate(answers):
        request = REQUESTS[number % len(REQUESTS)]
        for what in ("client_eof", "server_eof", "broken", "lost", "drain", "time"):
            steps = [
                Step("client", request),
                Step("server", answer[:-2]),
                Step(what, number=4),
                Step("server", answer[-2:]),
            ]
            yield encode(Setting(small=bool(number & 1)), (5, 2), [*steps, Step("server_eof"), Step("client_eof")])
    for asked, given in ((15, 6), (16, 8), (17, 7)):
        opened = [Step("client", REQUESTS[asked]), Step("client", b"early"), Step("server", OPEN_ANSWERS[given])]
        rest = [Step("client", b"\0raw"), Step("server_eof"), Step("client", b"late"), Step("client_eof")]
        yield encode(plain, (4,), opened + rest)
    for answer in (SERVER_HELLO, ALERT, ANSWERS[0]):
        steps = [
            Step("client", CLIENT_HELLO),
            Step("client", b"early"),
            Step("server", answer),
            Step("client", b"late"),
        ]
        yield encode(tls, (6, 1), steps)
        yield encode(plain, (6, 1), steps)
    body = [Step("client", REQUESTS[3][:-3]), Step("server", ANSWERS[0]), Step("client", REQUESTS[3][-3:])]
    yield encode(plain, (9,), body)
    yield encode(Setting(audit=True, tells_rules=False), (9,), [Step("client", DENIED_REQUESTS[0]), *body])
    yield encode(plain, (), [Step("client", REQUESTS[0] * 3), Step("swap", number=1), Step("server", ANSWERS[0])])
    yield encode(Setting(answers_dials=True), (), [Step("broken"), Step("client", REQUESTS[0] + REQUESTS[3])])
    yield encode(plain, (), [Step("client", b"GET /jo"), Step("late", number=4), Step("client", b"bs HTTP/1.1\r\n")])
    assert len(MESSAGES) <= 256


_SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {
    "conversation": _conversations,
    "request-head": _request_heads,
    "response-head": _response_heads,
    "chunks": lambda: iter(CHUNKED_BODIES),
    "counted-body": lambda: iter([b"\3\1\2", b"\xff\7\x90\x91\x92", b"\0\1"]),
    "tls": _hellos,
    "path": lambda: (bytes((number,)) + target for target in TARGETS for number in (0, 2, 5, 6, 24, 32, 64)),
    "policy": lambda: iter(POLICIES),
}
