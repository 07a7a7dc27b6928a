import asyncio

from zuebee.config.settings_billing import DisconnectSettings
from zuebee.edge.detached import DETACH, DetachedRequest, Disconnects
from zuebee.lib.units import Size, Timeout


class Sink:
    written_bytes = 0
    drained = 0

    def write(self, data: bytes) -> bool:
        self.written_bytes += len(data)
        return False

    async def drain(self) -> None:
        self.drained += 1


class Stop:
    calls = 0

    def __call__(self) -> None:
        self.calls += 1


def drain(max_s: float = 60, max_bytes: int = 100) -> DisconnectSettings:
    return DisconnectSettings(policy="drain", max_s=Timeout(max_s), max_bytes=Size(max_bytes))


def test_the_first_rule_that_fits_the_model_counts() -> None:
    rules = [
        DisconnectSettings(models=["a"], policy="cancel"),
        DisconnectSettings(models=["a*", "b"], policy="detach"),
        DisconnectSettings(policy="drain"),
    ]
    disconnects = Disconnects(rules)
    policies = {model: disconnects.policy(model) for model in ("a", "ab", "b", "bc", "")}
    assert policies == {"a": None, "ab": rules[1], "b": rules[1], "bc": rules[2], "": rules[2]}
    assert Disconnects().policy("a") is None


async def test_detached_goes_on_without_bounds_of_its_own() -> None:
    disconnects, stop = Disconnects(), Stop()
    detached_request, sink = DetachedRequest(disconnects, DETACH, stop), Sink()
    assert detached_request.sink(sink) is sink
    assert detached_request.client_left()
    detached_request.passed(1 << 40)
    assert (stop.calls, disconnects.running) == (0, 1)
    detached_request.over()
    detached_request.over()
    assert disconnects.running == 0


async def test_what_is_drained_ends_after_so_many_bytes() -> None:
    stop, sink = Stop(), Sink()
    detached_request = DetachedRequest(Disconnects(), drain(max_bytes=10), stop)
    counted = detached_request.sink(sink)
    assert counted is not None
    assert counted.write(b"x" * 50) is False
    assert stop.calls == 0, "while the client is there nothing is counted"
    detached_request.client_left()
    counted.write(b"x" * 10)
    assert stop.calls == 0
    counted.write(b"x")
    assert stop.calls == 1
    await counted.drain()
    assert (counted.written_bytes, sink.drained) == (61, 1)
    assert detached_request.sink(None) is None


async def test_what_is_drained_ends_after_a_while() -> None:
    stop = Stop()
    detached_request = DetachedRequest(Disconnects(), drain(max_s=0.01), stop)
    await asyncio.sleep(0.02)
    assert stop.calls == 0
    detached_request.client_left()
    await asyncio.sleep(0.03)
    assert stop.calls == 1


async def test_what_is_over_is_not_stopped() -> None:
    stop = Stop()
    detached_request = DetachedRequest(Disconnects(), drain(max_s=0.01), stop)
    detached_request.client_left()
    detached_request.over()
    await asyncio.sleep(0.02)
    assert stop.calls == 0


async def test_their_number_is_bounded() -> None:
    disconnects = Disconnects(most=3)
    several = [DetachedRequest(disconnects, DETACH, Stop()) for _ in range(5)]
    assert [detached_request.client_left() for detached_request in several] == [True, True, True, False, False]
    for detached_request in several:
        detached_request.over()
    assert disconnects.running == 0
    assert several[4].client_left()
