"""Keys in stores of other people: real PostgreSQL, MariaDB, SQLite and Redis servers."""

import asyncio
import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event

from tests.support.key_stores import KEY, database, line, redis_source, said, stored, table, webhook
from zuebee.auth.records import digest_of
from zuebee.auth.service import UNAVAILABLE
from zuebee.contracts.admission import Budget, Limit, Principal
from zuebee.contracts.errors import KEY_DISABLED, KEY_EXPIRED, UNKNOWN_KEY

__all__ = ["stored", "table"]  # fixtures


@pytest.mark.requirement("A066", "A067", "A068")
async def test_keys_in_a_database(table: tuple[str, str]) -> None:
    pipeline = line(database(table))
    who = await said(pipeline, KEY)
    assert isinstance(who, Principal), who
    assert who.user_id == "ann"
    assert await said(pipeline, "sk-off-0001") == KEY_DISABLED
    assert await said(pipeline, "sk-old-0001") == KEY_EXPIRED
    broke = await said(pipeline, "sk-broke-0001")
    assert (broke.status, broke.code) == (402, "insufficient_balance")
    # MySQL would hold the first one for equal.
    for other in (KEY.upper(), KEY[:-1], "%", "sk-known-000_", "sk-nobody"):
        assert await said(pipeline, other) == UNKNOWN_KEY, other
    await pipeline.aclose()


@pytest.mark.requirement("A070")
async def test_a_script_decides_about_a_row(table: tuple[str, str]) -> None:
    script = "return {allow = data.balance > 5, message = 'poor', metadata = {name = data.user_id .. '!'}}"
    pipeline = line(database(table, f', script: {{script: "{script}"}}'))
    who = await said(pipeline, KEY)
    assert isinstance(who, Principal), who
    assert who.name == "ann!"
    poor = await said(pipeline, "sk-broke-0001")
    assert (poor.status, poor.message) == (403, "poor")
    await pipeline.aclose()


def injections() -> list[str]:
    """More than 2,000 ways to end a string and go on in SQL, without the characters that no header can carry."""
    ends = ["'", '"', "`", "\\'", "')", '")', "'))", "%27", "''", "\\", "';", "'/*", "0'", "sk-known-0001'", ""]
    middles = [
        "OR/**/1=1", "OR/**/'1'='1'", "||'1'='1", "UNION/**/SELECT/**/*/**/FROM/**/api_keys", "AND/**/1=0",
        "OR/**/api_key/**/LIKE/**/'%'", ";DROP/**/TABLE/**/api_keys", ";SELECT/**/pg_sleep(9)", "OR/**/SLEEP(9)",
        "=0", "-0", "^1", "|1", "&&1", "IS/**/NOT/**/NULL", "REGEXP/**/'.*'", "RLIKE/**/'.'", "IN(SELECT/**/api_key)",
        ";ATTACH/**/DATABASE/**/'x'/**/AS/**/y", "{api_key}", "%s", "%(shown)s", ":shown", "?", "$1",
    ]  # fmt: skip
    tails = ["", "--", "#", ";--", "/*", "--+"]
    return [end + middle + tail for end in ends for middle in middles for tail in tails]


async def test_no_text_of_a_caller_becomes_sql(table: tuple[str, str]) -> None:
    """T1. Every string by every carrier: the same refusal, and the database saw nothing but one parameterised text."""
    pipeline = line(database(table), auth=", cache: 0s")
    statements: set[str] = set()

    def saw(*seen: Any) -> None:
        statements.add(seen[2])

    event.listen(Engine, "before_cursor_execute", saw)
    attempts = injections()
    assert len(attempts) >= 2000
    for carrier in (b"authorization", b"x-api-key"):
        for start in range(0, len(attempts), 50):
            answers = await asyncio.gather(*(said(pipeline, text, carrier) for text in attempts[start : start + 50]))
            assert all(answer == UNKNOWN_KEY for answer in answers)
    event.remove(Engine, "before_cursor_execute", saw)
    (statement,) = statements
    assert any(mark in statement for mark in ("?", "%(shown)s"))
    assert KEY not in statement
    # The control: a key that is there is found by the same statement, so the table is still there.
    assert isinstance(await said(pipeline, KEY), Principal)
    await pipeline.aclose()


async def test_a_database_that_is_gone_admits_nobody(tmp_path: Path) -> None:
    gone = line(database(("sqlite", str(tmp_path / "none.db"))) + ", {type: lua, script: {script: 'return true'}}")
    assert await said(gone, KEY) == UNAVAILABLE
    assert not (tmp_path / "none.db").exists()


# --- Redis ---


@pytest.mark.requirement("A065")
async def test_keys_in_redis_as_hashes_and_as_json(stored: tuple[str, str, Any]) -> None:
    _, prefix, client = stored
    client.hset(f"{prefix}key:{KEY}", mapping={"status": "active", "user_id": "ann", "total_quota": "100"})
    client.set(f"{prefix}key:sk-json-0001", json.dumps({"status": 0, "user_id": "bea", "requests_per_minute": 7}))
    client.set(f"{prefix}key:sk-off-0001", json.dumps({"status": "disabled"}))
    client.set(f"{prefix}key:sk-bad-0001", "not json")
    client.lpush(f"{prefix}key:sk-list-0001", "x")
    pipeline = line(redis_source(stored))
    ann, bea = await said(pipeline, KEY), await said(pipeline, "sk-json-0001")
    assert (ann.user_id, bea.user_id) == ("ann", "bea")
    assert ann.budgets == (Budget(f"key:{ann.key_id}/tokens/never", "tokens", "never", 100, 0),)
    assert bea.limits == (Limit(f"key:{bea.key_id}", "requests", 7, 60),)
    assert await said(pipeline, "sk-off-0001") == KEY_DISABLED
    assert await said(pipeline, "sk-bad-0001") == UNAVAILABLE
    assert await said(pipeline, "sk-list-0001") == UNAVAILABLE
    assert await said(pipeline, "sk-nobody") == UNKNOWN_KEY
    await pipeline.aclose()


@pytest.mark.requirement("A065")
async def test_keys_in_redis_by_their_digest(stored: tuple[str, str, Any]) -> None:
    _, prefix, client = stored
    client.hset(f"{prefix}key:{digest_of(KEY.encode())}", mapping={"user_id": "ann"})
    pipeline = line(redis_source(stored, "{key_sha256}"))
    assert (await said(pipeline, KEY)).user_id == "ann"
    assert await said(pipeline, "sk-nobody") == UNKNOWN_KEY
    await pipeline.aclose()


@pytest.mark.alone
@pytest.mark.requirement("A080", "A149")
async def test_answers_are_shared_between_processes_and_cannot_be_forged(stored: tuple[str, str, Any]) -> None:
    url, prefix, client = stored
    asked: list[bytes] = []

    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        asked.append(body)
        return 200, json.dumps({"user_id": json.loads(body)["api_key"]}).encode()

    async with webhook(answer) as hook:
        source = f"{{type: webhook, webhook: {{url: '{hook}'}}}}"
        more = f"redis: {{url: '{url}', prefix: '{prefix}', timeout: 2s}}\n"
        auth = f", cache_redis: true, cache: 3s, cache_secret: {secrets.token_hex(16)}"
        one, two = line(source, more, auth), line(source, more, auth)
        assert (await said(one, KEY)).user_id == KEY
        assert (await said(two, KEY)).user_id == KEY
        assert len(asked) == 1
        names = list(client.scan_iter(match=f"{prefix}*"))
        assert len(names) == 1
        assert KEY.encode() not in names[0]
        assert 0 < client.pttl(names[0]) <= 1500
        # Who can write to Redis but has no secret admits nobody: what he wrote is passed over.
        value = client.get(names[0])
        assert value is not None
        client.set(names[0], value[:32] + value[32:].replace(b"user_id", b"userXid"))
        assert (await said(line(source, more, auth), KEY)).user_id == KEY
        assert len(asked) == 2
        other = line(source, more, auth.replace("s" * 32, "t" * 32))
        assert (await said(other, "sk-other-0001")).user_id == "sk-other-0001"
        for pipeline in (one, two, other):
            await pipeline.aclose()
