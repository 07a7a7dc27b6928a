"""Real databases for tests: each test gets one of its own, with a random name, and it is gone afterwards.

Where they are can be said in `TEST_POSTGRES_URL`, `TEST_MYSQL_URL` and `TEST_REDIS_URL`.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg
import pymysql
import redis

from tests.support.servers import _absent

POSTGRES_URL = "postgresql://postgres@127.0.0.1:5432/postgres"
MYSQL_URL = "mysql://root@127.0.0.1:3306/test"
REDIS_URL = "redis://127.0.0.1:6379/0"
CONNECT_TIMEOUT_S = 5


@contextmanager
def postgres_database() -> Iterator[str]:
    """The URL of a new and empty PostgreSQL database."""
    server = os.environ.get("TEST_POSTGRES_URL", POSTGRES_URL)
    name = _random_name()
    try:
        _ask_postgres(server, f'CREATE DATABASE "{name}" TEMPLATE template0')
    except psycopg.OperationalError:
        _absent("no PostgreSQL server answers (TEST_POSTGRES_URL names one)")
    try:
        yield _with_database(server, name)
    finally:
        _ask_postgres(server, f'DROP DATABASE "{name}" WITH (FORCE)')


@contextmanager
def postgres_login(password: str) -> Iterator[str]:
    """The name of a new PostgreSQL user with this password. Enter it before the databases that it works in."""
    server = os.environ.get("TEST_POSTGRES_URL", POSTGRES_URL)
    name = _random_name()
    try:
        _ask_postgres(server, f"CREATE ROLE \"{name}\" LOGIN SUPERUSER PASSWORD '{password}'")
    except psycopg.OperationalError:
        _absent("no PostgreSQL server answers (TEST_POSTGRES_URL names one)")
    try:
        yield name
    finally:
        _ask_postgres(server, f'DROP ROLE "{name}"')


@contextmanager
def mysql_database() -> Iterator[str]:
    """The URL (`mysql://user@host:port/name`) of a new and empty MySQL or MariaDB database."""
    server = os.environ.get("TEST_MYSQL_URL", MYSQL_URL)
    name = _random_name()
    try:
        _ask_mysql(server, f"CREATE DATABASE `{name}` CHARACTER SET utf8mb4")
    except pymysql.err.OperationalError:
        _absent("no MySQL or MariaDB server answers (TEST_MYSQL_URL names one)")
    try:
        yield _with_database(server, name)
    finally:
        _ask_mysql(server, f"DROP DATABASE `{name}`")


@contextmanager
def redis_url() -> Iterator[tuple[str, str]]:
    """The URL of a Redis server, and a prefix of keys that nobody else uses; they are removed afterwards."""
    url = os.environ.get("TEST_REDIS_URL", REDIS_URL)
    prefix = f"{_random_name()}:"
    client = redis.Redis.from_url(url, socket_timeout=CONNECT_TIMEOUT_S, socket_connect_timeout=CONNECT_TIMEOUT_S)
    with client:
        try:
            client.ping()
        except redis.RedisError:
            _absent("no Redis server answers (TEST_REDIS_URL names one)")
        try:
            yield url, prefix
        finally:
            for key in client.scan_iter(match=f"*{prefix}*", count=1000):
                client.delete(key)


def _random_name() -> str:
    return f"zuebee_test_{secrets.token_hex(6)}"


def _with_database(server: str, name: str) -> str:
    return urlunsplit(urlsplit(server)._replace(path=f"/{name}"))


def _ask_postgres(server: str, statement: str) -> None:
    with psycopg.connect(server, autocommit=True, connect_timeout=CONNECT_TIMEOUT_S) as connection:
        connection.execute(statement.encode())


def _ask_mysql(server: str, statement: str) -> None:
    parts = urlsplit(server)
    connection = pymysql.connect(
        host=parts.hostname or "127.0.0.1",
        port=parts.port or 3306,
        user=unquote(parts.username or "root"),
        password=unquote(parts.password or ""),
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=30,
    )
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)
