"""Usage for people: a table of totals, and bars by day."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zuebee.cli.show import visible

WIDE = 200
"""Characters of a line when the output is no terminal: nothing is cut off for lack of room."""

BAR = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[str]) -> None:
    """Rows under a title; columns in `numbers` stand to the right."""
    shown = Table(title=Text(title), title_justify="left", title_style="bold", header_style="dim")
    for name in columns:
        shown.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(visible(text)) for text in row))
    _console().print(shown)


def chart(title: str, bars: Sequence[tuple[str, int]]) -> None:
    """One bar for each name, its length relative to the longest."""
    most = max((value for _, value in bars), default=0)
    shown = Table.grid(padding=(0, 1))
    shown.add_column(style="dim")
    shown.add_column(style="green", width=BAR + 1)
    shown.add_column(justify="right")
    for name, value in bars:
        shown.add_row(Text(name), Text(bar(value, most)), Text(f"{value:,}"))
    console = _console()
    console.print(Text(title, style="bold"))
    console.print(shown)


def bar(value: int, most: int) -> str:
    """A bar of up to BAR characters, drawn to an eighth of one; what is not nothing can be seen."""
    if value <= 0 or most <= 0:
        return ""
    eighths = max(1, round(value / most * BAR * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(highlight=False, width=WIDE, no_color=True)
