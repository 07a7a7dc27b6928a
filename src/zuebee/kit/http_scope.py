"""A request's head as ASGI's scope."""

from typing import Any, Final, TypeAlias

from zuebee.kit.http_framing import Fields
from zuebee.kit.http_target import MAX_KEPT_BYTES, read_target, take_apart

Scope: TypeAlias = dict[str, Any]
Address: TypeAlias = tuple[str, int]

_ASGI: Final = {"version": "3.0", "spec_version": "2.3"}


def scope_of(
    version: str,
    method: str,
    url: bytes,
    headers: Fields,
    *,
    server: Address | None,
    client: Address | None,
    secure: bool,
) -> Scope:
    """The scope of an HTTP request; `url` as it was written."""
    target = read_target(url) if len(url) <= MAX_KEPT_BYTES else take_apart(url)
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": version,
        "server": server,
        "client": client,
        "scheme": "https" if secure else "http",
        "method": method,
        "root_path": "",
        "path": target.path,
        "raw_path": target.raw_path,
        "query_string": target.query,
        "headers": headers,
    }


def address_of(found: Any) -> Address | None:
    """Host and port as a transport tells of an IP socket; None for any other."""
    return (str(found[0]), int(found[1])) if isinstance(found, tuple) else None
