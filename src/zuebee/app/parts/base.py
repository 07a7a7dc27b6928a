"""What every part of a process can do: lend its metrics, begin, follow new settings, and close."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from zuebee.config.settings import Settings
from zuebee.lib.tasks import Tasks
from zuebee.telemetry.metrics import Metrics


def _nothing() -> None:
    pass


async def _nothing_made() -> None:
    pass


class Change(NamedTuple):
    """What a part has made ready for new settings. Either `commit` or `drop` is called, once.

    `commit` puts it in force. It does not wait and cannot fail, so that all parts change at once. `drop` closes what
    was made: another part could not follow.
    """

    commit: Callable[[], None] = _nothing
    drop: Callable[[], Awaitable[None]] = _nothing_made


class Part:
    """One part of a process. Its `__init__` builds it, and raises OSError or ValueError where that cannot be."""

    def lend(self, metrics: Metrics) -> None:
        """Register its metrics."""

    def begin(self, tasks: Tasks) -> None:
        """Start what it does by itself. What it spawns in `tasks` ends before the first part is closed."""

    def prepare(self, settings: Settings) -> Change:
        """Make ready for new settings. Raises OSError or ValueError; until `commit` nothing changes."""
        return Change()

    async def aclose(self) -> None:
        """Write what waits, and let go of everything. The parts that it was given are still open."""
