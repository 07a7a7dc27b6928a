"""SIGHUP under load: the new configuration holds from now on, running streams keep the old one, nobody is failed."""

import asyncio
import json
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest

from tests.support.processes import KEY, Gateway, Sim, running, simulated
from tests.support.raw_http import DONE, ask, chat, eventually, request, wire

SECOND_KEY = "sk-test-second-0123456789"
CLIENTS = 6
RELOADS = 30
FAST = {"enabled": True, "interval": "100ms"}


class Place(NamedTuple):
    """A gateway and two model servers, of which it knows the first."""

    gateway: Gateway
    sims: tuple[Sim, Sim]

    def config(self, *which: int, keys: tuple[str, ...] = (KEY,), **more: Any) -> dict[str, Any]:
        backends = [{"url": self.sims[index].url, "name": f"sim{index}"} for index in which]
        named = [{"key": key, "name": f"key{at}"} for at, key in enumerate(keys)]
        return {"backends": backends, "api_keys": named, "health_check": FAST, **more}

    def reloads(self, result: str) -> float:
        return self.gateway.metrics().get(f'zuebee_config_reloads_total{{result="{result}"}}', 0)

    async def reload(self, config: dict[str, Any] | str, result: str = "ok") -> None:
        """Write the configuration, send SIGHUP, and wait until it was taken or refused."""
        before = self.reloads(result)
        if isinstance(config, str):
            self.gateway.config_path.write_text(config)
        else:
            self.gateway.write_config(config)
        self.gateway.send_signal(signal.SIGHUP)
        await eventually(lambda: self.reloads(result) == before + 1, f"the reload is {result}")

    async def statuses(self, key: str = KEY, count: int = 1) -> list[int]:
        data = request(chat(stream=False), authorization=f"Bearer {key}")
        return [(await ask(self.gateway.port, data)).status for _ in range(count)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("reload")
    with ExitStack() as stack:
        first, second = (stack.enter_context(simulated(folder / name)) for name in ("one", "two"))
        start = {"backends": [{"url": first.url, "name": "sim0"}], "health_check": FAST}
        yield Place(stack.enter_context(running(folder / "gateway", start)), (first, second))


@pytest.fixture
async def place(shared: Place) -> AsyncIterator[Place]:
    """The shared gateway, with its first configuration before and after."""
    await shared.reload(shared.config(0))
    yield shared
    await shared.reload(shared.config(0))


@asynccontextmanager
async def load(port: int) -> AsyncIterator[Counter[int]]:
    """Clients that stream without a pause; the statuses that they got. Each answer must be whole."""
    statuses: Counter[int] = Counter()
    stop = asyncio.Event()

    async def client() -> None:
        while not stop.is_set():
            async with wire(port) as connection:
                for _ in range(20):
                    answer = await connection.ask(request(chat(8, tokens_per_s=1000)))
                    assert answer.status != 200 or answer.body.endswith(DONE)
                    statuses[answer.status] += 1

    clients = [asyncio.ensure_future(client()) for _ in range(CLIENTS)]
    try:
        await eventually(lambda: statuses.total() > CLIENTS, "there is load")
        yield statuses
    finally:
        stop.set()
        await asyncio.gather(*clients)


async def test_thirty_reloads_in_a_row_fail_nobody(place: Place) -> None:
    async with load(place.gateway.port) as statuses:
        for turn in range(RELOADS):
            which = ((0, 1), (1,), (0,))[turn % 3]
            await place.reload(place.config(*which, rate_limit={"per_key": {"max_concurrent": 50 + turn}}))
        seen = [sim.stats()["requests_finished"] for sim in place.sims]
    assert set(statuses) == {200}
    assert statuses.total() > RELOADS
    assert min(seen) > 0
    assert "Traceback" not in place.gateway.output


async def test_a_backend_that_was_removed_gets_no_more_and_finishes_its_streams(place: Place) -> None:
    first, second = place.sims
    async with wire(place.gateway.port) as running_stream, load(place.gateway.port) as statuses:
        running_stream.send(request(chat(60, tokens_per_s=50)))
        assert await running_stream.read_head() == 200
        await place.reload(place.config(1))
        await eventually(lambda: first.stats()["streams_open"] == 1, "only the running stream is left")
        before = first.stats()["requests_started"]
        more = statuses.total() + 5
        await eventually(lambda: statuses.total() > more, "the other backend answers")
        rest = b"".join([part async for part in running_stream.parts()])
    assert set(statuses) == {200}
    inference = [one for one in first.control("GET", "/_sim/requests") if one["method"] == "POST"]
    assert first.stats()["requests_started"] == before, f"{len(inference)} requests"
    assert rest.endswith(DONE)
    assert second.stats()["requests_finished"] > 0


async def test_keys_come_and_go(place: Place) -> None:
    assert await place.statuses(SECOND_KEY) == [401]
    await place.reload(place.config(0, keys=(KEY, SECOND_KEY)))
    assert (await place.statuses(SECOND_KEY), await place.statuses()) == ([200], [200])
    async with wire(place.gateway.port) as stream:
        stream.send(request(chat(600, tokens_per_s=50), authorization=f"Bearer {SECOND_KEY}"))
        assert await stream.read_head() == 200
        await place.reload(place.config(0))
        assert (await place.statuses(SECOND_KEY), await place.statuses()) == ([401], [200])
        rest = b"".join([part async for part in stream.parts()])
    assert not rest.endswith(DONE), "a key that is gone is cut from the streams that it runs"
    assert b"invalid_api_key" in rest


async def test_limits_hold_from_the_next_request(place: Place) -> None:
    assert await place.statuses(count=4) == [200] * 4
    await place.reload(place.config(0, rate_limit={"per_key": {"requests_per_minute": 2}}))
    assert (await place.statuses(count=3))[-1] == 429
    await place.reload(place.config(0))
    assert await place.statuses(count=4) == [200] * 4


async def test_prices_and_the_level_of_the_log_change_without_a_restart(place: Place) -> None:
    """What a request costs is what held when it began; what is logged goes into a new file when the old one is gone."""
    gateway = place.gateway
    body = {**chat(10, stream=False), "model": "sim-small"}

    async def cost_nano() -> int:
        answer = await ask(gateway.port, request(body))
        assert answer.status == 200
        name = answer.headers["x-request-id"]
        lines: list[dict[str, Any]] = []

        def found() -> bool:
            text = gateway.access_path.read_text() if gateway.access_path.exists() else ""
            lines[:] = [line for line in map(json.loads, text.splitlines()) if line["request_id"] == name]
            return bool(lines)

        await eventually(found, "the line is there")
        return int(lines[0]["cost_nano"])

    def prices(dollars: str) -> dict[str, Any]:
        return {"prices": [{"model": "sim-*", "input_per_million": "0", "output_per_million": dollars}]}

    await place.reload(place.config(0, billing=prices("1")))
    assert await cost_nano() == 10 * 1000
    gateway.access_path.rename(gateway.access_path.with_suffix(".1"))
    await place.reload(place.config(0, billing=prices("3"), log={"access": str(gateway.access_path), "level": "debug"}))
    assert await cost_nano() == 10 * 3000
    refused = place.config(0, billing={**prices("9"), "hold_ttl": "77s"})
    await place.reload(refused, "refused")
    assert "billing.hold_ttl cannot change" in gateway.output
    assert await cost_nano() == 10 * 3000, "refused whole"


GOOD = "listen: 127.0.0.1:0\nbackends:\n  - url: http://127.0.0.1:9\n"
BAD: dict[str, tuple[str, str]] = {
    "an unknown key": (GOOD + "    wieght: 5\n", r"config\.yaml:4: .*wieght.*`weight`"),
    "no YAML": (GOOD + "api_keys: [\n", r"config\.yaml:\d"),
    "a wrong type": (GOOD + "api_keys: 5\n", r"config\.yaml:4: api_keys"),
    "a setting that cannot change": (GOOD + "stream: {keepalive_interval: 9s}\n", r"cannot change in a running"),
    "authorities that are none": (GOOD.replace("http", "https") + "    ca_file: gateway.log\n", r"gateway\.log: "),
}


@pytest.mark.requirement("A272")
@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
async def test_a_bad_file_is_refused_whole(place: Place, text: str, message: str) -> None:
    gateway, (first, _) = place
    said = len(gateway.output)
    keys = f"usage: {{path: {gateway.usage_path}}}\nlog: {{access: {gateway.access_path}}}\n"
    keys += "" if "api_keys" in text else f"api_keys: [{{key: {SECOND_KEY}}}]\n"
    keys += "shutdown: {grace: 0s, drain: 5s}\n"
    async with load(gateway.port) as statuses:
        await place.reload(text + keys, "refused")
        probes = first.stats()["requests_started"]
        assert (await place.statuses(), await place.statuses(SECOND_KEY)) == ([200], [401])
    assert set(statuses) == {200}
    assert re.search(rf"not reloaded, the old one stays: .*{message}", gateway.output[said:]), gateway.output[said:]
    await eventually(lambda: first.stats()["requests_started"] > probes + 1, "the old backend is still probed")


async def test_a_missing_file_is_refused(place: Place) -> None:
    place.gateway.config_path.unlink()
    before = place.reloads("refused")
    place.gateway.send_signal(signal.SIGHUP)
    await eventually(lambda: place.reloads("refused") == before + 1, "the reload is refused")
    assert await place.statuses() == [200]
