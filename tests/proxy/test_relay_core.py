"""The relay's decisions, as conversations: what happened, what is wanted then."""

import errno

import pytest

from racecar.policy.reasons import Reason
from racecar.proxy.core.relay import (
    PIPE_BYTES,
    READ_BYTES,
    SMALL_PORTION_BYTES,
    TURN_BYTES,
    RelayEnd,
    failure_reason,
    is_over,
    may_finish,
    note_read,
    note_splice,
    portion_bytes,
    wants_reading,
    wants_writing,
    worth_splicing,
)


@pytest.fixture
def client() -> RelayEnd:
    return RelayEnd(ready=True)


@pytest.fixture
def server() -> RelayEnd:
    return RelayEnd(ready=False)


def test_both_ends_are_read_at_the_start(client: RelayEnd, server: RelayEnd) -> None:
    assert wants_reading(client, server)
    assert wants_reading(server, client)
    assert not wants_writing(client)
    assert not wants_writing(server)


def test_an_end_is_not_read_while_the_other_has_bytes_to_take(client: RelayEnd, server: RelayEnd) -> None:
    server.queued = 10
    assert not wants_reading(client, server)
    assert wants_reading(server, client)
    assert wants_writing(server)
    server.queued = 0
    assert wants_reading(client, server)


def test_an_end_that_is_answered_by_us_is_not_read_while_its_answers_wait(server: RelayEnd) -> None:
    client = RelayEnd(ready=True, paced=True)
    client.queued = 10
    assert not wants_reading(client, server)


def test_an_end_is_not_read_while_the_layer_has_all_that_it_can_take(client: RelayEnd, server: RelayEnd) -> None:
    client.paused = True
    assert not wants_reading(client, server)
    assert wants_reading(server, client)  # what the layer waits for comes from there
    server.queued, server.ready = 10, True
    assert wants_writing(server)
    client.paused, server.queued = False, 0
    assert wants_reading(client, server)


def test_a_pause_keeps_no_fin_from_an_end(client: RelayEnd, server: RelayEnd) -> None:
    client.paused = client.finishing = True
    assert may_finish(client)


def test_a_fin_follows_the_last_byte_and_is_sent_once(client: RelayEnd, server: RelayEnd) -> None:
    server.ready, server.queued = True, 10
    client.eof = server.finishing = True
    assert not wants_reading(client, server)
    assert not may_finish(server)
    server.queued = 0
    assert may_finish(server)
    server.finished = True
    assert not may_finish(server)
    assert not is_over(client, server)


def test_a_fin_waits_for_the_dial(client: RelayEnd, server: RelayEnd) -> None:
    client.eof = server.finishing = True
    assert not may_finish(server)
    assert wants_writing(server)
    server.ready = True
    assert may_finish(server)
    assert not wants_writing(server)


def test_it_is_over_when_both_ended_and_nothing_waits(client: RelayEnd, server: RelayEnd) -> None:
    server.ready = True
    client.eof = server.eof = True
    client.queued = 1
    assert not is_over(client, server)
    client.queued = 0
    assert is_over(client, server)


def test_long_stretches_are_spliced_until_a_short_one(client: RelayEnd, server: RelayEnd) -> None:
    server.ready = True
    note_read(client, READ_BYTES, READ_BYTES)
    assert not worth_splicing(client, server)
    note_read(client, READ_BYTES, READ_BYTES)
    assert worth_splicing(client, server)
    note_splice(client, PIPE_BYTES)
    assert worth_splicing(client, server)
    server.queued = 1
    assert not worth_splicing(client, server)
    server.queued = 0
    note_splice(client, 100)
    assert not worth_splicing(client, server)
    assert client.received == 2 * READ_BYTES + PIPE_BYTES + 100


def test_a_read_that_is_not_full_ends_the_stretch(client: RelayEnd, server: RelayEnd) -> None:
    server.ready = True
    note_read(client, READ_BYTES, READ_BYTES)
    note_read(client, READ_BYTES - 1, READ_BYTES)
    note_read(client, READ_BYTES, READ_BYTES)
    assert not worth_splicing(client, server)


def test_portions_shrink_in_a_long_turn() -> None:
    assert portion_bytes(0) == PIPE_BYTES
    assert portion_bytes(TURN_BYTES) == SMALL_PORTION_BYTES


@pytest.mark.parametrize(
    ("number", "is_client", "untouched", "reason"),
    [
        (errno.ECONNREFUSED, False, True, Reason.DIAL_FAILED),
        (errno.EHOSTUNREACH, False, True, Reason.DIAL_FAILED),
        (errno.EHOSTUNREACH, False, False, Reason.UPSTREAM_RESET),
        (errno.ECONNRESET, False, True, Reason.UPSTREAM_RESET),
        (errno.ECONNRESET, True, True, Reason.DOWNSTREAM_RESET),
        (errno.EPIPE, True, False, Reason.DOWNSTREAM_RESET),
    ],
)
def test_each_error_has_its_reason(number: int, is_client: bool, untouched: bool, reason: Reason) -> None:
    assert failure_reason(number, is_client=is_client, untouched=untouched) is reason
