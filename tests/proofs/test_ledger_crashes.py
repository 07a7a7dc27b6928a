"""The ledger on SQLite under kill -9 and power cuts: what was acknowledged is there, once, and adds up."""

from pathlib import Path

import pytest

from tests.support.ledger_child import Desk
from tests.support.ledger_kills import Kills
from tests.support.ledger_power import lost_in_images, record
from zuebee.ledger.audit import open_holds, reading, verify
from zuebee.ledger.sqlite.store import SqliteStore

BATCHES = 120
IMAGES_EACH = 50


def _kill_often(folder: Path, kills: int) -> Kills:
    """Ten files at most, so that looking at them stays quick."""
    said = Kills(folder / "none.db")
    for number in range(10):
        one = Kills(folder / f"{number}.db", seed=number)
        for _ in range(kills // 10):
            one.kill()
            one.check()
        _nothing_stays_held(one.path)
        said.kills += one.kills
        said.tried |= {f"{number}/{name}" for name in one.tried}
        said.acknowledged |= {f"{number}/{name}" for name in one.acknowledged}
        said.stored |= {f"{number}/{name}" for name in one.stored}
    print(f"{said.kills} kills, {len(said.tried)} operations tried, {len(said.acknowledged)} acknowledged, 0 lost")
    return said


def _kill_until_enough_is_settled(kills: Kills) -> None:
    """Thirty times, and more often where a busy machine lets the writer do little."""
    while kills.kills < 30 or sum(name.startswith("s") for name in kills.acknowledged) <= 50:
        assert kills.kills < 300, "hardly anything is settled"
        kills.kill()
        kills.check()


def _nothing_stays_held(path: Path) -> None:
    """The next start resolves what the dead process held."""
    desk = Desk(SqliteStore(str(path), reporters=("hook",), currency="USD", retention_days=0))
    desk.store.close()
    with reading(str(path)) as connection:
        assert open_holds(connection, 1)[1] == 0
    with reading(str(path)) as connection:
        assert list(verify(connection)) == []
    assert all(balance.held == 0 for balance in desk.path.balances)


@pytest.mark.requirement("A098")
def test_no_kill_loses_what_was_acknowledged(tmp_path: Path) -> None:
    said = _kill_often(tmp_path, 100)
    assert said.kills == 100
    assert len(said.acknowledged) > 250


def test_no_kill_loses_a_settlement_that_was_told_when_it_was_written(tmp_path: Path) -> None:
    _kill_until_enough_is_settled(Kills(tmp_path / "z.db", mode="service"))


@pytest.mark.requirement("A098")
def test_no_kill_loses_a_settlement_that_stands_in_the_journal(tmp_path: Path) -> None:
    kills = Kills(tmp_path / "z.db", mode="journal")
    _kill_until_enough_is_settled(kills)
    with reading(str(kills.path)) as connection:
        expired = connection.exec_driver_sql("SELECT count(*) FROM ledger_entries WHERE kind = 'expire'").scalar_one()
        resolved = connection.exec_driver_sql("SELECT count(*) FROM ledger_entries WHERE kind = 'post'").scalar_one()
    print(f"{kills.kills} kills, {resolved} settled, {expired} expired, 0 lost")


@pytest.mark.proof
def test_a_thousand_kills_of_a_process_with_a_journal(tmp_path: Path) -> None:
    said = 0
    for number in range(10):
        kills = Kills(tmp_path / f"{number}.db", mode="journal", seed=number)
        for _ in range(100):
            kills.kill()
            kills.check()
        said += len(kills.acknowledged)
    print(f"1,000 kills, {said} operations acknowledged, 0 lost")


@pytest.mark.proof
def test_a_thousand_kills(tmp_path: Path) -> None:
    assert _kill_often(tmp_path, 1_000).kills == 1_000


@pytest.mark.parametrize("mode", ["early", "lazy", "hasty", "deaf"])
def test_a_store_that_acknowledges_too_early_is_seen(tmp_path: Path, mode: str) -> None:
    kills = Kills(tmp_path / "z.db", mode=mode)
    while not kills.lost and kills.kills < 300:
        kills.kill()
        kills.look()
    assert kills.lost


def _cut_power(folder: Path, images: int, *, flushes: bool) -> list[int]:
    """How many acknowledged operations each image has lost."""
    losses: list[int] = []
    for seed in range(images // IMAGES_EACH):
        path = folder / f"{flushes}-{seed}.db"
        events = record(path, flushes=flushes, batches=BATCHES, seed=seed)
        losses += lost_in_images(events, path, folder, images=IMAGES_EACH, seed=seed)
    images_with_loss = sum(lost > 0 for lost in losses)
    how = "flushed" if flushes else "not flushed"
    print(f"{how}: {len(losses)} images, {images_with_loss} lost acknowledged operations")
    return losses


@pytest.mark.requirement("A098")
def test_no_power_cut_loses_what_was_acknowledged(tmp_path: Path) -> None:
    losses = _cut_power(tmp_path, 200, flushes=True)
    assert len(losses) == 200
    assert not any(losses)


def test_a_store_that_does_not_flush_loses_in_a_power_cut(tmp_path: Path) -> None:
    assert any(_cut_power(tmp_path, 100, flushes=False))


@pytest.mark.proof
def test_two_thousand_power_cuts(tmp_path: Path) -> None:
    losses = _cut_power(tmp_path, 2_000, flushes=True)
    assert len(losses) == 2_000
    assert not any(losses)
    assert any(_cut_power(tmp_path, 2_000, flushes=False))
