"""The ledger on PostgreSQL behind the state machine's calls: each call is a batch, kept as soon as it is answered."""

import psycopg
import sqlalchemy

from tests.support.ledger_model import Answer, Pair
from tests.support.ledger_targets import Figures, answer
from tests.support.shared_ledger import empty
from zuebee.contracts.admission import Amount, Budget
from zuebee.ledger.audit import QuickCheck, verify
from zuebee.ledger.credit import credit
from zuebee.ledger.invariants import Violation
from zuebee.ledger.operations import Credit, Expire, Extend, Operation, Renew, Reserve, Settle
from zuebee.ledger.postgres.store import PostgresStore
from zuebee.lib.sql.database import database_url


class OnPostgres:
    """A store of its own on a shared database, whose ledger is emptied first.

    The database's clock is the real one, so that entries carry other times than the machine's; I14 is seen by the
    model alone. Settlements give no answer: the balances show what they did.
    """

    expires_orphans = False
    keeps_at_once = True

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine = sqlalchemy.create_engine(database_url("postgres", url))
        self._watch = psycopg.connect(url, autocommit=True)
        empty(url)
        self._batch = 0
        self._last: list[Operation] = []
        self._open()

    def _open(self) -> None:
        self.store = PostgresStore(
            self._url, reporters=(), currency="USD", retention_days=0, timeout_s=10.0, hold_s=30.0
        )
        self.store.start("test")
        assert self.store._db is not None
        self.store._db.execute("SET synchronous_commit = off")  # for speed: nothing pulls the plug here
        self._batch = 0

    def _do(self, operation: Operation) -> Answer | None:
        self._batch += 1
        self._last = [operation]
        (said,) = self.store.apply(self._batch, self._last) or (None,)
        return None if said is None else answer(said)

    def reserve(
        self,
        hold: str,
        budgets: tuple[Budget, ...],
        amount: Pair,
        now_s: float,
        until_s: float,
        least: Pair | None = None,
    ) -> Answer:
        enough = None if least is None else Amount(*least)
        said = self._do(Reserve(hold, budgets, Amount(*amount), now_s, until_s - now_s, least=enough))
        assert said is not None
        return said

    def extend(self, hold: str, amount: Pair, now_s: float) -> Answer | None:
        return self._do(Extend(hold, Amount(*amount), Amount(*amount)))

    def post(self, hold: str, amount: Pair, now_s: float) -> Answer | None:
        return self._do(Settle(hold, Amount(*amount), None))

    def void(self, hold: str, now_s: float) -> Answer | None:
        return self._do(Settle(hold, None, None))

    def expire(self, hold: str, now_s: float) -> Answer | None:
        return self._do(Expire(hold, is_ownerless=True))

    def progress(self, hold: str, amount: Pair, until_s: float) -> None:
        self._do(Renew([(hold, *amount)], 30.0))

    def grant(self, grant_id: str, budget: Budget, amount: int, now_s: float) -> None:
        with self._engine.begin() as connection:
            credit(connection, Credit(grant_id, budget.account, budget.unit, amount, now_s))

    def keep(self) -> None:
        """Every call is kept. One whose end was not seen is sent again, and must change nothing."""
        if self._batch:
            assert self.store.apply(self._batch, self._last) is None

    def crash(self, now_s: float) -> None:
        self.store.disconnect()
        self._open()

    def figures(self) -> Figures:
        rows = self._watch.execute(
            "SELECT account, starts_at_s, granted, held, used, overdraft FROM ledger_balances"
        ).fetchall()
        return {(account, starts_at_s): tuple(figures) for account, starts_at_s, *figures in rows}

    def violations(self) -> list[Violation]:
        with self._engine.begin() as connection:
            found = [v for v in QuickCheck().check(connection) if v.invariant != "I4"]
        with self._engine.begin() as connection:
            found += verify(connection)
        return [v for v in found if v.invariant not in ("I4", "I8") and "out of its period" not in v.text]

    def close(self) -> None:
        self.store.disconnect()
        self._watch.close()
        self._engine.dispose()
