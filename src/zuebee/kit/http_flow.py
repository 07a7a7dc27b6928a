"""Pausing and going on, in both directions of one connection."""

import asyncio

HIGH_WATER_BYTES = 64 * 1024
"""So much of a body is read before its reader takes any of it."""


class Flow:
    """`read_paused`: we do not listen to the client. `write_paused`: it takes less than we write."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.read_paused = False
        self.write_paused = False
        self._transport = transport
        self._loop = loop
        self._writable: asyncio.Future[None] | None = None

    async def drain(self) -> None:
        """Wait until the client takes more."""
        while self.write_paused:
            if self._writable is None:
                self._writable = self._loop.create_future()
            await asyncio.shield(self._writable)  # others may wait for it as well

    def pause_reading(self) -> None:
        """Listen no more for now."""
        if not self.read_paused:
            self.read_paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Listen again."""
        if self.read_paused:
            self.read_paused = False
            self._transport.resume_reading()

    def pause_writing(self) -> None:
        """The transport has enough."""
        self.write_paused = True

    def resume_writing(self) -> None:
        """The transport can take more, or all is over."""
        self.write_paused = False
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None
