"""All that a user can name: settings, metrics, routes and command-line flags, asked of the code."""

import ast
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import msgspec.inspect

from tests.support.source import Source, dotted_name, package_files


def setting_paths(settings: type | None = None) -> list[str]:
    """Every key of the configuration file: `server.tls.cert_file`, `backends[].url`."""
    if settings is None:
        settings = import_module("zuebee.config.settings").Settings
    return list(_keys(msgspec.inspect.type_info(settings), ""))


def _keys(kind: Any, path: str) -> Iterator[str]:
    if isinstance(kind, msgspec.inspect.StructType):
        for field in kind.fields:
            key = f"{path}.{field.encode_name}".lstrip(".")
            yield key
            yield from _keys(field.type, key)
    elif isinstance(kind, msgspec.inspect.Metadata):
        yield from _keys(kind.type, path)
    elif isinstance(kind, msgspec.inspect.UnionType):
        for one in kind.types:
            yield from _keys(one, path)
    elif isinstance(kind, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
        yield from _keys(kind.item_type, f"{path}[]")
    elif isinstance(kind, msgspec.inspect.DictType):
        yield from _keys(kind.value_type, f"{path}.*")


def metric_names(source: Source | None = None) -> list[str]:
    """Every name in the table METRICS of telemetry/metrics.py."""
    statements = (source or _package_file("telemetry/metrics.py")).tree.body
    tables = [statement for statement in statements if _assigns(statement, "METRICS")]
    keys = (key for table in tables for node in ast.walk(table) if isinstance(node, ast.Dict) for key in node.keys)
    return [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]


def routes(source: Source | None = None) -> list[str]:
    """Every path in the table ROUTES of edge/http.py."""
    statements = (source or _package_file("edge/http.py")).tree.body
    tables = [statement for statement in statements if _assigns(statement, "ROUTES")]
    constants = (node.value for table in tables for node in ast.walk(table) if isinstance(node, ast.Constant))
    return [value for value in constants if isinstance(value, str) and value.startswith("/")]


def _assigns(statement: ast.stmt, name: str) -> bool:
    if isinstance(statement, ast.AnnAssign):
        return dotted_name(statement.target) == name
    return isinstance(statement, ast.Assign) and name in map(dotted_name, statement.targets)


def commands_and_flags(app: Any = None) -> list[str]:
    """Every command as one types it (`zuebee run`), and every long option (`--config`); old words are hidden."""
    if app is None:
        app = import_module("zuebee.cli").app
    return sorted(set(_flags(import_module("typer.main").get_command(app), "zuebee")))


def _flags(command: Any, path: str) -> Iterator[str]:
    for parameter in command.params:
        yield from (option for option in parameter.opts if option.startswith("--") and not parameter.hidden)
    for name, child in getattr(command, "commands", {}).items():
        if child.hidden:
            continue
        yield f"{path} {name}"
        yield from _flags(child, f"{path} {name}")


def _package_file(inside: str) -> Source:
    return next(source for source in package_files() if source.inside == inside)
