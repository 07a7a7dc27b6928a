"""Pipelines over real stores of keys, and the stores."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
import redis as redis_client

from tests.support.databases import mysql_database, postgres_database, redis_url
from zuebee.app.auth import AuthState, build_pipeline
from zuebee.auth.service import AuthPipeline
from zuebee.config.load import loads
from zuebee.contracts.admission import Caller

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


@pytest.fixture
def stored() -> Iterator[tuple[str, str, redis_client.Redis]]:
    with redis_url() as (url, prefix), redis_client.Redis.from_url(url) as client:
        yield url, prefix, client


def redis_source(stored: tuple[str, str, Any], name: str = "{api_key}") -> str:
    return f"{{type: redis, redis: {{addr: '{stored[0]}', key_pattern: '{stored[1]}key:{name}'}}}}"


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
