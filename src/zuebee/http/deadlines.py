"""By when a client must have sent its request, its next one, or what it still sends when nobody looks at it any more.

No deadline has a timer: to move one costs an addition, and the connection looks a few times a second (`sweep`).
"""

import asyncio

from zuebee.http.connections import ReceiveLimits


class RequestDeadlines:
    """The deadlines of one connection for requests. 0: not set.

    What always holds:

    * `request_by_s` is set from the first byte of a head to the last byte of its body, and while the first head is
      awaited; `idle_since_s` while the next head is awaited. At most one of them is set. While neither is, the gateway
      is at work, and the client cannot be late.
    * The time for a body grows with each byte that comes, but bytes that came early buy no more than `body_timeout_s`.

    Who may call: the parser tells what came (`head_begins` to `request_ends`), the connection when it begins
    (`head_is_due`), when it waits for the next request (`idle`) or has it (`busy`), and when nothing is expected any
    more (`stop`). Only `GuardedProtocol.sweep` asks what has passed, and acts.
    """

    __slots__ = (
        "_body_bytes_per_s", "_body_timeout_s", "_header_timeout_s", "_keep_alive_s", "_loop", "idle_since_s",
        "request_by_s",
    )  # fmt: skip

    def __init__(self, loop: asyncio.AbstractEventLoop, limits: ReceiveLimits, keep_alive_s: float) -> None:
        self.request_by_s = 0.0
        self.idle_since_s = 0.0
        self._loop = loop
        self._header_timeout_s = limits.header_timeout_s
        self._body_timeout_s = limits.body_timeout_s
        self._body_bytes_per_s = limits.body_min_bytes_per_s
        self._keep_alive_s = keep_alive_s

    def head_is_due(self) -> None:
        """A connection begins: its first request is awaited."""
        self.request_by_s = self._loop.time() + self._header_timeout_s

    def head_begins(self) -> None:
        """The first byte of a head is here. Line ends between requests are none: they are no sign of life."""
        self.request_by_s = self._loop.time() + self._header_timeout_s
        self.idle_since_s = 0.0

    def head_ends(self) -> None:
        """A head is whole: its body is awaited."""
        self.request_by_s = self._loop.time() + self._body_timeout_s

    def body_came(self, size: int) -> None:
        """So many bytes of a body are here."""
        self.request_by_s += size / self._body_bytes_per_s

    def no_credit(self) -> None:
        """More of a body is awaited. What came early buys no hours of silence."""
        self.request_by_s = min(self.request_by_s, self._loop.time() + self._body_timeout_s)

    def request_ends(self) -> None:
        """A request is whole."""
        self.request_by_s = 0.0

    def idle(self) -> None:
        """The next request is awaited."""
        self.idle_since_s = self._loop.time()

    def busy(self) -> None:
        """The next request is here."""
        self.idle_since_s = 0.0

    def stop(self) -> None:
        """Nothing is expected any more."""
        self.request_by_s = self.idle_since_s = 0.0

    @property
    def head_since_s(self) -> float:
        """When the head that is awaited began, or the connection did."""
        return self.request_by_s - self._header_timeout_s

    def excuse(self, now_s: float) -> None:
        """The body that is awaited is not late: nobody listens to the client, or has told it to go on."""
        self.request_by_s = max(self.request_by_s, now_s + self._body_timeout_s)

    def is_idle_too_long(self, now_s: float) -> bool:
        """Whether the next request is awaited for too long."""
        return self.idle_since_s > 0.0 and now_s - self.idle_since_s > self._keep_alive_s


# The end of a connection whose client may still be sending (RFC 9112, section 9.6).
#
# Who closes a socket with bytes unread resets the connection, and a reset takes away the answer that the client has not
# read yet. So the server closes its own direction only, and goes on reading for a while without looking at what comes.


class Linger:
    """The bounds of one such end: bytes, seconds in all, and seconds of silence."""

    __slots__ = ("_bytes_left", "_hurried_s", "_quiet_at_s", "_quiet_s", "_until_s", "began_s")

    def __init__(self, now_s: float, limits: ReceiveLimits) -> None:
        self.began_s = now_s
        self._bytes_left = limits.max_discarded_bytes
        self._quiet_s = limits.quiet_s
        self._hurried_s = limits.hurried_s
        self._until_s = now_s + limits.linger_s
        self._quiet_at_s = now_s + limits.quiet_s

    def discard(self, count: int, now_s: float) -> bool:
        """So many bytes came; False when it is too much."""
        self._bytes_left -= count
        self._quiet_at_s = now_s + self._quiet_s
        return self._bytes_left >= 0

    def hurry(self, now_s: float) -> None:
        """The listener stops: a moment is all that is left."""
        self._until_s = min(self._until_s, now_s + self._hurried_s)

    def is_over(self, now_s: float) -> bool:
        """Whether time is up."""
        return now_s >= self._until_s or now_s >= self._quiet_at_s
