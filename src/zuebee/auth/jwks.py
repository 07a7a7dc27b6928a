"""An issuer's keys (JWKS, RFC 7517), from a file or a URL: kept for a while, fetched again with measure."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, Generic, TypeVar
from urllib.parse import urlsplit

from zuebee.kit import clock
from zuebee.kit.http_client import Connection, HttpFailure, HttpPool, Timeouts
from zuebee.kit.http_connect import Origin, bypasses_proxy
from zuebee.kit.tasks import Tasks

_log = logging.getLogger("zuebee.auth")

K = TypeVar("K")

MAX_DOCUMENT_BYTES: Final = 1 << 20
FETCH_TIMEOUT_S: Final = 5.0
MIN_INTERVAL_S: Final = 10.0
"""Between two attempts, whatever asks for them: an unknown key id in a token costs nobody a fetch of its own."""
MAX_STALE_S: Final = 3600.0
"""How long keys may still be used once they should have been fetched anew, and could not be."""

Fetch = Callable[[], Awaitable[bytes]]


class KeysUnavailable(Exception):
    """There are no keys, or only such as are too old. The message holds no address."""


class JwksCache(Generic[K]):
    """The keys that `fetch` and `read` give. `read` raises ValueError for a document that is none.

    `cache_s`: how long they are used before they are fetched anew.
    """

    def __init__(self, name: str, fetch: Fetch, read: Callable[[bytes], Sequence[K]], cache_s: float) -> None:
        self._name = name
        self._fetch = fetch
        self._read = read
        self._cache_s = cache_s
        self._tasks = Tasks()
        self._flight: asyncio.Task[None] | None = None
        self._keys: Sequence[K] = ()
        self._loaded_s = -1.0
        self._tried_s = -MIN_INTERVAL_S

    def put(self, keys: Sequence[K]) -> None:
        """Use these keys from now on."""
        self._keys = keys
        self._loaded_s = clock.monotonic_s()

    async def select(self, fits: Callable[[K], bool]) -> list[K]:
        """The keys that fit; if none does, after another look at the source. Raises KeysUnavailable."""
        if self._age_s() < self._cache_s and (found := [key for key in self._keys if fits(key)]):
            return found
        if self._flight is None and clock.monotonic_s() - self._tried_s >= MIN_INTERVAL_S:
            self._tried_s = clock.monotonic_s()
            self._flight = self._tasks.spawn(self._refresh(), f"keys of {self._name}")
        if self._flight is not None:
            # Shielded: that one caller leaves must not cost the others their keys.
            await asyncio.shield(self._flight)
        if self._age_s() >= self._cache_s + MAX_STALE_S:
            raise KeysUnavailable("the issuer's keys cannot be had")
        return [key for key in self._keys if fits(key)]

    async def aclose(self) -> None:
        """Break off a fetch that runs."""
        await self._tasks.aclose()

    def _age_s(self) -> float:
        return clock.monotonic_s() - self._loaded_s if self._loaded_s >= 0 else float("inf")

    async def _refresh(self) -> None:
        try:
            self.put(self._read(await self._fetch()))
        except (OSError, ValueError, HttpFailure) as error:
            reason = error.kind if isinstance(error, HttpFailure) else str(error) or type(error).__name__
            _log.warning("source %s: the issuer's keys could not be fetched: %s", self._name, reason)
        finally:
            self._flight = None


def file_fetch(path: str) -> Fetch:
    """Reads the document from a file. Raises OSError or ValueError."""

    async def fetch() -> bytes:
        return await asyncio.to_thread(read_document, path)

    return fetch


def read_document(path: str) -> bytes:
    """The bytes of a file of at most MAX_DOCUMENT_BYTES. Raises OSError or ValueError."""
    with Path(path).open("rb") as file:
        data = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"larger than {MAX_DOCUMENT_BYTES} bytes")
    return data


def url_fetch(url: str, *, ca_file: str | None = None, proxy_url: str | None = None) -> Fetch:
    """Gets the document from a URL: https, or http on this machine. Raises ValueError for any other.

    Fetching raises HttpFailure or ValueError: within FETCH_TIMEOUT_S, at most MAX_DOCUMENT_BYTES, redirects are not
    followed.
    """
    parts = urlsplit(url)
    if not parts.hostname or "@" in parts.netloc or parts.fragment or not re.fullmatch(r"[!-~]+", url):
        raise ValueError("not a URL with a host and nothing else before its path")
    if parts.scheme != "https" and not (parts.scheme == "http" and bypasses_proxy(parts.hostname, [])):
        raise ValueError("expected an https URL")
    origin = Origin(url, timeout_s=FETCH_TIMEOUT_S, ca_file=ca_file, proxy_url=proxy_url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    head = (
        b"GET " + origin.request_prefix + target.encode("ascii") + b" HTTP/1.1\r\nhost: " + origin.authority.encode()
        + b"\r\naccept: application/jwk-set+json, application/json\r\naccept-encoding: identity\r\n"
        + origin.request_headers + b"connection: close\r\n\r\n"
    )  # fmt: skip

    async def fetch() -> bytes:
        async with asyncio.timeout(FETCH_TIMEOUT_S):
            pool = HttpPool(origin, max_idle=0, max_connections=1)
            connection = await pool.send(head, b"", Timeouts(FETCH_TIMEOUT_S, FETCH_TIMEOUT_S, FETCH_TIMEOUT_S))
            try:
                return await _read_answer(connection)
            finally:
                connection.finish()

    return fetch


async def _read_answer(connection: Connection) -> bytes:
    if connection.status != 200:
        raise ValueError(f"status {connection.status}")
    data = b""
    while part := await connection.read():
        data += part
        if len(data) > MAX_DOCUMENT_BYTES:
            raise ValueError(f"larger than {MAX_DOCUMENT_BYTES} bytes")
    return data
