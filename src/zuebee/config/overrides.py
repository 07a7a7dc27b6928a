"""What the environment adds to a configuration file: references, overrides and forward proxies. PURE.

The environment is passed in as a mapping; `config.environment()` is the one place that reads it.
"""

import re
from collections.abc import Mapping as Environ
from typing import Any, get_args, get_origin
from urllib.parse import urlsplit

import msgspec

from zuebee.kit.http_connect import bypasses_proxy, port_of
from zuebee.kit.struct_tree import strip
from zuebee.kit.yaml_tree import Mapping, Node, Path, Place, Problem, Scalar, Sequence, parse, unknown

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


def fill_proxies(root: Mapping, environ: Environ[str, str]) -> None:
    """Write the section `proxy` from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY unless the file has one.

    Lower case wins. Under CGI (REQUEST_METHOD) HTTP_PROXY in upper case may be a client's header `Proxy:`.
    """
    if "proxy" in root.items:
        return
    section = Mapping(Place("environment", 0, ("proxy",)))
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
    unspoken = [key for key, node in section.items.items() if _is_socks(node)]
    if not any(_is_needed(key, root, no_proxy) for key in unspoken):
        for key in unspoken:
            del section.items[key]
    if direct and section.items:
        place = _source(direct, ("proxy", "no_proxy"))
        hosts = [host for host in no_proxy if host]
        section.items["no_proxy"] = Sequence(place, [Scalar(place, host, plain=False) for host in hosts])
    if section.items:
        root.items["proxy"] = section


def _is_socks(proxy: Node) -> bool:
    return isinstance(proxy, Scalar) and proxy.text.lower().startswith("socks")


def _is_needed(scheme: str, root: Mapping, no_proxy: list[str]) -> bool:
    """Whether a backend is reached through the proxy for a scheme. One of a kind that is not spoken (SOCKS) is refused
    only then: it is there for other programs.
    """
    backends = root.items.get("backends")
    for backend in backends.items if isinstance(backends, Sequence) else ():
        url = backend.items.get("url") if isinstance(backend, Mapping) else None
        try:
            parts = urlsplit(url.text if isinstance(url, Scalar) else "")
            if parts.scheme == scheme and not bypasses_proxy(parts.hostname or "", no_proxy, port_of(parts)):
                return True
        except ValueError:
            continue  # no URL: that is said elsewhere
    return False


class _UnknownError(Exception):
    """A variable that names no setting."""


def _source(name: str, path: Path = ()) -> Place:
    return Place(f"environment variable {name}", 0, path)


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


def _container(place: Place, path: Path, next_part: str | int) -> Mapping | Sequence:
    where = Place(place.source, 0, path)
    return Sequence(where) if isinstance(next_part, int) else Mapping(where)
