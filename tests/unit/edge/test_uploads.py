"""Unfinished bodies: no more of them than there is room for, no standstill, and nobody pays for another."""

import asyncio
import random

import pytest

from tests.support.fakes import until
from tests.support.memory import alive
from zuebee.edge.uploads import Holder, Uploads

MAX = 4000
LARGEST = 500


class Senders:
    """Bodies that come by and by."""

    def __init__(self, wait_s: float = 20.0, max_bytes: int = MAX) -> None:
        self.uploads = Uploads(max_bytes, wait_s)
        self.most = 0
        self.of: dict[str, int] = {}
        self.most_of: dict[str, int] = {}

    async def send(self, name: str, size: int, takes_s: float = 0.0, stop: asyncio.Event | None = None) -> int:
        """Send a body; with `stop` until that."""
        upload = await self.uploads.begin(name, size)
        try:
            self.of[name] = self.of.get(name, 0) + size
            self.most = max(self.most, sum(self.of.values()))
            self.most_of[name] = max(self.most_of.get(name, 0), self.of[name])
            await (asyncio.sleep(takes_s) if stop is None else stop.wait())
            return size
        finally:
            self.of[name] -= size
            self.uploads.end(upload)

    async def is_empty(self) -> bool:
        """Nothing is held, and whoever comes goes ahead at once."""
        found = self.uploads.size
        async with asyncio.timeout(5):
            for _ in range(3):
                await self.send("newcomer", 1)
        return not found


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
async def test_any_crowd_gets_through_within_the_bounds(seed: int) -> None:
    before, choose, senders = alive(Holder), random.Random(seed), Senders()
    names = [f"k{number}" for number in range(choose.choice((1, 2, 5, 12)))]

    async def one() -> None:
        await asyncio.sleep(choose.random() * 0.02)
        name, size = choose.choice(names), choose.choice((1, 70, 300, LARGEST))
        sending = asyncio.ensure_future(senders.send(name, size, choose.random() * 0.01))
        if choose.random() < 0.3:
            await asyncio.sleep(choose.random() * 0.02)
            sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert sending.cancelled() or sending.result() == size

    async with asyncio.timeout(20):
        await asyncio.gather(*(one() for _ in range(100)))
    assert await senders.is_empty()
    assert alive(Holder) == before, "nobody is remembered"
    assert senders.most <= MAX
    assert all(most <= MAX // 4 for most in senders.most_of.values())


async def test_who_stops_holds_up_nobody_else() -> None:
    senders, stop = Senders(), asyncio.Event()
    stuck = [asyncio.ensure_future(senders.send("bad", LARGEST, stop=stop)) for _ in range(30)]
    await until(lambda: senders.uploads.size == MAX // 4)
    async with asyncio.timeout(5):
        assert await asyncio.gather(*(senders.send(f"good{n % 3}", LARGEST) for n in range(60))) == [LARGEST] * 60
    for task in stuck[::2]:
        task.cancel()
    await asyncio.sleep(0)
    stop.set()
    await asyncio.gather(*stuck, return_exceptions=True)
    assert await senders.is_empty()


async def test_large_bodies_are_not_passed_by_for_ever() -> None:
    senders, stop = Senders(), asyncio.Event()
    stuck = [asyncio.ensure_future(senders.send(f"k{n}", 900, stop=stop)) for n in range(4)]
    await asyncio.sleep(0)
    large = asyncio.ensure_future(senders.send("large", LARGEST))
    await asyncio.sleep(0)
    small = asyncio.ensure_future(senders.send("small", 10))
    await asyncio.sleep(0.01)
    assert not large.done()
    assert not small.done()
    large.cancel()
    assert await small == 10
    stop.set()
    await asyncio.gather(*stuck)
    assert await senders.is_empty()


async def test_nobody_waits_for_ever() -> None:
    senders, stop = Senders(wait_s=0.05), asyncio.Event()
    stuck = [asyncio.ensure_future(senders.send("a", LARGEST, stop=stop)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await senders.send("a", LARGEST)
    assert await senders.send("b", LARGEST) == LARGEST
    stop.set()
    await asyncio.gather(*stuck)
    assert await senders.send("a", LARGEST) == LARGEST
    assert await senders.is_empty()


async def test_a_body_larger_than_all_room_is_read_alone() -> None:
    senders = Senders(max_bytes=100)
    assert await asyncio.gather(*(senders.send(f"k{n}", LARGEST, 0.001) for n in range(5))) == [LARGEST] * 5
    assert senders.most == LARGEST
    assert await senders.is_empty()


async def test_who_leaves_just_when_there_is_room_gives_it_back() -> None:
    senders, stop = Senders(), asyncio.Event()
    stuck = [asyncio.ensure_future(senders.send("a", LARGEST, stop=stop)) for _ in range(2)]
    await asyncio.sleep(0)
    late = asyncio.ensure_future(senders.send("a", LARGEST))
    await asyncio.sleep(0)
    stuck[0].add_done_callback(lambda _: late.cancel())
    stop.set()
    await asyncio.gather(*stuck, late, return_exceptions=True)
    assert await senders.is_empty()
