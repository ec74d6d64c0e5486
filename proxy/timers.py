"""Deadlines in coarse steps: one bucket per step, no timer object per connection."""

from typing import Generic, Protocol, TypeVar


class Timed(Protocol):
    """What can wait in a wheel; `step` belongs to the wheel, 0 = not waiting."""

    step: int

    def __hash__(self) -> int: ...


T = TypeVar("T", bound=Timed)


class Wheel(Generic[T]):
    """Who is due when, to within one step, never early.

    Deadlines that move are cheap: leave the old one standing, and when it comes up ask the owner
    for the true one and schedule that.
    """

    def __init__(self, *, step_s: float) -> None:
        self.step_s = step_s
        self._buckets: dict[int, set[T]] = {}
        self._done = 0  # every step up to this one has been handed out

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def __bool__(self) -> bool:
        return bool(self._buckets)

    def schedule(self, item: T, deadline: float) -> None:
        """Make `item` due at `deadline` (the clock is the caller's), instead of any earlier date."""
        step = max(int(deadline / self.step_s) + 1, self._done + 1)
        if item.step != step:
            if item.step:
                self.cancel(item)
            item.step = step
            self._buckets.setdefault(step, set()).add(item)

    def cancel(self, item: T) -> None:
        """Forget `item`; harmless when it does not wait."""
        bucket = self._buckets.get(item.step)
        if bucket is not None:
            bucket.discard(item)
            if not bucket:
                del self._buckets[item.step]
        item.step = 0

    def expire(self, now: float) -> list[T]:
        """Take out and return what is due."""
        self._done = max(self._done, int(now / self.step_s))
        due: list[T] = []
        for step in [step for step in self._buckets if step <= self._done]:
            due += self._buckets.pop(step)
        for item in due:
            item.step = 0
        return due
