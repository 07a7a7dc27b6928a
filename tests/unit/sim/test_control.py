import json
from typing import Any

import pytest

from zuebee.sim.base import SimRequest
from zuebee.sim.observe import Control, Observer
from zuebee.sim.wire import FaultBook


def ask(control: Control, method: str, target: str, body: bytes = b"") -> tuple[int, Any]:
    reply = control.answer(SimRequest(method=method, target=target.encode(), headers=[], body=body, connection=1))
    return reply.status, json.loads(reply.body)


@pytest.fixture
def control() -> Control:
    return Control(Observer(10), FaultBook(), lambda _: None)


def test_faults_are_armed_shown_and_deleted(control: Control) -> None:
    assert ask(control, "POST", "/_sim/faults", b'{"fault":"hang","times":2}')[0] == 200
    assert ask(control, "GET", "/_sim/faults")[1]["armed"] == [{"fault": "hang", "times": 2}]
    assert ask(control, "DELETE", "/_sim/faults") == (200, {"armed": []})
    assert ask(control, "GET", "/_sim/faults")[1]["armed"] == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"fault":"x"}', b'{"fault":"hang","times":0}', b'{"what":1}'])
def test_nonsense_is_refused_and_arms_nothing(control: Control, body: bytes) -> None:
    assert ask(control, "POST", "/_sim/faults", body)[0] == 400
    assert ask(control, "GET", "/_sim/faults")[1]["armed"] == []


def test_an_unknown_call_is_told_the_known_ones(control: Control) -> None:
    status, answer = ask(control, "GET", "/_sim/reset")
    assert status == 404
    assert "POST /_sim/reset" in answer["error"]["message"]
