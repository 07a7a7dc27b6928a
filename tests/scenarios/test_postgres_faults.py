"""The shared ledger when its database fails: nothing is lost, nothing is done twice, nobody waits for ever."""

import asyncio
import itertools
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.databases import postgres_database
from tests.support.processes import until
from tests.support.shared_ledger import (
    WAITS_FOR_A_LOCK,
    balances,
    check_books,
    check_usage,
    post,
    query,
    record,
    reserve,
    store_on,
    void,
)
from tests.support.tcp_proxy import DOWN, UP, TcpProxy, proxy_before
from zuebee.contracts.admission import Amount, Budget
from zuebee.ledger.entries import HoldState
from zuebee.ledger.errors import StoreBusy
from zuebee.ledger.operations import Expire, Extend, Operation, Renew, Settle
from zuebee.ledger.postgres.commit import SharedCommitter
from zuebee.ledger.postgres.connection import StoreLost
from zuebee.ledger.postgres.spool import Spool
from zuebee.ledger.usage_rows import COLUMNS
from zuebee.lib import clock
from zuebee.schema.prepare import prepare

BUDGET = Budget("key:1/tokens/never", "tokens", "never", 10**9)
OTHER = Budget("key:2/tokens/never", "tokens", "never", 10**9)


@pytest.fixture
def url() -> Iterator[str]:
    with postgres_database() as address:
        prepare(address)
        yield address


@pytest.fixture
def way(url: str) -> Iterator[tuple[TcpProxy, str]]:
    with proxy_before(url) as proxy_and_url:
        yield proxy_and_url


def work(number: int) -> list[Operation]:
    """A batch in which everything could happen twice."""
    return [reserve(f"new_{number}", (BUDGET,), 5), post(f"old_{number}", 7), Settle("", None, record("free", 1))]


def cut_at(places: list[tuple[str, int]], proxy: TcpProxy, address: str, *, same_batch: bool) -> int:
    """Do one batch for each place and cut the connection there; once more after it. How often the cut was met."""
    met = 0
    for number, (direction, count) in enumerate(places):
        store = store_on(address)
        store.apply(1, [reserve(f"old_{number}", (BUDGET,), 10)])
        proxy.cut_after(count, direction)
        try:
            store.apply(2, work(number))
        except StoreLost:
            met += 1
            store.connect()
            store.apply(2 if same_batch else 3, work(number))
        proxy.pass_all()
        store.disconnect()
    return met


def places_to_cut(proxy: TcpProxy, address: str) -> list[tuple[str, int]]:
    """Some on the whole way, and every byte of the end, where the transaction is committed."""
    store = store_on(address)
    store.apply(1, [reserve("old_probe", (BUDGET,), 10)])
    proxy.pass_all()
    store.apply(2, [reserve("new_probe", (BUDGET,), 5), post("old_probe", 7)])
    until(lambda: proxy.bytes_passed[DOWN], "an answer")
    up, down = proxy.bytes_passed[UP], proxy.bytes_passed[DOWN]
    store.disconnect()
    return [
        *((UP, count) for count in [*range(1, up, 211), *range(up - 40, up, 1)]),
        *((DOWN, count) for count in [*range(1, down, 97), *range(down - 40, down, 1)]),
    ]


def test_a_connection_cut_anywhere_leaves_each_operation_done_once(url: str, way: tuple[TcpProxy, str]) -> None:
    proxy, address = way
    places = places_to_cut(proxy, address)
    met = cut_at(places, proxy, address, same_batch=True)
    assert met > 80
    assert query(url, "SELECT count(*) FROM usage_records WHERE request_id = 'free'") == [(len(places),)]
    posted = query(url, "SELECT count(*), count(DISTINCT hold) FROM ledger_entries WHERE kind = 'post'")
    assert posted == [(len(places) + 1, len(places) + 1)]
    assert balances(url)[BUDGET.account][1:3] == (5 * (len(places) + 1), 7 * (len(places) + 1))
    check_books(url)
    check_usage(url)


def test_without_the_number_of_the_batch_something_would_be_done_twice(url: str, way: tuple[TcpProxy, str]) -> None:
    proxy, address = way
    places = [place for place in places_to_cut(proxy, address) if place[0] == DOWN][-30:]
    cut_at(places, proxy, address, same_batch=False)
    assert query(url, "SELECT count(*) FROM usage_records WHERE request_id = 'free'")[0][0] > len(places)


IN_VAIN_AND_TWO = range(3, 8)  # a server may speak up before it has heard all


class Trips:
    """How many round trips a batch takes, and whether it was done."""

    def __init__(self, proxy: TcpProxy, address: str) -> None:
        self.store = store_on(address)
        self._proxy = proxy
        self._batch = 0

    def of(self, *operations: Operation) -> int:
        self._batch += 1
        before = self._proxy.trips
        answers = self.store.apply(self._batch, list(operations))
        assert answers is not None
        return self._proxy.trips - before


@pytest.mark.alone
@pytest.mark.requirement("A106")
def test_a_batch_costs_one_round_trip_however_large(url: str, way: tuple[TcpProxy, str]) -> None:
    trips = Trips(*way)
    both = (BUDGET, OTHER)
    assert trips.of(reserve("first", both, 1)) == 4, "two to make the accounts, two as nothing is known of them"
    assert trips.of(*(reserve(f"r_{n}", both, 1) for n in range(200))) == 1
    assert trips.of(*(post(f"r_{n}", 1) for n in range(200))) == 1
    assert trips.of(reserve("all", both, 1), Extend("all", Amount(9), Amount(9)), Renew([("all", 3, 0)], 30.0)) == 1
    assert trips.of(post("all", 20), void("first"), Settle("", None, record("free", 1))) == 1
    assert balances(url)[BUDGET.account][1:4] == (0, 220, 11)
    check_books(url)
    check_usage(url)


@pytest.mark.alone
def test_two_more_where_memory_is_not_enough(url: str, way: tuple[TcpProxy, str]) -> None:
    small = (Budget("key:3/tokens/never", "tokens", "never", 100),)
    trips = Trips(*way)
    rival = store_on(url)
    trips.of(reserve("a", small, 10))
    assert trips.of(reserve("b", small, 10)) == 1
    rival.apply(1, [reserve("c", small, 60)])
    assert trips.of(reserve("d", small, 1)) == 1, "somebody else's changes do no harm while there is enough"
    rival.apply(2, [post("c", 70)])
    assert trips.of(reserve("e", small, 10)) in IN_VAIN_AND_TWO, "memory said yes, the database no; then it was read"
    assert trips.of(reserve("f", small, 10)) == 2, "a refusal is never given by memory"
    rival.apply(3, [Expire("a", is_ownerless=True)])
    assert trips.of(post("a", 10)) in IN_VAIN_AND_TWO, "the hold is not what it was"
    assert trips.of(reserve("b", small, 10), post("d", 10)) == 1
    assert balances(url)[small[0].account] == (100, 10, 90, 29, 100)
    check_books(url)


@pytest.mark.alone
def test_a_lost_connection_and_a_clock_that_jumps_are_no_ground_for_memory(
    url: str, way: tuple[TcpProxy, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = Trips(*way)
    trips.of(reserve("a", (BUDGET,), 1))
    assert trips.of(reserve("b", (BUDGET,), 1)) == 1
    now_s = clock.monotonic_s()
    monkeypatch.setattr(clock, "monotonic_s", lambda: now_s - 3600)  # as after a sleep of the machine
    assert trips.of(reserve("c", (BUDGET,), 1)) in IN_VAIN_AND_TWO
    assert trips.of(reserve("d", (BUDGET,), 1)) == 1
    trips.store.resume()
    assert trips.of(reserve("e", (BUDGET,), 1)) == 2
    lives = "SELECT count(*) FROM ledger_holds WHERE expires_at_s > extract(epoch FROM now()) + 25"
    assert query(url, lives) == [(5,)], "all live as long as they should"


def test_a_deadlock_is_tried_again(url: str, tmp_path: Path) -> None:
    store = store_on(url)
    store.apply(1, [reserve("first", (BUDGET, OTHER), 1)])
    lock = "SELECT 1 FROM ledger_balances WHERE account = %s FOR UPDATE"
    with psycopg.connect(url) as rival:
        rival.execute(lock, (OTHER.account,))
        failures: list[BaseException] = []

        def apply() -> None:
            try:
                store.apply(2, [reserve("second", (BUDGET, OTHER), 1)])
            except BaseException as error:
                failures.append(error)

        waiting = threading.Thread(target=apply)
        waiting.start()
        until(lambda: query(url, WAITS_FOR_A_LOCK) == [(1,)], "it waits for the rival")
        rival.execute(lock, (BUDGET.account,))  # until the database ends one of the two
        rival.rollback()
        waiting.join()
    assert [str(failure) for failure in failures] == ["DeadlockDetected"]
    assert isinstance(failures[0], StoreBusy)
    assert store.apply(2, [reserve("second", (BUDGET, OTHER), 1)]) is not None
    assert balances(url)[OTHER.account][1] == 2


class Clients:
    """Requests that reserve, run for a moment, and settle."""

    def __init__(self, committer: SharedCommitter) -> None:
        self.committer = committer
        self.posted = 0
        self.refused = 0
        self._numbers = itertools.count()

    async def run(self, name: str, requests: int) -> None:
        for _ in range(requests):
            hold = f"{name}_{next(self._numbers)}"
            try:
                held = await self.committer.ask(reserve(hold, (BUDGET, OTHER), 10))
            except StoreBusy:
                self.refused += 1
                await asyncio.sleep(0.02)
                continue
            assert isinstance(held, HoldState)
            await asyncio.sleep(random.random() * 0.01)
            self.posted += 1
            settled = self.committer.settle(post(hold, 6))
            assert settled is not None
            await settled

    async def run_all(self, clients: int, requests: int) -> None:
        await asyncio.gather(*(self.run(f"c{number}", requests) for number in range(clients)))


def check_all_settled(url: str, clients: Clients) -> None:
    for account in (BUDGET.account, OTHER.account):
        assert balances(url)[account][1:4] == (0, 6 * clients.posted, 0)
    assert query(url, "SELECT count(*) FROM usage_records WHERE prompt_tokens > 0") == [(clients.posted,)]
    check_books(url)
    check_usage(url)


async def test_connections_that_are_ended_under_load_lose_nothing(url: str, tmp_path: Path) -> None:
    committer = SharedCommitter(store_on(url), Spool(str(tmp_path / "spool.jsonl")), timeout_s=2)
    clients = Clients(committer)
    ended = 0
    stop = threading.Event()

    def end_connections() -> None:
        nonlocal ended
        victims = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        while ended < 50 and not stop.wait(0.03):
            ended += len(query(url, f"{victims} WHERE datname = current_database() AND application_name = 'zuebee'"))

    threading.Thread(target=end_connections).start()
    while ended < 10 or not clients.posted:
        await clients.run_all(20, 20)
    stop.set()
    await committer.aclose()
    check_all_settled(url, clients)
    assert (tmp_path / "spool.jsonl").read_bytes() == b""


@pytest.mark.alone
@pytest.mark.parametrize("how", ["refused", "silent"])
async def test_an_outage_refuses_in_time_and_loses_nothing(
    url: str, way: tuple[TcpProxy, str], tmp_path: Path, how: str
) -> None:
    proxy, address = way
    spool = tmp_path / "spool.jsonl"
    committer = SharedCommitter(store_on(address, timeout_s=1), Spool(str(spool)), timeout_s=1)
    held = [await committer.ask(reserve(f"r_{number}", (BUDGET, OTHER), 10)) for number in range(30)]
    assert all(isinstance(each, HoldState) for each in held)
    if how == "silent":
        proxy.silent = True
    else:
        proxy.refuse()
    settled = [committer.settle(post(f"r_{number}", 6)) for number in range(30)]
    begun_s = time.monotonic()
    with pytest.raises(StoreBusy):
        await committer.ask(reserve("refused", (BUDGET, OTHER), 10))
    assert time.monotonic() - begun_s < 3
    for each in settled:
        assert each is not None
        await each
    assert spool.read_bytes().count(b"\n") == 30
    proxy.heal()
    deadline_s = time.monotonic() + 10
    while balances(url)[BUDGET.account][1:3] != (0, 180):
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.05)
    assert isinstance(await committer.ask(reserve("again", (BUDGET, OTHER), 10)), HoldState)
    await committer.aclose()
    assert spool.read_bytes() == b""
    assert query(url, "SELECT count(*) FROM usage_records") == [(30,)]
    assert query(url, "SELECT hold FROM ledger_holds") == [("again",)]
    check_books(url)
    check_usage(url)


def test_the_clock_that_counts_is_that_of_the_database(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_on(url)
    monkeypatch.setattr("zuebee.lib.clock.wall_s", lambda: 0.0)
    store.apply(1, [reserve("short", (BUDGET,), 1, hold_s=0.0), reserve("long", (BUDGET,), 1, hold_s=60.0)])
    assert [each.hold for each in store.sweep()] == ["short"]


def test_one_operation_that_cannot_be_done_does_not_stop_the_others(url: str, tmp_path: Path) -> None:
    async def run() -> SharedCommitter:
        committer = SharedCommitter(store_on(url), Spool(str(tmp_path / "spool.jsonl")), timeout_s=2)
        impossible = record("impossible", 1)
        place = COLUMNS.index("status")
        impossible.row = (*impossible.row[:place], "not a number", *impossible.row[place + 1 :])
        waiting = [committer.settle(Settle("", None, each)) for each in (record("a", 1), impossible, record("b", 1))]
        for each in waiting:
            assert each is not None
            await each
        await committer.aclose()
        return committer

    committer = asyncio.run(run())
    assert committer.failed == 1
    assert query(url, "SELECT request_id FROM usage_records ORDER BY id") == [("a",), ("b",)]


def test_a_server_that_forgets_commits_is_told_not_to(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', current_database()); END $$"
        )
    store = store_on(url)
    assert store.connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    store.disconnect()


def alone_after_a_failure(address: str, url: str, proxy: TcpProxy, folder: Path, cut: int) -> SharedCommitter:
    """Three records without a hold, one of which is impossible: tried alone, and the connection is cut meanwhile."""

    async def run() -> SharedCommitter:
        store = store_on(address)
        committer = SharedCommitter(store, Spool(str(folder / "spool.jsonl")), timeout_s=5)
        impossible = record("impossible", 1)
        place = COLUMNS.index("status")
        impossible.row = (*impossible.row[:place], "not a number", *impossible.row[place + 1 :])
        apply, cuts = store.apply, [cut]

        def watched(batch: int, operations: list[Operation], owner: int = 0) -> object:
            names = [each.record.event_id for each in operations if isinstance(each, Settle) and each.record]
            if names == ["a"] and cuts:
                proxy.cut_after(cuts.pop(), DOWN)
            return apply(batch, operations, owner)

        store.apply = watched  # type: ignore[method-assign, assignment]
        for each in (impossible, record("a", 1), record("b", 1)):
            committer.settle(Settle("", None, each))
        await committer.aclose()
        return committer

    return asyncio.run(run())


def answer_bytes(url: str) -> int:
    """How long the answer to a record alone is."""
    with proxy_before(url) as (proxy, address):
        store = store_on(address)
        proxy.pass_all()
        store.apply(1, [Settle("", None, record("probe", 1))])
        until(lambda: proxy.bytes_passed[DOWN], "an answer")
        store.disconnect()
        return proxy.bytes_passed[DOWN]


def test_what_is_done_alone_is_done_once_wherever_the_connection_is_cut(
    url: str, way: tuple[TcpProxy, str], tmp_path: Path
) -> None:
    proxy, address = way
    whole = answer_bytes(url)
    cuts = [*range(1, whole, 97), *range(whole - 30, whole, 3)]
    for number, count in enumerate(cuts):
        committer = alone_after_a_failure(address, url, proxy, tmp_path / str(number), count)
        proxy.pass_all()
        assert committer.failed == 1
    counted = query(url, "SELECT request_id, count(*) FROM usage_records GROUP BY 1 ORDER BY 1")
    assert counted == [("a", len(cuts)), ("b", len(cuts)), ("probe", 1)]
    assert query(url, "SELECT sum(requests)::int8 FROM usage_days") == [(2 * len(cuts) + 1,)]
    check_usage(url)


def test_without_a_number_of_its_own_it_would_be_done_twice(
    url: str, way: tuple[TcpProxy, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, address = way
    alone = SharedCommitter._alone
    monkeypatch.setattr(SharedCommitter, "_alone", lambda self, number, *rest: alone(self, 0, *rest))
    whole = answer_bytes(url)
    for count in range(whole - 30, whole, 3):
        alone_after_a_failure(address, url, proxy, tmp_path / str(count), count)
        proxy.pass_all()
    [(times,)] = query(url, "SELECT count(*) FROM usage_records WHERE request_id = 'a'")
    assert times > len(range(whole - 30, whole, 3))
