"""Numbers used once: what keeps a signed request from being sent again."""

import asyncio
import hashlib
import os
from collections.abc import Awaitable
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

from zuebee.lib import clock

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
        name = hashlib.sha256(f"{client}\n{nonce}".encode()).hexdigest()
        answer = await self._redis.call("SET", f"{self._prefix}nonce:{name}", 1, "NX", "PX", int(ttl_s * 1000) + 1)
        return answer is None

    async def aclose(self) -> None:
        await self._redis.aclose()


# Nonces that outlive their process: what was used before a restart cannot be used after it.

LIFE_S = 610.0
"""No nonce is remembered for longer: twice the window of a timestamp, and some seconds."""


class KeptNonces:
    """The nonces of one process, in memory and in two files that are written in turn.

    A file is begun anew when all that the other one holds is forgotten, so none grows beyond what comes in LIFE_S. The
    operating system has a nonce before its request is let in: that survives the process, however it ends. Raises
    OSError when made.
    """

    def __init__(self, path: Path) -> None:
        """`path`: of the files, but for `.0` and `.1` behind it."""
        self._memory = MemoryNonces()
        self._paths = [path.with_name(f"{path.name}.{number}") for number in (0, 1)]
        self._lock = Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        for each in self._paths:
            os.close(os.open(each, os.O_RDWR | os.O_CREAT, 0o600))
            self._read(each)
        newer, older = sorted((each.stat().st_mtime, each) for each in self._paths)[::-1]
        self._paths = [newer[1], older[1]]
        self._turn_at_s = clock.monotonic_s() + older[0] + LIFE_S - clock.wall_s()

    async def seen(self, client: str, nonce: str, ttl_s: float) -> bool:
        if await self._memory.seen(client, nonce, ttl_s):
            return True
        line = f"{clock.wall_s() + ttl_s:.3f} {client} {nonce}\n".encode()
        await asyncio.to_thread(self._append, line)
        return False

    async def aclose(self) -> None:
        """There is nothing to let go of; what is remembered stays."""

    def _append(self, line: bytes) -> None:
        with self._lock:
            fresh = clock.monotonic_s() >= self._turn_at_s
            if fresh:
                self._paths.reverse()
                self._turn_at_s = clock.monotonic_s() + LIFE_S
            with self._paths[0].open("wb" if fresh else "ab", buffering=0) as file:
                before = file.tell()
                if file.write(line) != len(line):
                    file.truncate(before)  # half a line would spoil the next
                    raise OSError("the nonce could not be written")

    def _read(self, path: Path) -> None:
        """Remember what still counts. A last line that was cut off was of a request that nobody let in."""
        now_s = clock.wall_s()
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            os.truncate(path, len(whole))
        for line in whole.splitlines():
            try:
                ends_at_s, client, nonce = line.decode("ascii").split(" ")
                ttl_s = float(ends_at_s) - now_s
            except ValueError:
                raise OSError(f"{path}: not a file of nonces") from None
            if 0 < ttl_s <= LIFE_S:
                self._memory.note(client, nonce, ttl_s)
