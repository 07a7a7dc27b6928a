"""The source tree as the house rules see it."""

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "src/zuebee"


@dataclass(frozen=True)
class Source:
    """One Python file; `path` is relative to the repository, with forward slashes."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text, self.path)

    @cached_property
    def inside(self) -> str:
        """The path inside the package (`lib/tasks.py`); empty for files outside it."""
        return self.path.removeprefix(PACKAGE + "/") if self.path.startswith(PACKAGE + "/") else ""


@cache
def tracked_files() -> tuple[str, ...]:
    """Every file that is or is about to be committed, relative to the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return tuple(sorted(name for name in listing.split("\0") if name and (ROOT / name).is_file()))


@cache
def python_files() -> tuple[Source, ...]:
    """Every Python file of the repository."""
    names = [name for name in tracked_files() if name.endswith(".py")]
    return tuple(Source(name, (ROOT / name).read_text(encoding="utf-8")) for name in names)


@cache
def package_files() -> tuple[Source, ...]:
    """Every Python file of the package."""
    return tuple(source for source in python_files() if source.inside)


@cache
def nodes(tree: ast.AST) -> tuple[ast.AST, ...]:
    """All nodes of a tree, which is walked once however many rules look at it."""
    return tuple(ast.walk(tree))


def imported_modules(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, wherever it stands; `from a import b` is `a.b`."""
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


@cache
def references(tree: ast.AST) -> tuple[tuple[int, str], ...]:
    """(line, qualified name) of every name used, seen through imports: `now` may be `time.time`."""
    return tuple(_references(tree))


def _references(tree: ast.AST) -> Iterator[tuple[int, str]]:
    origins = _origins(tree)
    for node in nodes(tree):
        name = dotted_name(node)
        if name:
            head, _, rest = name.partition(".")
            origin = origins.get(head, head)
            yield getattr(node, "lineno", 0), f"{origin}.{rest}" if rest else origin


def dotted_name(node: ast.AST) -> str:
    """`a.b.c` for a chain of attributes on a name; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted_name(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _origins(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for."""
    origins: dict[str, str] = {}
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    origins[alias.asname] = alias.name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                origins[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return origins
