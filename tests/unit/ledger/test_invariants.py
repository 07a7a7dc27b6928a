"""The fold and the chain by themselves: rows in, violations out."""

import hashlib

from zuebee.ledger.invariants import (
    BalanceRow,
    BatchRow,
    Chain,
    EntryRow,
    Fold,
    HoldRow,
    Violation,
    table_violations,
)

TOKENS = BalanceRow(1, "key:k", "tokens", "never", 0, 100, 10, 30, 0)
MONEY = BalanceRow(2, "team:t", "USD", "never", 0, 1000, 50, 70, 0)
PATHS = [(1, "1,2"), (2, "1"), (3, "2")]
ENTRIES = [
    EntryRow(1, 1, "grant", "g1", 0, 2, 100, 0, 0, 0, 1, 5.0),
    EntryRow(2, 1, "grant", "g2", 0, 3, 0, 1000, 0, 0, 1, 5.0),
    EntryRow(3, 1, "reserve", "a", 0, 1, 40, 80, 0, 0, 1, 6.0),
    EntryRow(4, 2, "reserve", "b", 0, 1, 10, 50, 0, 0, 1, 6.0),
    EntryRow(5, 2, "post", "a", 1, 1, 30, 70, 40, 80, 1, 7.0),
]
OPEN = HoldRow("b", 1, 10, 50, 30.0, 1)


def fold(entries: list[EntryRow], holds: list[HoldRow], tokens: BalanceRow = TOKENS) -> list[Violation]:
    one = Fold([tokens, MONEY], PATHS)
    found = [violation for entry in entries for violation in one.add(entry)]
    return found + list(one.finish(holds))


def names(found: list[Violation]) -> set[str]:
    return {violation.invariant for violation in found}


def test_entries_that_explain_everything() -> None:
    assert fold(ENTRIES, [OPEN]) == []


def test_each_unit_counts_its_own_amount() -> None:
    assert names(fold(ENTRIES, [OPEN], TOKENS._replace(used=70))) == {"I1"}


def test_every_prefix_is_looked_at_not_only_the_end() -> None:
    early = [ENTRIES[1], ENTRIES[2]._replace(id=0), ENTRIES[0], *ENTRIES[3:]]
    assert names(fold(early, [OPEN])) == {"I2"}


def test_an_open_hold_that_is_not_listed_and_one_that_is_listed_wrongly() -> None:
    assert names(fold(ENTRIES, [])) == {"I3", "I11"}
    assert names(fold(ENTRIES, [OPEN._replace(tokens=9)])) == {"I3", "I11"}


def test_an_entry_of_an_absurd_amount() -> None:
    assert "I5" in names(fold([*ENTRIES, ENTRIES[2]._replace(id=9, hold="c", tokens=(1 << 53) + 1)], [OPEN]))


def chain(*entries: EntryRow, batches: list[BatchRow]) -> list[Violation]:
    one = Chain(iter(batches))
    found = [violation for entry in entries for violation in one.add(entry)]
    return found + list(one.finish())


FIRST = hashlib.sha256(b'[[1,"grant","g1",0,2,100,0,0,0,1,5.0]]').hexdigest()
SECOND = hashlib.sha256(f'{FIRST}[[2,"grant","g2",0,3,0,1000,0,0,1,5.0]]'.encode()).hexdigest()
CHAINED = (ENTRIES[0], ENTRIES[1]._replace(batch=2))
BATCHES = [BatchRow(1, 1, 1, FIRST), BatchRow(1, 2, 1, SECOND)]


def test_each_batch_carries_the_hash_of_the_one_before() -> None:
    assert chain(*CHAINED, batches=BATCHES) == []
    assert chain(*CHAINED, batches=BATCHES[::-1]) == []


def test_a_changed_a_missing_and_an_added_batch_are_seen() -> None:
    assert names(chain(CHAINED[0]._replace(tokens=99), CHAINED[1], batches=BATCHES)) == {"I5"}
    assert names(chain(CHAINED[1], batches=BATCHES[1:])) == {"I5"}
    assert names(chain(CHAINED[0], batches=BATCHES)) == {"I5"}
    assert names(chain(*CHAINED, batches=BATCHES[:1])) == {"I5"}


def test_tables_by_themselves() -> None:
    assert list(table_violations([TOKENS, MONEY], PATHS)) == []
    assert names(list(table_violations([TOKENS._replace(used=-1), MONEY], PATHS))) == {"I2"}
    assert names(list(table_violations([TOKENS, MONEY], [(1, "")]))) == {"I9"}
