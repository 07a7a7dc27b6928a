"""Answers of slow sources, shared between processes in Redis for a few seconds.

An answer is kept under an HMAC of the key's digest and carries an HMAC of its own, both with a secret that only the
gateways have. So nobody who can write to Redis can admit a key, and nobody who can read it learns a key's digest. Redis
that fails is as if it were empty.
"""

import hashlib
import hmac
import logging
from typing import TYPE_CHECKING, Any

import msgspec

from zuebee.auth.records import Data
from zuebee.kit.redis_errors import RedisError

if TYPE_CHECKING:
    from zuebee.kit.redis import RedisClient

_log = logging.getLogger("zuebee.auth")

_MAC_BYTES = 32
_encode = msgspec.json.Encoder(enc_hook=str).encode


class SharedAnswers:
    """What sources said of a key, for `ttl_s` seconds. Only answers are kept: never a failure, never a refusal."""

    def __init__(self, client: "RedisClient", prefix: str, secret: str, ttl_s: float) -> None:
        self._client = client
        self._prefix = prefix + "auth:"
        self._secret = hashlib.sha256(b"zuebee auth cache" + secret.encode()).digest()
        self._ttl_ms = max(1, round(ttl_s * 1000))

    async def get(self, source: str, digest: str) -> tuple[Data | None] | None:
        """What is kept, in a tuple of its own: `(None,)` says that the key is not known there."""
        name = self._name(source, digest)
        try:
            kept = await self._client.call("GET", name)
        except RedisError:
            return None
        if kept is None or not hmac.compare_digest(kept[:_MAC_BYTES], self._mac(name, kept[_MAC_BYTES:])):
            return None
        found: Any = msgspec.json.decode(kept[_MAC_BYTES:])
        return (found if isinstance(found, dict) else None,)

    async def put(self, source: str, digest: str, found: Data | None) -> None:
        """Keep an answer."""
        name = self._name(source, digest)
        value = _encode(found)
        try:
            await self._client.call("SET", name, self._mac(name, value) + value, "PX", self._ttl_ms)
        except RedisError as error:
            _log.debug("an answer could not be shared: %s", error)

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._client.aclose()

    def _name(self, source: str, digest: str) -> str:
        named = hmac.digest(self._secret, f"name\0{source}\0{digest}".encode(), "sha256")
        return self._prefix + named.hex()

    def _mac(self, name: str, value: bytes) -> bytes:
        return hmac.digest(self._secret, f"value\0{name}\0".encode() + value, "sha256")
