"""A receiver is down for an hour: every event arrives afterwards, and none counts twice for who looks at the ids."""

from pathlib import Path

import pytest

from tests.support.fakes import VirtualTime
from tests.support.outage import Outcome, outage

BYTES_PER_S = 2 << 20
EVENT_BYTES = 500


def check(outcome: Outcome, events: int) -> None:
    assert len(outcome.sent) == events
    assert set(outcome.processed) == outcome.sent, "all arrived"
    again = len(outcome.processed) - len(outcome.sent)
    assert 0 < again <= outcome.lost, "twice only those whose answer was lost"
    assert outcome.asked_while_down < 60, "it was not hammered while it was down"
    assert outcome.back_s < 2 * 3600, "and it was soon told of everything when it came back"
    assert outcome.back_s > events * EVENT_BYTES / BYTES_PER_S - 2, "but not faster than it is to be told"


@pytest.mark.requirement("A282")
async def test_ten_thousand_events_of_an_hour_arrive(tmp_path: Path, virtual_time: VirtualTime) -> None:
    check(await outage(tmp_path, virtual_time, 10_000), 10_000)


@pytest.mark.proof
@pytest.mark.requirement("A282")
async def test_all_events_of_an_hour_at_a_hundred_a_second_arrive(tmp_path: Path, virtual_time: VirtualTime) -> None:
    check(await outage(tmp_path, virtual_time, 360_000), 360_000)


async def test_a_reporter_that_forgets_is_seen(tmp_path: Path, virtual_time: VirtualTime) -> None:
    """A positive control: without the schedule, events are missing."""
    outcome = await outage(tmp_path, virtual_time, 2_000, forget=True)
    assert set(outcome.processed) < outcome.sent
