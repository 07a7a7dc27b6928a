"""The cause of a failure is said, and nothing that may be secret."""

import sqlite3

import psycopg
import pymysql
import pytest
import sqlalchemy.exc

from zuebee.lib.sql.dsn import connection_words, reason


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (sqlite3.OperationalError("database is locked"), "database is locked (OperationalError)"),
        (psycopg.OperationalError('connection to server at "10.0.0.1", port 5432 failed: Connection refused\n\tIs it'),
         "Connection refused (OperationalError)"),
        (psycopg.ProgrammingError('missing "=" after "s3cret" in connection info string'), "ProgrammingError"),
        (pymysql.OperationalError(2003, "Can't connect to '10.0.0.1'"), "error 2003 (OperationalError)"),
        (pymysql.IntegrityError(1062, "Duplicate entry 's3cret' for key"), "error 1062 (IntegrityError)"),
        (TimeoutError("s3cret"), "TimeoutError"),
        (sqlalchemy.exc.OperationalError("SELECT 's3cret'", {}, sqlite3.OperationalError("disk I/O error")),
         "disk I/O error (OperationalError)"),
    ],
)  # fmt: skip
def test_the_cause_is_said(error: Exception, said: str) -> None:
    assert reason(error) == said


def test_an_address_is_not_repeated() -> None:
    said = connection_words('could not translate host name "pass@db" to address: Name or service not known')
    assert said == "could not translate the host to address: Name or service not known"
    assert connection_words("failed to resolve host 'pass@db': no") == "failed to resolve the host: no"
    assert connection_words('port 1 failed: FATAL:  database "x" does not exist') == 'database "x" does not exist'
