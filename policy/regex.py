"""RE2 patterns, matched in linear time and anchored at both ends. The library is loaded at the first use."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Protocol

PATTERN_MEMORY_BYTES = 8 * 1024 * 1024  # of one pattern or one shard, its automaton included
# Patterns matched in one pass. 1,000 patterns take 40 us instead of 1.1 ms; 64 in a shard take 10 us, but patterns of
# many `.*` multiply each other's states: bytes made for that cost 15 times what they cost one by one, with 16 4 times.
SHARD_PATTERNS = 16
_EVERYTHING = r"\C*"


class Pattern(Protocol):
    """A compiled pattern; `fullmatch` takes bytes that are ASCII or UTF-8."""

    def fullmatch(self, text: bytes) -> object | None: ...


class PatternError(ValueError):
    """RE2 does not accept the pattern; the text is RE2's own."""


SYNTAX = frozenset("\\.+*?()|[]{}^$")


def without_case(text: str) -> str:
    """A pattern that matches what this one does in any letter case, once what is matched is in lower case."""
    return text.lower() if text.isascii() and SYNTAX.isdisjoint(text) else f"(?i){text}"


def options(max_mem_bytes: int = PATTERN_MEMORY_BYTES) -> object:
    """Quiet, without captures: only whether there is a match is asked."""
    import re2

    chosen = re2.Options()
    chosen.log_errors = False
    chosen.never_capture = True
    chosen.max_mem = max_mem_bytes
    return chosen


@lru_cache(maxsize=4096)
def compile_pattern(text: str) -> Pattern:
    """Compile; raises PatternError."""
    import re2

    try:
        pattern: Pattern = re2.compile(text, options())
    except re2.error as error:
        detail = error.args[0] if error.args else error
        raise PatternError(detail.decode("utf-8", "replace") if isinstance(detail, bytes) else str(detail)) from None
    return pattern


class PatternSet:
    """Say which of many patterns match. Shards of them are matched in one pass, literals are looked up."""

    __slots__ = ("_literals", "_shards")

    def __init__(self, texts: Iterable[str]) -> None:
        """Raises PatternError."""
        distinct = dict.fromkeys(texts)
        self._literals = {text.encode(): text for text in distinct if SYNTAX.isdisjoint(text)}
        patterns = [text for text in distinct if not SYNTAX.isdisjoint(text)]
        self._shards: list[Callable[[bytes], list[str]]] = []
        for start in range(0, len(patterns), SHARD_PATTERNS):
            self._shards += _shards(patterns[start : start + SHARD_PATTERNS])

    def matching(self, text: bytes) -> set[str]:
        """Return the patterns that match all of `text`. Raises MemoryError, then none is known to match or not."""
        shards = self._shards
        found = set(shards[0](text)) if len(shards) == 1 else {pattern for shard in shards for pattern in shard(text)}
        literal = self._literals.get(text)
        if literal is not None:
            found.add(literal)
        return found


def _shards(texts: list[str]) -> list[Callable[[bytes], list[str]]]:
    """Combine patterns; those that are together above the memory of one are combined in halves."""
    import re2

    combined = re2.Set.FullMatchSet(options())
    try:
        for text in (*texts, _EVERYTHING):
            combined.Add(text)
        combined.Compile()
    except re2.error:
        if len(texts) == 1:  # at twice the cost of a set
            pattern = compile_pattern(texts[0])
            return [lambda text: texts if pattern.fullmatch(text) else []]
        middle = len(texts) // 2
        return [*_shards(texts[:middle]), *_shards(texts[middle:])]
    last = len(texts)

    def matching(text: bytes) -> list[str]:
        found = combined.Match(text) or ()
        # RE2 answers "nothing matches" where memory is out; _EVERYTHING always does.
        if last not in found:
            raise MemoryError(f"RE2 ran out of {PATTERN_MEMORY_BYTES} bytes while matching {last} patterns")
        return [texts[index] for index in found if index != last]

    return [matching]
