"""Redis: a few connections, a bound on everything, and none of them used again after a command that did not end.

A reply that nobody waited for stays in its connection and would be taken for the answer to the next command
(CVE-2023-28858): so a connection goes back to the others only after a whole answer.
"""

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeAlias

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import RedisError as LibraryError

from zuebee.lib import clock
from zuebee.lib.failures import RedisDown, RedisError

_log = logging.getLogger("zuebee.redis")

Argument: TypeAlias = str | bytes | int | float

FAILURES = 2
"""Broken connections in a row after which Redis counts as down. No answer in time counts at once."""
MAX_WAITING = 1000
"""Callers that may wait for a connection."""
# What a server says that lives but cannot serve: the first word of its error.
_UNFIT = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "OOM", "READONLY", "TRYAGAIN"}
)


class RedisClient:
    """One Redis server, for any number of callers at once.

    `url` is redis://, rediss:// or unix://. `timeout_s` bounds each operation as a whole, waiting for one of
    `max_connections` and opening it included. Once Redis is down it is left alone: operations fail at once for
    `retry_after_s`, then a single one tries. Raises ValueError if `url` is none.
    """

    def __init__(self, url: str, *, timeout_s: float, max_connections: int = 8, retry_after_s: float = 1.0) -> None:
        options: dict[str, Any] = dict(parse_url(url))
        self._make: type[AbstractConnection] = options.pop("connection_class", Connection)
        self._options = {
            "protocol": 2,
            "driver_info": None,
            # The one deadline is ours; theirs would cost a timer for each read and each write.
            "socket_timeout": None,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),
            **options,
        }
        self._timeout_s = timeout_s
        self.retry_after_s = retry_after_s
        self._idle: list[AbstractConnection] = []
        self._slots = asyncio.Semaphore(max_connections)
        self._waiting = 0
        self._failures = 0
        self._down_until_s = 0.0
        self._down = False
        self._probing = False
        self._closed = False

    async def call(self, *args: Argument) -> Any:
        """Run one command; its answer as Redis gives it (bytes, int, list, None). Raises RedisError."""
        probing = self._enter()
        try:
            async with asyncio.timeout(None) as guard:
                deadline = _Deadline(guard, self._timeout_s)
                try:
                    answer = await self._exchange(args)
                finally:
                    deadline.cancel()
        except TimeoutError:
            self._failed(FAILURES, "no answer in time")
            raise RedisDown("no answer in time") from None
        except ResponseError as error:
            word = str(error).partition(" ")[0].rstrip(":")
            if word in _UNFIT or isinstance(error, ReadOnlyError | OutOfMemoryError):
                self._failed(FAILURES, type(error).__name__)
                raise RedisDown(type(error).__name__) from None
            self._answered()
            if isinstance(error, NoScriptError):
                raise
            raise RedisError(type(error).__name__ if not word.isupper() else word) from None
        except (LibraryError, OSError) as error:
            self._failed(FAILURES if isinstance(error, BusyLoadingError) else 1, type(error).__name__)
            raise RedisDown(type(error).__name__) from None
        finally:
            if probing:
                self._probing = False
        self._answered()
        return answer

    async def eval(self, script: str, keys: Sequence[str | bytes], args: Sequence[Argument]) -> Any:
        """Run a Lua script by its digest; a server that does not know it gets its text. Raises RedisError."""
        rest = (len(keys), *keys, *args)
        try:
            return await self.call("EVALSHA", _sha1(script), *rest)
        except NoScriptError:
            return await self.call("EVAL", script, *rest)

    async def aclose(self) -> None:
        """Let go of all connections; those in use when their command ends."""
        self._closed = True
        while self._idle:
            with suppress(Exception):
                await self._idle.pop().disconnect(nowait=True)

    async def _exchange(self, args: tuple[Argument, ...]) -> Any:
        if self._waiting >= MAX_WAITING:
            raise TimeoutError
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            connection = self._idle.pop() if self._idle else self._make(**self._options)
            whole = False
            try:
                await connection.send_command(*args)
                answer = await connection.read_response(disconnect_on_error=False)
                whole = True
                return answer
            except ResponseError:
                whole = connection.is_connected
                raise
            finally:
                if whole and not self._closed:
                    self._idle.append(connection)
                else:
                    with suppress(Exception):
                        await connection.disconnect(nowait=True)
        finally:
            self._slots.release()

    def _enter(self) -> bool:
        """Whether this operation is the one that tries a server that was down."""
        if not self._down:
            return False
        if self._probing or clock.monotonic_s() < self._down_until_s:
            raise RedisDown("left alone")
        self._probing = True
        return True

    def _failed(self, weight: int, reason: str) -> None:
        self._failures += weight
        if not self._down and self._failures < FAILURES:
            return
        if not self._down:
            _log.warning("redis is down (%s): left alone, tried again every %g s", reason, self.retry_after_s)
        self._down = True
        self._down_until_s = clock.monotonic_s() + self.retry_after_s

    def _answered(self) -> None:
        self._failures = 0
        if self._down:
            _log.info("redis answers again")
            self._down = False


class _Deadline:
    """Ends what `guard` surrounds after `timeout_s`.

    When it is noticed late, this process was busy, and an answer may be waiting to be read: then it gets half the time
    once more. Else a busy process would take Redis for a slow one.
    """

    def __init__(self, guard: asyncio.Timeout, timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._guard = guard
        self._timeout_s = timeout_s
        self._due_s = self._loop.time() + timeout_s
        self._timer = self._loop.call_at(self._due_s, self._due)
        self._extended = False

    def cancel(self) -> None:
        """It ended in time."""
        self._timer.cancel()

    def _due(self) -> None:
        now_s = self._loop.time()
        if not self._extended and now_s - self._due_s > self._timeout_s / 4:
            self._extended = True
            self._timer = self._loop.call_later(self._timeout_s / 2, self._due)
            return
        self._guard.reschedule(now_s)


@lru_cache(maxsize=64)
def _sha1(script: str) -> str:
    return hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
