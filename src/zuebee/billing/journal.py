"""How requests ended whose settlements are on their way to the store, in a file that is mapped into memory.

A line is there as soon as it was copied: the pages belong to the operating system, which keeps them whatever becomes of
the process. So an answer need not wait for the transaction that settles it. A power cut may take lines; the store's own
flush is what it is measured by.

The file has two halves. Lines go into one, while those of the other belong to the batch that is being written; when
that is on disk its half is emptied, which only gives it the number of the next round. So lines of earlier rounds stand
behind the end; they are told by their number. What is damaged is passed over and told: `damage` says where, a copy of
the file is kept beside it. Lines that were settled already may be found by the next start: it looks for open holds
only.
"""

import logging
import mmap
import os
import struct
import zlib
from pathlib import Path
from typing import Final

from zuebee.billing.journal_lines import (
    HALF_BYTES,
    LINE_BYTES,
    MAGIC,
    START_BYTES,
    Damage,
    lines_of,
    mark,
    number_of,
)

_log: Final = logging.getLogger("zuebee.billing")

DAMAGED: Final = ".damaged"
"""What the copy's name has behind the journal's."""

_HEADER: Final = struct.Struct("<II")  # length and CRC-32 of the line that follows; zeros: there is none
_END: Final = b"\0" * 8


class Journal:
    """The file. Belongs to one thread of the one process that has the store. Raises OSError when it cannot be made.

    Nothing is taken before `forget` was called once: until then it still has what an earlier process left (`found`).
    """

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # All of it now: a page that the disk had no room for would end the process when it is touched.
            _reserve(descriptor, 2 * HALF_BYTES)
            self._map = mmap.mmap(descriptor, 2 * HALF_BYTES)
        finally:
            os.close(descriptor)
        content = self._map[:]
        found, damage = lines_of(content)
        self.found: list[bytes] = found
        self.damage: list[Damage] = damage
        self._path = path
        self._round = number_of(content)  # the newest that was given to a half
        self._tail = b""
        self._seed = 0
        self._start = 0
        self._place = 0
        self._sealed = True
        self._open = False
        self._closed = False
        if self.damage:
            self._tell_damage(content)

    def add(self, line: bytes) -> bool:
        """Keep a line; False: it is not kept, for there is no room."""
        size = len(line)
        place = self._place
        if not self._open or place + size + 2 * LINE_BYTES > HALF_BYTES:
            return False
        at = self._start + place
        self._map[at + 16 : at + 32 + size] = line + self._tail
        # Last, so that a line is there as a whole or not at all.
        self._map[at + 8 : at + 16] = _HEADER.pack(size, zlib.crc32(line, self._seed))
        self._place = place + size + LINE_BYTES
        return True

    def turn(self) -> None:
        """The batch that the lines so far belong to is going out: further ones belong to the next."""
        if not self._sealed and self._place > START_BYTES:
            self._sealed = True
            self._begin(HALF_BYTES - self._start)

    def forget(self) -> None:
        """That batch is on disk. Also after `close`: then it changes nothing."""
        if self._closed:
            return
        if not self._open:
            self._make_new()
            self.found, self._open, self._sealed = [], True, False
            self._begin(0)
        elif self._sealed:
            self._empty(HALF_BYTES - self._start)
            self._sealed = False

    def close(self) -> None:
        """Let go of it. What is in it stays."""
        self._open = False
        self._closed = True
        self._map.close()

    def _begin(self, start: int) -> None:
        """Lines go into an empty half now."""
        self._start, self._place = start, START_BYTES
        first = self._map[start + START_BYTES : start + START_BYTES + 8]
        self._seed = zlib.crc32(first)
        self._tail = first + _END

    def _empty(self, start: int) -> None:
        """Each of these steps is one store of eight bytes. After any of them its lines are of an earlier round."""
        self._round = (self._round + 1) & 0xFFFFFFFF
        first = start + START_BYTES
        self._map[start + 8 : first] = mark(self._round)
        self._map[first + 8 : first + 16] = _END
        self._map[first : first + 8] = mark(self._round)

    def _make_new(self) -> None:
        """All that was found is in the store: whatever is in the file, also in an earlier version's form, may go.
        Interrupted anywhere, it gives nothing but what was found before, and no damage.
        """
        halves = (0, HALF_BYTES)
        for start in halves:
            if self._map[start : start + 8] == MAGIC:
                self._empty(start)
            else:
                self._map[start : start + 16] = _END * 2
        for start in halves:
            self._map[start + 32 : start + HALF_BYTES] = bytes(HALF_BYTES - 32)
        for start in halves:
            if self._map[start : start + 8] != MAGIC:
                self._empty(start)
                self._map[start : start + 8] = MAGIC

    def _tell_damage(self, content: bytes) -> None:
        for each in self.damage:
            _log.error(
                "%s is damaged: %d bytes of half %d cannot be read, %d lines behind them were found; "
                "what stood there is charged as far as the store knows",
                self._path, each.bytes, each.half, each.found_behind,
            )  # fmt: skip
        copy = Path(f"{self._path}{DAMAGED}")
        try:
            new = copy.with_name(f"{copy.name}.new")
            new.touch(0o600)
            new.write_bytes(content)
            new.replace(copy)
            _log.error("a copy of the damaged journal is kept for people: %s", copy)
        except OSError as error:
            _log.error("no copy of the damaged journal could be kept: %s", error)


def _reserve(descriptor: int, size: int) -> None:
    if (reserve := getattr(os, "posix_fallocate", None)) is not None:  # not every system has it
        reserve(descriptor, 0, size)
    elif (missing := size - os.fstat(descriptor).st_size) > 0:
        os.pwrite(descriptor, bytes(missing), size - missing)
