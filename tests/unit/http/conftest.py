"""The event loop of these tests is the one that serves; where TLS and transports matter, also the standard one."""

import asyncio
import gc
from collections.abc import Callable, Iterator, Mapping

import pytest
import uvloop

BOTH_LOOPS = (
    "test_connect.py",
    "test_guard_crowd.py",
    "test_linger.py",
    "test_server.py",
    "test_tls_door.py",
)

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    factories: dict[str, LoopFactory] = {"uvloop": uvloop.new_event_loop}
    if item.path.name in BOTH_LOOPS:
        factories["asyncio"] = asyncio.new_event_loop
    return factories


@pytest.fixture
def heap_apart() -> Iterator[None]:
    """What the whole test run has on its heap is no work of the server: a full collection of it takes 0.3 s."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
