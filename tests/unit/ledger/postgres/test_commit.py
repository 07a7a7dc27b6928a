import asyncio
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.fake_store import FakeStore
from tests.support.shared_ledger import post, record, reserve
from zuebee.contracts.admission import Budget
from zuebee.ledger.entries import HoldState, Short
from zuebee.ledger.errors import StoreBusy
from zuebee.ledger.operations import Expire, Renew, Settle
from zuebee.ledger.postgres.commit import RETRIES, SharedCommitter, Waits
from zuebee.ledger.postgres.connection import StoreLost
from zuebee.ledger.postgres.spool import Spool

BUDGETS = (Budget("key:1/tokens/never", "tokens", "never", 100),)


QUICK = Waits(tick_s=0.01, spool_after_s=0.05, retry_s=0.001, reconnect_s=(0.001, 0.01), close_s=0.3)


@pytest.fixture
def store() -> FakeStore:
    return FakeStore()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(str(tmp_path / "spool.jsonl"))


@pytest.fixture
async def committer(store: FakeStore, spool: Spool) -> AsyncIterator[SharedCommitter]:
    made = SharedCommitter(store, spool, timeout_s=0.2, waits=QUICK)  # type: ignore[arg-type]
    yield made
    store.go.set()
    await made.aclose()


async def eventually(check: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + 5
    while not check():
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.005)


async def test_what_comes_in_one_moment_is_one_batch(committer: SharedCommitter, store: FakeStore) -> None:
    answers = await asyncio.gather(*(committer.ask(reserve(f"r_{n}", BUDGETS, 30)) for n in range(4)))
    assert [type(answer) for answer in answers] == [HoldState, HoldState, HoldState, Short]
    assert [len(batch) for batch in store.batches] == [4]


async def test_what_comes_while_a_batch_is_written_is_the_next(committer: SharedCommitter, store: FakeStore) -> None:
    store.go.clear()
    first = asyncio.gather(committer.ask(reserve("a", BUDGETS, 1)))
    await asyncio.sleep(0.01)
    rest = asyncio.gather(*(committer.ask(reserve(f"r_{n}", BUDGETS, 1)) for n in range(10)))
    await asyncio.sleep(0.01)
    store.go.set()
    await first
    await rest
    assert [len(batch) for batch in store.batches] == [1, 10]
    assert committer.commits == 2


async def test_a_lost_connection_is_mended_unseen(committer: SharedCommitter, store: FakeStore) -> None:
    store.failures = [StoreLost("gone")]
    assert isinstance(await committer.ask(reserve("r", BUDGETS, 1)), HoldState)
    assert not committer.down


async def test_the_answers_of_a_commit_that_was_not_seen_are_given(
    committer: SharedCommitter, store: FakeStore
) -> None:
    store.late_failures = [StoreLost("gone")]
    settled = committer.settle(Settle("", None, record("free", 1)))
    held = await committer.ask(reserve("r", BUDGETS, 1))
    assert isinstance(held, HoldState)
    assert settled is not None
    await settled
    assert store.records == ["free"]


async def test_a_conflict_is_tried_again_so_often(committer: SharedCommitter, store: FakeStore) -> None:
    store.failures = [StoreBusy("deadlock")] * (RETRIES - 1)
    assert isinstance(await committer.ask(reserve("r", BUDGETS, 1)), HoldState)
    store.failures = [StoreBusy("deadlock")] * RETRIES
    with pytest.raises(StoreBusy):
        await committer.ask(reserve("s", BUDGETS, 1))
    await eventually(lambda: not committer.down)


async def test_in_an_outage_settlements_are_kept_and_reservations_refused(
    committer: SharedCommitter, store: FakeStore, spool: Spool
) -> None:
    await committer.ask(reserve("r", BUDGETS, 10))
    store.failures = [StoreLost("gone")] * 30
    settled = committer.settle(post("r", 4))
    assert settled is not None
    await settled
    assert [line.settle for line in spool.read()] == [post("r", 4)]
    with pytest.raises(StoreBusy):
        await committer.ask(reserve("s", BUDGETS, 10))
    assert committer.down
    await eventually(lambda: not store.failures and not committer.down)
    await eventually(lambda: spool.read() == [])
    assert store.settled() == ["r"]
    assert "s" not in store.ledger.open


async def test_a_slow_store_lets_nobody_wait_for_long(
    committer: SharedCommitter, store: FakeStore, spool: Spool
) -> None:
    await committer.ask(reserve("r", BUDGETS, 10))
    store.go.clear()
    begun_s = time.monotonic()
    settled = committer.settle(post("r", 4))
    assert settled is not None
    with pytest.raises(StoreBusy):
        await committer.ask(reserve("s", BUDGETS, 10))
    await settled
    assert time.monotonic() - begun_s < 1
    assert committer.stuck_s > 0.1
    store.go.set()
    # It was reserved all the same, for nobody: it is let go of.
    await eventually(lambda: store.settled() == ["r", "s"])
    assert store.ledger.open == {}


async def test_a_reservation_that_nobody_waits_for_is_let_go(committer: SharedCommitter, store: FakeStore) -> None:
    store.go.clear()
    asking = asyncio.gather(committer.ask(reserve("r", BUDGETS, 10)))
    await asyncio.sleep(0.01)
    asking.cancel()
    await asyncio.sleep(0.01)
    store.go.set()
    await eventually(lambda: store.settled() == ["r"])
    assert store.ledger.open == {}


async def test_a_sign_of_life_replaces_the_one_before(committer: SharedCommitter, store: FakeStore) -> None:
    store.go.clear()
    committer.settle(post("r", 1))
    await asyncio.sleep(0.01)
    for tokens in range(5):
        committer.renew([("r", tokens, 0)], 30.0)
    store.go.set()
    await eventually(lambda: len(store.batches) == 2)
    [renewal] = store.batches[1]
    assert isinstance(renewal, Renew)
    assert (renewal.holds, renewal.hold_s) == ([("r", 4, 0)], 30.0)


async def test_what_has_expired_is_resolved(committer: SharedCommitter, store: FakeStore) -> None:
    await committer.ask(reserve("r", BUDGETS, 10))
    store.expired = [Expire("r", is_ownerless=True)]
    committer.sweep()
    await eventually(lambda: store.ledger.open == {})
    committer.sweep()
    await eventually(lambda: committer.balances and committer.balances[0].held == 0)


@pytest.mark.slow
async def test_a_connection_that_says_nothing_is_cut(committer: SharedCommitter, store: FakeStore) -> None:
    store.go.clear()
    committer.sweep()
    committer.settle(post("r", 1))
    await eventually(lambda: store.settled() == ["r"])
    assert store.events == ["cut"]


async def test_what_cannot_be_done_does_not_stop_the_rest(committer: SharedCommitter, store: FakeStore) -> None:
    store.refused = "bad"
    waiting = [committer.settle(post(hold, 1)) for hold in ("a", "bad", "b")]
    for each in waiting:
        assert each is not None
        await each
    assert store.settled() == ["a", "b"]
    assert committer.failed == 1


async def test_records_beyond_the_bound_are_dropped_and_settlements_never(store: FakeStore, spool: Spool) -> None:
    committer = SharedCommitter(store, spool, timeout_s=0.2, waits=Waits(max_waiting=0))  # type: ignore[arg-type]
    assert committer.settle(Settle("", None, record("free", 1))) is None
    assert committer.dropped == 1
    assert committer.settle(post("r", 1)) is not None
    await committer.aclose()


async def test_the_end_waits_for_what_is_under_way(committer: SharedCommitter, store: FakeStore, spool: Spool) -> None:
    committer.settle(post("r", 1))
    await committer.aclose()
    assert store.settled() == ["r"]
    assert store.events == ["end", "disconnect"]


async def test_the_end_leaves_the_rest_in_the_file(
    committer: SharedCommitter, store: FakeStore, tmp_path: Path
) -> None:
    store.failures = [StoreLost("gone")] * 10_000
    committer.settle(post("r", 1))
    begun_s = time.monotonic()
    await committer.aclose()
    assert time.monotonic() - begun_s < 2
    assert "end" not in store.events
    again = Spool(str(tmp_path / "spool.jsonl"))
    assert [line.settle.hold for line in again.read()] == ["r"]


async def test_a_full_disk_leaves_them_in_memory(
    committer: SharedCommitter, store: FakeStore, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(lines: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(spool, "append", full)
    store.go.clear()
    settled = committer.settle(post("r", 1))
    assert settled is not None
    await settled
    store.go.set()
    await eventually(lambda: store.settled() == ["r"])
