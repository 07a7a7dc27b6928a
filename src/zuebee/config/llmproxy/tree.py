"""Small operations on YAML trees that the translation of dialects is written in. PURE."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeGuard, TypeVar
from urllib.parse import quote

from zuebee.config.yaml import Mapping, Node, Problem, Scalar, Sequence, number, path_text, truth, unknown
from zuebee.lib.units import Duration

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


# LLMProxy's named databases (`storage.databases[]`), put where they are used. PURE.

_SQLITE_PATH = "./data/llmproxy.db"
_PORTS = {"mysql": "3306", "postgres": "5432"}


def storage_entry(root: Mapping, user: Mapping, notes: Notes) -> None:
    """Replace `storage: NAME` by the `driver` and `dsn` of that entry of `storage.databases`."""
    name = user.items.pop("storage")
    storage = section(root, "storage")
    wanted = name.text if isinstance(name, Scalar) else ""
    entries = sections(storage.items.get("databases")) if storage else []
    found = next((entry for entry in entries if _text(entry, "name") == wanted), None)
    if found is None:
        notes.refuse(name, "not the name of an entry of `storage.databases`")
        return
    if disabled(found):
        notes.refuse(name, "that entry of `storage.databases` is switched off")
        return
    notes.used.add(wanted)
    for key in ("driver", "dsn"):
        if key in found.items:
            user.items.setdefault(key, found.items[key])
    if "dsn" not in user.items:
        user.items["dsn"] = scalar(found, _dsn(found))


def check_storage(root: Mapping, notes: Notes) -> None:
    """Take out `storage`, and say so if a part of it is used by nobody."""
    if not (node := root.items.pop("storage", None)):
        return
    entries = sections(node.items.get("databases")) if isinstance(node, Mapping) else []
    names = {_text(entry, "name") for entry in entries if not disabled(entry)}
    if not names or names - notes.used or (isinstance(node, Mapping) and "caches" in node.items):
        notes.warn(node, "has an effect only for the databases that a source or reporter names; the store is `store`")


def _text(entry: Mapping, key: str, default: str = "") -> str:
    node = entry.items.get(key)
    return node.text if isinstance(node, Scalar) and node.text else default


def _dsn(entry: Mapping) -> str:
    """What is written in parts, as a URL; for SQLite the path."""
    driver = _text(entry, "driver")
    if driver == "sqlite":
        return _text(entry, "path", _SQLITE_PATH)
    user, password = _text(entry, "user"), _text(entry, "password")
    login = f"{quote(user, safe='')}{':' + quote(password, safe='') if password else ''}@" if user else ""
    host = f"{_text(entry, 'host', '127.0.0.1')}:{_text(entry, 'port', _PORTS.get(driver, ''))}"
    return f"{driver}://{login}{host}/{_text(entry, 'database')}"
