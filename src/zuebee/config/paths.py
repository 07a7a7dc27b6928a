"""Where the files are that settings name: relative paths are relative to the configuration file. PURE."""

import posixpath
import re
from typing import Any
from urllib.parse import unquote

import msgspec

from zuebee.config.settings import LogSettings
from zuebee.config.settings_auth import DatabaseSourceSettings, ScriptSettings
from zuebee.config.settings_billing import ReporterDatabaseSettings, StoreSettings
from zuebee.lib.sql.dsn import sqlite_path

_FILES: dict[type, tuple[str, ...]] = {
    StoreSettings: ("path", "spool_path"),
    ScriptSettings: ("path",),
    LogSettings: ("output", "access"),
}
"""What names a file besides the settings that end in `_file`."""

_NO_FILES = ("stdout", "stderr", "off")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9_+.-]*)[:=]")
_POSTGRES = ("postgresql://", "postgres://")
_SQLITE = "sqlite:///"


def rooted(value: Any, folder: str) -> Any:
    """The same settings, with each relative path below `folder`."""
    if isinstance(value, list):
        return [rooted(each, folder) for each in value]
    if isinstance(value, dict):
        return {name: rooted(each, folder) for name, each in value.items()}
    if not isinstance(value, msgspec.Struct):
        return value
    changed: dict[str, Any] = {}
    for name in value.__struct_fields__:
        old = getattr(value, name)
        if isinstance(value, StoreSettings) and isinstance(old, str) and path_problem(old):
            continue  # no path at all, which the checks say
        if isinstance(old, str):
            if name.endswith("_file") or name in _FILES.get(type(value), ()):
                changed[name] = _below(folder, old)
        else:
            changed[name] = rooted(old, folder)
    if isinstance(value, DatabaseSourceSettings | ReporterDatabaseSettings) and value.driver == "sqlite":
        changed["dsn"] = _below(folder, sqlite_path(value.dsn))
    return msgspec.structs.replace(value, **changed)


def named_store(name: str) -> StoreSettings:
    """The store that a person names: a postgresql:// URL, `sqlite:///` and a path, or a path. Raises ValueError,
    without the name: it may hold a password.
    """
    if name.startswith(_POSTGRES):
        return StoreSettings(url=name)
    path = name.removeprefix(_SQLITE)
    if problem := path_problem(path):
        raise ValueError(problem)
    return StoreSettings(path=path)


def password_in(url: str) -> bool:
    """Whether a URL of PostgreSQL has a password in it, in either of the places where libpq looks for it."""
    rest = url.partition("://")[2]
    login, at, _ = rest.rpartition("@")
    if at and login.partition(":")[2]:  # not escaped, it may hold any of `/?#@`
        return True
    words = unquote(rest.partition("?")[2]).lower()
    return re.search(r"(?:^|[?&])(?:ssl)?password=[^&]", words) is not None


def url_problem(url: str) -> str:
    """Why this is not the URL of a store; empty if it is one."""
    return "" if url.startswith(_POSTGRES) else "expected a postgresql:// URL; a SQLite file is named by `store.path`"


def path_problem(path: str) -> str:
    """Why this is not taken for the path of a SQLite file; empty if it is."""
    if not path.strip() or "\0" in path:
        return "expected the path of a SQLite file"
    if found := _SCHEME.match(path):
        known = "a postgresql:// URL is meant for `store.url`" if path.startswith(_POSTGRES) else "no store is named so"
        return (
            f"expected the path of a SQLite file or a postgresql:// URL, not `{found[0]}...`: {known}. "
            "A file of such a name is written with ./ before it"
        )
    return ""


def _below(folder: str, path: str) -> str:
    if not path or path in _NO_FILES or path == ":memory:" or folder in ("", "."):
        return path
    return posixpath.join(folder, path)
