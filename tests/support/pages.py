"""What the pages of the documentation hold: code blocks, tables."""

import importlib.util
import re
import sys
from functools import cache
from itertools import takewhile
from types import ModuleType

from tests.support.source import ROOT

_BLOCK = re.compile(r"^([ ]*)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_ROW = re.compile(r"^\|(.+)\|$")


def page(name: str) -> str:
    """The text of a page, named from the top of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return [body for _, marked, body in _BLOCK.findall(text) if marked == language]


def section(text: str, heading: str) -> str:
    """What stands between a heading of any depth and the next heading."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", text, re.DOTALL | re.MULTILINE)
    assert found is not None, f"there is no heading `{heading}`"
    return found[1]


def table(text: str, first: str) -> list[list[str]]:
    """The rows of the table whose first column is headed `first`, cells without backticks."""
    lines = iter(text.splitlines())
    before: list[str] = []
    for line in lines:
        cells = _cells(line)
        if cells and not before and cells[0] == first:
            next(lines)
            return [row for row in map(_cells, takewhile(lambda each: each.startswith("|"), lines)) if row]
        before = cells
    raise AssertionError(f"there is no table with a first column `{first}`")


def _cells(line: str) -> list[str]:
    match = _ROW.match(line)
    return [cell.strip().replace("`", "") for cell in re.split(r"(?<!\\)\|", match[1])] if match else []


def anchors(text: str) -> set[str]:
    """What links can point to: every heading, as GitHub spells it."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def make_docs() -> ModuleType:
    """scripts/make_docs.py, which writes the generated parts."""
    return _script("make_docs")


def report_structure() -> ModuleType:
    """scripts/report_structure.py, which knows who reads whom."""
    return _script("report_structure")


@cache
def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
