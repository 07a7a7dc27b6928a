"""Whoever asks for the metrics gets them as they are then; whoever asks without pause waits, and costs little."""

import asyncio
import time

import pytest

from zuebee.telemetry.exposition import MAX_FORMATS, REST, Exposition


class Metrics:
    """Texts that take a while to make, and say how many there were."""

    def __init__(self, cost_s: float = 0.0) -> None:
        self.made = 0
        self._cost_s = cost_s
        self.exposition = Exposition(self.render, lambda accept: accept or "plain", time.monotonic)

    def render(self, accept: str) -> tuple[bytes, str]:
        until_s = time.monotonic() + self._cost_s
        while time.monotonic() < until_s:
            pass
        if accept == "broken":
            raise ValueError(accept)
        self.made += 1
        return b"%d" % self.made, accept or "plain"


async def test_each_who_asks_gets_what_is_so_then() -> None:
    metrics = Metrics(0.001)
    for n in range(1, 30):
        assert await metrics.exposition.text("") == (b"%d" % n, "plain")


async def test_those_who_ask_at_once_share_a_text_that_is_made_afterwards() -> None:
    metrics = Metrics()
    first = [asyncio.ensure_future(metrics.exposition.text("")) for _ in range(50)]
    await asyncio.sleep(0)
    assert metrics.made == 0
    first[7].cancel()
    got = await asyncio.gather(*first, return_exceptions=True)
    assert sum(one == (b"1", "plain") for one in got) == 49
    assert (await metrics.exposition.text(""))[0] == b"2"


@pytest.mark.slow
async def test_who_asks_without_pause_leaves_most_of_the_time_to_others() -> None:
    metrics = Metrics(0.01)
    end_s = time.monotonic() + 0.6

    async def ask(accept: str) -> None:
        while time.monotonic() < end_s:
            await metrics.exposition.text(accept)

    await asyncio.gather(*(ask(accept) for accept in ["", "", "a", "b"] * 20))
    assert 2 <= metrics.made <= 0.6 / (0.01 * (1 + REST)) + 5


@pytest.mark.slow
async def test_there_is_no_end_of_formats_and_only_so_many_are_made() -> None:
    metrics = Metrics()
    got = await asyncio.gather(*(metrics.exposition.text(f"version={n}") for n in range(1000)))
    assert metrics.made == MAX_FORMATS + 1
    assert [content_type for _, content_type in got[MAX_FORMATS:]] == ["plain"] * (1000 - MAX_FORMATS)


async def test_a_text_that_cannot_be_made_is_an_error_of_those_who_wanted_it() -> None:
    metrics = Metrics()
    with pytest.raises(ValueError, match="broken"):
        await metrics.exposition.text("broken")
    assert (await metrics.exposition.text(""))[1] == "plain"
