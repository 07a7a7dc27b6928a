import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from zuebee.ledger.sqlite.store import connect
from zuebee.ledger.sqlite.wal_file import WalFile


def opened(path: Path) -> set[tuple[int, int]]:
    """Device and inode of each descriptor that this process has of a file."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        if each.exists() and each.resolve() == path.resolve():
            status = os.stat(each)
            found.add((status.st_dev, status.st_ino))
    return found


def test_it_is_the_file_that_sqlite_writes_to_through_checkpoints_and_the_ends_of_others(tmp_path: Path) -> None:
    path, wal = tmp_path / "z.db", tmp_path / "z.db-wal"
    writer = connect(str(path))
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("PRAGMA synchronous=NORMAL")
    writer.execute("CREATE TABLE t (x)")
    log = WalFile(str(path))
    assert len(opened(wal)) == 1
    before = os.stat(wal).st_ino
    for mode in ("PASSIVE", "RESTART", "TRUNCATE"):
        writer.execute("INSERT INTO t VALUES (zeroblob(20000))")
        other = sqlite3.connect(path)
        assert other.execute("SELECT count(*) FROM t").fetchone()[0] > 0
        other.close()
        writer.execute(f"PRAGMA wal_checkpoint({mode})")
        log.flush()
        assert (len(opened(wal)), os.stat(wal).st_ino) == (1, before)
    log.close()
    # It is another one only when all connections were closed.
    writer.close()
    assert not wal.exists()


def others_may_write(path: Path) -> bool:
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    return subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False).returncode == 0


def test_locks_of_the_database_outlive_it(tmp_path: Path) -> None:
    path = tmp_path / "z.db"
    writer = connect(str(path))
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE t (x)")
    log = WalFile(str(path))
    writer.execute("BEGIN IMMEDIATE")
    log.close()
    assert others_may_write(path) is False
    writer.execute("ROLLBACK")
    assert others_may_write(path) is True
    writer.close()


def test_a_log_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        WalFile(str(tmp_path / "z.db"))
