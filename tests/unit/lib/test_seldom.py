import logging

import pytest

from tests.support.fakes import VirtualTime
from zuebee.lib.seldom import EVERY_S, MAX_KNOWN, Seldom


def test_the_same_is_said_once_in_a_while(virtual_time: VirtualTime, caplog: pytest.LogCaptureFixture) -> None:
    seldom = Seldom(logging.getLogger("test"))
    for _ in range(1000):
        seldom.warning("source %s failed: %s", "a", "gone")
        seldom.error("another")
    assert [record.getMessage() for record in caplog.records] == ["source a failed: gone", "another"]
    caplog.clear()
    virtual_time.advance(EVERY_S)
    seldom.warning("source %s failed: %s", "a", "gone")
    assert caplog.records[0].getMessage() == "source a failed: gone (and 999 times more since the last such line)"
    assert caplog.records[0].levelname == "WARNING"


def test_what_it_remembers_is_bounded(virtual_time: VirtualTime, caplog: pytest.LogCaptureFixture) -> None:
    seldom = Seldom(logging.getLogger("test"))
    for n in range(10 * MAX_KNOWN):
        seldom.warning("%d", n)
    assert len(caplog.records) == 10 * MAX_KNOWN
    seldom.warning("%d", n)
    assert len(caplog.records) == 10 * MAX_KNOWN, "the last is known"
    seldom.warning("%d", n - MAX_KNOWN)
    assert len(caplog.records) == 10 * MAX_KNOWN + 1, "one of so long ago is not"
