"""What a request without a bound may cost is held, and the answer is bounded by what was held."""

import asyncio
import base64
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.scenarios.test_spending import balance, code
from tests.support.client import ask
from tests.support.processes import KEY, Sim, running, simulated, until
from tests.support.raw_http import chat, request, wire

QUOTA = 2_000


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


@pytest.fixture
def sim(model: Sim) -> Sim:
    """It, and what was asked of it before is forgotten."""
    model.control("POST", "/_sim/reset")
    return model


def settings(sim: Sim, quota: int = QUOTA, *, billing: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "api_keys": [{"key": KEY, "name": "test", "total_quota": quota}],
        "billing": {"built_in_prices": False, **(billing or {})},
        **more,
    }


def body(text: str = "Hello!", **more: Any) -> dict[str, Any]:
    return {"model": "sim-small", "messages": [{"role": "user", "content": text}], **more}


def short(tokens: int, **more: Any) -> dict[str, Any]:
    return body(sim={"tokens": tokens, "tokens_per_s": 0}, **more)


def sent(sim: Sim) -> list[dict[str, Any]]:
    """The bodies that reached the model server."""
    found = sim.control("GET", "/_sim/requests")
    return [json.loads(base64.b64decode(each["body_base64"])) for each in found if each["method"] == "POST"]


def test_an_answer_without_a_bound_gets_the_one_that_was_held(tmp_path: Path, sim: Sim) -> None:
    with running(tmp_path, settings(sim, 100_000)) as gateway:
        assert ask(gateway.url, short(5)).status == 200
        assert ask(gateway.url, short(5, max_tokens=None, stream=True)).status == 200
        assert ask(gateway.url, short(5, max_tokens=9)).status == 200
        assert [each.get("max_tokens") for each in sent(sim)] == [16384, 16384, 9]


def test_without_a_budget_a_body_goes_out_as_it_came(tmp_path: Path, sim: Sim) -> None:
    with running(tmp_path, settings(sim, api_keys=[{"key": KEY, "name": "test"}])) as gateway:
        ask(gateway.url, short(5))
        assert "max_tokens" not in sent(sim)[0]


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_alone_gets_what_is_left_and_a_long_answer_ends_with_it(
    tmp_path: Path, sim: Sim, stream: bool
) -> None:
    with running(tmp_path, settings(sim)) as gateway:
        answer = ask(gateway.url, short(10_000, stream=stream))
        assert answer.status == 200
        assert b'"finish_reason":"length"' in answer.body
        [row] = gateway.wait_for_rows(1)
        assert row["completion_tokens"] == sent(sim)[0]["max_tokens"] < QUOTA
        left = balance(gateway)
        assert QUOTA - 30 <= left["used"] <= QUOTA, "all but for what its prompt was estimated too long"
        assert ask(gateway.url, short(5, max_tokens=500)).code == "quota_exceeded"


def test_who_asks_for_more_than_there_is_is_told_what_would_fit(tmp_path: Path, sim: Sim) -> None:
    with running(tmp_path, settings(sim)) as gateway:
        refused = ask(gateway.url, short(5, max_tokens=5_000))
        assert code(refused) == (429, "quota_exceeded")
        words = refused.json["error"]["message"]
        fits = int(words.partition("pays for ")[2].partition(":")[0])
        assert "used up" not in words, "nothing was used yet"
        assert ask(gateway.url, short(5, max_tokens=fits + 1)).status == 429
        assert ask(gateway.url, short(5, max_tokens=fits)).status == 200
        huge = ask(gateway.url, body("x" * 100_000, max_tokens=5))
        assert "less than the prompt of this request" in huge.json["error"]["message"]
        assert sim.stats()["requests_started"] == 1


@pytest.mark.parametrize("model_knows", [False, True])
def test_a_small_context_refuses_nobody(tmp_path: Path, model_knows: bool) -> None:
    """Where the gateway does not know it, the request goes once without the bound; where it does, the bound fits."""
    with simulated(tmp_path / "small", "--max-model-tokens", "1000") as sim:
        known = {"models": [{"model": "sim-*", "context_tokens": 1000, "max_output_tokens": 800}]}
        with running(tmp_path, settings(sim, 100_000, billing=known if model_knows else None)) as gateway:
            for stream in (False, True):
                assert ask(gateway.url, short(5, stream=stream)).status == 200
            bounds = [each.get("max_tokens") for each in sent(sim)]
            assert bounds == ([800, 800] if model_knows else [16384, None, 16384, None])
            long = ask(gateway.url, body("x" * 2000, sim={"tokens": 5, "tokens_per_s": 0}))
            assert long.status == 200
            if model_knows:
                assert sent(sim)[-1].get("max_tokens", 0) < 500


def test_what_servers_say_of_their_models_is_known(tmp_path: Path) -> None:
    with simulated(tmp_path / "small", "--max-model-tokens", "1000") as sim:
        asked = settings(sim, 100_000)
        del asked["health_check"]
        with running(tmp_path, asked) as gateway:

            def bounded() -> bool:
                ask(gateway.url, short(5))
                return 900 < (sent(sim)[-1].get("max_tokens") or 0) < 1000

            until(bounded, "the model's context is known")


def test_who_does_not_fit_waits_for_the_others(tmp_path: Path, sim: Sim) -> None:
    """Each holds all that is left, and gives back nearly all of it: one after the other, nobody is refused."""
    with running(tmp_path, settings(sim, billing={"reserve_wait": "10s"})) as gateway, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(gateway.url, short(5)), range(8)))
        assert [answer.status for answer in answers] == [200] * 8
        assert balance(gateway)["used"] == sum(answer.json["usage"]["total_tokens"] for answer in answers)


async def test_who_waits_in_vain_is_refused_in_time_and_who_leaves_meanwhile_holds_nothing(
    tmp_path: Path, sim: Sim
) -> None:
    with running(tmp_path, settings(sim, billing={"reserve_wait": "1s"})) as gateway:
        async with wire(gateway.port) as first, wire(gateway.port) as second, wire(gateway.port) as third:
            first.send(request(chat(1000, tokens_per_s=100)))
            assert await first.read_head() == 200
            second.send(request(chat(5)))
            third.send(request(chat(5)))
            await asyncio.sleep(0.2)
            third.vanish()
            async with asyncio.timeout(5):
                assert await second.read_head() == 429
            assert float(second.headers["retry-after"]) == 1
            first.vanish()
        assert (await asyncio.to_thread(balance, gateway))["held"] == 0
        assert len(gateway.usage_rows()) == 1
        ends = await asyncio.to_thread(until, lambda: gateway.access_lines()[2:] and gateway.access_lines(), "3 lines")
        assert sorted((line["status"], line["termination_reason"]) for line in ends) == [
            (200, "client_gone"), (429, "refused"), (499, "client_gone")
        ]  # fmt: skip


@pytest.mark.parametrize("waits", [True, False], ids=["before the first event", "in the middle"])
async def test_to_leave_early_saves_nothing_of_the_prompt(tmp_path: Path, sim: Sim, waits: bool) -> None:
    """A prompt of pictures and then of dense text; its usage never comes, for the reader leaves."""
    prompt_tokens = 10_049
    with running(tmp_path, settings(sim, 1_000_000)) as gateway:
        for _ in range(5):
            wish = {"tokens": 2, "tokens_per_s": 0, "prompt_tokens": 20}
            picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 40_000}}
            message = {"role": "user", "content": [picture]}
            assert ask(gateway.url, body(sim=wish) | {"messages": [message]}).status == 200
        before = balance(gateway)["used"]
        wish = {"tokens": 500, "tokens_per_s": 20, "prompt_tokens": prompt_tokens}
        if waits:
            wish["first_token_delay_s"] = 30
        async with wire(gateway.port) as connection:
            connection.send(request(body("x" * prompt_tokens, stream=True, sim=wish)))
            if waits:
                await asyncio.sleep(0.5)
            else:
                assert await connection.read_head() == 200
                assert await connection.events(3) >= 3
            connection.vanish()
        [row] = [
            each
            for each in await asyncio.to_thread(gateway.wait_for_rows, 6)
            if each["termination_reason"] == "client_gone"
        ]
        assert row["prompt_tokens"] >= prompt_tokens
        assert (await asyncio.to_thread(balance, gateway))["used"] - before >= prompt_tokens


def test_what_one_key_sends_moves_no_other_keys_estimate(tmp_path: Path, sim: Sim) -> None:
    other = "sk-other-0123456789abcdef"
    asked = settings(sim)
    asked["api_keys"] = [{"key": KEY, "name": "loud"}, {"key": other, "name": "quiet", "total_quota": QUOTA}]
    with running(tmp_path, asked) as gateway:
        for _ in range(60):
            wish = {"tokens": 1, "tokens_per_s": 0, "prompt_tokens": 100_000}
            assert ask(gateway.url, body(sim=wish)).status == 200
        assert ask(gateway.url, body("x" * 4000, max_tokens=20, sim={"tokens": 1}), key=other).status == 200


HI = '"messages":[{"role":"user","content":"Hi"}]'
MARK = b"\xef\xbb\xbf"
LOOSE = [("100.0", "false"), ('"100"', '"false"'), ("1e2", "1"), ('"100"', '"true"'), ("100", "true")]


@pytest.mark.parametrize("mark", [b"", MARK], ids=["plain", "marked"])
def test_a_bound_counts_however_a_server_takes_it(tmp_path: Path, sim: Sim, mark: bytes) -> None:
    """As numbers, texts and truth values that vLLM takes: held as read, passed as they came, and bounded where null."""
    with running(tmp_path, settings(sim, 1_000_000)) as gateway:
        for bound, stream in LOOSE:
            text = (
                f'{{"model":null,"max_tokens":{bound},"stream":{stream},{HI},"sim":{{"tokens":300,"tokens_per_s":0}}}}'
            )
            answer = ask(gateway.url, mark + text.encode())
            assert answer.status == 200, (text, answer.body)
            assert (b"data: [DONE]" in answer.body) == (stream in ("1", '"true"', "true"))
        rows = gateway.wait_for_rows(len(LOOSE))
        assert [row["completion_tokens"] for row in rows] == [100] * len(LOOSE)
        kept = [base64.b64decode(each["body_base64"]) for each in sim.control("GET", "/_sim/requests")]
        for (bound, _), body_sent in zip(LOOSE, filter(None, kept), strict=True):
            assert f'"max_tokens":{bound},'.encode() in body_sent
        refused = ask(gateway.url, mark + b'{"max_tokens":"2000000",%b}' % HI.encode())
        assert code(refused) == (429, "quota_exceeded")
        text = f'{{"max_tokens":"-1","stream":1,{HI},"sim":{{"tokens":5}}}}'
        unbounded = ask(gateway.url, mark + text.encode())
        assert unbounded.status == 200
        [*_, last] = [base64.b64decode(each["body_base64"]) for each in sim.control("GET", "/_sim/requests")]
        assert b'"max_tokens":16384,' in last
        assert b"include_usage" in last
