"""What commands beside the server need of a configuration file: the store, its currency, and who is told of usage.

The rest of the file may be wrong, or want secrets that whoever types a command does not have.
"""

from collections.abc import Mapping as Environ

import msgspec

from zuebee.config import Settings
from zuebee.config.base import Section
from zuebee.config.check_store import store_findings
from zuebee.config.dialects import translate
from zuebee.config.file import ConfigError, folder_of, read_text, tree
from zuebee.config.money import BillingSettings, StoreSettings, UsageSettings
from zuebee.config.overrides import apply_overrides, resolve_references
from zuebee.config.paths import rooted
from zuebee.kit.struct_tree import build, place_of
from zuebee.kit.yaml_tree import Mapping, Node, Path, Problem, Sequence, path_text, unknown

_NEEDED: dict[str, tuple[str, ...]] = {
    "billing": ("currency",),
    "usage": ("enabled", "retention_days", "reporters"),
}
_OF_A_REPORTER = ("name", "type", "enabled")
_NOT_OF_THE_STORE = ("spool_path", "commit_interval")


class StorePart(Section, frozen=True, kw_only=True):
    """What was read. Settings that are not named above have their defaults."""

    store: StoreSettings = StoreSettings()
    billing: BillingSettings = BillingSettings()
    usage: UsageSettings = UsageSettings()
    as_written: StoreSettings = StoreSettings()
    """Before its relative paths were put below the folder of the file."""
    source: str = ""
    """Where the store was named, for people: `store.path` of which file."""


def load_part(path: str, environ: Environ[str, str], *, spool: bool = False) -> StorePart:
    """Read these parts of a file, `store.spool_path` only on request. Raises ConfigError: it is no file of settings, or
    these parts are wrong.
    """
    root, problems = tree(read_text(path), path)
    resolve_references(root, environ)
    problems += (each for each in translate(root).problems if _concerns(each.place.path))
    problems += (each for each in apply_overrides(root, Settings, environ) if _concerns(each.place.path))
    known = [each.encode_name for each in msgspec.structs.fields(Settings)]
    problems += (
        Problem(node.place, unknown("key", key, known)) for key, node in root.items.items() if key not in known
    )
    part: StorePart = build(_pruned(root, spool=spool), StorePart, problems)
    if problems:
        raise ConfigError(problems)
    as_written, store = part.store, rooted(part.store, folder_of(path))
    wrong = [Problem(place_of(root, where), message) for where, message, _ in store_findings(store)]
    if wrong:
        raise ConfigError(wrong)
    name = "path" if store.url is None else "url"
    return msgspec.structs.replace(part, store=store, as_written=as_written, source=_source(root, ("store", name)))


def _concerns(path: Path) -> bool:
    """Whether a problem there may mean that another store is meant than the one that would be used."""
    return not path or path[0] == "store" or path == ("billing", "currency") or path[:2] == ("usage", "path")


def _pruned(root: Mapping, *, spool: bool) -> Mapping:
    items: dict[str, Node] = {}
    for name, needed in _NEEDED.items():
        if name in root.items:
            items[name] = _only(root.items[name], needed)
    usage = items.get("usage")
    reporters = usage.items.get("reporters") if isinstance(usage, Mapping) else None
    if isinstance(usage, Mapping) and isinstance(reporters, Sequence):
        found: list[Node] = [_only(each, _OF_A_REPORTER) for each in reporters.items]
        usage.items["reporters"] = Sequence(reporters.place, found)
    store = root.items.get("store")
    if isinstance(store, Mapping):
        left_out = [name for name in _NOT_OF_THE_STORE if not (spool and name == "spool_path")]
        kept = {name: node for name, node in store.items.items() if name not in left_out}
        items["store"] = Mapping(store.place, kept)
    elif store is not None:
        items["store"] = store
    return Mapping(root.place, items)


def _only(node: Node, names: tuple[str, ...]) -> Node:
    if not isinstance(node, Mapping):
        return node
    return Mapping(node.place, {name: child for name, child in node.items.items() if name in names})


def _source(root: Mapping, path: Path) -> str:
    """Where a setting comes from, for people."""
    node: Node | None = root
    for part in path:
        node = node.items.get(str(part)) if isinstance(node, Mapping) else None
    if node is None:
        return f"the default of `{path_text(path)}`, beside {root.place.source}"
    if node.place.line:
        return f"`{path_text(node.place.path)}` of {node.place.source}"
    return node.place.source
