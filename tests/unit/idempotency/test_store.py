from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine

from tests.support.fakes import VirtualTime
from zuebee.contracts.idempotency import Ticket
from zuebee.idempotency import store
from zuebee.schema.tables import kept_answers

KEPT_S = 100.0


def ticket(name: str, owner: int = 1) -> Ticket:
    return Ticket(name, "f", b"", owner)


@pytest.fixture
def connection(virtual_time: VirtualTime) -> Iterator[Connection]:
    with create_engine("sqlite://").begin() as connection:
        kept_answers.create(connection)
        yield connection


def state(connection: Connection, name: str) -> str | None:
    row = store.read(connection, name, KEPT_S)
    return None if row is None else row.state


def test_only_the_owner_changes_a_row(connection: Connection, virtual_time: VirtualTime) -> None:
    assert store.claim(connection, ticket("a"), 10.0, KEPT_S) is None
    virtual_time.advance(5)
    other = ticket("a", owner=2)
    blocking = store.claim(connection, other, 10.0, KEPT_S)
    assert blocking is not None
    assert (blocking.owner, blocking.state, blocking.left_s) == (1, "running", 5.0)
    assert not store.finish(connection, other, "done", b"x", KEPT_S)
    store.remove(connection, other)
    store.renew(connection, [2], 99.0)
    virtual_time.advance(5)
    assert state(connection, "a") == "lost"
    assert store.finish(connection, ticket("a"), "done", b"x", KEPT_S)
    found = store.read(connection, "a", KEPT_S)
    assert found is not None
    assert (found.state, found.answer, found.left_s) == ("done", b"x", KEPT_S)


def test_what_is_done_is_no_lease(connection: Connection, virtual_time: VirtualTime) -> None:
    store.claim(connection, ticket("a"), 10.0, KEPT_S)
    store.finish(connection, ticket("a"), "too_large", None, 20.0)
    store.renew(connection, [1], 99.0)
    virtual_time.advance(20)
    assert state(connection, "a") is None


def test_a_lease_that_ran_out_is_lost_for_as_long_as_an_answer_is_kept(
    connection: Connection, virtual_time: VirtualTime
) -> None:
    store.claim(connection, ticket("a"), 10.0, KEPT_S)
    virtual_time.advance(10 + KEPT_S - 1)
    assert store.sweep(connection, KEPT_S) == 0
    blocking = store.claim(connection, ticket("a", 2), 10.0, KEPT_S)
    assert blocking is not None
    assert blocking.state == "lost"
    virtual_time.advance(1)
    assert state(connection, "a") is None
    assert store.claim(connection, ticket("a", 2), 10.0, KEPT_S) is None
    assert state(connection, "a") == "running"


def test_a_sweep_is_bounded_and_begins_with_the_oldest(connection: Connection, virtual_time: VirtualTime) -> None:
    for number in range(store.SWEEP_ROWS + 5):
        store.claim(connection, ticket(f"{number}", number), number + 1.0, KEPT_S)
    virtual_time.advance(1e9)
    assert store.sweep(connection, KEPT_S) == store.SWEEP_ROWS
    left = [name for (name,) in connection.execute(kept_answers.select().with_only_columns(kept_answers.c.id))]
    assert sorted(left, key=int) == [f"{store.SWEEP_ROWS + number}" for number in range(5)]
    assert store.sweep(connection, KEPT_S) == 5
    assert store.sweep(connection, KEPT_S) == 0
