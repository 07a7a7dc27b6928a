"""A store comes to its newest schema whole or not at all, whoever else starts at the same moment."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE

import psycopg
import pytest
import sqlalchemy
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from tests.support import old_store
from tests.support.databases import postgres_database
from tests.support.starts import SOURCES
from zuebee.lib.sql.database import database_url
from zuebee.schema import migrate
from zuebee.schema.prepare import prepare
from zuebee.schema.tables import metadata
from zuebee.schema.version import HEAD, SchemaError, SchemaTooNew, current_version

ROWS = 2000

# For each number that it is told: a child migrates and is killed before its statement number N. Answers with how the
# child ended; with status 0 when there are fewer.
KILLED = """
import os, signal, sys
from sqlalchemy import Engine, event
from zuebee.schema import migrate
url, whole = sys.argv[1], sys.argv[2] == "whole"
done = last = 0

@event.listens_for(Engine, "before_cursor_execute", retval=True)
def count(connection, cursor, statement, parameters, context, executemany):
    global done
    done += 1
    if done > last:
        os.kill(os.getpid(), signal.SIGKILL)
    if not whole and statement in ("BEGIN IMMEDIATE", "COMMIT"):
        statement = "SELECT 1"
    return statement, parameters

for line in sys.stdin:
    child = os.fork()
    if not child:
        last = int(line)
        migrate.upgrade(url)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

# Ten processes that migrate at the same moment; ends with how many of them failed.
TEN = """
import os, sys
from zuebee.schema import migrate
url, one_lock = sys.argv[1], sys.argv[2] == "one lock"
wait, go = os.pipe()
children = []
for number in range(10):
    child = os.fork()
    if not child:
        os.close(go)
        if not one_lock:
            migrate._LOCK += number
        os.read(wait, 1)
        try:
            migrate.upgrade(url)
        except BaseException as error:
            os.write(2, f"{error}\\n".encode())
            os._exit(1)
        os._exit(0)
    children.append(child)
os.close(go)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


@contextmanager
def killing(url: str, how: str) -> Iterator[Callable[[int], int]]:
    """Has a store migrated by a process that is killed before its statement of this number; how that one ended."""
    environment = {**os.environ, "PYTHONPATH": SOURCES}
    command = [sys.executable, "-c", KILLED, url, how]
    with subprocess.Popen(command, env=environment, stdin=PIPE, stdout=PIPE, text=True, bufsize=1) as process:
        asked, told = process.stdin, process.stdout
        assert asked is not None
        assert told is not None

        def kill(last: int) -> int:
            print(last, file=asked)
            return int(told.readline())

        yield kill
        asked.close()


@pytest.fixture
def url() -> Iterator[str]:
    with postgres_database() as address:
        yield address


def killed_at_every_statement(path: Path, how: str) -> Iterator[int]:
    """Has the file migrated by processes that are killed before their first statement, fourth, seventh..."""
    old = path.with_name("old.db")
    old_store.write(old, ROWS)
    with killing(str(path), how) as kill:
        for last in range(0, 200, 3):
            for each in path.parent.glob(f"{path.name}*"):
                each.unlink()
            shutil.copy(old, path)
            ended = kill(last)
            if ended == 0:
                break
            assert ended == -signal.SIGKILL
            yield last
    assert last > 9


def test_kill_9_while_migrating_sqlite_leaves_the_old_or_the_new_schema(tmp_path: Path) -> None:
    path = tmp_path / "zuebee.db"
    old_store.write(path, ROWS)
    records, days = old_store.records(path), old_store.days(path)
    for _ in killed_at_every_statement(path, "whole"):
        assert current_version(str(path)) == 0
        assert old_store.records(path) == records
        assert old_store.days(path) == days
    prepare(str(path))
    assert old_store.records(path) == records


def test_without_the_transaction_kill_9_would_leave_neither(tmp_path: Path) -> None:
    path = tmp_path / "zuebee.db"
    for _ in killed_at_every_statement(path, "in parts"):
        try:
            prepare(str(path))
            if len(old_store.records(path)) == ROWS:
                continue
        except (SchemaError, sqlite3.Error):
            pass
        return
    pytest.fail("every half-done file could be migrated")


def test_kill_9_while_migrating_postgres_leaves_nothing(url: str) -> None:
    with killing(url, "whole") as kill:
        for last in (5, 12, 25):
            assert kill(last) == -signal.SIGKILL
            with psycopg.connect(url) as connection:
                question = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'"
                assert connection.execute(question).fetchone() == (0,)
    prepare(url)
    assert current_version(url) == HEAD


def test_ten_processes_that_start_together_migrate_once(url: str) -> None:
    ended = run(TEN, url, "one lock")
    assert ended.returncode == 0, ended.stderr
    assert current_version(url) == HEAD


def test_without_the_lock_they_would_run_into_one_another(url: str) -> None:
    assert run(TEN, url, "own locks").returncode > 0


def test_what_is_on_no_invoice_is_taken_over(url: str) -> None:
    migrate.upgrade(url, "0002")
    october_s, november_s = 1759276800.0, 1761955200.0
    rows = [(october_s + 5, 1000.0, 7), (november_s - 5, 9000.0, 11), (november_s + 5, 1000.0, 13)]
    with psycopg.connect(url, autocommit=True) as connection:
        add = (
            "INSERT INTO usage_records (at_s, duration_ms, cost_nano, organisation_id, model, prompt_tokens)"
            " VALUES (%s, %s, %s, 'acme', 'm', 1)"
        )
        connection.cursor().executemany(add, rows)
        columns = "number, organisation_id, starts_at_s, ends_at_s, created_at_s"
        invoice = ("1", "acme", october_s, november_s, november_s + 1)
        connection.execute(f"INSERT INTO invoices ({columns}) VALUES (%s, %s, %s, %s, %s)".encode(), invoice)
        prepare(url)
        kept = connection.execute("SELECT month, requests, cost_nano FROM unbilled_usage ORDER BY 1").fetchall()
    assert kept == [(october_s, 1, 11), (november_s, 1, 13)]


@pytest.mark.requirement("A106")
def test_the_migrations_make_the_tables_as_they_are_described(url: str) -> None:
    prepare(url)
    engine = sqlalchemy.create_engine(database_url("postgres", url))
    with engine.begin() as connection:
        options = {"compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, metadata) == []
        connection.exec_driver_sql("ALTER TABLE keys ALTER COLUMN billing SET DEFAULT 'prepaid'")
        assert compare_metadata(context, metadata), "a difference is seen"
    engine.dispose()


def test_totals_and_times_can_be_asked_for_in_sql(url: str) -> None:
    prepare(url)
    with psycopg.connect(url) as connection:
        connection.execute(
            "INSERT INTO usage_records (request_id, at_s, prompt_tokens, completion_tokens) VALUES ('r', 1.5e9, 3, 4)"
        )
        question = "SELECT total_tokens, extract(epoch FROM timestamp)::float8 FROM usage_records"
        assert connection.execute(question).fetchone() == (7, 1.5e9)


def test_a_newer_store_is_refused(url: str) -> None:
    prepare(url)
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE alembic_version SET version_num = %s", (f"{HEAD + 1:04}",))
    with pytest.raises(SchemaTooNew):
        prepare(url)


def test_a_table_that_is_in_the_way_is_named(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE usage_records (theirs text)")
    with pytest.raises(SchemaError, match='"usage_records" already exists'):
        prepare(url)
    assert current_version(url) == 0
