"""Sources whose knowledge of a key is a map: Redis, a database, a webhook, or nothing but a script."""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from zuebee.auth.records import NOT_ADMITTED, Data, record_of
from zuebee.auth.shared import SharedAnswers
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import KeyRecord, Presented
from zuebee.kit import clock
from zuebee.kit.redis_errors import RedisError

if TYPE_CHECKING:
    from zuebee.kit.redis import RedisClient

_log = logging.getLogger("zuebee.auth")

MAX_VALUE_BYTES = 64 * 1024


class UnreadableAnswer(Exception):
    """A store answered something that is no record. Refuses, as every failure does. The message holds no value."""


class Lookup(Protocol):
    """Where a map is looked up."""

    async def look(self, presented: Presented) -> Data | Refusal | None:
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

    async def find(self, presented: Presented) -> KeyRecord | Refusal | None:
        """See `KeySource.find`."""
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
        """See `KeySource.aclose`."""
        await self._lookup.aclose()


class RedisLookup:
    """A hash with fields, or else a JSON object as a string."""

    def __init__(self, client: "RedisClient", key_pattern: str) -> None:
        self._client = client
        self._pattern = key_pattern

    async def look(self, presented: Presented) -> Data | Refusal | None:
        """See `Lookup.look`."""
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
        """See `Lookup.aclose`."""
        await self._client.aclose()


class AnyKey:
    """Knows every key, and nothing of it: the script alone decides."""

    async def look(self, presented: Presented) -> Data | Refusal | None:
        """See `Lookup.look`."""
        assert presented.key is not None
        return {"api_key": presented.key.decode("ascii")}

    async def aclose(self) -> None:
        """See `Lookup.aclose`."""


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
