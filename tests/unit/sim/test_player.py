"""The player on a clock of its own and a transport that only remembers."""

from collections.abc import Callable, Iterable
from typing import Any

from zuebee.sim.base import Send, Step, Stop, Wait
from zuebee.sim.server import Player


class Stage:
    """Event loop and transport in one: `run` plays the scheduled calls in order of time."""

    def __init__(self, steps: Iterable[Step]) -> None:
        self.now, self.calls = 100.0, list[tuple[float, Callable[[], None]]]()
        self.log: list[Any] = []
        self.player: Player
        taken = iter(steps)
        self.player = Player(self, self, taken, self.sent, self.done)  # type: ignore[arg-type]

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, call: Callable[[], None]) -> "Stage":
        self.calls.append((when, call))
        return self

    def call_later(self, delay: float, call: Callable[[], None]) -> "Stage":
        return self.call_at(self.now + delay, call)

    def call_soon(self, call: Callable[[], None]) -> "Stage":
        return self.call_at(self.now, call)

    def cancel(self) -> None:
        self.calls.clear()

    def run(self) -> "Stage":
        self.player.run()
        while self.calls:
            self.now, call = self.calls.pop(0)
            call()
        return self

    def write(self, data: bytes) -> None:
        self.log.append((round(self.now - 100, 3), data))

    def sent(self, events: int, tokens: int) -> None:
        self.log.append((events, tokens))

    def done(self, stop: Stop | None) -> None:
        self.log.append(stop)

    def is_closing(self) -> bool:
        return "closed" in self.log

    def close(self) -> None:
        self.log.append("closed")


def test_steps_are_taken_in_time_and_counted() -> None:
    stage = Stage([Send(b"a", 1, 1), Wait(0.5), Send(b"b"), Wait(0.25), Send(b"c", 1, 0)]).run()
    assert stage.log == [(0, b"a"), (1, 1), (0.5, b"b"), (0.75, b"c"), (1, 0), None]


def test_a_late_stream_catches_up_with_its_pace() -> None:
    stage = Stage([Wait(0.5), Send(b"a"), Wait(0.5), Send(b"b"), Wait(0.5), Send(b"c")])
    stage.player.run()
    stage.now, call = 101.2, stage.calls.pop()[1]
    call()
    while stage.calls:
        stage.now, call = stage.calls.pop(0)
        call()
    assert stage.log == [(1.2, b"a"), (1.2, b"b"), (1.5, b"c"), None]


def test_long_bursts_let_others_have_their_turn() -> None:
    stage = Stage([Send(b"x")] * 1000)
    stage.player.run()
    assert len(stage.log) < 100
    assert len(stage.calls) == 1


def test_nothing_is_written_while_the_peer_does_not_read() -> None:
    stage = Stage([Send(b"a"), Wait(1), Send(b"b")])
    stage.player.pause()
    stage.player.run()
    assert stage.log == []
    stage.player.resume()
    assert stage.log == [(0, b"a")]
    stage.player.pause()
    stage.player.resume()
    assert len(stage.calls) == 1
    stage.player.cancel()
    assert stage.calls == []


def test_a_hanging_exchange_does_nothing_more() -> None:
    assert Stage([Send(b"a"), Stop.HANG, Send(b"b")]).run().log == [(0, b"a")]


def test_a_closing_exchange_says_so() -> None:
    assert Stage([Stop.CLOSE, Send(b"b")]).run().log == ["closed", Stop.CLOSE]
