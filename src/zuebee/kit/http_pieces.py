"""PURE. Where to cut what a client sends, so that a parser is given one message at a time.

Each head and each chunked body ends with an empty line, any other body after as many bytes as its head says. Whoever
cuts behind each empty line may cut once too often, which no parser minds, but never lets two requests through at once.
"""

from typing import Final

PIECE_BYTES: Final = 8 * 1024
"""No piece of a head or of a chunked body is larger: it may hold thousands of fields or chunks."""

_EMPTY_LINE: Final = b"\r\n\r\n"


class Pieces:
    """Cuts the messages of one connection. `body_left`: how much is to come of a body whose length is known."""

    __slots__ = ("_before", "body_left")

    def __init__(self) -> None:
        self.body_left = 0
        self._before = b""

    def end(self, data: bytes, at: int) -> int:
        """Where the piece of `data` that begins at `at` ends."""
        size = len(data)
        if self.body_left:
            return min(size, at + self.body_left)
        if not at and self._before:
            # An empty line that began in what came before.
            begins = (self._before + data[:3]).find(_EMPTY_LINE)
            if begins >= 0:
                return begins + len(_EMPTY_LINE) - len(self._before)
        limit = min(size, at + PIECE_BYTES)
        begins = data.find(_EMPTY_LINE, max(at - 3, 0), limit)
        return limit if begins < 0 else begins + len(_EMPTY_LINE)

    def ran_out(self, data: bytes) -> None:
        """All of `data` was taken, and its last message is not whole."""
        if not self.body_left:
            self._before = (self._before + data)[-3:] if len(data) < 3 else data[-3:]

    def begin(self) -> None:
        """What comes now begins a message, or goes on with bytes that were cut before."""
        self._before = b""
