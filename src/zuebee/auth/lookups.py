"""Sources whose knowledge of a key is a map: Redis, a database, a webhook, or nothing but a script."""

import hashlib
import hmac
import logging
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from zuebee.auth.records import NOT_ADMITTED, Data, record_of
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import Credential, KeyRecord
from zuebee.lib import clock
from zuebee.lib.failures import RedisError

# Answers of slow sources, shared between processes in Redis for a few seconds.
#
# An answer is kept under an HMAC of the key's digest and carries an HMAC of its own, both with a secret that only the
# gateways have. So nobody who can write to Redis can admit a key, and nobody who can read it learns a key's digest.
# Under that HMAC are the source with its settings, the key, when the source was asked, and how long the answer holds:
# nobody can play back an answer of another key or source, or one that is too old. Redis that fails is as if it were
# empty.
#
# Times are those of the gateways' own clocks (wall clocks), not of Redis.

if TYPE_CHECKING:
    from zuebee.lib.redis import RedisClient


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


if TYPE_CHECKING:
    from zuebee.lib.redis import RedisClient

_log = logging.getLogger("zuebee.auth")

MAX_VALUE_BYTES = 64 * 1024


class UnreadableAnswer(Exception):
    """A store answered something that is no record. Refuses, as every failure does. The message holds no value."""


class Lookup(Protocol):
    """Where a map is looked up."""

    async def look(self, presented: Credential) -> Data | Refusal | None:
        """The map of a key; None if it is not known here. Raises when the answer is not sure."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


class MapSource:
    """A `KeySource` over a lookup. `script_decides`: a script takes the place of status, quota and balance."""

    script_decides = True

    def __init__(self, name: str, lookup: Lookup, shared: SharedAnswers | None = None) -> None:
        self.name = name
        self._lookup = lookup
        self._shared = shared

    async def find(self, presented: Credential) -> KeyRecord | Refusal | None:
        if presented.key is None:
            return None
        found: Data | Refusal | None
        if self._shared is None:
            found = await self._lookup.look(presented)
        else:
            kept = await self._shared.get(self.name, presented.digest)
            if kept is not None:
                found = kept[0]
            else:
                asked_at_s = clock.wall_s()
                found = await self._lookup.look(presented)
                await self._shared.put(self.name, presented.digest, found, asked_at_s)
        if found is None or isinstance(found, Refusal):
            return found
        try:
            return record_of(found, presented.digest)
        except ValueError as error:
            raise UnreadableAnswer(str(error)) from None

    async def aclose(self) -> None:
        await self._lookup.aclose()


class RedisLookup:
    """A hash with fields, or else a JSON object as a string."""

    def __init__(self, client: "RedisClient", key_pattern: str) -> None:
        self._client = client
        self._pattern = key_pattern

    async def look(self, presented: Credential) -> Data | Refusal | None:
        assert presented.key is not None
        name = self._pattern.replace("{key_sha256}", presented.digest)
        name = name.replace("{api_key}", presented.key.decode("ascii"))
        try:
            fields = await self._client.call("HGETALL", name)
        except RedisError as error:
            if not str(error).startswith("WRONGTYPE"):
                raise
            fields = []
        if fields:
            return {_text(fields[i]): _text(fields[i + 1]) for i in range(0, len(fields), 2)}
        text = await self._client.call("GET", name)
        return None if text is None else read_object(text)

    async def aclose(self) -> None:
        await self._client.aclose()


class AnyKey:
    """Knows every key, and nothing of it: the script alone decides."""

    async def look(self, presented: Credential) -> Data | Refusal | None:
        assert presented.key is not None
        return {"api_key": presented.key.decode("ascii")}

    async def aclose(self) -> None:
        """It holds nothing."""


def read_object(text: bytes) -> Data | None:
    """A JSON object; None for an empty one, which says nothing of a key. Raises UnreadableAnswer."""
    if len(text) > MAX_VALUE_BYTES:
        raise UnreadableAnswer("the answer is too long")
    try:
        found: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise UnreadableAnswer("the answer is not JSON") from None
    if not isinstance(found, Mapping):
        raise UnreadableAnswer("the answer is no JSON object")
    return found or None


def said_no(data: Data) -> Refusal | None:
    """What a service says in an answer that HTTP calls a success: a `code` of its own, or `allow: false`."""
    if data.get("code") not in (None, 0, 200, "0", "200", ""):
        return NOT_ADMITTED
    for name in ("allow", "allowed", "valid", "success"):
        value = data.get(name)
        if value is not None and value is not True and value not in (1, "true", "1"):
            return NOT_ADMITTED
    return None


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
