"""PURE. What is in a journal (`journal.py`), read by the next start, however damaged it is.

A half begins with MAGIC and the mark of its round. Then come lines, each behind a mark of the round that it was
written in, its length and its CRC-32, which the mark is a part of. The end is a mark with a length of 0. What stands
behind it was written in earlier rounds.
"""

import struct
import zlib
from typing import Final, NamedTuple

HALF_BYTES: Final = 512 * 1024
MAGIC: Final = b"zbjrnl\0\2"
"""As the length of a line of the first version this is more than a half, so that version finds nothing."""

START_BYTES: Final = 16
LINE_BYTES: Final = 16
"""What stands before the text of a line."""

_MARK: Final = b"\xf7JL\xa5"  # no text in UTF-8 has it
_ROUND: Final = struct.Struct("<4sI")
_HEADER: Final = struct.Struct("<II")


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
