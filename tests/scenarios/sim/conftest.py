"""The simulated server as fixtures: once per file and event loop, fresh for every test."""

import asyncio
from collections.abc import Iterator

import pytest
import uvloop

from tests.support.sim import Wire, call, running
from zuebee.sim.server import SimSettings


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    run = asyncio.run if request.param == "asyncio" else uvloop.run
    with running(SimSettings(tokens=8, tokens_per_s=0), run) as address:
        yield address


@pytest.fixture
def url(server: str) -> str:
    call(server, "DELETE", "/_sim/faults")
    call(server, "POST", "/_sim/reset")
    return server


@pytest.fixture
def wire(url: str) -> Iterator[Wire]:
    connection = Wire(url)
    with connection.socket:
        yield connection
