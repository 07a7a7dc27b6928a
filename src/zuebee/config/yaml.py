"""YAML text as a tree in which every node knows where it was written. PURE.

Scalars stay text: what `8000`, `off` or `0123` means depends on the setting that it is given to, so
`struct_tree` decides that. Values never appear in messages, for they may be secrets.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal, TypeAlias, get_args, get_origin

import msgspec
import yaml
from msgspec import UnsetType

from zuebee.lib.nearest import nearest
from zuebee.lib.units import Duration, Size, Timeout, decode_custom

MAX_TEXT_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_NODES = 100_000  # after aliases are followed, so that a few lines cannot unfold into gigabytes

Path: TypeAlias = tuple[str | int, ...]

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG_PREFIX = "tag:yaml.org,2002:"
_TAGS = frozenset(["str", "int", "float", "bool", "null", "timestamp", "map", "seq", "merge", "value"])
_PLAIN_NAME = re.compile(r"[A-Za-z]{1,16}\d{0,3}([_-][A-Za-z]{1,16}\d{0,3}){0,7}")
_TAB = "a tab, which YAML does not take before a setting: write spaces"
_HIDDEN = "(not shown: it could be a secret)"


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """Where something was written: file or variable, line (0: the whole source) and path of keys."""

    source: str
    line: int = 0
    path: Path = ()

    def below(self, part: str | int) -> "SourceLocation":
        """The place of an entry that is not written there, but would belong there."""
        return replace(self, path=(*self.path, part))


@dataclass(frozen=True, slots=True)
class Problem:
    """Something to tell the author: `FILE:LINE: key.path[0].name: message`."""

    place: SourceLocation
    message: str

    def __str__(self) -> str:
        place = self.place
        where = f"{place.source}:{place.line}" if place.line else place.source
        return ": ".join(part for part in (where, path_text(place.path), self.message) if part)


@dataclass(slots=True)
class Scalar:
    """One value, as text. `plain` means unquoted: only such text may be a number, a truth value or null."""

    place: SourceLocation
    text: str
    plain: bool = True
    unset_variable: str = ""  # the environment variable that it refers to and that does not exist

    @property
    def is_null(self) -> bool:
        """Whether nothing was given."""
        return self.plain and not self.unset_variable and self.text.lower() in {"", "~", "null"}


@dataclass(slots=True)
class Sequence:
    """A list of nodes."""

    place: SourceLocation
    items: list["Node"] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    """Nodes by key, in the order written."""

    place: SourceLocation
    items: dict[str, "Node"] = field(default_factory=dict)


Node: TypeAlias = Scalar | Sequence | Mapping


def parse(text: str, source: str, path: Path = (), fixed_line: int | None = None) -> tuple[Node, list[Problem]]:
    """Read one document. Problems are syntax errors, repeated keys, foreign tags and broken bounds; with any
    of them the tree may be incomplete. An empty document is a null scalar. With `fixed_line` all places have
    that line.
    """
    origin = SourceLocation(source, 0 if fixed_line is None else fixed_line, path)
    if len(text) > MAX_TEXT_BYTES:
        return Scalar(origin, ""), [Problem(origin, f"larger than {MAX_TEXT_BYTES} bytes")]
    try:
        _check_depth(text)
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        return Scalar(origin, ""), [_syntax_problem(error, text, origin, fixed_line)]
    if root is None:
        return Scalar(origin, ""), []
    reader = _Reader(source, fixed_line)
    try:
        return reader.node(root, reader.place(root, path), 0), reader.problems
    except _TooLargeError as error:
        return Scalar(origin, ""), [*reader.problems, Problem(error.place, str(error))]


def path_text(path: Path) -> str:
    """`backends[0].url` for ("backends", 0, "url")."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{shown(part)}" if text else shown(part)
    return text


def shown(key: str) -> str:
    """A key as it may be quoted: a secret that stands where a name belongs must not be printed."""
    return key if _PLAIN_NAME.fullmatch(key) else _HIDDEN


RENAMED: Final[dict[str, tuple[str, ...]]] = {
    "allow_open": ("allow_anonymous",),
    "client_gone": ("on_disconnect",),
    "heartbeat": ("keepalive_interval", "renew_interval"),
    "hold": ("hold_ttl",),
    "max_outbox": ("outbox_capacity",),
    "organisation": ("organization",),
    "organisation_claim": ("organization_claim",),
    "organisation_id": ("organization_id",),
    "per_organisation": ("per_organization",),
    "repeat": ("retry_started_on",),
    "tell_caller": ("identity_headers",),
    "when_down": ("on_store_down",),
    "when_exhausted": ("on_exhausted",),
    "when_full": ("on_outbox_full",),
}
"""Settings that had another name before 0.2.0, with the name that they have now: the one that their section knows."""


def new_name(old: str, known: Iterable[str]) -> str:
    """What a setting of this name is called now, among those that are known; empty: it was not renamed."""
    return next((name for name in RENAMED.get(old.lower(), ()) if name in known), "")


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist, with its new name or the nearest that does exist."""
    names = sorted(known)
    if renamed := new_name(name, names):
        return f"unknown {what} `{shown(name)}`; it is called `{renamed}` now"
    near = nearest(name, names)
    hint = f"did you mean `{near}`?" if near else "known: " + ", ".join(f"`{each}`" for each in names)
    return f"unknown {what} `{shown(name)}`; {hint}"


class _TooLargeError(Exception):
    def __init__(self, place: SourceLocation, message: str) -> None:
        super().__init__(message)
        self.place = place


class _Reader:
    """Turns PyYAML's nodes into ours: follows aliases and merge keys, counts, collects problems."""

    def __init__(self, source: str, fixed_line: int | None) -> None:
        self.source = source
        self.fixed_line = fixed_line
        self.problems: list[Problem] = []
        self._count = 0

    def place(self, node: yaml.Node, path: Path) -> SourceLocation:
        return SourceLocation(
            self.source, node.start_mark.line + 1 if self.fixed_line is None else self.fixed_line, path
        )

    def node(self, node: yaml.Node, place: SourceLocation, depth: int) -> Node:
        self._count += 1
        if self._count > MAX_NODES:
            raise _TooLargeError(place, f"more than {MAX_NODES} values once aliases are followed")
        if depth > MAX_DEPTH:
            raise _TooLargeError(place, f"nested deeper than {MAX_DEPTH} levels")
        if node.tag.removeprefix(_TAG_PREFIX) not in _TAGS:
            self.problems.append(Problem(place, "YAML tags are not supported"))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place, depth)
        if isinstance(node, yaml.SequenceNode):
            path = place.path
            return Sequence(
                place,
                [self.node(item, self.place(item, (*path, index)), depth + 1) for index, item in enumerate(node.value)],
            )
        return Scalar(place, node.value, plain=isinstance(node, yaml.ScalarNode) and not node.style)

    def _mapping(self, node: yaml.MappingNode, place: SourceLocation, depth: int) -> Mapping:
        mapping, merged = Mapping(place), Mapping(place)
        first_line: dict[str, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(self.place(key_node, place.path), "a key must be a plain name"))
                continue
            key = key_node.value
            key_place = self.place(key_node, (*place.path, key))
            if key_node.tag == _TAG_PREFIX + "merge":
                self._merge(value_node, merged, key_place, depth)
            elif key in mapping.items:
                message = f"repeated key `{shown(key)}` (first on line {first_line[key]})"
                self.problems.append(Problem(key_place, message))
            else:
                first_line[key] = key_place.line
                mapping.items[key] = self.node(value_node, key_place, depth + 1)
        for key, value in merged.items.items():
            mapping.items.setdefault(key, value)
        return mapping

    def _merge(self, value: yaml.Node, merged: Mapping, key_place: SourceLocation, depth: int) -> None:
        """`<<: *defaults` or `<<: [*first, *second]`: keys that are not written out, earlier ones winning."""
        place = replace(key_place, path=key_place.path[:-1])
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            node = self.node(source, place, depth + 1)
            if isinstance(node, Mapping):
                for key, entry in node.items.items():
                    merged.items.setdefault(key, entry)
            else:
                self.problems.append(Problem(place, "`<<` needs a mapping or a list of mappings"))


def _check_depth(text: str) -> None:
    """PyYAML composes by recursion, so the depth is checked on its flat events first."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH + 1:
                mark: Any = event.start_mark
                raise yaml.MarkedYAMLError(problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _begins_with_tab(text: str, line: int) -> bool:
    """Whether a tab stands before what a line says, where YAML wants spaces."""
    found = text.splitlines()[line : line + 1]
    return bool(found) and "\t" in found[0][: len(found[0]) - len(found[0].lstrip(" \t-"))]


def _syntax_problem(error: yaml.YAMLError, text: str, origin: SourceLocation, fixed_line: int | None) -> Problem:
    line = 0
    message = "not readable as YAML"
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        message = ": ".join(part for part in (error.context, error.problem) if part) or message
        if mark and _begins_with_tab(text, mark.line):
            return Problem(replace(origin, line=line if fixed_line is None else fixed_line), f"YAML: {_TAB}")
    elif isinstance(error, yaml.reader.ReaderError):
        line = text.encode()[: error.position].count(b"\n") + 1
        message = "a control character, which YAML does not allow"
    # The pure Python parser quotes what it found; what it found may be a secret.
    message = re.sub(r"'[^' ]{3,}'", "(...)", message)
    return Problem(replace(origin, line=line if fixed_line is None else fixed_line), f"YAML: {message}")


# A YAML tree as an immutable msgspec struct, with every mistake found rather than the first. PURE.

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


def place_of(root: Node, path: Path) -> SourceLocation:
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
