"""Hypothesis strategies for what a peer may send, well-formed or not."""

from hypothesis import strategies as st

from tests.fuzz.pieces import (
    ALERT,
    ANSWERS,
    CLIENT_HELLO,
    DENIED_REQUESTS,
    FRAGMENTS,
    MALFORMED_REQUESTS,
    OPEN_ANSWERS,
    REQUESTS,
    SERVER_HELLO,
)
from tests.fuzz.talk import PAUSES_S, STEPS, Setting, Step

ALL_REQUESTS = [*REQUESTS, *DENIED_REQUESTS, *MALFORMED_REQUESTS]
ALL_ANSWERS = [*ANSWERS, *OPEN_ANSWERS]
CUTS = st.lists(st.integers(1, 40), min_size=1, max_size=6).map(tuple)
SETTINGS = st.builds(Setting, st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans())


@st.composite
def bent(draw: st.DrawFn, messages: list[bytes]) -> bytes:
    """A message with a few places cut out, doubled or replaced."""
    data = draw(st.sampled_from(messages))
    for _ in range(draw(st.sampled_from((0, 0, 1, 1, 2, 3)))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 6)))
        data = data[:start] + draw(st.sampled_from(FRAGMENTS) | st.binary(max_size=2)) + data[end:]
    return data


def streams(messages: list[bytes], most: int = 3) -> st.SearchStrategy[bytes]:
    """Bent messages behind one another, fragments, and bytes that are nothing at all."""
    pieces = st.lists(st.sampled_from(FRAGMENTS + messages), min_size=1, max_size=8).map(b"".join)
    noise = st.binary(min_size=1, max_size=60)
    several = st.lists(bent(messages), min_size=1, max_size=most).map(b"".join)
    return several.filter(bool) | several.filter(bool) | pieces | noise


_CLIENT = streams([*ALL_REQUESTS, CLIENT_HELLO]).map(lambda data: Step("client", data))
_SERVER = streams([*ALL_ANSWERS, SERVER_HELLO, ALERT], 2).map(lambda data: Step("server", data))
_PAUSE = st.builds(Step, st.sampled_from(("time", "late")), st.just(b""), st.integers(0, len(PAUSES_S) - 1))
_SWAP = st.integers(0, 1).map(lambda number: Step("swap", number=number))
_OTHERS = st.sampled_from([what for what in STEPS if what not in ("client", "server", "time", "late", "swap")]).map(
    Step
)
STEP = st.one_of(_CLIENT, _SERVER, _CLIENT, _SERVER, _PAUSE, _SWAP, _OTHERS)
SCRIPTS = st.lists(STEP, min_size=1, max_size=8)
