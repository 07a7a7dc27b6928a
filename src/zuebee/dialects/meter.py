"""What watches one stream on its way from a backend to its client, whatever dialect the two speak."""

from abc import ABC, abstractmethod

from zuebee.dialects.openai import Told
from zuebee.dialects.openai_usage import TokenCounts


class Meter(ABC):
    """Bytes in, bytes out, no I/O. Nothing more of the stream counts once it is `over`.

    `done`: its own words for the end came. `chunks`: events with content so far. `usage`: tokens as last reported.
    `fault`: why its bytes cannot be trusted. `unread`: some of it passed that could not be read. `last_words`: what
    ends the stream for its reader; they are held back, for whoever reads them stops reading.
    """

    def __init__(self) -> None:
        self.over = False
        self.done = False
        self.fault = ""
        self.unread = False
        self.chunks = 0
        self.usage: TokenCounts | None = None
        self.last_words = b""

    @abstractmethod
    def feed(self, data: bytes) -> bytes:
        """What of the stream can be passed on by now."""

    @abstractmethod
    def end(self) -> bytes:
        """No more comes: what of it is left, and can be passed on."""

    def close(self) -> bytes:
        """What ends a whole stream for its reader; b"" where its server never said it, and nobody says it for it."""
        return self.last_words

    @property
    @abstractmethod
    def told(self) -> Told | None:
        """What the server said went wrong."""

    @property
    def figures(self) -> TokenCounts | None:
        """The usage, wherever it was told."""
        return self.usage

    @property
    @abstractmethod
    def tokens(self) -> int:
        """How many tokens have come, as far as that can be seen without usage."""

    @property
    @abstractmethod
    def whole(self) -> bool:
        """Whether the stream, if it ended now, would be whole."""

    @property
    def amid_event(self) -> bool:
        """Whether a part of an event was passed on, so that nothing may be put in here."""
        return False

    @property
    def begun_event(self) -> bytes:
        """What came of an event that has not ended yet."""
        return b""
