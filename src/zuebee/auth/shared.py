"""Answers of slow sources, shared between processes in Redis for a few seconds.

An answer is kept under an HMAC of the key's digest and carries an HMAC of its own, both with a secret that only the
gateways have. So nobody who can write to Redis can admit a key, and nobody who can read it learns a key's digest. Under
that HMAC are the source with its settings, the key, when the source was asked, and how long the answer holds: nobody
can play back an answer of another key or source, or one that is too old. Redis that fails is as if it were empty.

Times are those of the gateways' own clocks (wall clocks), not of Redis.
"""

import hashlib
import hmac
import logging
import struct
from typing import TYPE_CHECKING, Any, Final

import msgspec

from zuebee.auth.records import Data
from zuebee.contracts.errors import Refusal
from zuebee.kit import clock
from zuebee.kit.redis_errors import RedisError

if TYPE_CHECKING:
    from zuebee.kit.redis import RedisClient

_log = logging.getLogger("zuebee.auth")

SLACK_S: Final = 2.0
"""An answer of a process whose clock is ahead of ours by no more is believed. With clocks further apart each asks for
itself.
"""

MAX_DENIED: Final = 2_000

_MAC_BYTES: Final = 32
_TIMES: Final = struct.Struct(">QI")  # milliseconds: since 1970 when the source was asked, and how long it holds
_encode = msgspec.json.Encoder(enc_hook=str).encode

# In the place of an answer: the key was refused, each process asks for itself why. So a late answer that is older than
# the refusal does not take its place.
_REFUSED: Final = False

_PUT: Final = f"""
local kept = redis.call('GET', KEYS[1])
local from, to = {_MAC_BYTES + 1}, {_MAC_BYTES + 8}
if kept and string.sub(kept, from, to) > string.sub(ARGV[1], from, to) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


class SharedAnswers:
    """What sources said of a key, for `ttl_s` seconds from when they were asked. Never a failure, and of a refusal only
    that there was one. `prefix` has the settings of the source in it.
    """

    def __init__(self, client: "RedisClient", prefix: str, secret: str, ttl_s: float) -> None:
        self._client = client
        self._prefix = prefix + "auth2:"
        self._secret = hashlib.sha256(b"zuebee auth cache" + secret.encode()).digest()
        self._ttl_ms = max(1, round(ttl_s * 1000))
        # When this process was told last that a key is not good: what is older is not believed.
        self._denied: dict[str, int] = {}

    async def get(self, source: str, digest: str) -> tuple[Data | None] | None:
        """What is kept and still holds, in a tuple of its own: `(None,)` says that the key is not known there."""
        name = self._name(source, digest)
        try:
            kept = await self._client.call("GET", name)
        except RedisError:
            return None
        if kept is None or not hmac.compare_digest(kept[:_MAC_BYTES], self._mac(name, kept[_MAC_BYTES:])):
            return None
        at_ms, ttl_ms = _TIMES.unpack_from(kept, _MAC_BYTES)
        age_ms = _now_ms() - at_ms
        if not -SLACK_S * 1000 <= age_ms < min(ttl_ms, self._ttl_ms) or at_ms < self._denied.get(name, 0):
            return None
        found: Any = msgspec.json.decode(kept[_MAC_BYTES + _TIMES.size :])
        if found is _REFUSED:
            return None
        return (found if isinstance(found, dict) else None,)

    async def put(self, source: str, digest: str, found: Data | Refusal | None, asked_at_s: float) -> None:
        """Keep an answer to a question that was asked then, unless a newer one is there."""
        name = self._name(source, digest)
        at_ms = max(0, round(asked_at_s * 1000))
        if found is None or isinstance(found, Refusal):
            self._note_denied(name, at_ms)
        left_ms = self._ttl_ms - (_now_ms() - at_ms)
        if left_ms <= 0:
            return
        value = _TIMES.pack(at_ms, self._ttl_ms) + _encode(_REFUSED if isinstance(found, Refusal) else found)
        try:
            await self._client.eval(_PUT, [name], [self._mac(name, value) + value, min(left_ms, self._ttl_ms)])
        except RedisError as error:
            _log.debug("an answer could not be shared: %s", error)

    async def aclose(self) -> None:
        """Let go of connections."""
        await self._client.aclose()

    def _note_denied(self, name: str, at_ms: int) -> None:
        self._denied.pop(name, None)
        self._denied[name] = at_ms
        if len(self._denied) > MAX_DENIED:
            del self._denied[next(iter(self._denied))]

    def _name(self, source: str, digest: str) -> str:
        named = hmac.digest(self._secret, f"name\0{source}\0{digest}".encode(), "sha256")
        return self._prefix + named.hex()

    def _mac(self, name: str, value: bytes) -> bytes:
        return hmac.digest(self._secret, f"answer\0{name}\0".encode() + value, "sha256")


def _now_ms() -> int:
    return round(clock.wall_s() * 1000)
