"""How requests ended whose settlements are on their way to the store, in a file that is mapped into memory.

A line is there as soon as it was copied: the pages belong to the operating system, which keeps them whatever becomes of
the process. So an answer need not wait for the transaction that settles it. A power cut may take lines; the store's own
flush is what it is measured by.

The file has two halves. Lines go into one, while those of the other belong to the batch that is being written; when
that is on disk its half is emptied. Lines that were settled already may be found by the next start: it looks for open
holds only.
"""

import mmap
import os
import struct
import zlib
from typing import Final

HALF_BYTES: Final = 512 * 1024
_HEADER: Final = struct.Struct("<II")  # length and CRC-32 of the line that follows; a length of 0 ends a half
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
        self.found: list[bytes] = [*_lines(self._map, 0), *_lines(self._map, HALF_BYTES)]
        self._start = 0
        self._place = 0
        self._sealed = True
        self._open = False
        self._closed = False

    def add(self, line: bytes) -> bool:
        """Keep a line; False: it is not kept, for there is no room."""
        size = len(line)
        place = self._place
        if not self._open or place + size + 16 > HALF_BYTES:
            return False
        at = self._start + place
        self._map[at + 8 : at + 16 + size] = line + _END
        # Last, so that a line is there as a whole or not at all.
        self._map[at : at + 8] = _HEADER.pack(size, zlib.crc32(line))
        self._place = place + size + 8
        return True

    def turn(self) -> None:
        """The batch that the lines so far belong to is going out: further ones belong to the next."""
        if not self._sealed and self._place:
            self._sealed = True
            self._start = HALF_BYTES - self._start
            self._place = 0

    def forget(self) -> None:
        """That batch is on disk. Also after `close`: then it changes nothing."""
        if self._closed:
            return
        if not self._open:
            self._map[0:8] = self._map[HALF_BYTES : HALF_BYTES + 8] = _END
            self.found, self._open, self._sealed = [], True, False
        elif self._sealed:
            other = HALF_BYTES - self._start
            self._map[other : other + 8] = _END
            self._sealed = False

    def close(self) -> None:
        """Let go of it. What is in it stays."""
        self._open = False
        self._closed = True
        self._map.close()


def _reserve(descriptor: int, size: int) -> None:
    if (reserve := getattr(os, "posix_fallocate", None)) is not None:  # not every system has it
        reserve(descriptor, 0, size)
    elif (missing := size - os.fstat(descriptor).st_size) > 0:
        os.pwrite(descriptor, bytes(missing), size - missing)


def _lines(data: mmap.mmap, start: int) -> list[bytes]:
    lines = []
    place, end = start, start + HALF_BYTES
    while place + 8 <= end:
        size, check = _HEADER.unpack_from(data, place)
        line = data[place + 8 : place + 8 + size]
        if not size or place + 8 + size > end or zlib.crc32(line) != check:
            break
        lines.append(line)
        place += 8 + size
    return lines
