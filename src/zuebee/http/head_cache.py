"""PURE. Heads of HTTP messages that come again and again, known again without being parsed.

On a kept connection a client sends much the same head with each request, and a server with each answer: only the length
of the body is another one, and the date. A head that a strict parser has accepted once is accepted when it comes again
byte by byte, but for digits in Content-Length and a date in Date. Anything else, and any body that is not there to its
last byte and not one more, is left to the parser.
"""

import re
from typing import Final, TypeAlias

MAX_HEAD_BYTES: Final = 8192
MAX_DIGITS: Final = 9
DATE_BYTES: Final = 29
MAX_MISSES: Final = 8
"""After so many heads in a row that did not come again, none is remembered any more."""

Fields: TypeAlias = list[tuple[bytes, bytes]]

_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})(?=\r\n)", re.IGNORECASE)
_DATE: Final = re.compile(rb"\r\ndate:[ \t]*([^\r\n]{29})(?=\r\n)", re.IGNORECASE)
_IMF_FIXDATE: Final = re.compile(
    rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"
)  # RFC 9110, section 5.6.7
_END: Final = b"\r\n\r\n"
_SPECIAL: Final = frozenset({b"expect", b"upgrade", b"transfer-encoding"})


class Attachment:
    """A place for what the receiver of one known head made of it; None: nothing yet.

    The receiver alone writes it, knows its type and sees whether it is stale. It must not depend on the length or the
    date. Another head has another attachment.
    """

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: object = None


class KnownHead:
    """The last head of a connection, once it was learned, with the `attachment` of whoever receives it.

    `fields` are its header fields with names in lower case. `dated`: heads have a date that may be another one.
    """

    __slots__ = (
        "_after", "_before", "_body_bytes", "_date_ends", "_dated", "_digits", "_length_at", "_misses", "_start",
        "attachment", "fields",
    )  # fmt: skip

    def __init__(self, *, dated: bool) -> None:
        self.fields: Fields = []
        self.attachment = Attachment()
        self._dated = dated
        self._misses = 0
        self._before = self._after = self._digits = b""
        self._start = self._date_ends = self._length_at = self._body_bytes = 0

    def learn(self, data: bytes, body_bytes: int, fields: Fields) -> bool:
        """`data` was one whole message that ended with so many bytes of body. False: its head is not worth it."""
        if self._misses >= MAX_MISSES:
            return False
        self._misses += 1
        self._after = b""
        head_bytes = len(data) - body_bytes
        names = [name for name, _ in fields]
        if head_bytes > MAX_HEAD_BYTES or data.find(_END) != head_bytes - len(_END) or len(set(names)) != len(names):
            return False
        head = data[:head_bytes]
        length = _LENGTH.search(head)
        if length is None or not _SPECIAL.isdisjoint(names):
            return False
        # A date behind the length would move with the number of its digits: it is taken as it is.
        date = _DATE.search(head, 0, length.start() + 2) if self._dated else None
        self.fields = fields
        self.attachment = Attachment()
        self._length_at = names.index(b"content-length")
        self._digits = length[1]
        self._body_bytes = body_bytes
        self._date_ends = 0 if date is None else date.end(1)
        self._start = length.start(1)
        self._before = head[: self._start]
        self._after = head[length.end(1) :]
        return True

    def body_of(self, data: bytes) -> bytes | None:
        """The body of a message, if `data` is one with this head and its whole body; else None.

        Afterwards `fields` are those of this message, but for the date.
        """
        after = self._after
        if not after or not (data.startswith(self._before) or self._has_another_date(data)):
            return None
        start = self._start
        end = data.find(after, start, start + MAX_DIGITS + len(after))
        if end < 0:
            return None
        digits = data[start:end]
        if digits != self._digits:
            if not digits.isdigit():
                return None
            # Whoever holds the fields of the message before keeps them as they were.
            self.fields = self.fields.copy()
            self.fields[self._length_at] = b"content-length", digits
            self._digits = digits
            self._body_bytes = int(digits)
        body = data[end + len(after) :]
        if len(body) != self._body_bytes:
            return None
        self._misses = 0
        return body

    def _has_another_date(self, data: bytes) -> bool:
        """Whether what stands before the length is the same but for the date."""
        ends, before = self._date_ends, self._before
        if not ends:
            return False
        starts = ends - DATE_BYTES
        date = data[starts:ends]
        if _IMF_FIXDATE.fullmatch(date) is None:
            return False
        if not data.startswith(before[:starts]) or not data.startswith(before[ends:], ends):
            return False
        self._before = before[:starts] + date + before[ends:]
        return True
