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
from typing import Final, NamedTuple

# What is in a journal (`journal.py`), read by the next start, however damaged it is.
#
# A half begins with MAGIC and the mark of its round. Then come lines, each behind a mark of the round that it was
# written in, its length and its CRC-32, which the mark is a part of. The end is a mark with a length of 0. What stands
# behind it was written in earlier rounds.

HALF_BYTES: Final = 512 * 1024
MAGIC: Final = b"zbjrnl\0\2"
"""As the length of a line of the first version this is more than a half, so that version finds nothing."""

START_BYTES: Final = 16
LINE_BYTES: Final = 16
"""What stands before the text of a line."""

_MARK: Final = b"\xf7JL\xa5"  # no text in UTF-8 has it
_ROUND: Final = struct.Struct("<4sI")


class Damage(NamedTuple):
    """A place that cannot be read: in which half (1 or 2), how long, and how many lines behind it were found."""

    half: int
    bytes: int
    found_behind: int


class _Line(NamedTuple):
    place: int
    end: int
    round: int
    text: bytes


def mark(number: int) -> bytes:
    """The mark of a round."""
    return _ROUND.pack(_MARK, number)


def number_of(content: bytes) -> int:
    """The newest round of a journal."""
    rounds = [_round_at(content, start + 8) for start in (0, HALF_BYTES)]
    known = [each for each in rounds if each is not None]
    return max(known or [line.round for start in (0, HALF_BYTES) for line in _all(content, start)], default=0)


def lines_of(content: bytes) -> tuple[list[bytes], list[Damage]]:
    """The lines that both halves have, and where they are damaged. `content`: the whole file."""
    starts = (0, HALF_BYTES)
    is_new = [content[start : start + 8] == MAGIC for start in starts]
    lines: list[bytes] = []
    damage: list[Damage] = []
    for half, start in enumerate(starts, 1):
        found, damaged = _read(content, start, half) if any(is_new) else _read_first_version(content, start, half)
        lines += found
        damage += damaged
    return lines, damage


def _read(content: bytes, start: int, half: int) -> tuple[list[bytes], list[Damage]]:
    lines = _all(content, start)
    number = _round_at(content, start + 8)
    damage = []
    if number is None or content[start : start + 8] != MAGIC:
        if not lines and not any(content[start : start + 8]):
            return [], []  # it was about to be made
        damage.append((START_BYTES, start))
    if number is None:
        # The rounds of the halves follow one another. Lines that were settled meanwhile do no harm.
        other = _round_at(content, HALF_BYTES - start + 8)
        number = max((line.round for line in lines if other in (None, line.round - 1, line.round + 1)), default=0)
    expected = start + START_BYTES
    current = [line for line in lines if line.round == number]
    for line in current:
        if line.place > expected:
            damage.append((line.place - expected, line.place))
        expected = line.end
    if not _is_end(content, expected, lines, start + HALF_BYTES):
        damage.append((_length(content, expected, start + HALF_BYTES), expected))
    told = [Damage(half, size, sum(line.place >= at for line in current)) for size, at in damage]
    return [line.text for line in current], told


def _all(content: bytes, start: int) -> list[_Line]:
    """All whole lines of a half, of whatever round. Behind what is none, the next mark is looked for."""
    lines: list[_Line] = []
    place, limit = start + START_BYTES, start + HALF_BYTES
    while (place := content.find(_MARK, place, limit)) >= 0:
        line = _line_at(content, place, limit)
        if line is None:
            place += 1
        else:
            lines.append(line)
            place = line.end
    return lines


def _line_at(content: bytes, place: int, limit: int) -> _Line | None:
    text_at = place + LINE_BYTES
    number = _round_at(content, place)
    if number is None or text_at > limit:
        return None
    size, check = _HEADER.unpack_from(content, place + 8)
    text = content[text_at : text_at + size]
    if not size or text_at + size > limit or zlib.crc32(text, zlib.crc32(content[place : place + 8])) != check:
        return None
    return _Line(place, text_at + size, number, text)


def _round_at(content: bytes, place: int) -> int | None:
    if content[place : place + 4] != _MARK or place + 8 > len(content):
        return None
    return int(_ROUND.unpack_from(content, place)[1])


def _is_end(content: bytes, place: int, lines: list[_Line], limit: int) -> bool:
    """Whether lines end here as they should: with a mark and no length, or with a line of an earlier round, where a
    half was just about to be emptied.
    """
    if place + LINE_BYTES > limit or any(line.place == place for line in lines):
        return True
    return _round_at(content, place) is not None and content[place + 8 : place + LINE_BYTES] == bytes(8)


def _length(content: bytes, place: int, limit: int) -> int:
    """How long a damaged place is behind which there are no lines: to the next mark, or the last byte that is none."""
    end = content.find(_MARK, place + 1, limit)
    if end < 0:
        end = place + len(content[place:limit].rstrip(b"\0"))
    return max(end - place, LINE_BYTES)


def _read_first_version(content: bytes, start: int, half: int) -> tuple[list[bytes], list[Damage]]:
    """Lines as they were before they had marks: behind a damaged one nothing can be found."""
    lines: list[bytes] = []
    place, limit = start, start + HALF_BYTES
    while place + 8 <= limit:
        size, check = _HEADER.unpack_from(content, place)
        text = content[place + 8 : place + 8 + size]
        if not size and not check:
            break
        if not size or place + 8 + size > limit or zlib.crc32(text) != check:
            return lines, [Damage(half, len(content[place:limit].rstrip(b"\0")), 0)]
        lines.append(text)
        place += 8 + size
    return lines, []


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
