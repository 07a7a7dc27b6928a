"""The shared ledger on a real PostgreSQL: the same answers as in memory, whoever asks, however many ask at once."""

import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from tests.support.pgbouncer import BOTH_WAYS, database_by
from tests.support.processes import until
from tests.support.shared_ledger import (
    AT_S,
    WAITS_FOR_A_LOCK,
    balances,
    balances_on,
    check_books,
    check_usage,
    empty,
    post,
    query,
    record,
    reserve,
    store_on,
    told,
    void,
)
from tests.support.source import ROOT
from tests.support.starts import SOURCES
from zuebee.contracts.admission import Amount, Budget
from zuebee.ledger.decide import decide
from zuebee.ledger.entries import HoldState, Short
from zuebee.ledger.errors import StoreFailed
from zuebee.ledger.ledger import Ledger
from zuebee.ledger.operations import Answer, Expire, Extend, Operation, Renew, Settle
from zuebee.ledger.postgres import statements as sql
from zuebee.schema.prepare import prepare

KEY = Budget("key:1/tokens/monthly", "tokens", "monthly", 1000)
USER = Budget("user:1/USD/never", "USD", "never", 50_000, 700)
TEAM = Budget("team:1/tokens/daily", "tokens", "daily", 2500)
PATHS = [(KEY,), (KEY, USER), (KEY, USER, TEAM), (TEAM,), (USER, TEAM)]


@pytest.fixture
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with database_by(request) as address:
        prepare(address)
        yield address


class Reference:
    """One ledger in memory that is told the same."""

    def __init__(self) -> None:
        self.ledger = Ledger(1)

    def do(self, operation: Operation) -> tuple[object, ...] | None:
        if isinstance(operation, Renew):
            for hold_id, tokens, cost_nano in operation.holds:
                if (hold := self.ledger.open.get(hold_id)) is not None:
                    hold.progress = Amount(max(tokens, hold.progress.tokens), max(cost_nano, hold.progress.cost_nano))
        return told(decide(self.ledger, operation, AT_S)[0])

    def balances(self) -> dict[str, tuple[int, ...]]:
        return {b.account: (b.granted, b.held, b.used, b.overdraft, b.limited) for b in self.ledger.balances()}


def random_operation(chance: random.Random, number: int) -> Operation:
    hold = f"req_{chance.randrange(max(0, number - 15), number + 1)}"
    amount = Amount(chance.randrange(0, 200), chance.randrange(0, 4000))
    match chance.randrange(12):
        case 0 | 1 | 2 | 3 | 4:
            budgets = chance.choice(PATHS)
            if chance.random() < 0.05:
                budgets = tuple(
                    Budget(b.account, b.unit, b.period, (b.limit or 0) + chance.randrange(-600, 600), b.used_before)
                    for b in budgets
                )
            return reserve(f"req_{number}" if chance.random() < 0.9 else hold, budgets, amount.tokens, amount.cost_nano)
        case 5 | 6:
            return Extend(hold, amount, Amount(amount.tokens // 2, amount.cost_nano // 2))
        case 7 | 8:
            return post(hold, amount.tokens, amount.cost_nano)
        case 9:
            return void(hold)
        case 10:
            return Expire(hold, is_ownerless=True)
        case _:
            return Renew([(hold, amount.tokens, amount.cost_nano)], 30.0)


def likely_operation(chance: random.Random, number: int, running: list[str]) -> Operation:
    """What a gateway asks for nearly always: of its own requests, within budgets that hardly ever change."""
    if len(running) < 3 or chance.random() < 0.5:
        running.append(f"req_{number}")
        budgets = chance.choice(PATHS)
        if chance.random() < 0.02:
            budgets = tuple(Budget(b.account, b.unit, b.period, (b.limit or 0) + 100, b.used_before) for b in budgets)
        return reserve(running[-1], budgets, chance.randrange(0, 40), chance.randrange(0, 600))
    if chance.random() < 0.2:
        return Extend(chance.choice(running), Amount(chance.randrange(0, 60), 700), Amount(30, 300))
    hold = running.pop(chance.randrange(len(running)))
    return post(hold, chance.randrange(0, 10), chance.randrange(0, 100)) if chance.random() < 0.8 else void(hold)


class History:
    """What two stores that take turns answer and keep, and what the reference does."""

    def __init__(self, url: str, seed: int) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self.stores = [store_on(url), store_on(url)]
        self.reference = Reference()
        self.answers: list[object] = []
        self.expected: list[object] = []
        self._chance = random.Random(seed)
        self._number = 0
        self._running: list[list[str]] = [[], []]

    def run(self, batches: int, likely: float = 0.0) -> "History":
        for batch in range(1, batches + 1):
            whose = self._chance.randrange(2)
            is_likely = self._chance.random() < likely
            operations: list[Operation] = []
            for _ in range(self._chance.choice([1, 1, 2, 5, 20])):
                self._number += 1
                operations.append(
                    likely_operation(self._chance, self._number, self._running[whose])
                    if is_likely
                    else random_operation(self._chance, self._number)
                )
            # Signs of life take effect at the end of a batch.
            operations.sort(key=lambda each: isinstance(each, Renew))
            got = self.stores[whose].apply(batch, operations)
            assert got is not None
            self.answers += map(told, got)
            self.expected += map(self.reference.do, operations)
            self.answers.append(balances_on(self._connection))
            self.expected.append(self.reference.balances())
        for store in self.stores:
            store.disconnect()
        self._connection.close()
        return self

    @property
    def remembered(self) -> float:
        """The share of the batches that memory decided."""
        return sum(store.remembered for store in self.stores) / sum(store.transactions for store in self.stores)


@pytest.mark.requirement("A106")
@pytest.mark.parametrize("likely", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.proof) for seed in range(2, 20))])
def test_the_same_history_gets_the_same_answers_and_balances_as_in_memory(url: str, seed: int, likely: float) -> None:
    history = History(url, seed).run(120, likely)
    assert history.answers == history.expected
    assert any(isinstance(each, tuple) and len(each) == 3 for each in history.answers), "some were refused"
    assert history.remembered >= likely / 4, "memory decided some of it"
    check_books(url)


# Each takes one of the terms away on which memory may decide.
UNCHECKED = {
    "what is available": ("b.granted - b.used - b.held - b.owed >= t.least", "t.least = t.least"),
    "the limit": ("b.limited = t.limited", "t.limited = t.limited"),
    "the hold": ("h.tokens = t.tokens AND h.cost_nano = t.cost", "true"),
    "all of them": ("= %s)::int", "= %s OR true)::int"),
}


def compare(url: str, seeds: Iterable[int]) -> None:
    for seed in seeds:
        empty(url)
        history = History(url, seed).run(120, 0.9)
        assert history.answers == history.expected


@pytest.mark.parametrize("name", UNCHECKED)
def test_memory_that_is_not_checked_would_be_seen(url: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    old, new = UNCHECKED[name]
    assert old in sql.CHECK_TERMS
    monkeypatch.setattr(sql, "CHECK_TERMS", sql.CHECK_TERMS.replace(old, new))
    with pytest.raises(AssertionError):
        compare(url, range(10))


def test_a_reference_that_counts_differently_would_be_seen(url: str) -> None:
    query_balances = "UPDATE ledger_balances SET held = held + 1 RETURNING id"
    history = History(url, 1).run(20)
    query(url, query_balances)
    assert balances(url) != history.reference.balances()
    with pytest.raises(AssertionError):
        check_books(url)


@BOTH_WAYS
@pytest.mark.requirement("A099")
def test_repeating_anything_changes_nothing(url: str) -> None:
    store = store_on(url, reporters=("a", "b"))
    operations = [reserve("r", (KEY, USER), 100, 500), Extend("r", Amount(150, 600), Amount(1)), post("r", 160, 700)]
    first = [store.apply(number, [each]) for number, each in enumerate(operations, 1)]
    before = balances(url), query(url, "SELECT * FROM ledger_entries"), query(url, "SELECT * FROM usage_records")
    again = [store.apply(number, [each]) for number, each in enumerate(operations, 4)]
    other = store_on(url)
    assert other.apply(1, operations) is not None
    assert other.apply(2, [void("r"), Expire("r", is_ownerless=True)]) is not None
    after = balances(url), query(url, "SELECT * FROM ledger_entries"), query(url, "SELECT * FROM usage_records")
    assert after == before
    assert first[0] is not None
    assert again[0] is not None
    assert isinstance(again[0][0], HoldState)
    assert again[0][0].state == "posted"
    assert balances(url)[KEY.account][:4] == (1000, 0, 160, 10)
    assert query(url, "SELECT event_id, reporter FROM usage_outbox ORDER BY id") == [("r", "a"), ("r", "b")]
    check_books(url)
    check_usage(url)


@BOTH_WAYS
def test_a_batch_that_was_done_is_not_done_again(url: str) -> None:
    store = store_on(url)
    operation = Settle("", None, record("r", 5))
    assert store.apply(1, [operation]) == [None]
    assert store.apply(1, [operation]) is None
    assert query(url, "SELECT count(*) FROM usage_records") == [(1,)]
    assert store.apply(2, [operation]) == [None], "which would be twice under another number"
    assert query(url, "SELECT requests, prompt_tokens FROM usage_days") == [(2, 10)]


@BOTH_WAYS
def test_what_comes_after_the_expiry_is_charged_once_and_recorded_once(url: str) -> None:
    store = store_on(url, reporters=("a",))
    stub = '["key_1","mine","me","","","","normal","m","/v1/chat/completions",true,1800000000.0]'
    begin = reserve("r", (KEY,), 100)
    begin.record = stub
    store.apply(1, [begin, Renew([("r", 30, 0)], 30.0)])
    store.apply(2, [Expire("r", is_ownerless=True)])
    assert balances(url)[KEY.account][:4] == (1000, 0, 30, 0)
    for number in (3, 4):
        store.apply(number, [post("r", 90)])
    assert balances(url)[KEY.account][:4] == (1000, 0, 90, 60)
    rows = query(url, "SELECT total_tokens, usage_source FROM usage_records ORDER BY id")
    assert rows == [(30, "partial"), (60, "provider")]
    assert query(url, "SELECT event_id FROM usage_outbox ORDER BY id") == [("r",), ("r/late",)]
    check_books(url)
    check_usage(url)


def test_texts_that_the_database_cannot_hold_are_mended(url: str) -> None:
    store = store_on(url)
    begin = reserve("r", (KEY,), 1)
    begin.record = "\0"
    strange = record("r\0", 1, model="a\0b")
    assert store.apply(1, [begin, Settle("", None, strange)]) is not None
    assert query(url, "SELECT request_id, model FROM usage_records") == [("r\ufffd", "a\ufffdb")]


# A process that reserves 7 of a budget, over and over, all at the same moment as others.
GREEDY = """
import sys
from tests.support.shared_ledger import reserve, store_on, told
from zuebee.ledger.postgres import statements as sql
from zuebee.ledger.entries import HoldState
from zuebee.ledger.errors import StoreBusy
from zuebee.contracts.admission import Budget
url, name, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
budgets = (
    Budget("key:1/tokens/never", "tokens", "never", limit), Budget("team:1/tokens/never", "tokens", "never", 10**9)
)
store = store_on(url)
print("ready", flush=True)
sys.stdin.readline()
admitted = 0
for batch in range(1, 41):
    operations = [reserve(f"{name}_{batch}_{n}", budgets[: 1 + batch % 2], 7) for n in range(5)]
    while True:
        try:
            answers = store.apply(batch, operations)
            break
        except StoreBusy:
            pass
    admitted += sum(isinstance(answer, HoldState) for answer in answers)
print(admitted)
"""


def greedy(url: str, limit: int, code: str = GREEDY) -> int:
    """How many reservations of 7 three processes get from a budget."""
    environment = {**os.environ, "PYTHONPATH": f"{SOURCES}{os.pathsep}{ROOT}"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, url, f"p{number}", str(limit)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(3)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(int(process.communicate(timeout=60)[0]) for process in processes)


@BOTH_WAYS
@pytest.mark.requirement("A106")
@pytest.mark.parametrize("limit", [1000, 2803])
def test_three_processes_at_once_get_exactly_what_there_is(url: str, limit: int) -> None:
    assert greedy(url, limit) == limit // 7
    assert balances(url)["key:1/tokens/never"][:3] == (limit, limit // 7 * 7, 0)
    check_books(url)


@contextmanager
def without_checks(url: str) -> Iterator[None]:
    """Without the guard of the table, which would see what the locks prevent."""
    guard = "ledger_balances_figures"
    definition = "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s"
    ((check,),) = query(url, definition, guard)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"ALTER TABLE ledger_balances DROP CONSTRAINT {guard}".encode())
        try:
            yield
        finally:
            connection.execute(f"ALTER TABLE ledger_balances ADD CONSTRAINT {guard} {check} NOT VALID".encode())


def test_without_the_locks_they_would_get_more(url: str) -> None:
    statements = "from zuebee.ledger import snapshot\nfrom zuebee.ledger.postgres import statements as sql\n"
    unlocked = "sql.LOCK_BALANCES = sql.LOCK_BALANCES.replace('FOR UPDATE', '')\n"
    reading = "snapshot.Memory.recall = lambda *_: None\n"  # so that there is time between the two trips
    with without_checks(url):
        assert greedy(url, 1000, statements + unlocked + reading + GREEDY) > 1000 // 7


def reserve_while_a_rival_does(url: str) -> Answer:
    """What memory gets, of 10 that are left in it, when somebody has taken them but not yet committed."""
    budget = Budget("key:1/tokens/never", "tokens", "never", 100)
    store = store_on(url)
    store.apply(1, [reserve("r", (budget,), 90)])
    with psycopg.connect(url) as rival, ThreadPoolExecutor(1) as pool:
        rival.execute("UPDATE ledger_balances SET held = held + 10")
        asked = pool.submit(store.apply, 2, [reserve("s", (budget,), 10)])
        until(lambda: query(url, WAITS_FOR_A_LOCK) == [(1,)], "it waits for the rival")
        rival.commit()
        (answer,) = asked.result() or (None,)
    return answer


def test_memory_is_checked_when_nobody_can_change_anything_any_more(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(reserve_while_a_rival_does(url), Short)
    empty(url)
    monkeypatch.setattr(sql, "LOCK_BALANCES", sql.LOCK_BALANCES.replace("FOR UPDATE", ""))
    with without_checks(url):
        assert isinstance(reserve_while_a_rival_does(url), HoldState), "without the lock it would be too early"
    empty(url)
    with pytest.raises(StoreFailed):  # and the table's own guard is the last
        reserve_while_a_rival_does(url)


def test_a_refusal_writes_nothing(url: str) -> None:
    store = store_on(url)
    store.apply(1, [reserve("r", (KEY, TEAM), 900)])
    before = query(url, "SELECT count(*) FROM ledger_entries")
    answers = store.apply(2, [reserve("s", (TEAM, KEY), 101)])
    assert answers is not None
    assert isinstance(answers[0], Short)
    assert (answers[0].account, answers[0].available) == (KEY.account, 100)
    assert query(url, "SELECT count(*) FROM ledger_entries") == before
    assert balances(url)[TEAM.account][1] == 900
