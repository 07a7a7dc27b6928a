import json

import pytest

from tests.support.fakes import VirtualTime, make_job
from zuebee.models.added_fields import ASK_AGAIN_S, UsageOption

ABOUT_IT = b'{"error":"unknown field stream_options"}'
PLAIN = json.dumps({"model": "m", "stream": True}).encode()


def test_it_stops_asking_for_a_while(virtual_time: VirtualTime) -> None:
    option, job = UsageOption("auto"), make_job(stream=True, body=PLAIN)
    assert option.asks(asked=False)
    assert option.may_be_refused(400, ABOUT_IT)
    assert option.taken_without(job)
    assert not option.asks(asked=False)
    virtual_time.advance(ASK_AGAIN_S - 1)
    assert not option.asks(asked=False)
    virtual_time.advance(1)
    assert option.asks(asked=False)


def test_other_errors_are_not_about_it() -> None:
    option = UsageOption("auto")
    assert not option.may_be_refused(500, ABOUT_IT)
    assert not option.may_be_refused(400, b'{"error":"unknown field n"}')
    assert not UsageOption("always").may_be_refused(400, ABOUT_IT)


@pytest.mark.parametrize("place", ["text", "field"])
def test_what_a_caller_wrote_says_nothing_of_others(place: str) -> None:
    option = UsageOption("auto")
    body = b'{"model":"stream_options"}' if place == "text" else b'{"stream\\u005foptions":{}}'
    job = make_job(stream=True, body=body, places={"stream_options": (0, 2)} if place == "field" else None)
    assert not option.taken_without(job)
    assert option.asks(asked=False)


def test_who_asked_itself_is_not_helped() -> None:
    assert not UsageOption("auto").asks(asked=True)
    assert not UsageOption("never").asks(asked=False)
