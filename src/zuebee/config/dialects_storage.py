"""LLMProxy's named databases (`storage.databases[]`), put where they are used. PURE."""

from urllib.parse import quote

from zuebee.config.dialects_tools import Notes, disabled, scalar, section, sections
from zuebee.kit.yaml_tree import Mapping, Scalar

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
