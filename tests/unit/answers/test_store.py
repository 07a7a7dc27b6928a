from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, create_engine

from zuebee.answers import store
from zuebee.contracts.answers import Ticket
from zuebee.schema.tables import kept_answers


def ticket(name: str, owner: int = 1) -> Ticket:
    return Ticket(name, "f", b"", owner)


@pytest.fixture
def connection() -> Iterator[Connection]:
    with create_engine("sqlite://").begin() as connection:
        kept_answers.create(connection)
        yield connection


def test_only_the_owner_changes_a_row(connection: Connection) -> None:
    assert store.claim(connection, ticket("a"), 0.0, 10.0) is None
    other = ticket("a", owner=2)
    blocking = store.claim(connection, other, 5.0, 10.0)
    assert blocking is not None
    assert (blocking.owner, blocking.state) == (1, "running")
    assert not store.finish(connection, other, b"x", 99.0)
    store.remove(connection, other)
    store.renew(connection, [2], 99.0)
    assert store.read(connection, "a", 9.0) is not None
    assert store.read(connection, "a", 10.0) is None
    assert store.finish(connection, ticket("a"), b"x", 99.0)
    found = store.read(connection, "a", 50.0)
    assert found is not None
    assert (found.state, found.answer) == ("done", b"x")


def test_what_is_done_is_no_lease(connection: Connection) -> None:
    store.claim(connection, ticket("a"), 0.0, 10.0)
    store.finish(connection, ticket("a"), None, 20.0)
    store.renew(connection, [1], 99.0)
    assert store.read(connection, "a", 20.0) is None


def test_a_sweep_is_bounded_and_begins_with_the_oldest(connection: Connection) -> None:
    for number in range(store.SWEEP_ROWS + 5):
        store.claim(connection, ticket(f"{number}", number), 0.0, number + 1.0)
    assert store.sweep(connection, 1e9) == store.SWEEP_ROWS
    assert store.read(connection, "0", 0.0) is None
    assert store.sweep(connection, 1e9) == 5
    assert store.sweep(connection, 1e9) == 0
