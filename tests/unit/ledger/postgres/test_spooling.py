import asyncio
import threading
from pathlib import Path

import pytest

from tests.support.fakes import until
from tests.support.shared_ledger import post
from zuebee.ledger.postgres.spool import Pending, Spool, Spooling, SpoolLine


def waiting(*names: str) -> list[tuple[int, Pending]]:
    loop = asyncio.get_running_loop()
    return [(number, Pending(post(name, 1), loop.create_future())) for number, name in enumerate(names, 1)]


def kept_in(path: Path) -> list[str]:
    spool = Spool(str(path))
    found = [line.settle.hold for line in spool.read()]
    spool.close()
    return found


async def test_the_last_call_waits_for_one_under_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(str(tmp_path / "s"))
    go, append = threading.Event(), spool.append

    def slowly(lines: list[SpoolLine]) -> None:
        assert go.wait(5)
        append(lines)

    monkeypatch.setattr(spool, "append", slowly)
    spooling = Spooling(spool, lambda kept: None)
    some = waiting("a", "b", "c")
    spooling.keep(1, some[:1])
    last = asyncio.ensure_future(spooling.last(1, some))
    await asyncio.sleep(0.01)
    go.set()
    await last
    await spooling.aclose()
    assert kept_in(tmp_path / "s") == ["a", "b", "c"]


async def test_who_waits_goes_on_when_it_is_on_the_disk_and_the_file_is_emptied_later(tmp_path: Path) -> None:
    told: list[bool] = []
    spooling = Spooling(Spool(str(tmp_path / "s")), told.append)
    some = waiting("a")
    spooling.keep(1, some)
    assert not spooling.has_lines, "not while they are written"
    future = some[0][1].future
    assert future is not None
    await asyncio.wait_for(future, 5)
    assert (told, some[0][1].kept, spooling.has_lines) == ([True], True, True)
    spooling.keep(1, some)
    spooling.empty()
    assert not spooling.has_lines
    await spooling.aclose()
    assert kept_in(tmp_path / "s") == []


async def test_a_disk_that_is_full_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(lines: object) -> None:
        raise OSError("no space")

    spool, told = Spool(str(tmp_path / "s")), []  # type: tuple[Spool, list[bool]]
    monkeypatch.setattr(spool, "append", full)
    spooling = Spooling(spool, told.append)
    for times in (1, 2):
        spooling.keep(1, waiting("a"))
        await until(lambda times=times: len(told) == times)  # type: ignore[misc]
    assert told == [False, False]
    assert len(caplog.records) == 1
    await spooling.aclose()
