"""Keys in stores of other people: real PostgreSQL, MariaDB, SQLite and Redis servers, and a webhook."""

import asyncio
import contextlib
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
import redis as redis_client
from sqlalchemy import event

from tests.support.databases import mysql_database, postgres_database, redis_url
from zuebee.app.access import AuthState, build_pipeline
from zuebee.auth.credentials import digest_of
from zuebee.auth.database import DatabaseLookup
from zuebee.auth.service import UNAVAILABLE, AuthPipeline
from zuebee.config.file import loads
from zuebee.contracts.admission import Budget, Caller, Limit, Principal
from zuebee.contracts.errors import KEY_DISABLED, KEY_EXPIRED, UNKNOWN_KEY, Refusal

KEY = "sk-known-0001"
COLUMNS = (
    "api_key VARCHAR(128) PRIMARY KEY, user_id VARCHAR(64), status VARCHAR(16), balance DECIMAL(10,2), expired_at "
)
ROWS = [
    (KEY, "ann", "active", "10.50", None),
    ("sk-broke-0001", "bob", "active", "0.00", None),
    ("sk-off-0001", "cid", "disabled", "5.00", None),
    ("sk-old-0001", "dan", "active", "5.00", "2020-01-01 00:00:00"),
]


def line(source: str, more: str = "", auth: str = "", state: AuthState | None = None) -> AuthPipeline:
    text = f"backends: [{{url: 'http://a:1'}}]\n{more}auth: {{pipeline: [{source}]{auth}}}\n"
    return build_pipeline(loads(text, "f", {}, lambda path: True).settings, state or AuthState())


def caller(key: str, carrier: bytes = b"authorization") -> Caller:
    prefix = b"Bearer " if carrier == b"authorization" else b""
    return Caller(
        "POST", "/v1/chat/completions", {carrier: prefix + key.encode("utf-8", "surrogateescape")}, "10.0.0.1"
    )


async def said(pipeline: AuthPipeline, key: str, carrier: bytes = b"authorization") -> Any:
    return await pipeline.identify(caller(key, carrier))


@pytest.fixture(params=["sqlite", "postgres", "mysql"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """(driver, dsn) of a database with a table of keys."""
    if request.param == "sqlite":
        path = tmp_path / "keys.db"
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(f"CREATE TABLE api_keys ({COLUMNS} DATETIME)")
            connection.executemany("INSERT INTO api_keys VALUES (?, ?, ?, ?, ?)", ROWS)
        yield "sqlite", str(path)
    elif request.param == "postgres":
        with postgres_database() as url:
            with psycopg.connect(url) as connection, connection.cursor() as cursor:
                cursor.execute(f"CREATE TABLE api_keys ({COLUMNS} TIMESTAMP)")
                cursor.executemany("INSERT INTO api_keys VALUES (%s, %s, %s, %s, %s)", ROWS)
            yield "postgres", url
    else:
        with mysql_database() as url:
            place = url.partition("@")[2]
            connection = pymysql.connect(host="127.0.0.1", user="root", database=place.partition("/")[2])
            with connection, connection.cursor() as cursor:
                cursor.execute(f"CREATE TABLE api_keys ({COLUMNS} DATETIME)")
                cursor.executemany("INSERT INTO api_keys VALUES (%s, %s, %s, %s, %s)", ROWS)
                connection.commit()
            yield "mysql", url


def database(table: tuple[str, str], more: str = "") -> str:
    return f"{{type: database, database: {{driver: {table[0]}, dsn: '{table[1]}'}}{more}}}"


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
    lookup = pipeline._steps[0].source._lookup  # type: ignore[attr-defined]
    assert isinstance(lookup, DatabaseLookup)
    engine = lookup._database.engine
    event.listen(engine, "before_cursor_execute", lambda *seen: statements.add(seen[2]))
    attempts = injections()
    assert len(attempts) >= 2000
    for carrier in (b"authorization", b"x-api-key"):
        for start in range(0, len(attempts), 50):
            answers = await asyncio.gather(*(said(pipeline, text, carrier) for text in attempts[start : start + 50]))
            assert all(answer == UNKNOWN_KEY for answer in answers)
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


@pytest.fixture
def stored() -> Iterator[tuple[str, str, redis_client.Redis]]:
    with redis_url() as (url, prefix), redis_client.Redis.from_url(url) as client:
        yield url, prefix, client


def redis_source(stored: tuple[str, str, Any], name: str = "{api_key}") -> str:
    return f"{{type: redis, redis: {{addr: '{stored[0]}', key_pattern: '{stored[1]}key:{name}'}}}}"


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
        auth = f", cache_redis: true, cache: 5s, cache_secret: {'s' * 32}"
        one, two = line(source, more, auth), line(source, more, auth)
        assert (await said(one, KEY)).user_id == KEY
        assert (await said(two, KEY)).user_id == KEY
        assert len(asked) == 1
        names = list(client.scan_iter(match=f"{prefix}*"))
        assert len(names) == 1
        assert KEY.encode() not in names[0]
        assert 0 < client.pttl(names[0]) <= 2500
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


# --- webhook ---

Answer = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]


@contextlib.asynccontextmanager
async def webhook(answer: Answer, headers: list[bytes] | None = None) -> AsyncIterator[str]:
    """The URL of a service that answers with (status, body)."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                if headers is not None:
                    headers.append(head)
                fields = dict(text.lower().split(b": ", 1) for text in head.split(b"\r\n")[1:-2])
                body = await reader.readexactly(int(fields[b"content-length"]))
                status, text = await answer(head.split(b" ")[1].decode(), body)
                location = b"location: http://127.0.0.1:1/\r\n" if 300 <= status < 400 else b""
                writer.write(b"HTTP/1.1 %d X\r\n%scontent-length: %d\r\n\r\n%s" % (status, location, len(text), text))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/check?a=1"
    finally:
        server.close()


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
