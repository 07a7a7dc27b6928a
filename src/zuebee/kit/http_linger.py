"""PURE. The end of a connection whose client may still be sending (RFC 9112, section 9.6).

Who closes a socket with bytes unread resets the connection, and a reset takes away the answer that the client has not
read yet. So the server closes its own direction only, and goes on reading for a while without looking at what comes.
"""

from typing import Final

LINGER_S: Final = 30.0
QUIET_S: Final = 5.0
HURRIED_S: Final = 1.0


class Linger:
    """The bounds of one such end: bytes, seconds in all, and seconds of silence."""

    __slots__ = ("_bytes_left", "_quiet_at_s", "_until_s", "began_s")

    def __init__(self, now_s: float, max_bytes: int) -> None:
        self.began_s = now_s
        self._bytes_left = max_bytes
        self._until_s = now_s + LINGER_S
        self._quiet_at_s = now_s + QUIET_S

    def discard(self, count: int, now_s: float) -> bool:
        """So many bytes came; False when it is too much."""
        self._bytes_left -= count
        self._quiet_at_s = now_s + QUIET_S
        return self._bytes_left >= 0

    def hurry(self, now_s: float) -> None:
        """The listener stops: a moment is all that is left."""
        self._until_s = min(self._until_s, now_s + HURRIED_S)

    def is_over(self, now_s: float) -> bool:
        """Whether time is up."""
        return now_s >= self._until_s or now_s >= self._quiet_at_s
