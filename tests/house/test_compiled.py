"""The modules that mypyc compiles keep off what it cannot compile, or makes something else of than Python does."""

import ast
import os
import re
import sysconfig
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from bench import trees
from tests.house.rules import Rule
from tests.support.source import ROOT, Source, nodes, package_files, references

LISTED: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["zuebee"]["compiled"]


def in_packages() -> list[str]:
    """The modules of the packages that are compiled."""
    found = [file for package in LISTED["packages"] for file in (ROOT / "src" / package).glob("*.py")]
    return [str(file.relative_to(ROOT / "src")) for file in found if file.name != "__init__.py"]


COMPILED = sorted({*in_packages(), *LISTED["modules"]} - set(LISTED["exclude"]))

# An attribute is named `_` and its name in C, where these are words of the language, of gcc or of its platforms.
_WORDS = re.compile(
    "_(alignof|always_inline|amd64|asm|attribute|auto_type|complex|const|extension|func|imag|inline|int128|label|linux"
    "|null|real|restrict|signed|thread|typeof|unix|volatile|x86_64)(__)?|Atomic|Bool|Complex|Generic"
)


def structs(sources: tuple[Source, ...]) -> set[str]:
    """Qualified names of all classes that are `msgspec.Struct` or inherit from it, by whatever way."""
    bases = {f"{module(each)}.{name}": set(bases) for each in sources for _, name, bases in classes(each)}
    found = {"msgspec.Struct"}
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found


def module(source: Source) -> str:
    """The dotted name of a module of the package."""
    return source.path.removeprefix("src/").removesuffix(".py").replace("/", ".")


def classes(source: Source) -> Iterator[tuple[int, str, list[str]]]:
    """(line, name, qualified bases) of each class; a base without a dot stands in the same module."""
    for node in nodes(source.tree):
        if isinstance(node, ast.ClassDef):
            names = [name for base in node.bases for name in _qualified(source.tree, base)]
            yield node.lineno, node.name, [name if "." in name else f"{module(source)}.{name}" for name in names]


def _qualified(tree: ast.Module, expression: ast.expr) -> Iterator[str]:
    """What an expression refers to, seen through the imports of its module."""
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    yield from (name for _, name in references(ast.Module([*imports, ast.Expr(expression)], [])))


@cache
def known_structs() -> set[str]:
    return structs(package_files())


def struct_classes(source: Source) -> Iterator[tuple[int, str]]:
    for line, name, bases in classes(source):
        if known_structs() & {*bases}:
            yield line, f"{name} is a msgspec.Struct, whose annotations mypyc replaces"


def async_generators(source: Source) -> Iterator[tuple[int, str]]:
    for node in nodes(source.tree):
        if isinstance(node, ast.AsyncFunctionDef) and any(_yields(statement) for statement in node.body):
            yield node.lineno, f"{node.name} is an asynchronous generator, which mypyc does not have"


def _yields(node: ast.AST) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
        return False
    return isinstance(node, ast.Yield) or any(_yields(child) for child in ast.iter_child_nodes(node))


def c_names(source: Source) -> Iterator[tuple[int, str]]:
    for line, name in attributes(source.tree):
        if _WORDS.fullmatch(name):
            yield line, f"the attribute {name} is _{name} in C, which means something else there"


def attributes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, name) of the attributes of a module's own classes, by where they are used or declared."""
    for node in nodes(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.lineno, node.attr
        elif isinstance(node, ast.ClassDef):
            for statement in node.body:
                if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                    yield statement.lineno, statement.target.id


_NEVER_WAITS = ("asyncio.timeout(", "self._rechecks", "self._opening")
"""What ends an `async with` without waiting: a deadline, a lock, a semaphore."""


def awaits_in_handlers(source: Source) -> Iterator[tuple[int, str]]:
    """Where something may be waited for while an exception is on its way."""
    for node in nodes(source.tree):
        if isinstance(node, ast.AsyncWith):
            for item in node.items:
                if not ast.unparse(item.context_expr).startswith(_NEVER_WAITS):
                    yield node.lineno, f"async with {ast.unparse(item.context_expr)}"
        elif isinstance(node, ast.Try):
            for handled in (*(each.body for each in node.handlers), node.finalbody):
                for found in (part for statement in handled for part in ast.walk(statement)):
                    if isinstance(found, ast.Await):
                        yield found.lineno, ast.unparse(found)


RULES = [
    Rule(
        name="nobody waits while an exception is on its way",
        find=awaits_in_handlers,
        mend="Wait behind the `try`, or in a module that is not compiled: mypyc 2.4 lets go of the exception twice.",
        bad="async def f(x):\n    try:\n        x()\n    finally:\n        await x.close()\n",
        good="async def f(x):\n    try:\n        x()\n    finally:\n        x.close()\n    await x.wait()\n",
    ),
    Rule(
        name="no structs of msgspec",
        mend="Move it to a module that is not compiled, or make it a plain class or a dataclass.",
        find=struct_classes,
        bad="from msgspec import Struct as S\nclass Answer(S, frozen=True):\n    text: str\n",
        good="from dataclasses import dataclass\n@dataclass\nclass Answer:\n    text: str\n",
    ),
    Rule(
        name="no asynchronous generators",
        mend="Move it to a module that is not compiled, or write a class with __aiter__ and __anext__.",
        find=async_generators,
        bad="async def f(x):\n    if x:\n        seen = yield x\n",
        good="async def f(x):\n    def g():\n        yield x\n    return [y for y in g()]\n",
    ),
    Rule(
        name="no attribute that is a word of C",
        mend="Give it a longer name.",
        find=c_names,
        bad="class A:\n    def __init__(self, t):\n        self._thread = t\n",
        good="class A:\n    def __init__(self, t):\n        self._writing_thread = t\n",
    ),
]


def test_the_list_names_modules_that_exist_each_once_and_in_order() -> None:
    named = {*LISTED["modules"], *LISTED["exclude"]}
    missing = sorted(named - {source.path.removeprefix("src/") for source in package_files()})
    assert not missing, f"Take {missing} out of [tool.zuebee] in pyproject.toml, or name where they went."
    for what, names in LISTED.items():
        assert sorted(set(names)) == names, f"Sort `{what}` of [tool.zuebee.compiled] in pyproject.toml; each once."
    packages = set(LISTED["packages"])
    assert {str(Path(each).parent) for each in LISTED["exclude"]} <= packages, "Exclude modules of these packages only."
    assert not {str(Path(each).parent) for each in LISTED["modules"]} & packages, "The package is there already."


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_what_is_compiled_keeps_the_rule(rule: Rule) -> None:
    listed = {f"src/{name}" for name in COMPILED}
    breaches = [breach for source in package_files() if source.path in listed for breach in rule.breaches(source)]
    assert not breaches, "\n" + "\n".join(breaches)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_rule_sees_a_breach_and_accepts_its_mend(rule: Rule) -> None:
    assert rule.breaches(Source(rule.at, rule.bad))
    assert not rule.breaches(Source(rule.at, rule.good))


def heirs(source: Source, compiled: set[str]) -> Iterator[tuple[int, str]]:
    """Classes outside the list below a class of a compiled module: Python refuses to make one."""
    for line, name, bases in classes(source):
        above = [base for base in bases if base.rpartition(".")[0] in compiled]
        if above and "typing.Protocol" not in bases:
            yield line, f"{name} is not compiled and inherits from {above[0]}, which is: compile it as well"


def test_what_is_not_compiled_inherits_from_nothing_that_is() -> None:
    compiled = {name.removesuffix(".py").replace("/", ".") for name in COMPILED}
    others = [source for source in package_files() if module(source) not in compiled]
    found = [f"{each.path}:{line}: {text}" for each in others for line, text in heirs(each, compiled)]
    assert not found, "\n" + "\n".join(found)
    child = Source("src/zuebee/room/file.py", "from zuebee.a.b import C\nclass D(C): ...\n")
    assert list(heirs(child, {"zuebee.a.b"}))


def test_a_struct_is_seen_through_modules() -> None:
    above = Source("src/zuebee/room/above.py", "import msgspec as m\nclass Base(m.Struct): ...\nclass Mid(Base): ...\n")
    below = Source("src/zuebee/room/below.py", "from zuebee.room.above import Mid as M\nclass Leaf(M): ...\n")
    assert structs((below, above)) == {"msgspec.Struct"} | {
        f"zuebee.room.{name}" for name in ("above.Base", "above.Mid", "below.Leaf")
    }


@pytest.mark.parametrize(
    "text", ["class A:\n    _asm: int\n", "class A:\n    def f(self):\n        return self._func__\n"]
)
def test_an_attribute_is_seen_wherever_it_is_named(text: str) -> None:
    assert list(c_names(Source("src/zuebee/room/file.py", text)))


def test_a_compiled_tree_counts_until_a_file_of_the_sources_is_younger(tmp_path: Path) -> None:
    sources, compiled = tmp_path / "src", tmp_path / "compiled"
    source, stamp = sources / "zuebee/limits/take.lua", compiled / ".done"
    library = compiled / "zuebee" / f"it{sysconfig.get_config_var('EXT_SUFFIX')}"
    for file in (source, stamp, library):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    os.utime(stamp, (2000, 2000))
    for at_s, fresh in ((1000, True), (3000, False)):
        os.utime(source, (at_s, at_s))
        assert trees.is_fresh(compiled, sources) is fresh
    os.utime(source, (1000, 1000))
    library.rename(library.with_suffix(".so-of-another-python"))
    assert not trees.is_fresh(compiled, sources)
