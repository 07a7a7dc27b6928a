"""Request targets, framing and heads: what the messages of HTTP/1.1 mean (RFC 9112)."""

import re
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, NamedTuple, TypeAlias
from urllib.parse import unquote

from httptools import parse_url

MAX_KEPT_BYTES = 256
"""Longer targets are not worth keeping, nor safe to."""


class RequestTarget(NamedTuple):
    """A request target: its path with and without percent-encoding, and its query."""

    path: str
    raw_path: bytes
    query: bytes


def take_apart(url: bytes) -> RequestTarget:
    """Read a request target; raises what httptools and ASCII refuse."""
    parts: Any = parse_url(url)  # its stubs say that nothing is ever missing
    raw_path: bytes = parts.path or b"/"
    path = raw_path.decode("ascii")
    return RequestTarget(unquote(path) if "%" in path else path, raw_path, parts.query or b"")


read_target = lru_cache(maxsize=1024)(take_apart)
"""`take_apart` for short targets: most requests ask for the same few."""


def is_for(url: bytes, host: bytes | None, method: bytes) -> bool:
    """Whether a target that is no path may be answered: `*` for OPTIONS, or an http URL with the authority of Host."""
    if url == b"*":
        return method == b"OPTIONS"
    scheme, _, rest = url.partition(b"://")
    authority = re.split(rb"[/?#]", rest, maxsplit=1)[0]
    return scheme.lower() in (b"http", b"https") and host in (None, authority)


# How a message begins, and how the end of its body is found (RFC 9112, sections 4 and 6).

Fields = list[tuple[bytes, bytes]]

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
STATUS_LINE: Final = {
    status: f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n".encode() for status in range(100, 600)
}


def codings(headers: Fields) -> list[bytes]:
    """The values of Transfer-Encoding, in lower case."""
    return [value.lower() for name, value in headers if name == b"transfer-encoding"]


def ends_with_connection(status: int, headers: Fields) -> bool:
    """Whether only the end of the connection ends an answer. Raises ValueError for a coding nobody asked for."""
    fields = dict(headers)
    if b"transfer-encoding" in fields:
        if any(coding != b"chunked" for coding in codings(headers)):
            raise ValueError("a transfer encoding that was not asked for")
        return False
    return b"content-length" not in fields and status not in (204, 304)


def is_framed_twice(headers: Fields) -> bool:
    """Whether a length is given beside the chunks: these count, but what follows is not to be trusted (section 6.3)."""
    names = [name for name, _ in headers]
    return b"transfer-encoding" in names and b"content-length" in names


# A request's head as ASGI's scope.

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
