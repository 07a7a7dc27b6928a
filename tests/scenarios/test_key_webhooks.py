"""Keys that a service knows; and lookups of every kind, cancelled on their way."""

import asyncio
import json
from typing import Any

import pytest

from tests.support.key_stores import KEY, database, line, redis_source, said, stored, table, webhook
from zuebee.auth.service import UNAVAILABLE, AuthPipeline
from zuebee.contracts.admission import Principal
from zuebee.contracts.errors import Refusal

__all__ = ["stored", "table"]  # fixtures


@pytest.mark.requirement("A069")
@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b'{"code":0,"message":"success","user_id":"ann","balance":5}', "ann"),
        (201, b'{"user_id":"ann"}', "ann"),
        (200, b'{"user_id":"ann","status":"disabled"}', "key_disabled"),
        (200, b'{"code":1001,"message":"no"}', "access_denied"),
        (200, b'{"allow":false}', "access_denied"),
        (200, b'{"user_id":"ann","balance":0}', "insufficient_balance"),
        (200, b'{"total_quota":5,"used_quota":5}', "quota_exceeded"),
        (200, b'{"user_id":"ann","allowed_ips":["11.0.0.0/8"]}', "ip_not_allowed"),
        (200, b'{"user_id":"ann","allowed_ips":"nonsense"}', "auth_unavailable"),
        (200, b"{}", "invalid_api_key"),
        (401, b'{"user_id":"ann"}', "invalid_api_key"),
        (404, b'{"user_id":"ann"}', "invalid_api_key"),
        (403, b'{"user_id":"ann"}', "access_denied"),
        (302, b'{"user_id":"ann"}', "auth_unavailable"),
        (307, b'{"user_id":"ann"}', "auth_unavailable"),
        (429, b'{"user_id":"ann"}', "auth_unavailable"),
        (500, b'{"user_id":"ann"}', "auth_unavailable"),
        (200, b"[]", "auth_unavailable"),
        (200, b"ok", "auth_unavailable"),
        (200, b"", "auth_unavailable"),
        (200, b'{"x":"' + b"y" * 70_000 + b'"}', "auth_unavailable"),
    ],
)
async def test_only_a_success_with_an_object_admits(status: int, body: bytes, outcome: str) -> None:
    heads: list[bytes] = []

    async def answer(path: str, question: bytes) -> tuple[int, bytes]:
        assert json.loads(question)["api_key"] == KEY
        assert json.loads(question)["timestamp"] > 1_600_000_000
        return status, body

    async with webhook(answer, heads) as url:
        pipeline = line(f"{{type: webhook, webhook: {{url: '{url}', headers: {{X-Token: secret}}}}}}")
        found = await said(pipeline, KEY)
        assert (found.code if isinstance(found, Refusal) else found.user_id) == outcome
        await pipeline.aclose()
    assert heads[0].startswith(b"POST /check?a=1 HTTP/1.1\r\nhost: 127.0.0.1:")
    assert b"x-token: secret\r\n" in heads[0]


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b"canary", "the webhook answered 500"),
        (200, b"canary", "the answer is not JSON"),
        (200, b'{"balance":"canary"}', "balance: expected a number"),
        (200, b'{"limits":{"tokens_per_day":1e300},"name":"canary"}', "tokens_per_day: expected a whole number"),
        (0, b"", "connect"),
    ],
)
async def test_the_log_says_what_is_wrong_with_a_source(
    status: int, body: bytes, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer(path: str, question: bytes) -> tuple[int, bytes]:
        return status, body

    async with webhook(answer, []) as url:
        pipeline = line(f"{{type: webhook, webhook: {{url: '{url if status else 'http://127.0.0.1:9/'}'}}}}")
        assert await said(pipeline, KEY) is UNAVAILABLE
        await pipeline.aclose()
    assert f"key source webhook failed: {words}" in caplog.text
    assert "canary" not in caplog.text
    assert KEY not in caplog.text


@pytest.mark.requirement("A069")
async def test_a_webhook_that_is_late_or_gone_admits_nobody() -> None:
    async def answer(path: str, question: bytes) -> tuple[int, bytes]:
        await asyncio.sleep(5)
        return 200, b'{"user_id":"ann"}'

    async with webhook(answer) as url:
        pipeline = line(f"{{type: webhook, webhook: {{url: '{url}', timeout: 50ms}}}}")
        assert await said(pipeline, KEY) == UNAVAILABLE
    gone = line("{type: webhook, webhook: {url: 'http://127.0.0.1:1/'}}")
    assert await said(gone, KEY) == UNAVAILABLE


@pytest.mark.requirement("A074")
async def test_a_source_that_is_switched_off_is_never_asked() -> None:
    asked: list[str] = []

    async def answer(path: str, question: bytes) -> tuple[int, bytes]:
        asked.append(path)
        return 200, b'{"user_id":"ann"}'

    async with webhook(answer) as url:
        off = f"{{name: off, type: webhook, enabled: false, webhook: {{url: '{url}'}}}}"
        lua = "{type: lua, script: {script: \"return api_key == 'sk-known-0001'\"}}"
        pipeline = line(f"{off}, {lua}")
        assert isinstance(await said(pipeline, KEY), Principal)
        assert isinstance(await said(pipeline, "sk-other"), Refusal)
        assert asked == []
        on = line(off.replace("enabled: false", "enabled: true"))
        assert isinstance(await said(on, KEY), Principal)
        assert asked == ["/check?a=1"]
        await pipeline.aclose()
        await on.aclose()


# --- cancel storm ---


async def storm(pipeline: AuthPipeline, keys: list[str], rounds: int) -> tuple[int, int]:
    """(answers, foreign ones) of lookups of which most are cancelled somewhere on their way."""
    answered = foreign = 0

    async def one(key: str) -> None:
        nonlocal answered, foreign
        found = await said(pipeline, key)
        if isinstance(found, Principal):
            answered += 1
            foreign += found.user_id != key
        else:
            foreign += found is not UNAVAILABLE

    for turn in range(rounds):
        tasks = [asyncio.ensure_future(one(key)) for key in keys]
        for steps, task in enumerate(tasks):
            if (steps + turn) % 3:
                asyncio.get_running_loop().call_later(((steps * 7 + turn) % 40) / 10_000, task.cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
    return answered, foreign


async def test_a_storm_of_cancelled_lookups_in_redis_gives_nobody_anothers_answer(
    stored: tuple[str, str, Any],
) -> None:
    """T23."""
    _, prefix, client = stored
    keys = [f"sk-storm-{n:04}" for n in range(50)]
    for key in keys:
        client.hset(f"{prefix}key:{key}", mapping={"status": "active", "user_id": key})
    pipeline = line(redis_source(stored), auth=", cache: 0s")
    answered, foreign = await storm(pipeline, keys, 60)
    assert answered > 500
    assert foreign == 0
    await pipeline.aclose()


async def test_a_storm_of_cancelled_lookups_over_http_gives_nobody_anothers_answer() -> None:
    """T23."""

    async def answer(path: str, question: bytes) -> tuple[int, bytes]:
        await asyncio.sleep(0.001)
        return 200, json.dumps({"user_id": json.loads(question)["api_key"]}).encode()

    async with webhook(answer) as url:
        pipeline = line(f"{{type: webhook, webhook: {{url: '{url}'}}}}", auth=", cache: 0s")
        answered, foreign = await storm(pipeline, [f"sk-storm-{n:04}" for n in range(30)], 60)
        assert answered > 300
        assert foreign == 0
        await pipeline.aclose()


async def test_a_storm_of_cancelled_lookups_in_a_database_gives_nobody_anothers_answer(
    table: tuple[str, str],
) -> None:
    """T23. Three of the four keys are refused, each for a reason of its own."""
    pipeline = line(database(table), auth=", cache: 0s")
    wanted = {KEY: "ann", "sk-off-0001": "key_disabled", "sk-old-0001": "key_expired", "sk-none": "invalid_api_key"}
    answered = 0

    async def one(key: str) -> None:
        nonlocal answered
        found = await said(pipeline, key)
        assert found is UNAVAILABLE or (found.user_id if isinstance(found, Principal) else found.code) == wanted[key]
        answered += 1

    for turn in range(40):
        tasks = [asyncio.ensure_future(one(key)) for key in wanted]
        for steps, task in enumerate(tasks):
            if (steps + turn) % 3 == 0:
                asyncio.get_running_loop().call_later(((steps * 7 + turn) % 40) / 10_000, task.cancel)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [each for each in ended if isinstance(each, AssertionError)]
    assert answered > 80
    await pipeline.aclose()
