"""Pausing and going on, in both directions of one connection, and whether its client takes what it is sent."""

import asyncio
import fcntl
import sys
import termios
from typing import Final

HIGH_WATER_BYTES = 64 * 1024
"""So much of a body is read before its reader takes any of it."""

_COUNTS_UNACKNOWLEDGED: Final = sys.platform == "linux"


class Flow:
    """`read_paused`: we do not listen to the client. `write_paused`: it takes less than we write.

    `full`: there is enough unread already, so nobody else may resume reading. `handed_bytes`: all that was written.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.read_paused = False
        self.write_paused = False
        self.full = False
        self.handed_bytes = 0
        self._transport = transport
        self._loop = loop
        self._writable: asyncio.Future[None] | None = None
        self._taken_bytes = self._acknowledged_bytes = 0
        self._stalled_since_s = 0.0

    def write(self, data: bytes) -> None:
        """Hand bytes to the transport."""
        self.handed_bytes += len(data)
        self._transport.write(data)

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
        """Listen again, unless there is enough unread."""
        if self.read_paused and not self.full:
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

    def stalled_s(self, now_s: float) -> float:
        """For how long the client has taken nothing of what it was sent; 0 while nothing is unsent.

        What the kernel took counts as taken, and so does what the client's side acknowledged: the kernel takes no more
        before a good part of its buffer is free again, and that may be minutes for who reads slowly but steadily.
        """
        unsent_bytes = self._transport.get_write_buffer_size()
        if not unsent_bytes:
            self._stalled_since_s = 0.0
            return 0.0
        taken_bytes = self.handed_bytes - unsent_bytes
        begins = not self._stalled_since_s
        if begins or taken_bytes > self._taken_bytes:
            self._taken_bytes = taken_bytes
            self._stalled_since_s = now_s
        acknowledged_bytes = taken_bytes - self._unacknowledged_bytes()
        if begins or acknowledged_bytes > self._acknowledged_bytes:
            self._acknowledged_bytes = acknowledged_bytes
            self._stalled_since_s = now_s
        return now_s - self._stalled_since_s

    def _unacknowledged_bytes(self) -> int:
        """What is in the kernel and on the way, as far as the kernel tells."""
        sock = self._transport.get_extra_info("socket") if _COUNTS_UNACKNOWLEDGED else None
        if sock is None:
            return 0
        try:
            count: bytes = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        except (OSError, ValueError):
            return 0
        return int.from_bytes(count, sys.byteorder)
