"""PURE. Where the requests of one backend go, by its base URL.

The contract of OpenAI's SDKs is base + `/chat/completions`, and bases are written in many ways: with `/v1` at the end,
as the SDKs want it, or without, with another version (`/api/paas/v4`), with something behind it (`/v1beta/openai`),
as the whole URL of an endpoint, and with a query (`?api-version=`).
"""

import re
from typing import Final
from urllib.parse import unquote_plus, urlsplit, urlunsplit

_ENDPOINTS: Final = ("/chat/completions", "/completions", "/embeddings")
_VERSION: Final = re.compile(r"/v\d+([a-z]+\d*)?(?=/|$)", re.IGNORECASE)
_DEPLOYMENT: Final = re.compile(r"/deployments/[^/]+$")
"""Azure's bases name a deployment instead of a version."""
_OURS: Final = "/v1/"


class BaseUrl:
    """A base URL, taken apart. `shown` is it without its query, which may hold a key."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.shown: Final = urlunsplit(parts._replace(query="", fragment="")) if parts.query else url
        self.query: Final = parts.query.encode()
        self._names = {_name(pair) for pair in parts.query.split("&")}
        path = parts.path.rstrip("/")
        endpoint = next((each for each in _ENDPOINTS if path.endswith(each)), None)
        base = path if endpoint is None else path.removesuffix(endpoint)
        version, deployment = _last(_VERSION, base), _DEPLOYMENT.search(base)
        found = version or deployment
        # What is not of the API (`/health`) stands beside the version.
        self._root = base[: found.start()] if found else base
        self._api = base if found or endpoint is not None else f"{base}/v1"

    def path(self, path: str) -> bytes:
        """The path of a request that the gateway knows as `path` (`/v1/chat/completions`, `/health`)."""
        if path.startswith(_OURS):
            return f"{self._api}/{path.removeprefix(_OURS)}".encode()
        return f"{self._root}{path}".encode()

    def queried(self, query: bytes) -> bytes:
        """The query of a request whose caller wrote `query`. What the base says no caller can say otherwise."""
        if not self.query:
            return query
        theirs = [pair for pair in query.split(b"&") if pair and _name(pair.decode("latin-1")) not in self._names]
        return b"&".join((self.query, *theirs))


def _last(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    return next(reversed(list(pattern.finditer(text))), None)


def _name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0])
