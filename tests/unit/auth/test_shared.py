"""Answers that processes share in Redis: whoever has Redis can take them away, and can play none of them back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import redis

from tests.support.databases import redis_url
from zuebee.app.connect import redis_client
from zuebee.auth.lookups import MAX_DENIED, SLACK_S, MapSource, SharedAnswers
from zuebee.auth.records import NOT_ADMITTED, Data
from zuebee.contracts.admission import Caller
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import Credential
from zuebee.lib import clock

SECRET = "s" * 32
TTL_S = 1.0
FOUND = {"name": "ann", "status": "active"}
Open = Callable[..., SharedAnswers]


class Wall:
    """The time, which each process may see a bit differently."""

    def __init__(self) -> None:
        self.now_s = 1_794_700_000.0


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall()
    monkeypatch.setattr(clock, "wall_s", lambda: wall.now_s)
    return wall


@pytest.fixture(scope="module")
def place() -> Iterator[tuple[str, str]]:
    with redis_url() as place:
        yield place


@pytest.fixture
async def process(place: tuple[str, str]) -> AsyncIterator[Open]:
    """Makes what one process has."""
    url, prefix = place
    made: list[SharedAnswers] = []

    def make(settings: str = "a", secret: str = SECRET, ttl_s: float = TTL_S) -> SharedAnswers:
        made.append(SharedAnswers(redis_client(url, timeout_s=2), f"{prefix}{settings}:", secret, ttl_s))
        return made[-1]

    yield make
    for each in made:
        await each.aclose()


@pytest.fixture
def intruder(place: tuple[str, str]) -> Iterator["redis.Redis[bytes]"]:
    with redis.Redis.from_url(place[0]) as client:
        for key in client.scan_iter(match=f"{place[1]}*"):
            client.delete(key)
        yield client


def kept(client: "redis.Redis[bytes]", place: tuple[str, str]) -> dict[bytes, bytes]:
    return {key: client.get(key) or b"" for key in client.scan_iter(match=f"{place[1]}*")}


def restore(client: "redis.Redis[bytes]", values: dict[bytes, bytes]) -> None:
    for key, value in values.items():
        client.set(key, value)


async def test_another_process_finds_what_one_has_put(wall: Wall, process: Open, intruder: object) -> None:
    one, other = process(), process()
    assert await other.get("hook", "d") is None
    await one.put("hook", "d", FOUND, wall.now_s)
    await one.put("hook", "unknown", None, wall.now_s)
    assert await other.get("hook", "d") == (FOUND,)
    assert await other.get("hook", "unknown") == (None,)


async def test_an_answer_of_another_key_source_or_setting_is_not_believed(
    wall: Wall, process: Open, intruder: "redis.Redis[bytes]", place: tuple[str, str]
) -> None:
    one = process()
    await one.put("hook", "d", FOUND, wall.now_s)
    [value] = kept(intruder, place).values()
    for source, digest, settings, secret in (
        ("hook", "other", "a", SECRET), ("hook2", "d", "a", SECRET), ("hook", "d", "b", SECRET),
        ("hook", "d", "a", "x" * 32),
    ):  # fmt: skip
        other = process(settings, secret)
        intruder.delete(*kept(intruder, place))
        await other.put(source, digest, FOUND, wall.now_s)
        [name] = kept(intruder, place)
        intruder.set(name, value)
        assert await other.get(source, digest) is None


@pytest.mark.parametrize("at", range(0, 60, 3))
async def test_no_byte_of_an_answer_can_be_changed(
    wall: Wall, process: Open, intruder: "redis.Redis[bytes]", place: tuple[str, str], at: int
) -> None:
    one = process()
    await one.put("hook", "d", FOUND, wall.now_s)
    [(key, value)] = kept(intruder, place).items()
    intruder.set(key, value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
    assert await one.get("hook", "d") is None
    for cut in (0, 31, 32, 40, 44):
        intruder.set(key, value[:cut])
        assert await one.get("hook", "d") is None


async def test_an_answer_that_is_too_old_is_not_believed_whatever_redis_says(
    wall: Wall, process: Open, intruder: "redis.Redis[bytes]", place: tuple[str, str]
) -> None:
    one = process()
    await one.put("hook", "d", FOUND, wall.now_s)
    before = kept(intruder, place)
    for age_s, believed in ((0.0, True), (TTL_S - 0.01, True), (TTL_S, False), (60.0, False), (1e6, False)):
        restore(intruder, before)  # without an end of its own
        wall.now_s += age_s
        assert (await process().get("hook", "d") is not None) == believed, age_s
        wall.now_s -= age_s


async def test_the_shorter_life_counts(wall: Wall, process: Open, intruder: object) -> None:
    await process(ttl_s=30.0).put("hook", "long", FOUND, wall.now_s)
    await process(ttl_s=1.0).put("hook", "short", FOUND, wall.now_s)
    wall.now_s += 1.5
    assert await process(ttl_s=1.0).get("hook", "long") is None
    assert await process(ttl_s=30.0).get("hook", "short") is None
    assert await process(ttl_s=30.0).get("hook", "long") is not None


@pytest.mark.parametrize(("ahead_s", "believed"), [(0.5, True), (SLACK_S, True), (SLACK_S + 0.1, False), (3600, False)])
async def test_clocks_may_differ_by_a_little(
    wall: Wall, process: Open, intruder: object, ahead_s: float, believed: bool
) -> None:
    """Never does an answer live longer than by what they differ, and never by more than the slack."""
    one, other = process(), process()
    await one.put("hook", "d", FOUND, wall.now_s)
    wall.now_s -= ahead_s
    assert (await other.get("hook", "d") is not None) == believed


async def test_time_that_an_answer_took_is_part_of_its_age(wall: Wall, process: Open, intruder: object) -> None:
    one = process()
    asked_s = wall.now_s
    wall.now_s += 0.9
    await one.put("hook", "d", FOUND, asked_s)
    assert await one.get("hook", "d") is not None
    wall.now_s += 0.2
    assert await one.get("hook", "d") is None
    await one.put("hook", "late", FOUND, asked_s)
    assert await one.get("hook", "late") is None


@pytest.mark.parametrize("answer", [None, NOT_ADMITTED])
async def test_what_was_denied_later_is_not_admitted_by_an_earlier_answer(
    wall: Wall, process: Open, intruder: "redis.Redis[bytes]", place: tuple[str, str], answer: Refusal | None
) -> None:
    slow, quick, third = process(), process(), process()
    asked_s = wall.now_s
    wall.now_s += 0.2
    await quick.put("hook", "d", answer, wall.now_s)
    await slow.put("hook", "d", FOUND, asked_s)  # its answer was under way meanwhile
    for each in (slow, quick, third):
        assert await each.get("hook", "d") in (None, (None,))
    before = kept(intruder, place)
    await slow.put("hook", "d", FOUND, wall.now_s + 0.1)
    assert await third.get("hook", "d") == (FOUND,), "a newer one counts"
    restore(intruder, before)
    assert await third.get("hook", "d") in (None, (None,))


async def test_who_was_told_so_itself_believes_no_older_answer_that_is_played_back(
    wall: Wall, process: Open, intruder: "redis.Redis[bytes]", place: tuple[str, str]
) -> None:
    one = process()
    await one.put("hook", "d", FOUND, wall.now_s)
    admitted = kept(intruder, place)
    wall.now_s += 0.1
    await one.put("hook", "d", NOT_ADMITTED, wall.now_s)
    restore(intruder, admitted)
    assert await one.get("hook", "d") is None
    for number in range(MAX_DENIED):
        await one.put("hook", str(number), NOT_ADMITTED, wall.now_s)
    restore(intruder, admitted)
    assert await one.get("hook", "d") == (FOUND,), "what it remembers of its own has a bound"


class Service:
    """A webhook that takes its time."""

    def __init__(self) -> None:
        self.answer: Data | Refusal | None = FOUND
        self.asked = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.reached = asyncio.Event()

    async def look(self, presented: Credential) -> Data | Refusal | None:
        self.asked += 1
        answer = self.answer
        self.reached.set()
        if answer is FOUND:
            await self.gate.wait()
        return answer

    async def aclose(self) -> None:
        pass


async def test_a_source_asks_again_once_a_key_was_refused(wall: Wall, process: Open, intruder: object) -> None:
    service = Service()
    one, other = (MapSource("hook", service, process()) for _ in range(2))
    presented = Credential(Caller("POST", "/", {}, "127.0.0.1"), b"key", "d")
    service.gate.clear()
    slow = asyncio.create_task(one.find(presented))
    await service.reached.wait()
    service.answer = NOT_ADMITTED
    wall.now_s += 0.1
    assert await other.find(presented) is NOT_ADMITTED
    service.gate.set()
    await slow
    assert await other.find(presented) is NOT_ADMITTED
    assert await one.find(presented) is NOT_ADMITTED
