"""Requests that go on when their client has left."""

import asyncio

import pytest

from tests.support.exchange import CALLER, Scene, streaming
from tests.support.fakes import USAGE, head, until
from zuebee.config.settings_billing import DisconnectSettings
from zuebee.contracts.inference import End
from zuebee.lib.units import Timeout

DETACH = DisconnectSettings(policy="detach")
DRAIN = DisconnectSettings(policy="drain", max_s=Timeout(0.02))


@pytest.mark.requirement("A296")
async def test_without_a_rule_nobody_goes_on() -> None:
    scene = Scene(streaming(End(USAGE)))
    scene.pipeline.disconnects.rules = [DisconnectSettings(policy="cancel"), DETACH]
    assert await scene.run() == ("complete", 200, "", USAGE)
    assert scene.client.goes_on is None


@pytest.mark.parametrize("stream", [True, False])
async def test_who_goes_on_is_settled_with_what_the_backend_says(stream: bool) -> None:
    last = End(USAGE)
    scene = Scene([0.02, *streaming(0.02, last)] if stream else [0.02, head(), b"{}", last], stream=stream)
    scene.pipeline.disconnects.rules = [DETACH]
    task = asyncio.ensure_future(scene.run())
    await until(lambda: scene.client.goes_on is not None)
    assert scene.client.goes_on is not None
    assert scene.client.goes_on()
    assert scene.pipeline.disconnects.running == 1
    assert await task == ("client_gone", 200, "client_closed_request", USAGE)
    assert scene.pipeline.disconnects.running == 0


async def test_who_is_drained_for_too_long_is_stopped() -> None:
    scene = Scene(streaming(60.0))
    scene.pipeline.disconnects.rules = [DRAIN]
    task = scene.client.task = asyncio.ensure_future(scene.pipeline.serve(CALLER, scene.client, scene.settlement))
    await until(lambda: scene.client.body != b"")
    assert scene.client.goes_on is not None
    assert scene.client.goes_on()
    await task
    assert scene.outcome() == ("client_gone", 200, "client_closed_request", USAGE)
