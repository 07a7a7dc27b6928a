"""Small operations on YAML trees that the translation of dialects is written in. PURE."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeGuard, TypeVar

from zuebee.kit.struct_tree import number, truth
from zuebee.kit.units import Duration
from zuebee.kit.yaml_tree import Mapping, Node, Problem, Scalar, Sequence, path_text, unknown

N = TypeVar("N", Scalar, Sequence, Mapping)
_KINDS: dict[type[Node], str] = {Scalar: "a single value", Sequence: "a list", Mapping: "a mapping"}


@dataclass(slots=True)
class Notes:
    """What the author of the file must hear."""

    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    """Names of `storage.databases` that somebody uses."""

    def refuse(self, node: Node, message: str) -> None:
        """The file cannot be used as it is."""
        self.problems.append(Problem(node.place, message))

    def warn(self, node: Node, message: str) -> None:
        """The file can be used, but this part does not do what it says."""
        self.warnings.append(Problem(node.place, message))

    def wants(self, node: Node | None, kind: type[N]) -> TypeGuard[N]:
        """Whether the node is of that kind; one that is neither that nor empty is refused."""
        if node is None or isinstance(node, kind):
            return node is not None
        if not is_null(node):
            self.refuse(node, f"expected {_KINDS[kind]}")
        return False

    def leftovers(self, node: Mapping, known: Iterable[str]) -> None:
        """Refuse the keys of a part that has no counterpart among our settings, except the known ones."""
        names = sorted(known)
        for key, value in node.items.items():
            if key not in names:
                self.refuse(value, unknown("key", key, names))


def section(parent: Mapping, key: str) -> Mapping | None:
    """The mapping under the key; None if there is none (a wrong type is reported later)."""
    node = parent.items.get(key)
    return node if isinstance(node, Mapping) else None


def sections(node: Node | None) -> list[Mapping]:
    """The mappings in a list."""
    return [item for item in node.items if isinstance(item, Mapping)] if isinstance(node, Sequence) else []


def ensure(parent: Mapping, key: str, origin: Node) -> Mapping:
    """The mapping under the key, made at the place of `origin` when missing."""
    if not (found := section(parent, key)):
        found = parent.items[key] = Mapping(origin.place)
    return found


def scalar(origin: Node, text: str) -> Scalar:
    """A value that stands for something written at `origin`."""
    return Scalar(origin.place, text)


def move(source: Mapping, key: str, target: Mapping, new_key: str, notes: Notes) -> None:
    """Rename or move an entry; both spellings at once are refused."""
    if node := source.items.pop(key, None):
        put(target, new_key, node, notes)


def put(target: Mapping, key: str, node: Node, notes: Notes) -> None:
    """Give an entry another name; one that is given under that name as well is refused."""
    if key in target.items:
        notes.refuse(node, f"given twice: also as `{path_text(target.items[key].place.path)}`")
    else:
        target.items[key] = node


def is_null(node: Node) -> bool:
    """Whether a key stands there without a value."""
    return isinstance(node, Scalar) and node.is_null


def disabled(node: Node | None) -> bool:
    """Whether a part says `enabled: false`."""
    return isinstance(node, Mapping) and truth(node.items.get("enabled")) is False


def switched_off(node: Node) -> bool:
    """Whether a part does nothing: empty, `enabled: false`, or made of parts that do nothing."""
    if not isinstance(node, Mapping):
        return is_null(node) or truth(node) is False
    if "enabled" in node.items:
        return truth(node.items["enabled"]) is False
    return all(isinstance(child, Mapping) and switched_off(child) for child in node.items.values())


def script(parent: Mapping, notes: Notes) -> None:
    """Take out the script blocks of a part; one that would run is refused."""
    for key in ("script", "lua_script", "lua_script_file"):
        node = parent.items.pop(key, None)
        if node and not switched_off(node) and not (isinstance(node, Scalar) and not node.text):
            notes.refuse(node, "scripts are not supported yet; remove it")


def seconds(node: Node) -> float | None:
    """The duration that a node spells, or None."""
    if (value := number(node)) is not None:
        return value
    try:
        return Duration.parse(node.text) if isinstance(node, Scalar) else None
    except ValueError:
        return None


def drop_zeros(parent: Mapping, keys: Iterable[str], notes: Notes) -> None:
    """Take out durations of zero: they mean no limit there, and there is always a limit here."""
    for key in keys:
        node = parent.items.get(key)
        if node and (value := seconds(node)) is not None and value <= 0:
            del parent.items[key]
            notes.warn(node, "0 means the default here: there is always a limit")
