"""A YAML tree as an immutable msgspec struct, with every mistake found rather than the first. PURE."""

import re
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec import UnsetType

from zuebee.kit.units import Duration, Size, Timeout, decode_custom
from zuebee.kit.yaml_tree import Mapping, Node, Path, Place, Problem, Scalar, Sequence, unknown

_TRUTH = dict.fromkeys(("true", "yes", "on"), True) | dict.fromkeys(("false", "no", "off"), False)
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9_]*)")
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9_]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_EXPECTED = {
    bool: "`true` or `false`",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
    dict: "a mapping",
}
_EXAMPLES = {Duration: "10s", Timeout: "10s", Size: "32MiB"}
_WRITTEN = {Scalar: "a single value", Sequence: "a list", Mapping: "a mapping"}


def build(node: Node, kind: Any, problems: list[Problem]) -> Any:
    """Make `kind` (a struct, a container or a scalar type, with msgspec's constraints) of the tree.

    Appends every problem found; when there is one, the result means nothing.
    """
    bare, metas = strip(kind)
    origin = get_origin(bare) or bare
    if isinstance(node, Scalar) and node.unset_variable:
        problems.append(Problem(node.place, f"environment variable `{node.unset_variable}` is not set or empty"))
        return None
    if isinstance(origin, type) and issubclass(origin, msgspec.Struct):
        return _struct(node, origin, problems)
    if origin in (list, tuple):
        return _sequence(node, bare, origin, metas, problems)
    if origin is dict:
        return _dict(node, bare, problems)
    if not isinstance(node, Scalar) or node.is_null:
        problems.append(Problem(node.place, _mismatch(node, bare)))
        return None
    if origin is Literal:
        return _literal(node, bare, problems)
    return _scalar(node, bare, metas, problems)


def truth(node: Node | None) -> bool | None:
    """The truth value that a node spells, or None."""
    return _TRUTH.get(node.text.lower()) if isinstance(node, Scalar) and node.plain else None


def number(node: Node | None) -> float | None:
    """The number that a node spells, or None."""
    plain = isinstance(node, Scalar) and node.plain and _NUMBER.fullmatch(node.text)
    return float(node.text) if plain and isinstance(node, Scalar) else None


def place_of(root: Node, path: Path) -> Place:
    """Where the value at `path` was written; for a value left at its default, the nearest place around it."""
    node, place = root, root.place
    for part in path:
        child: Node | None = None
        if isinstance(node, Mapping) and isinstance(part, str):
            child = node.items.get(part)
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            child = node.items[part]
        node, place = (child, child.place) if child else (Scalar(place, ""), place.below(part))
    return place


def strip(kind: Any) -> tuple[Any, list[msgspec.Meta]]:
    """The bare type and its constraints: `Annotated[X | None, ...]` gives X. Other unions do not occur."""
    metas: list[msgspec.Meta] = []
    while True:
        if get_origin(kind) is Annotated:
            metas += [meta for meta in kind.__metadata__ if isinstance(meta, msgspec.Meta)]
            kind = kind.__origin__
        elif type(None) in get_args(kind) or UnsetType in get_args(kind):
            (kind,) = [each for each in get_args(kind) if each not in (type(None), UnsetType)]
        else:
            return kind, metas


def _struct(node: Node, kind: type[msgspec.Struct], problems: list[Problem]) -> Any:
    if not isinstance(node, Mapping):
        problems.append(Problem(node.place, _mismatch(node, dict)))
        return None
    before = len(problems)
    fields = {each.encode_name: each for each in msgspec.structs.fields(kind)}
    values = {}
    for key, value in node.items.items():
        if key not in fields:
            problems.append(Problem(value.place, unknown("key", key, fields)))
        elif not (isinstance(value, Scalar) and value.is_null):
            values[fields[key].name] = build(value, fields[key].type, problems)
    for name, each in fields.items():
        if each.required and each.name not in values:
            problems.append(Problem(node.place.below(name), "required, but missing"))
    return kind(**values) if len(problems) == before else None


def _sequence(node: Node, bare: Any, origin: Any, metas: list[msgspec.Meta], problems: list[Problem]) -> Any:
    if not isinstance(node, Sequence):
        problems.append(Problem(node.place, f"{_mismatch(node, list)}, such as `[a, b]`"))
        return None
    least = max((meta.min_length or 0 for meta in metas), default=0)
    if len(node.items) < least:
        problems.append(Problem(node.place, f"expected at least {least}"))
    return origin(build(item, get_args(bare)[0], problems) for item in node.items)


def _dict(node: Node, bare: Any, problems: list[Problem]) -> Any:
    if not isinstance(node, Mapping):
        problems.append(Problem(node.place, _mismatch(node, dict)))
        return None
    return {key: build(value, get_args(bare)[1], problems) for key, value in node.items.items()}


def _literal(node: Scalar, bare: Any, problems: list[Problem]) -> Any:
    choices = get_args(bare)
    if node.text in choices:
        return node.text
    message = f"expected {_choices(bare)}"
    if near := [choice for choice in choices if choice == node.text.strip().lower()]:
        message += f"; did you mean `{near[0]}`?"
    problems.append(Problem(node.place, message))
    return None


def _scalar(node: Scalar, bare: Any, metas: list[msgspec.Meta], problems: list[Problem]) -> Any:
    value: object = node.text
    if bare is bool:
        value = truth(node)
    elif bare is not str and node.plain and _NUMBER.fullmatch(node.text):
        value = int(node.text) if _INTEGER.fullmatch(node.text) else float(node.text)
    if bare in _EXPECTED and (type(value) is not bare and (bare, type(value)) != (float, int)):
        problems.append(Problem(node.place, _mismatch(node, bare)))
        return None
    try:
        return msgspec.convert(value, Annotated[(bare, *metas)] if metas else bare, dec_hook=decode_custom)
    except msgspec.ValidationError as error:
        message = str(error).partition(" - at `$")[0]
        problems.append(Problem(node.place, message[:1].lower() + message[1:]))
        return None


def _choices(bare: Any) -> str:
    return " or ".join(f"`{choice}`" for choice in get_args(bare))


def _mismatch(node: Node, bare: Any) -> str:
    if get_origin(bare) is Literal:
        expected = _choices(bare)
    else:
        expected = _EXPECTED.get(bare) or f"a {bare.__name__.lower()} such as `{_EXAMPLES[bare]}`"
    if isinstance(node, Scalar):
        return f"expected {expected}" + (", got nothing" if node.is_null else "")
    return f"expected {expected}, got {_WRITTEN[type(node)]}"
