"""The part of `verify` that is cheap enough for a gauge: what is new since the last time, in a few statements."""

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import Connection, text

from zuebee.billing.verify import begin_snapshot, overdue
from zuebee.billing.verify_entries import CHARGES_MORE, HOLDS_MORE, RESOLVES, Violation

_SHIFT = 1 << 26
"""Sums are made of halves, for a sum of whole amounts could exceed 64 bits."""

SLICE: Final = 1_000_000
"""Entries that one call reads at most, twice as many at the end: on a slow disk that takes a few seconds."""

_HALVES = "sum({0} / :shift), sum({0} % :shift)"
_AMOUNTS = ("tokens", "cost_nano", "released_tokens", "released_cost_nano")
_FIGURES = ("granted", "held", "used", "overdraft")

_LAST = "SELECT coalesce(max(id), 0) FROM ledger_entries"
_NEW_ENTRIES = (
    f"SELECT path, kind, max(id), {', '.join(_HALVES.format(name) for name in _AMOUNTS)} FROM ledger_entries"
    " WHERE id > :last AND id <= :to GROUP BY path, kind"
)
_BALANCES = f"SELECT {', '.join(_HALVES.format(name) for name in _FIGURES)} FROM ledger_balances"
_BAD_BALANCES = """
SELECT account, granted, held, used, overdraft FROM ledger_balances
WHERE held < 0 OR used < 0 OR granted < 0 OR overdraft < 0 OR used + held > granted + overdraft ORDER BY id LIMIT 10
"""
_HELD = ("held", "owed")
_HELD_BY_BALANCES = f"SELECT {', '.join(_HALVES.format(name) for name in _HELD)} FROM ledger_balances"
_OF_HOLDS = ("tokens", "cost_nano", "owed_tokens", "owed_cost_nano")
_HOLDS = f"SELECT path, {', '.join(_HALVES.format(name) for name in _OF_HOLDS)} FROM ledger_holds GROUP BY path"


class QuickCheck:
    """I1 by sums over all accounts, I2, I4, and I11: what is held is what the open holds explain.

    For use inside a running gateway. Remembers sums from call to call, so that a call costs what has happened since.
    One call at a time.
    """

    def __init__(self) -> None:
        self._last_entry = 0
        self._sums = [0, 0, 0, 0]
        self._again = False
        self._weights: dict[int, tuple[int, int]] = {}  # path: how many of its balances count tokens, and money

    def check(self, connection: Connection) -> list[Violation] | None:
        """The violations seen now; None: there are more entries than one call reads, so call again at once.

        The connection's transaction has just begun. May raise SQLAlchemyError, and then goes on from where it was.
        """
        begin_snapshot(connection)
        last = int(connection.execute(text(_LAST)).scalar_one())
        if not self._add_up(connection, last):
            return None
        found = list(self._sums_of_entries(connection))
        if found and not self._again:
            # Of several writers one may have taken its ids earlier and committed later: count anew before alarming.
            self._again = True
            self._last_entry, self._sums = 0, [0, 0, 0, 0]
            if not self._add_up(connection, last):
                return None
            found = list(self._sums_of_entries(connection))
        self._again = False
        for row in connection.execute(text(_BAD_BALANCES)):
            found.append(Violation("I2", row[0], f"granted, held, used, overdraft are {tuple(row[1:])}"))
        found += self._held(connection)
        found += list(overdue(connection, runs=True))[:10]
        return found

    def _add_up(self, connection: Connection, last: int) -> bool:
        """Add what is new, up to the entry `last`; False: not all of it. The newest are read together, for ids near
        the end may still be missing.
        """
        to = last if last - self._last_entry <= 2 * SLICE else self._last_entry + SLICE
        sums = list(self._sums)
        rows = connection.execute(text(_NEW_ENTRIES), {"last": self._last_entry, "to": to, "shift": _SHIFT}).fetchall()
        newest = self._last_entry
        for path, kind, last_of_path, *halves in rows:
            newest = max(newest, last_of_path)
            tokens, cost, released_tokens, released_cost = _wholes(halves)
            by_tokens, by_money = self._weight(connection, path)
            amount = tokens * by_tokens + cost * by_money
            released = released_tokens * by_tokens + released_cost * by_money
            for index, more in enumerate(_effect(kind, amount, released)):
                sums[index] += more
        self._last_entry, self._sums = (newest if to == last else to), sums
        return to == last

    def _sums_of_entries(self, connection: Connection) -> Iterator[Violation]:
        found = _wholes(connection.execute(text(_BALANCES), {"shift": _SHIFT}).one())
        for name, expected, actual in zip(_FIGURES, self._sums, found, strict=True):
            if expected != actual:
                yield Violation("I1", "", f"all accounts together have {actual} {name}, the entries say {expected}")

    def _held(self, connection: Connection) -> Iterator[Violation]:
        explained = [0, 0]
        for path, *halves in connection.execute(text(_HOLDS), {"shift": _SHIFT}).fetchall():
            tokens, cost, owed_tokens, owed_cost = _wholes(halves)
            by_tokens, by_money = self._weight(connection, path)
            explained[0] += tokens * by_tokens + cost * by_money
            explained[1] += owed_tokens * by_tokens + owed_cost * by_money
        found = _wholes(connection.execute(text(_HELD_BY_BALANCES), {"shift": _SHIFT}).one())
        for name, expected, actual in zip(_HELD, explained, found, strict=True):
            if expected != actual:
                told = f"of all accounts together {actual} is {name}, the open holds explain {expected}"
                yield Violation("I11", "", told)

    def _weight(self, connection: Connection, path: int) -> tuple[int, int]:
        if path not in self._weights:
            ids = connection.execute(text("SELECT balances FROM ledger_paths WHERE id = :id"), {"id": path}).scalar()
            units = [
                connection.execute(text("SELECT unit FROM ledger_balances WHERE id = :id"), {"id": int(one)}).scalar()
                for one in str(ids or "").split(",")
                if one
            ]
            by_tokens = units.count("tokens")
            self._weights[path] = (by_tokens, len(units) - units.count(None) - by_tokens)
        return self._weights[path]


def _wholes(halves: Any) -> list[int]:
    return [int(high or 0) * _SHIFT + int(low or 0) for high, low in zip(halves[::2], halves[1::2], strict=True)]


def _effect(kind: str, amount: int, released: int) -> tuple[int, int, int, int]:
    if kind in HOLDS_MORE:
        return 0, amount, 0, 0
    if kind in RESOLVES:
        return 0, -released, amount, 0
    if kind in CHARGES_MORE:
        return 0, 0, amount, amount
    return (amount if kind == "grant" else -amount), 0, 0, 0
