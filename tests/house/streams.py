"""Who closes a stream? Leaving an `async for` early does not stop an async generator; closing it does."""

import ast
from collections.abc import Iterator

from tests.support.source import dotted_name

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def unowned_streams(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, expression) of every stream consumed by a function that neither owns it nor was handed it.

    A stream is consumed by `async for`, an async comprehension, `anext` or `__anext__`. It is owned when the
    expression starts at a name that an enclosing `async with ... as name` binds, or at a parameter: then the
    caller owns it. A call is never owned: nobody could close what it returned.
    """
    yield from _visit(tree, frozenset())


def _visit(node: ast.AST, owned: frozenset[str]) -> Iterator[tuple[int, str]]:
    if isinstance(node, _FUNCTIONS):
        owned |= _parameters(node)
    elif isinstance(node, ast.AsyncWith):
        owned |= {name for item in node.items for name in _bound(item.optional_vars)}
    for stream in _consumed(node):
        if dotted_name(stream).partition(".")[0] not in owned:
            yield stream.lineno, ast.unparse(stream)
    for child in ast.iter_child_nodes(node):
        yield from _visit(child, owned)


def _consumed(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.AsyncFor):
        yield node.iter
    elif isinstance(node, _COMPREHENSIONS):
        yield from (generator.iter for generator in node.generators if generator.is_async)
    elif isinstance(node, ast.Call):
        if dotted_name(node.func) == "anext" and node.args:
            yield node.args[0]
        elif isinstance(node.func, ast.Attribute) and node.func.attr == "__anext__":
            yield node.func.value


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> frozenset[str]:
    arguments = function.args
    every = [
        *arguments.posonlyargs,
        *arguments.args,
        *arguments.kwonlyargs,
        arguments.vararg,
        arguments.kwarg,
    ]
    return frozenset(argument.arg for argument in every if argument is not None)


def _bound(target: ast.expr | None) -> list[str]:
    return [node.id for node in ast.walk(target) if isinstance(node, ast.Name)] if target is not None else []
