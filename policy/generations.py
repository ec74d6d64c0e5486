"""A cache that a peer can fill and not grow."""

from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Generations(Generic[Key, Value]):
    """A bounded dict in two generations: no bookkeeping on a hit. Keys hold credentials: never log or dump them."""

    __slots__ = ("_limit", "new", "old")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.new: dict[Key, Value] = {}
        self.old: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """Find in both generations; what is found in the old one is young again."""
        value = self.new.get(key)
        if value is None:
            value = self.old.get(key)
            if value is not None:
                self.put(key, value)
        return value

    def put(self, key: Key, value: Value) -> None:
        if len(self.new) >= self._limit:
            self.new, self.old = {}, self.new
        self.new[key] = value
