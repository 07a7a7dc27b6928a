"""Items collected on the event loop, written in batches by one thread, so that no disk makes a request wait."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")
_log: Final = logging.getLogger("zuebee.batch_writer")


class BatchWriter(Generic[T]):
    """Hands batches of items to `write` in a thread of its own, `interval_s` after the first item of a batch.

    `put` never blocks: beyond `max_items` waiting it drops the item, counts it in `dropped` and returns False.
    A batch whose `write` raises is tried again `retries` times, then dropped and counted.
    """

    def __init__(
        self,
        name: str,
        write: Callable[[list[T]], None],
        *,
        interval_s: float,
        max_items: int,
        retries: int = 0,
        on_close: Callable[[], None] | None = None,
    ) -> None:
        self.dropped = 0
        self._write = write
        self._interval_s = interval_s
        self._max_items = max_items
        self._retries = retries
        self._on_close = on_close
        self._items: deque[T] = deque()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._writer = threading.Thread(target=self._run, name=name, daemon=True)
        self._writer.start()

    def put(self, item: T) -> bool:
        """Queue an item; False if it had to be dropped."""
        if len(self._items) >= self._max_items:
            self.dropped += 1
            return False
        self._items.append(item)
        if not self._wake.is_set():
            self._wake.set()
        return True

    def close(self, timeout_s: float = 10.0) -> None:
        """Write what is queued and stop the thread, waiting at most `timeout_s`."""
        self._closing.set()
        self._wake.set()
        self._writer.join(timeout_s)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._closing.wait(self._interval_s)
            # Cleared before the items are taken and before the end is looked for: an item or a `close` that comes
            # meanwhile sets it again and is not slept through.
            self._wake.clear()
            closing = self._closing.is_set()
            if batch := [self._items.popleft() for _ in range(len(self._items))]:
                self._write_batch(batch)
            if closing and not self._items:
                break
            if closing:
                self._wake.set()
        if self._on_close is not None:
            self._on_close()

    def _write_batch(self, batch: list[T]) -> None:
        for attempt in range(self._retries + 1):
            try:
                self._write(batch)
            except Exception:
                _log.exception("%s: a batch of %d could not be written", self._writer.name, len(batch))
                if attempt < self._retries and not self._closing.is_set():
                    self._closing.wait(min(0.1 * 2**attempt, 5.0))
            else:
                return
        self.dropped += len(batch)
