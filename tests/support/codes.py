"""Every error code that the package can give a client or write into a log, read from its source."""

import ast
from collections.abc import Iterable, Iterator

from tests.support.source import Source, dotted_name, nodes, package_files

Positions = dict[str, int]


def error_codes(sources: Iterable[Source] | None = None) -> set[str]:
    """The values of everything called `code`: parameters and fields of that name, and `(status, code, ...)` tuples."""
    sources = list(package_files() if sources is None else sources)
    positions: Positions = {}
    for source in sources:
        positions |= _positions(source.tree)
    shared = [_constants(source.tree) for source in sources if source.inside == "contracts/errors.py"]
    # A module's own functions come before others of the same name.
    return {
        code
        for source in sources
        if "sim/" not in source.inside
        for code in _codes(source.tree, positions | _positions(source.tree), *shared)
    }


def places_of_codes(codes: Iterable[str], sources: Iterable[Source] | None = None) -> dict[str, list[str]]:
    """In which modules each of the codes is written out (not in a docstring)."""
    found: dict[str, list[str]] = {code: [] for code in codes}
    for source in package_files() if sources is None else sources:
        texts = {node.value for node in nodes(source.tree) if isinstance(node, ast.Constant)}
        for code in found.keys() & texts:
            found[code].append(source.inside)
    return found


def _positions(tree: ast.AST) -> Positions:
    """For each function or class with a parameter or field `code`: which positional argument it is."""
    found: Positions = {}
    for node in nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [each.arg for each in node.args.args if each.arg != "self"]
        elif isinstance(node, ast.ClassDef):
            names = [dotted_name(each.target) for each in node.body if isinstance(each, ast.AnnAssign)]
            for each in node.body:
                if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                    names = [argument.arg for argument in each.args.args[1:]]
        else:
            continue
        if "code" in names:
            found[node.name] = names.index("code")
    return found


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    plain = {dotted_name(one.targets[0]): one.value for one in tree.body if isinstance(one, ast.Assign)}
    return plain | {
        dotted_name(one.target): one.value
        for one in tree.body
        if isinstance(one, ast.AnnAssign) and one.value is not None
    }


def _codes(tree: ast.Module, positions: Positions, *shared: dict[str, ast.expr]) -> Iterator[str]:
    constants: dict[str, ast.expr] = {}
    for each in (*shared, _constants(tree)):
        constants |= each
    for node in nodes(tree):
        for value in _values(node, positions):
            for part in ast.walk(constants.get(dotted_name(value) or "-", value)):
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value:
                    yield part.value


def _values(node: ast.AST, positions: Positions) -> Iterator[ast.expr]:
    """The expressions that stand where a code belongs."""
    if isinstance(node, ast.Call):
        place = positions.get(dotted_name(node.func).rpartition(".")[2])
        if place is not None and place < len(node.args):
            yield node.args[place]
        yield from (keyword.value for keyword in node.keywords if keyword.arg == "code")
    elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        arguments = [*node.args.args, *node.args.kwonlyargs]
        defaults = [*node.args.defaults, *node.args.kw_defaults]
        named = zip(arguments[len(arguments) - len(defaults) :], defaults, strict=True)
        yield from (default for argument, default in named if argument.arg == "code" and default is not None)
    elif isinstance(node, ast.Assign) and dotted_name(node.targets[0]).endswith(".code"):
        yield from (part for part in _branches(node.value))
    elif isinstance(node, ast.Tuple) and len(node.elts) > 2 and _is_status(node.elts[0]):
        yield node.elts[1]


def _branches(value: ast.expr) -> Iterator[ast.expr]:
    """A conditional's two outcomes; anything else is itself."""
    yield from (value.body, value.orelse) if isinstance(value, ast.IfExp) else (value,)


def _is_status(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) and isinstance(value.value, int) and 400 <= value.value <= 599
