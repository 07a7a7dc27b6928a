"""How large things may be, and who may read whom: floors beside the ceilings of tests/house/rules.py."""

import ast
from collections.abc import Iterator
from pathlib import PurePosixPath

import pytest

from tests.support.pages import report_structure
from tests.support.source import Source, nodes, package_files

MAX_MODULES = 12
MAX_FIELDS = 15
MAX_PARAMETERS = 8

SMALL_AND_ALONE = {
    "dispatch/following.py": "an asynchronous generator, which cannot be compiled as its reader is",
    "ledger/sqlite/wal_file.py": "tests put disks that fail in its place, which cannot inherit from what is compiled",
    "dialects/anthropic/request.py": "asked of each request, and imported without the converter",
    "dialects/hub/whole.py": "what is tried by itself, of bytes alone",
    "models/anthropic_lane.py": "imported where a backend speaks that dialect only",
    "telemetry/access_entry.py": "a msgspec struct, which cannot be compiled as its reader is",
}
"""Modules of few lines that only one reads, which stands beside them, and why they do not join it."""

# Plain data: a message, a row or a section of the configuration has as many fields as what it tells of.
DATA = frozenset({"Struct", "Section", "NamedTuple"})
WIDE = {
    "contracts/admission.py": "what is settled, with all that a usage record tells of",
    "contracts/inference.py": "a job, with all that a client asked",
    "ledger/entries.py": "rows of the ledger's tables, as they are read",
    "cli/*.py": "a command has a parameter for each of its options",
}
"""Modules whose classes and functions may be wide, and why."""

FIELDS = {
    "auth/service.py": 20,
    "edge/asgi.py": 17,
    "edge/grpc.py": 19,
    "http/client.py": 21,
    "http/cycle.py": 16,
    "ledger/postgres/commit.py": 25,
    "ledger/postgres/store.py": 17,
    "ledger/sqlite/group_commit.py": 24,
    "limits/redis_limiter.py": 18,
}
PARAMETERS = {
    "admission/service.py": 10,
    "auth/service.py": 10,
    "models/header_policy.py": 9,
    "models/streams.py": 12,
}
"""What is wider than it should be: these numbers may only become smaller."""


def data(node: ast.ClassDef) -> bool:
    """Whether a class is plain data."""
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    made = {ast.unparse(each).partition("(")[0].rpartition(".")[2] for each in node.decorator_list}
    return bool(bases & DATA) or "dataclass" in made


def fields(node: ast.ClassDef) -> set[str]:
    """What an instance of a class has: what is declared, and what `__init__` sets."""
    found = {
        each.target.id for each in node.body if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }
    for function in node.body:
        if isinstance(function, ast.FunctionDef) and function.name == "__init__":
            for part in ast.walk(function):
                if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and is_self(part.value):
                    found.add(part.attr)
    return found


def is_self(value: ast.expr) -> bool:
    return isinstance(value, ast.Name) and value.id == "self"


def wide_classes(source: Source, limit: int) -> Iterator[tuple[str, int]]:
    for node in nodes(source.tree):
        if isinstance(node, ast.ClassDef) and not data(node) and len(fields(node)) > limit:
            yield node.name, len(fields(node))


def wide_functions(source: Source, limit: int) -> Iterator[tuple[str, int]]:
    for node in nodes(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            count = len([each for each in arguments if each.arg not in ("self", "cls")])
            if count > limit:
                yield node.name, count


def may_be_wide(path: str) -> bool:
    return any(PurePosixPath(path).match(pattern) for pattern in WIDE)


def test_no_class_has_more_fields_than_a_reader_can_keep_in_mind() -> None:
    found = {
        source.inside: max(count for _, count in wide)
        for source in package_files()
        if not may_be_wide(source.inside) and (wide := list(wide_classes(source, MAX_FIELDS)))
    }
    assert found == FIELDS, f"At most {MAX_FIELDS} fields: give parts of it to a class of their own, or lower FIELDS."


def test_no_function_has_more_parameters_than_a_reader_can_keep_in_mind() -> None:
    found = {
        source.inside: max(count for _, count in wide)
        for source in package_files()
        if not may_be_wide(source.inside) and (wide := list(wide_functions(source, MAX_PARAMETERS)))
    }
    assert found == PARAMETERS, f"At most {MAX_PARAMETERS} parameters: make what belongs together one of them."


def test_what_is_wide_is_seen() -> None:
    source = Source(
        "src/zuebee/room/file.py", "class A:\n    def __init__(self, a, b, c):\n        self.a = self.b = a\n"
    )
    assert list(wide_classes(source, 1)) == [("A", 2)]
    assert list(wide_functions(source, 2)) == [("__init__", 3)]
    assert not list(wide_classes(Source("src/zuebee/a.py", "class A(Struct):\n    a: int\n    b: int\n"), 1))


def test_no_package_has_more_modules_than_a_page_shows() -> None:
    packages: dict[str, int] = {}
    for source in package_files():
        path = PurePosixPath(source.inside)
        if path.name != "__init__.py":
            packages[str(path.parent)] = packages.get(str(path.parent), 0) + 1
    crowded = {name: count for name, count in packages.items() if count > MAX_MODULES}
    assert not crowded, f"At most {MAX_MODULES} modules a package: make packages of those that belong together."


def test_a_small_module_that_only_its_neighbor_reads_joins_it() -> None:
    script = report_structure()
    modules = script.modules()
    alone = {path for path, _ in script.only_for_a_sibling(modules).items() if modules[path].lines < script.SMALL_LINES}
    assert alone == SMALL_AND_ALONE.keys(), "Merge it into its reader, or say in SMALL_AND_ALONE why not."


@pytest.mark.requirement("A358")
def test_no_import_goes_in_a_circle() -> None:
    script = report_structure()
    assert script.circles({path: set(module.reads) for path, module in script.modules().items()}) == []


def test_a_circle_and_a_lonely_module_are_seen() -> None:
    script = report_structure()
    assert script.circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    module = script.Module
    modules = {
        "room/a.py": module("room/a.py", 10, frozenset({"room/b.py", "lib/c.py"})),
        "room/b.py": module("room/b.py", 10, frozenset()),
        "lib/c.py": module("lib/c.py", 10, frozenset()),
    }
    assert script.only_for_a_sibling(modules) == {"room/b.py": "room/a.py"}
