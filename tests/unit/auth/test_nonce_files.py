import os
from pathlib import Path

import pytest

from zuebee.auth.nonces import LIFE_S, KeptNonces, MemoryNonces
from zuebee.lib import clock


class Time:
    """Both clocks: that of the wall, and the one that begins anew with the machine."""

    def __init__(self) -> None:
        self.now_s = 1_800_000_000.0
        self.booted_s = self.now_s - 5000

    def boot(self) -> None:
        self.booted_s = self.now_s


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    found = Time()
    monkeypatch.setattr(clock, "wall_s", lambda: found.now_s)
    monkeypatch.setattr(clock, "monotonic_s", lambda: found.now_s - found.booted_s)
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "zuebee-nonces"


@pytest.mark.requirement("A055")
async def test_a_nonce_that_was_used_before_a_restart_is_used(path: Path, time: Time) -> None:
    assert not await KeptNonces(path).seen("acme", "n1", 500)
    time.now_s += 499
    time.boot()
    for _ in range(2):
        nonces = KeptNonces(path)
        assert await nonces.seen("acme", "n1", 500)
        assert not await nonces.seen("acme", f"n{time.now_s}", 5)
        time.now_s += 0.5
    assert not await nonces.seen("other", "n1", 500)
    assert not await MemoryNonces().seen("acme", "n1", 500), "memory alone would not know it"


@pytest.mark.slow
@pytest.mark.parametrize("restarts_every", [7, 10_000])
async def test_the_files_forget_what_is_too_old_and_nothing_else(path: Path, time: Time, restarts_every: int) -> None:
    nonces, largest, known = KeptNonces(path), 0, dict.fromkeys(path.parent.iterdir(), 0)
    for number in range(400):
        assert not await nonces.seen("acme", f"nonce-{number:05}", 601)
        for each, size in known.items():
            known[each] = each.stat().st_size
            if known[each] != size:
                os.utime(each, (time.now_s, time.now_s))  # as it is with a clock that is not played
        largest = max(largest, sum(known.values()))
        time.now_s += 10
        again = KeptNonces(path)
        for past in range(max(0, number - 59), number + 1):
            assert await again.seen("acme", f"nonce-{past:05}", 0.001), (number, past)
        if number % restarts_every == 0:
            nonces = KeptNonces(path)
    assert largest < 3 * LIFE_S / 10 * len("1800000000.000 acme nonce-00000\n")


async def test_half_a_line_was_confirmed_to_nobody(path: Path) -> None:
    await KeptNonces(path).seen("acme", "n1", 500)
    (file,) = (each for each in path.parent.iterdir() if each.stat().st_size)
    file.write_bytes(file.read_bytes() + b"18000")
    assert not await KeptNonces(path).seen("acme", "n2", 500)
    nonces = KeptNonces(path)
    assert [await nonces.seen("acme", name, 500) for name in ("n1", "n2")] == [True, True]


async def test_what_cannot_be_written_lets_nobody_in(path: Path) -> None:
    nonces = KeptNonces(path)
    for each in path.parent.iterdir():
        each.unlink()
    path.parent.rmdir()
    with pytest.raises(OSError, match="No such file"):
        await nonces.seen("acme", "n1", 500)
    path.parent.write_text("no folder")
    with pytest.raises(OSError, match="File exists"):
        KeptNonces(path)


def test_a_file_of_something_else_is_not_written_to(path: Path) -> None:
    path.parent.mkdir()
    other = path.with_name("zuebee-nonces.1")
    other.write_text("a letter\n")
    with pytest.raises(OSError, match="not a file of nonces"):
        KeptNonces(path)
    assert other.read_text() == "a letter\n"
