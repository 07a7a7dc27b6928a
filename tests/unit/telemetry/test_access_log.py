"""The access log's file."""

import time
from collections.abc import Callable
from pathlib import Path

from zuebee.contracts.admission import Settlement
from zuebee.telemetry.access_log import AccessLog


def settlement() -> Settlement:
    return Settlement("req_1", "POST", "/v1/chat/completions", "10.0.0.1", 1.0, 200, "complete")


def eventually(done: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 5
    while not done():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_a_log_that_was_moved_away_is_written_anew(tmp_path: Path) -> None:
    """As logrotate does it; no line is lost, and none is in both."""
    path, moved = tmp_path / "access.log", tmp_path / "access.log.1"
    log = AccessLog(str(path))
    log.record(settlement())
    eventually(lambda: path.read_bytes().count(b"\n") == 1)
    path.rename(moved)
    log.record(settlement())
    eventually(lambda: moved.read_bytes().count(b"\n") == 2)
    log.reopen()
    log.record(settlement())
    log.close()
    assert (moved.read_bytes().count(b"\n"), path.read_bytes().count(b"\n")) == (2, 1)


def test_standard_output_is_not_opened_again() -> None:
    log = AccessLog("stdout")
    log.reopen()
    log.close()
