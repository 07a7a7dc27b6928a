"""While the database does not answer: settlements that wait are put on this machine's disk, by a thread of its own."""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from zuebee.billing.operations import Settle
from zuebee.billing.shared_batch import Pending
from zuebee.billing.spool import Line, Spool

LAST_WAIT_S = 2.0

_log = logging.getLogger("zuebee.billing")


class Spooling:
    """The spool file and its thread. All methods belong to the event loop.

    `done` is called when settlements are on the disk, or could not be put there (False).
    """

    def __init__(self, spool: Spool, done: Callable[[bool], None]) -> None:
        self._spool = spool
        self._done = done
        self._lines = 0
        self._failed = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._loop = asyncio.get_running_loop()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="spool")

    def keep(self, owner: int, waiting: list[tuple[int, Pending]]) -> None:
        """Put on the disk what is not there yet, with the number of its batch; nothing while that is being done."""
        if not self._idle.is_set():
            return
        kept: list[Pending] = []
        lines: list[Line] = []
        for number, pending in waiting:
            if isinstance(pending.operation, Settle) and not pending.kept:
                kept.append(pending)
                lines.append(Line(owner, number, pending.operation, pending.number))
        if kept:
            self._idle.clear()
            self._lines += len(lines)
            writing = self._disk.submit(self._spool.append, lines)
            writing.add_done_callback(lambda done: self._call(kept, done.exception()))

    def _call(self, kept: list[Pending], failure: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(self._kept, kept, failure)

    def _kept(self, kept: list[Pending], failure: BaseException | None) -> None:
        self._idle.set()
        if failure is not None:
            if not self._failed:
                _log.error("the spool file cannot be written, settlements wait in memory: %s", failure)
        else:
            for pending in kept:
                pending.kept = True
                pending.answer(None)
        self._failed = failure is not None
        self._done(failure is None)

    def empty(self) -> None:
        """The database has all that is in the file."""
        if self._lines and self._idle.is_set():
            self._lines = 0
            self._disk.submit(self._empty)

    @property
    def has_lines(self) -> bool:
        """Whether there is anything in the file that the database may not have."""
        return bool(self._lines) and self._idle.is_set()

    def _empty(self) -> None:
        try:
            self._spool.empty()
        except OSError as error:
            _log.error("the spool file cannot be emptied: %s", error)

    async def last(self, owner: int, waiting: list[tuple[int, Pending]]) -> None:
        """Put all that is left on the disk, also while an earlier call is under way."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_WAIT_S):
                await self._idle.wait()
        self.keep(owner, waiting)

    async def aclose(self) -> None:
        """Let go of the file, once it is written."""
        await self._loop.run_in_executor(None, self._disk.shutdown)
        self._spool.close()
