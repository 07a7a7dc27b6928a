"""Tables as lines of text that fit a terminal. PURE."""

import unicodedata
from collections.abc import Collection, Sequence
from typing import NamedTuple

GAP = "  "
NARROW = 12
"""A column of words is folded, but not below this width."""

_WIDE_LETTERS = ("W", "F")


class Table(NamedTuple):
    """Texts in rows. Columns in `numbers` stand to the right; those in `words` may be folded, all others are whole;
    those in `less` are left out where there is no room, the first one first.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Collection[str] = ()
    words: Collection[str] = ()
    less: Sequence[str] = ()


def fitted(table: Table, width: int) -> tuple[list[str], list[str]]:
    """The table within `width`, the header first, and the columns that were left out for want of room. Columns without
    any text are left out and not told. Where nothing else helps, a row becomes a block of lines.
    """
    kept = [place for place in range(len(table.columns)) if any(row[place] for row in table.rows)] or [0]
    if not table.rows:
        kept = list(range(len(table.columns)))
    left_out: list[str] = []
    spare = [name for name in table.less if name in table.columns]
    while True:
        widths = _widths(table, kept, width)
        if sum(widths) + len(GAP) * (len(widths) - 1) <= width:
            return _lines(table, kept, widths), left_out
        name = next((each for each in spare if table.columns.index(each) in kept), None)
        if name is None or len(kept) == 1:
            return _blocks(table, kept, width), left_out
        spare.remove(name)
        kept.remove(table.columns.index(name))
        left_out.append(name)


def record(fields: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Names and values, one below the other; long values are folded."""
    room = max((cells(name) for name, _ in fields), default=0)
    lines = []
    for name, value in fields:
        parts = folded(value, max(NARROW, width - room - len(GAP)))
        lines += [f"{_padded(name if not n else '', room)}{GAP}{part}".rstrip() for n, part in enumerate(parts)]
    return lines


def cells(text: str) -> int:
    """How many cells of a terminal a text takes."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in _WIDE_LETTERS else 1
        for letter in text
    )


def folded(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` cells, between words where that is possible."""
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if cells(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        line = ""
        for letter in word:
            if cells(line + letter) > width and line:
                lines.append(line)
                line = ""
            line += letter
    return [*lines, line]


def _widths(table: Table, kept: list[int], width: int) -> list[int]:
    """As wide as the widest text; if that is too much, columns of words are made narrower, the widest first."""
    widths = [max(cells(table.columns[n]), *(cells(row[n]) for row in table.rows), 0) for n in kept]
    over = sum(widths) + len(GAP) * (len(widths) - 1) - width
    folding = [place for place, n in enumerate(kept) if table.columns[n] in table.words]
    while over > 0:
        widest = max(folding, key=lambda place: widths[place], default=None)
        if widest is None or widths[widest] <= NARROW:
            break
        widths[widest] -= 1
        over -= 1
    return widths


def _lines(table: Table, kept: list[int], widths: list[int]) -> list[str]:
    lines = []
    for row in (table.columns, *table.rows):
        parts = [folded(row[n], room) for n, room in zip(kept, widths, strict=True)]
        for line in range(max(map(len, parts))):
            texts = (
                _padded(part[line] if line < len(part) else "", room, right=table.columns[n] in table.numbers)
                for n, room, part in zip(kept, widths, parts, strict=True)
            )
            lines.append(GAP.join(texts).rstrip())
    return lines


def _blocks(table: Table, kept: list[int], width: int) -> list[str]:
    lines: list[str] = []
    for row in table.rows:
        lines += ["", *record([(table.columns[n], row[n]) for n in kept if row[n]], width)]
    return lines[1:]


def _padded(text: str, room: int, *, right: bool = False) -> str:
    blank = " " * (room - cells(text))
    return blank + text if right else text + blank
