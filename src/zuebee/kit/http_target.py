"""Request targets, taken apart and judged (RFC 9112, section 3.2)."""

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote

from httptools import parse_url

MAX_KEPT_BYTES = 256
"""Longer targets are not worth keeping, nor safe to."""


class Target(NamedTuple):
    """A request target: its path with and without percent-encoding, and its query."""

    path: str
    raw_path: bytes
    query: bytes


def take_apart(url: bytes) -> Target:
    """Read a request target; raises what httptools and ASCII refuse."""
    parts = parse_url(url)
    raw_path = parts.path or b"/"
    path = raw_path.decode("ascii")
    return Target(unquote(path) if "%" in path else path, raw_path, parts.query or b"")


read_target = lru_cache(maxsize=1024)(take_apart)
"""`take_apart` for short targets: most requests ask for the same few."""


def is_for(url: bytes, host: bytes | None, method: bytes) -> bool:
    """Whether a target that is no path may be answered: `*` for OPTIONS, or an http URL with the authority of Host."""
    if url == b"*":
        return method == b"OPTIONS"
    scheme, _, rest = url.partition(b"://")
    authority = re.split(rb"[/?#]", rest, maxsplit=1)[0]
    return scheme.lower() in (b"http", b"https") and host in (None, authority)
