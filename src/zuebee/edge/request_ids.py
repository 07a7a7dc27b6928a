"""Ids of requests: those that the gateway gives, and what a caller calls its own."""

import os
from typing import Final

MAX_HEADER_CHARS: Final = 200
MAX_MESSAGE_CHARS: Final = 128
"""So much of a caller's own id is kept for the access log, of one in a header field and of one in a gRPC message."""


class RequestIds:
    """Gives ids. Without a `prefix` it takes one of its own, which keeps them apart from all others."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix: Final = prefix or "req_" + os.urandom(8).hex()
        self._last = 0

    def next(self) -> str:
        """An id that it has not given before."""
        self._last += 1
        return f"{self._prefix}{self._last:08x}"


def callers_id(fields: dict[bytes, bytes]) -> str:
    """The id that a caller gives in its header; empty: none."""
    return fields.get(b"x-request-id", b"")[:MAX_HEADER_CHARS].decode("latin-1")


def id_in_message(text: str) -> str:
    """The id that a message carries; empty: none that a log could show."""
    text = text[:MAX_MESSAGE_CHARS]
    return text if text.isascii() and text.isprintable() else ""
