"""PURE. Which pages of other origins may call the gateway from a browser (CORS, https://fetch.spec.whatwg.org)."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from zuebee.contracts.inference import Headers

METHODS: Final = b"GET, HEAD, POST, OPTIONS"
EXPOSED: Final = (
    b"x-request-id, retry-after, retry-after-ms, x-should-retry, idempotent-replayed,"
    b" x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests,"
    b" x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
"""What a page may read of an answer's header."""

ASKED_HEADERS: Final = b"authorization, content-type"
VARY: Final = (b"vary", b"origin")
MAX_ORIGIN: Final = 512


class Cors:
    """The rule. `origins`: such as `https://chat.example`, `https://*.example` for all names below, `*` for all pages.

    Keys are sent in header fields that a page must know, never as cookies: answers allow no credentials.
    """

    def __init__(self, origins: Sequence[str] = (), max_age_s: float = 600.0) -> None:
        self.enabled: Final = bool(origins)
        self._any = "*" in origins
        self._exact = frozenset(each.lower() for each in origins if "*" not in each)
        self._below = tuple(_around_star(each.lower()) for each in origins if each != "*" and "*" in each)
        self._max_age = b"%d" % max_age_s
        self._fields = lru_cache(maxsize=256)(self._make_fields)

    def fields(self, origin: bytes | None) -> Headers:
        """What is added to an answer for a page of `origin`; None: no page asks."""
        if origin is None or len(origin) > MAX_ORIGIN:
            return [] if self._any else [VARY]  # a cache in between must not give a page what another one got
        return self._fields(origin)

    def preflight(self, fields: dict[bytes, bytes]) -> Headers | None:
        """The header of the answer to a browser that asks what it may send; None: this page may send nothing."""
        origin = fields.get(b"origin", b"")
        if not self._allows(origin):
            return None
        asked = fields.get(b"access-control-request-headers", b"") or ASKED_HEADERS
        answer = [
            *self.fields(origin),
            (b"access-control-allow-methods", METHODS),
            (b"access-control-allow-headers", asked),
            (b"access-control-max-age", self._max_age),
        ]
        if fields.get(b"access-control-request-private-network") == b"true":
            answer.append((b"access-control-allow-private-network", b"true"))
        return answer

    def _make_fields(self, origin: bytes) -> Headers:
        if not self._allows(origin):
            return [VARY]
        allowed: Headers = [(b"access-control-expose-headers", EXPOSED)]
        if self._any:
            return [(b"access-control-allow-origin", b"*"), *allowed]
        return [(b"access-control-allow-origin", origin), *allowed, VARY]

    def _allows(self, origin: bytes) -> bool:
        if self._any:
            return True
        name = origin.decode("latin-1").lower()
        if name in self._exact:
            return True
        return any(
            len(name) > len(before) + len(after)
            and name.startswith(before)
            and name.endswith(after)
            and not set(name[len(before) : len(name) - len(after)]) & set("/:@?#")
            for before, after in self._below
        )


def is_preflight(method: str, fields: dict[bytes, bytes]) -> bool:
    """Whether a browser asks before it sends."""
    return method == "OPTIONS" and b"origin" in fields and b"access-control-request-method" in fields


def _around_star(origin: str) -> tuple[str, str]:
    before, _, after = origin.partition("*")
    return before, after
