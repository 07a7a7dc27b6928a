"""Decision scripts, each run in a thread: a script that runs away costs its own request, and no other waits for it.

Lua releases the interpreter's lock, so the event loop goes on while a script runs.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from zuebee.auth.records import with_fields
from zuebee.auth.sources.sandbox import Question, Sandbox, ScriptLimits, ScriptResult, canonical
from zuebee.auth.state import AuthCounters
from zuebee.contracts.admission import ANONYMOUS, Caller
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import Credential
from zuebee.lib import clock
from zuebee.lib.seldom import Seldom

_log = logging.getLogger("zuebee.auth")

T = TypeVar("T")

THREADS = 2
MAX_WAITING = 500
MAX_MESSAGE = 200
DENIED = "Access was denied by the gateway's policy."
SCRIPT_FAILED = Refusal(403, "permission_error", "script_failed", DENIED)


class ScriptDecision(msgspec.Struct, frozen=True):
    """What a script decided. `per_request`: it looked at the request, so it holds for this one only."""

    refusal: Refusal | None
    metadata: Mapping[str, Any] = {}
    per_request: bool = False


class ScriptBusy(Exception):
    """Too many callers wait for a thread."""


class ScriptThreads:
    """The threads that all scripts share. A run that overstays keeps its thread until it ends."""

    def __init__(self, count: int = THREADS, *, max_waiting: int = MAX_WAITING) -> None:
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="script")
        self._slots = asyncio.Semaphore(count)
        self._waiting = 0
        self._max_waiting = max_waiting

    async def run(self, work: Callable[[], T], timeout_s: float, done: Callable[[T], None]) -> T:
        """The result of `work`; TimeoutError if it takes longer, counted from its start. Then, or when the caller
        leaves, nobody waits for it any more. `done` gets the result of every run that was waited for.
        """
        if self._waiting >= self._max_waiting:
            raise ScriptBusy
        self._waiting += 1
        try:
            await self._slots.acquire()
        finally:
            self._waiting -= 1
        try:
            future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        except BaseException:
            self._slots.release()
            raise
        future.add_done_callback(self._ended)
        async with asyncio.timeout(timeout_s):
            result = await asyncio.shield(future)
        done(result)
        return result

    def _ended(self, future: "asyncio.Future[Any]") -> None:
        self._slots.release()
        if not future.cancelled() and (failure := future.exception()) is not None:
            _log.error("a script's thread failed: %r", failure)

    def close(self) -> None:
        """Start no more runs; those that run end by themselves."""
        self._threads.shutdown(wait=False, cancel_futures=True)


FAILURES = ("error", "result", "input", "busy", "time", "memory", "instructions")


class DecisionScript:
    """One script, compiled once for each thread that needs it. Raises ScriptMistake when made."""

    def __init__(
        self, name: str, source: str, limits: ScriptLimits, threads: ScriptThreads, counters: AuthCounters
    ) -> None:
        self.name = name
        self._source = source
        self._limits = limits
        self._threads = threads
        self._counters = counters
        self._seldom = Seldom(_log)
        self._idle = [Sandbox(source, limits)]
        for reason in FAILURES:  # counters that alerts read are there from the start
            counters.script_failures[name, reason] += 0

    async def decide(
        self, presented: Credential, data: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> ScriptDecision:
        """Run it. Whatever goes wrong is a denial and is counted."""
        key = (presented.key or b"").decode("latin-1")
        question = Question(key, data, request_of(presented.caller), metadata, clock.wall_s())
        sandbox = self._idle.pop() if self._idle else None

        def run() -> tuple[Sandbox, ScriptResult]:
            used = sandbox or Sandbox(self._source, self._limits)
            return used, used.run(question)

        try:
            # The sandbox stops by itself before; this is for what nothing inside can stop.
            _, outcome = await self._threads.run(run, self._limits.seconds, self._keep)
        except TimeoutError:
            return self._failed("time", "no decision in time")
        except ScriptBusy:
            return self._failed("busy", "too many scripts are waiting")
        for line in outcome.lines.splitlines():
            _log.info("script %s: %s", self.name, _shown(line, key))
        if outcome.failure is not None:
            return self._failed(outcome.failure, _shown(outcome.text, key))
        try:
            with_fields(ANONYMOUS, outcome.metadata or {})
        except ValueError as error:
            return self._failed("result", f"metadata: {error}")
        refusal = None
        if not outcome.allow:
            refusal = Refusal(403, "permission_error", "denied_by_script", _shown(outcome.message or DENIED, key))
        return ScriptDecision(refusal, outcome.metadata or {}, outcome.request)

    def _keep(self, result: tuple[Sandbox, ScriptResult]) -> None:
        sandbox, outcome = result
        if outcome.failure is None and len(self._idle) < THREADS:
            self._idle.append(sandbox)

    def _failed(self, reason: str, text: str) -> ScriptDecision:
        self._counters.script_failures[self.name, reason] += 1
        self._seldom.warning("script %s denied, for it failed (%s): %s", self.name, reason, text)
        return ScriptDecision(SCRIPT_FAILED, per_request=True)


def request_of(caller: Caller) -> dict[str, Any]:
    """What a script sees of a request: method, path, ip and the headers by their canonical names."""
    return {
        "method": caller.method,
        "path": caller.path or caller.route,
        "ip": caller.address,
        "headers": {canonical(name): value for name, value in caller.fields.items()},
    }


def _shown(text: str, key: str) -> str:
    """A script's words as they may be shown: without the key, one line, not too long."""
    text = text.replace(key, "***") if key else text
    return "".join(each if each.isprintable() else " " for each in text[:MAX_MESSAGE])
