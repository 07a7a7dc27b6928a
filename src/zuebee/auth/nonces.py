"""Numbers used once: what keeps a signed request from being sent again."""

import hashlib
from collections.abc import Awaitable
from typing import Any, Protocol

from zuebee.kit import clock

SLOT_S = 10
MAX_NONCES = 1_000_000
"""In memory: some 100 bytes each, and enough for 3,300 signed requests a second."""


class NoncesFull(Exception):
    """No more nonces can be remembered: forgetting one would let a request in twice."""


class Nonces(Protocol):
    """Remembers nonces."""

    async def seen(self, client: str, nonce: str, ttl_s: float) -> bool:
        """Whether the client has used this nonce; from now on, and for `ttl_s`, it has.

        Raises NoncesFull, or what the store raises: then the request must be refused.
        """
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


class MemoryNonces:
    """The nonces of one process, `count` of them.

    One client may take half of the room, so that others are not shut out by it.
    """

    def __init__(self, max_nonces: int = MAX_NONCES) -> None:
        self.count = 0
        self._max = max_nonces
        self._counts: dict[str, int] = {}
        # By the time at which they can be forgotten, and by client: whole slots are dropped at once.
        self._slots: dict[int, dict[str, set[bytes]]] = {}
        self._next_sweep_s = 0.0

    async def seen(self, client: str, nonce: str, ttl_s: float) -> bool:
        """See `Nonces.seen`."""
        return self.note(client, nonce, ttl_s)

    def note(self, client: str, nonce: str, ttl_s: float) -> bool:
        """`seen`, without waiting for anything."""
        now_s = clock.monotonic_s()
        if now_s >= self._next_sweep_s:
            self._sweep(now_s)
        digest = hashlib.blake2b(nonce.encode(), digest_size=16).digest()
        if any(digest in known for slot in self._slots.values() if (known := slot.get(client)) is not None):
            return True
        if self.count >= self._max or self._counts.get(client, 0) >= max(self._max // 2, 1):
            raise NoncesFull
        slot = self._slots.setdefault(int((now_s + ttl_s) // SLOT_S) + 1, {})
        slot.setdefault(client, set()).add(digest)
        self.count += 1
        self._counts[client] = self._counts.get(client, 0) + 1
        return False

    async def aclose(self) -> None:
        """There is nothing to let go of; what is remembered stays."""

    def _sweep(self, now_s: float) -> None:
        self._next_sweep_s = now_s + 1
        for end in [end for end in self._slots if end * SLOT_S <= now_s]:
            for client, nonces in self._slots.pop(end).items():
                self.count -= len(nonces)
                self._counts[client] -= len(nonces)
                if not self._counts[client]:
                    del self._counts[client]


class Redis(Protocol):
    """What is needed of a Redis client."""

    def call(self, *args: str | bytes | int | float) -> Awaitable[Any]:
        """Run one command."""
        ...

    async def aclose(self) -> None:
        """Let go of connections."""
        ...


class RedisNonces:
    """The nonces of all processes that share a Redis. Redis must not evict keys (`maxmemory-policy noeviction`)."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._prefix = prefix

    async def seen(self, client: str, nonce: str, ttl_s: float) -> bool:
        """See `Nonces.seen`."""
        name = hashlib.sha256(f"{client}\n{nonce}".encode()).hexdigest()
        answer = await self._redis.call("SET", f"{self._prefix}nonce:{name}", 1, "NX", "PX", int(ttl_s * 1000) + 1)
        return answer is None

    async def aclose(self) -> None:
        """See `Nonces.aclose`."""
        await self._redis.aclose()
