import pytest

from tests.support.fakes import VirtualTime
from zuebee.app.watches import SAY_AGAIN_S, StoreWatch
from zuebee.lib.sql.database import DatabaseError


async def test_it_says_what_changes_and_now_and_then_what_does_not(
    virtual_time: VirtualTime, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    broken, ledger = "", ""

    async def ask() -> bool:
        if broken:
            raise DatabaseError(broken)
        return True

    watch = StoreWatch(ask, lambda: ledger)
    await watch.look()
    assert (watch.trouble, watch.has_keys, caplog.records) == ("", True, [])
    broken = "no answer in time"
    for _ in range(int(SAY_AGAIN_S)):
        await watch.look()
        virtual_time.advance(1.0)
    assert (watch.trouble, watch.has_keys) == ("no answer in time", True)
    assert len(caplog.records) == 1
    await watch.look()
    assert "still cannot be used, after 60 s" in caplog.records[-1].getMessage()
    broken, ledger = "", "database or disk is full"
    await watch.look()
    assert watch.trouble == "database or disk is full"
    assert len(caplog.records) == 2
    ledger = ""
    await watch.look()
    assert "can be used again" in caplog.records[-1].getMessage()
