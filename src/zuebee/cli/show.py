"""What commands print: tables that fit for people, plain rows for pipes, JSON for programs."""

import re
import shutil
import sys
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

import msgspec
import typer

from zuebee.lib import clock
from zuebee.lib.timestamps import rfc3339

# Tables as lines of text that fit a terminal. PURE.

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


Form: TypeAlias = Literal["table", "wide", "json"]
FormOption = Annotated[
    Form,
    typer.Option("--format", "-o", help="table: fits the terminal; wide: all columns; json (or --json): for programs."),
]

UNKNOWN_WIDTH = 80
BAR = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"
_TIME = re.compile(r"(?:.*_)?at_s")
_SAID_AGAIN_S = 0.2


def as_json(value: Any) -> None:
    """One JSON document (docs/cli.md says of which shape)."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(with_times(value)), indent=2).decode() + "\n")


def with_times(value: Any) -> Any:
    """The same, with each time in seconds (`made_at_s`) as text in UTC (`made_at`); null for 0, never or always."""
    if isinstance(value, Mapping):
        return {
            (name[:-2] if _is_time(name) else name): (
                (rfc3339(each) if each else None) if _is_time(name) else with_times(each)
            )
            for name, each in value.items()
        }
    return [with_times(each) for each in value] if isinstance(value, list | tuple) else value


def as_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    form: Form = "table",
    numbers: Collection[str] = (),
    words: Collection[str] = (),
    less: Sequence[str] = (),
) -> None:
    """Rows under a title, see `layout.Table`. What is no terminal gets a header and a line for each row, all of it,
    with tabs in between.
    """
    table = Table(columns, [[visible(_shown(value)) for value in row] for row in rows], numbers, words, less)
    if not sys.stdout.isatty():
        for row in (columns, *table.rows):
            sys.stdout.write("\t".join(row) + "\n")
        return
    typer.echo(_styled(visible(title), "1"))
    if not rows:
        typer.echo("none")
        return
    width = sys.maxsize if form == "wide" else _width()
    if form == "wide":
        table = table._replace(less=(), words=())
    lines, left_out = fitted(table, width)
    for number, line in enumerate(lines):
        typer.echo(line if number else _styled(line, "2"))
    if left_out:
        for part in folded(f"Columns left out for lack of room: {', '.join(left_out)}. To see them: -o wide", width):
            note(part)


def as_record(title: str, fields: Mapping[str, Any]) -> None:
    """One thing with its fields; empty ones are left out."""
    shown = [(name, visible(_shown(value))) for name, value in fields.items() if _shown(value)]
    if not sys.stdout.isatty():
        for name, text in shown:
            sys.stdout.write(f"{name}\t{text}\n")
        return
    typer.echo(_styled(visible(title), "1"))
    for line in record(shown, _width()):
        typer.echo(line)


def chart(title: str, bars: Sequence[tuple[str, int]]) -> None:
    """One bar for each name, its length relative to the longest; for terminals only."""
    if not sys.stdout.isatty():
        return
    most = max((value for _, value in bars), default=0)
    room = max(10, min(BAR, _width() - 32))
    typer.echo(_styled(title, "1"))
    for name, value in bars:
        typer.echo(f"{name}  {_styled(bar(value, most, room).ljust(room + 1), '32')} {value:>15,}")


def bar(value: int, most: int, room: int = BAR) -> str:
    """A bar of up to `room` characters, drawn to an eighth of one; what is not nothing can be seen."""
    if value <= 0 or most <= 0:
        return ""
    eighths = max(1, round(value / most * room * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def note(text: str) -> None:
    """A line for people, beside the output."""
    typer.echo(visible(text), err=True)


class Progress:
    """How far a long work is: one line on standard error that is written over, if that is a terminal; else nothing."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._on = sys.stderr.isatty()
        self._due_s = clock.monotonic_s() + _SAID_AGAIN_S
        self._written = False

    def __call__(self, text: str) -> None:
        """Say how far it is."""
        if self._on and clock.monotonic_s() >= self._due_s:
            self._due_s = clock.monotonic_s() + _SAID_AGAIN_S
            self._written = True
            sys.stderr.write(f"\r{self._what}: {text}\x1b[K")
            sys.stderr.flush()

    def end(self) -> None:
        """Take the line away."""
        if self._written:
            self._written = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def visible(text: str) -> str:
    """The text, with what a terminal would obey instead of showing it spelled out: callers choose names of models."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def when(at_s: float) -> str:
    """A time in UTC; empty for 0, which stands for never or always."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if at_s else ""


def _is_time(name: Any) -> bool:
    return isinstance(name, str) and _TIME.fullmatch(name) is not None


def _width() -> int:
    return shutil.get_terminal_size((UNKNOWN_WIDTH, 24)).columns or UNKNOWN_WIDTH


def _styled(text: str, style: str) -> str:
    from zuebee.config.settings_base import environment

    surroundings = environment()
    plain = bool(surroundings.get("NO_COLOR")) or surroundings.get("TERM") == "dumb" or not text
    return text if plain else f"\x1b[{style}m{text}\x1b[0m"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
