"""Requests that go on when their client leaves: whether they may, and how long."""

import asyncio
from collections.abc import Callable, Sequence

from zuebee.config.settings_billing import DisconnectSettings
from zuebee.contracts.inference import Sink
from zuebee.lib.patterns import allowed

MAX_DETACHED = 1000
"""More requests without a client are not kept running: the next is cancelled."""

DETACH = DisconnectSettings(policy="detach")


class Disconnects:
    """The rules for clients that leave (they may be replaced at any time), and how many requests go on without one."""

    def __init__(self, rules: Sequence[DisconnectSettings] = (), most: int = MAX_DETACHED) -> None:
        self.rules = rules
        self.most = most
        self.running = 0

    def policy(self, model: str) -> DisconnectSettings | None:
        """What holds for a model; None: it is cancelled."""
        for rule in self.rules:
            if allowed(model, rule.models):
                return None if rule.policy == "cancel" else rule
        return None


class DetachedRequest:
    """One request that may outlive its client, within the bounds of its policy; `stop` ends it when they are passed."""

    __slots__ = ("_disconnects", "_left_bytes", "_policy", "_stop", "_timer", "gone")

    def __init__(self, disconnects: Disconnects, policy: DisconnectSettings, stop: Callable[[], None]) -> None:
        self.gone = False
        self._disconnects = disconnects
        self._policy = policy
        self._stop = stop
        self._timer: asyncio.TimerHandle | None = None
        self._left_bytes = int(policy.max_bytes)

    def client_left(self) -> bool:
        """The client has left. True: go on without it."""
        if self._disconnects.running >= self._disconnects.most:
            return False
        self.gone = True
        self._disconnects.running += 1
        if self._policy.policy == "drain":
            self._timer = asyncio.get_running_loop().call_later(self._policy.max_s, self._stop)
        return True

    def passed(self, size: int) -> None:
        """So many bytes of the answer came."""
        if self.gone and self._policy.policy == "drain":
            self._left_bytes -= size
            if self._left_bytes < 0:
                self._stop()

    def over(self) -> None:
        """The request has ended."""
        if self.gone:
            self._disconnects.running -= 1
            self.gone = False
        if self._timer is not None:
            self._timer.cancel()

    def sink(self, sink: Sink | None) -> Sink | None:
        """A sink that tells what passed."""
        return sink if sink is None or self._policy.policy != "drain" else _CountingSink(sink, self)


class _CountingSink:
    def __init__(self, sink: Sink, detached_request: DetachedRequest) -> None:
        self._sink = sink
        self._detached_request = detached_request

    @property
    def written_bytes(self) -> int:
        return self._sink.written_bytes

    def write(self, data: bytes) -> bool:
        self._detached_request.passed(len(data))
        return self._sink.write(data)

    async def drain(self) -> None:
        await self._sink.drain()
