"""A configuration file as `Settings`, or every mistake in it with its line.

File -> tree (config/yaml) -> references -> dialects -> overrides -> structs (config/yaml) -> checks.
Only `load` touches the disk.
"""

import os
import re
from collections.abc import Callable, Iterator
from collections.abc import Mapping as Environ
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any, get_args, get_origin

import msgspec

from zuebee.config.llmproxy.settings import translate
from zuebee.config.paths import rooted
from zuebee.config.providers import ANY, PROVIDERS
from zuebee.config.settings import ProxySettings, Settings
from zuebee.config.settings_base import Section
from zuebee.config.settings_billing import BillingSettings, StoreSettings, UsageSettings
from zuebee.config.validate import check, kept_here, key_hash, store_findings
from zuebee.config.yaml import (
    MAX_TEXT_BYTES,
    Mapping,
    Node,
    Path,
    Problem,
    Scalar,
    Sequence,
    SourceLocation,
    build,
    parse,
    path_text,
    place_of,
    strip,
    unknown,
)

# What the environment adds to a configuration file: references, overrides and forward proxies. PURE.
#
# The environment is passed in as a mapping; `config.environment()` is the one place that reads it.

PREFIX = "ZUEBEE_"
_REFERENCE = "os.environ/"
CLIENTS_KEY = "ZUEBEE_API_KEY"
"""Where a client on the same machine keeps its key, as in the README; it is no setting."""

# Kubernetes puts these into every pod when a service is called zuebee; they are nobody's settings.
_SERVICE_LINK = re.compile(r"(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")


def resolve_references(node: Node, environ: Environ[str, str]) -> None:
    """Replace each value `os.environ/NAME` by the variable's. One that is unset or empty is marked, not
    reported: the part of the file that needs it may be switched off.
    """
    if isinstance(node, Mapping):
        for child in node.items.values():
            resolve_references(child, environ)
    elif isinstance(node, Sequence):
        for child in node.items:
            resolve_references(child, environ)
    elif node.text.startswith(_REFERENCE):
        name = node.text.removeprefix(_REFERENCE)
        if environ.get(name):
            node.text, node.plain = environ[name], True
        else:
            node.unset_variable = name or "(no name)"


def apply_overrides(root: Mapping, kind: type[msgspec.Struct], environ: Environ[str, str]) -> list[Problem]:
    """Put `ZUEBEE_<KEY>__<KEY>=value` into the tree, for the keys of `kind`; list indexes are numbers. Values
    of single settings are taken as they are, lists and mappings as YAML (`[a, b]`).
    """
    problems: list[Problem] = []
    # Shorter names first: a whole list before its entries, entry 2 before entry 10.
    for _, name in sorted((len(each), each) for each in environ if each.startswith(PREFIX)):
        if name == CLIENTS_KEY or _is_service_link(name, environ[name]):
            continue
        parts = name.removeprefix(PREFIX).split("__")
        try:
            path, target = _locate(parts, kind)
        except _UnknownError as error:
            problems.append(Problem(_source(name), str(error)))
            continue
        node, found = _value(environ[name], name, path, target)
        resolve_references(node, environ)
        problems += found or _put(root, path, node)
    return problems


def fill_addresses(root: Mapping) -> None:
    """Write the `url` of each backend that is a provider with an address of its own, unless the file has one."""
    backends = root.items.get("backends")
    for backend in backends.items if isinstance(backends, Sequence) else []:
        kind = backend.items.get("type") if isinstance(backend, Mapping) else None
        if isinstance(backend, Mapping) and isinstance(kind, Scalar) and "url" not in backend.items:
            row = PROVIDERS.get(kind.text)
            if row is not None and row.url and kind.text != ANY:
                backend.items["url"] = Scalar(backend.place.below("url"), row.url, plain=False)


def fill_proxies(root: Mapping, environ: Environ[str, str]) -> None:
    """Write the section `proxy` from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY unless the file has one.

    Lower case wins. Under CGI (REQUEST_METHOD) HTTP_PROXY in upper case may be a client's header `Proxy:`.
    """
    if "proxy" in root.items:
        return
    section = Mapping(SourceLocation("environment", 0, ("proxy",)))
    for key, names in (
        ("http", ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")),
        ("https", ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")),
    ):
        for name in names:
            if environ.get(name) and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in environ):
                text = environ[name] if "://" in environ[name] else "http://" + environ[name]
                section.items[key] = Scalar(_source(name, ("proxy", key)), text, plain=False)
                break
    direct = next((name for name in ("no_proxy", "NO_PROXY") if environ.get(name)), None)
    no_proxy = re.split(r"[,\s]+", environ[direct]) if direct else []
    given = {key: node.text for key, node in section.items.items() if isinstance(node, Scalar)}
    proxies = ProxySettings(http=given.get("http"), https=given.get("https"), no_proxy=no_proxy)
    if not any(_is_socks(proxy) for proxy in _needed(root, proxies)):
        for key, text in given.items():
            if _is_socks(text):
                del section.items[key]
    if direct and section.items:
        place = _source(direct, ("proxy", "no_proxy"))
        hosts = [host for host in no_proxy if host]
        section.items["no_proxy"] = Sequence(place, [Scalar(place, host, plain=False) for host in hosts])
    if section.items:
        root.items["proxy"] = section


def _is_socks(proxy: str) -> bool:
    return proxy.lower().startswith("socks")


def _needed(root: Mapping, proxies: ProxySettings) -> Iterator[str]:
    """The proxies through which backends are reached. One of a kind that is not spoken (SOCKS) is refused only where it
    is among them: else it is there for other programs.
    """
    backends = root.items.get("backends")
    for backend in backends.items if isinstance(backends, Sequence) else ():
        url = backend.items.get("url") if isinstance(backend, Mapping) else None
        try:
            proxy = proxies.of(url.text if isinstance(url, Scalar) else "")
        except ValueError:
            continue  # no URL: that is said elsewhere
        if proxy is not None:
            yield proxy


class _UnknownError(Exception):
    """A variable that names no setting."""


def _source(name: str, path: Path = ()) -> SourceLocation:
    return SourceLocation(f"environment variable {name}", 0, path)


def _is_service_link(name: str, value: str) -> bool:
    return bool(_SERVICE_LINK.fullmatch(name.removeprefix(PREFIX))) and (
        "SERVICE" in name or "://" in value or "_PORT_" in name
    )


def _locate(parts: list[str], kind: Any) -> tuple[Path, Any]:
    """The path that a variable's parts name, and the type of the setting there."""
    path: Path = ()
    for position, part in enumerate(parts):
        bare, _ = strip(kind)
        if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
            fields = {each.encode_name.upper(): each for each in msgspec.structs.fields(bare)}
            if part.upper() not in fields:
                raise _UnknownError(_nearest(parts[:position], part, fields))
            path, kind = (*path, fields[part.upper()].encode_name), fields[part.upper()].type
        elif get_origin(bare) in (list, tuple) and part.isdecimal() and len(part) <= 4:
            path, kind = (*path, int(part)), get_args(bare)[0]
        elif get_origin(bare) is dict:
            path, kind = (*path, part), get_args(bare)[1]
        else:
            raise _UnknownError(f"there is nothing below {PREFIX}{'__'.join(parts[:position])}")
    return path, kind


def _nearest(before: list[str], part: str, fields: dict[str, Any]) -> str:
    prefix = PREFIX + "".join(f"{each}__" for each in before)
    hint = unknown("setting", part, (name.lower() for name in fields)).partition("; ")[2]
    return "no such setting; " + re.sub("`([^`]+)`", lambda match: f"`{prefix}{match[1].upper()}`", hint)


def _value(text: str, name: str, path: Path, kind: Any) -> tuple[Node, list[Problem]]:
    bare, _ = strip(kind)
    place = _source(name, path)
    single = get_origin(bare) not in (list, tuple, dict) and not (
        isinstance(bare, type) and issubclass(bare, msgspec.Struct)
    )
    quoted = len(text) >= 2 and text[0] == text[-1] and text[0] in "'\""
    if single and not quoted:
        return Scalar(place, text), []
    return parse(text, place.source, path, fixed_line=0)


def _put(root: Mapping, path: Path, node: Node) -> list[Problem]:
    """Set the node at the path, making what is missing on the way."""
    here: Node = root
    for position, part in enumerate(path):
        last = position == len(path) - 1
        fresh = node if last else _container(node.place, path[: position + 1], path[position + 1])
        child: Node | None
        if isinstance(part, int) and isinstance(here, Sequence):
            if part > len(here.items):
                return [Problem(node.place, f"the next entry of the list is number {len(here.items)}")]
            if part == len(here.items):
                here.items.append(fresh)
            elif last or _is_null(here.items[part]):
                here.items[part] = fresh
            child = here.items[part]
        elif isinstance(part, str) and isinstance(here, Mapping):
            if last or part not in here.items or _is_null(here.items[part]):
                here.items[part] = fresh
            child = here.items[part]
        else:
            return []  # the file has something of the wrong type here, which is reported with its line
        here = child
    return []


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.is_null


def _container(place: SourceLocation, path: Path, next_part: str | int) -> Mapping | Sequence:
    where = SourceLocation(place.source, 0, path)
    return Sequence(where) if isinstance(next_part, int) else Mapping(where)


MAX_PROBLEMS = 100  # an alias can repeat one mistake thousands of times


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a file says. Keys are kept as SHA-256 only (`key_sha256`); `key` is always None. Relative paths are below
    the folder of the file; in `as_written` they are as they were written.
    """

    settings: Settings
    warnings: list[str]
    as_written: StoreSettings


class ConfigError(Exception):
    """A file that cannot be used; `problems` are complete sentences with file, line and key path."""

    def __init__(self, problems: list[Problem]) -> None:
        said = _in_order(problems)
        more = [f"and {len(said) - MAX_PROBLEMS} more"] if len(said) > MAX_PROBLEMS else []
        self.problems = said[:MAX_PROBLEMS] + more
        super().__init__("\n".join(self.problems))


def load(path: str, environ: Environ[str, str]) -> Loaded:
    """Read the file; raises ConfigError with everything that is wrong with it."""
    return loads(read_text(path), path, environ, _is_readable_file, folder_of(path))


def folder_of(path: str) -> str:
    """What relative paths in this file are relative to."""
    return str(FilePath(path).parent)


def read_text(path: str) -> str:
    """The text of a configuration file. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
    except OSError as error:
        raise ConfigError([Problem(SourceLocation(path), error.strerror or "cannot be read")]) from None
    if len(data) > MAX_TEXT_BYTES:
        raise ConfigError([Problem(SourceLocation(path), f"larger than {MAX_TEXT_BYTES} bytes")])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError([Problem(SourceLocation(path, line), "not UTF-8")]) from None


def tree(text: str, source: str) -> tuple[Mapping, list[Problem]]:
    """A text as a tree of settings. Raises ConfigError if it is none."""
    root, problems = parse(text, source)
    if isinstance(root, Scalar) and root.is_null and not problems:
        root = Mapping(SourceLocation(source))
    if not isinstance(root, Mapping):
        raise ConfigError(problems or [Problem(root.place, "expected settings, such as `backends: [...]`")])
    return root, problems


def loads(
    text: str, source: str, environ: Environ[str, str], is_file: Callable[[str], bool], folder: str = ""
) -> Loaded:
    """Like `load`, of a text. `source` stands in messages in place of the file's name."""
    root, problems = tree(text, source)
    resolve_references(root, environ)
    notes = translate(root)
    problems += notes.problems + apply_overrides(root, Settings, environ)
    fill_addresses(root)
    fill_proxies(root, environ)
    settings = build(root, Settings, problems)
    if problems:
        raise ConfigError(problems)
    as_written = settings.store
    settings = rooted(settings, folder)
    findings = check(settings, is_file)
    said = [(finding, Problem(place_of(root, finding.path), finding.message)) for finding in findings]
    if any(finding.fatal for finding, _ in said):
        raise ConfigError([problem for finding, problem in said if finding.fatal])
    warnings = _in_order([*notes.warnings, *(problem for _, problem in said)])
    return Loaded(_without_keys(kept_here(settings)), warnings, as_written)


def _in_order(problems: list[Problem]) -> list[str]:
    return [str(each) for each in sorted(problems, key=lambda each: each.place.line)]


def _is_readable_file(path: str) -> bool:
    return FilePath(path).is_file() and os.access(path, os.R_OK)


def _without_keys(settings: Settings) -> Settings:
    """The same settings with each key replaced by its hash."""
    keys = [
        msgspec.structs.replace(
            each, key=None, key_sha256=key_hash(each.key) if each.key else (each.key_sha256 or "").lower()
        )
        for each in settings.api_keys
    ]
    return msgspec.structs.replace(settings, api_keys=keys)


# What commands beside the server need of a configuration file: the store, its currency, and who is told of usage.
#
# The rest of the file may be wrong, or want secrets that whoever types a command does not have.

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
    return msgspec.structs.replace(part, store=store, as_written=as_written, source=_told_source(root, ("store", name)))


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


def _told_source(root: Mapping, path: Path) -> str:
    """Where a setting comes from, for people."""
    node: Node | None = root
    for part in path:
        node = node.items.get(str(part)) if isinstance(node, Mapping) else None
    if node is None:
        return f"the default of `{path_text(path)}`, beside {root.place.source}"
    if node.place.line:
        return f"`{path_text(node.place.path)}` of {node.place.source}"
    return node.place.source
