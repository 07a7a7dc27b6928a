"""Every background task has an owner.

The event loop keeps only weak references to tasks, and nobody hears of a failed one. A `Tasks` object holds its
tasks, reports failures and ends them all when it is closed.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_log = logging.getLogger("zuebee.tasks")


class Tasks:
    """A set of running tasks with one owner."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run `work` beside the caller. A failure is logged under `name`."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            _log.error("task %s failed: %r", task.get_name(), failure, exc_info=failure)

    async def wait(self, timeout_s: float) -> None:
        """Wait until nothing runs any more, at most for so long."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)

    def cancel(self) -> None:
        """Cancel what runs now; `aclose` waits for it."""
        for task in self._tasks:
            task.cancel()

    async def aclose(self) -> None:
        """Cancel what still runs and wait for it."""
        running = list(self._tasks)
        self.cancel()
        await asyncio.gather(*running, return_exceptions=True)
