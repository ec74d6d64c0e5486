"""The wheel: never early, at most one step late."""

from racecar.proxy.timers import Wheel


class Item:
    step = 0


def test_nobody_is_due_early_and_everybody_within_a_step() -> None:
    wheel: Wheel[Item] = Wheel(step_s=0.25)
    item = Item()
    wheel.schedule(item, 10.1)
    assert wheel.expire(10.0) == wheel.expire(10.1) == wheel.expire(10.24) == []
    assert wheel.expire(10.25) == [item]
    assert (item.step, bool(wheel)) == (0, False)


def test_a_new_deadline_replaces_the_old_one() -> None:
    wheel: Wheel[Item] = Wheel(step_s=1.0)
    item = Item()
    wheel.schedule(item, 10.0)
    wheel.schedule(item, 3.0)
    assert len(wheel) == 1
    assert wheel.expire(4.0) == [item]
    assert wheel.expire(100.0) == []


def test_a_deadline_in_the_past_is_due_in_the_next_step() -> None:
    wheel: Wheel[Item] = Wheel(step_s=1.0)
    wheel.expire(50.0)
    item = Item()
    wheel.schedule(item, 10.0)
    assert wheel.expire(50.5) == []
    assert wheel.expire(51.0) == [item]


def test_who_is_cancelled_leaves_nothing_behind() -> None:
    wheel: Wheel[Item] = Wheel(step_s=1.0)
    item, other = Item(), Item()
    wheel.schedule(item, 10.0)
    wheel.schedule(other, 10.0)
    wheel.cancel(item)
    wheel.cancel(item)
    assert wheel.expire(20.0) == [other]
    assert not wheel


def test_a_pause_of_the_loop_makes_all_due_at_once() -> None:
    wheel: Wheel[Item] = Wheel(step_s=0.5)
    items = [Item() for _ in range(5)]
    for number, item in enumerate(items):
        wheel.schedule(item, float(number))
    assert set(wheel.expire(100.0)) == set(items)
