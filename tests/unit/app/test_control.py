import asyncio
import socket
from pathlib import Path

import pytest

from zuebee.app.control import (
    MAX_PATH_BYTES,
    ControlDoor,
    NoAnswer,
    NobodyThere,
    Order,
    Report,
    ask_server,
    control_path,
)
from zuebee.config.settings_billing import StoreSettings

ORDER = Order("reload", "/etc/zuebee.yaml")


async def ask(path: str, timeout_s: float = 5.0) -> Report:
    return await asyncio.to_thread(ask_server, path, ORDER, timeout_s)


async def obey(order: Order) -> Report:
    return Report(order.config, 7, refused=order.do)


async def test_an_order_and_its_report(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "z.control")
    door = ControlDoor(obey)
    await door.open(path)
    assert await ask(path) == Report("/etc/zuebee.yaml", 7, refused="reload")
    await door.aclose()
    with pytest.raises(NobodyThere):
        await ask(path)


async def test_what_a_killed_process_left_is_in_nobodys_way(tmp_path: Path) -> None:
    path = str(tmp_path / "z.control")
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(path)
    door = ControlDoor(obey)
    await door.open(path)
    assert (await ask(path)).pid == 7
    await door.aclose()


async def test_a_file_of_somebody_else_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "z.control"
    path.write_text("notes")
    door = ControlDoor(obey)
    await door.open(str(path))
    await door.aclose()
    assert path.read_text() == "notes"
    assert "only SIGHUP can" in caplog.text


async def test_a_server_that_takes_too_long_or_fails(tmp_path: Path) -> None:
    async def never(order: Order) -> Report:
        await asyncio.sleep(60)
        raise AssertionError

    async def fails(order: Order) -> Report:
        raise OSError("no")

    for obeys, said in ((never, "within 0.1 s"), (fails, "no answer")):
        path = str(tmp_path / f"{obeys.__name__}.control")
        door = ControlDoor(obeys)
        await door.open(path)
        with pytest.raises(NoAnswer, match=said):
            await ask(path, 0.1 if obeys is never else 5.0)
        await door.aclose()


async def test_a_place_where_no_socket_can_be_is_no_reason_not_to_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    door = ControlDoor(obey)
    await door.open(str(tmp_path / ("x" * MAX_PATH_BYTES)))
    (tmp_path / "file").write_text("")
    await door.open(str(tmp_path / "file" / "z.control"))
    assert caplog.text.count("only SIGHUP can") == 2
    await door.aclose()


def test_it_is_beside_what_only_one_server_uses() -> None:
    assert control_path(StoreSettings(path="/a/z.db")) == "/a/z.db.control"
    assert control_path(StoreSettings(url="postgresql://h/d", spool_path="/a/s.jsonl")) == "/a/s.jsonl.control"
