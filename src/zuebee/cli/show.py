"""What commands print: tables for people, JSON for programs.

rich is imported by what draws with it: most starts of `zuebee` draw nothing.
"""

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.console import Console

WIDE = 200
"""Characters of a line when the output is no terminal: nothing is cut off for lack of room."""


def as_json(value: Any) -> None:
    """One JSON document. Amounts are nano-units or tokens, times seconds since 1970."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def as_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, numbers: Sequence[str] = ()) -> None:
    """Rows under a title. Columns in `numbers` stand to the right."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(visible(title)), title_justify="left", title_style="bold", header_style="dim")
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(_shown(value))) for value in row))
    _console().print(table)


def as_record(title: str, fields: Mapping[str, Any]) -> None:
    """One thing with its fields; empty ones are left out."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(visible(title)), title_justify="left", title_style="bold", show_header=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in fields.items():
        if _shown(value):
            table.add_row(Text(name), Text(visible(_shown(value))))
    _console().print(table)


def note(text: str) -> None:
    """A line for people."""
    from rich.text import Text

    _console().print(Text(text))


def visible(text: str) -> str:
    """The text, with what a terminal would obey instead of showing it spelled out: callers choose names of models."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def when(at_s: float) -> str:
    """A time in UTC; empty for 0, which stands for never or always."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%SZ") if at_s else ""


def _console() -> "Console":
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE, no_color=True)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={part}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
