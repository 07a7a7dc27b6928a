"""Who is calling? The sources in their order decide; any error on the way refuses."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from zuebee.auth.lookups import UnreadableAnswer
from zuebee.auth.records import digest_of, find_key, judge, merged, sendable, with_fields
from zuebee.auth.sources.cached import LookupResult, Step
from zuebee.auth.sources.script import SCRIPT_FAILED, DecisionScript, ScriptDecision, ScriptThreads
from zuebee.auth.state import PIPELINE, AuthCounters, Handles
from zuebee.contracts.admission import ANONYMOUS, Caller, Principal
from zuebee.contracts.errors import KEY_REVOKED, NO_KEY, UNKNOWN_KEY, Refusal
from zuebee.contracts.keys import Credential, KeyRecord
from zuebee.lib import clock
from zuebee.lib.failures import GrpcFailure, HttpFailure, RedisError
from zuebee.lib.seldom import Seldom
from zuebee.lib.sql.database import DatabaseError
from zuebee.lib.tasks import Tasks

_log: Final = logging.getLogger("zuebee.auth")

UNAVAILABLE: Final = Refusal(
    503, "api_error", "auth_unavailable", "The API key could not be checked.", retry_after_s=1.0, should_retry=True
)
RECHECK_AGE_S: Final = 2.0
"""What a running request rests on is asked anew when it is older."""
RECHECK_WAIT_S: Final = 0.5
MAX_RECHECKS: Final = 32


class AuthPipeline:
    """Looks a credential up in its sources, in their order.

    `first_match`: the first source that knows it decides. `all`: each source that knows it must agree, and at least
    one must know it. A source that fails refuses the request in either mode: the next one is not asked, for it might
    admit what this one has revoked. Owns its steps, `tasks` and `threads`; `closes` ends what they share.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        header_names: Sequence[str],
        mode: str,
        timeout_s: float,
        counters: AuthCounters,
        handles: Handles,
        tasks: Tasks,
        script: DecisionScript | None = None,
        threads: ScriptThreads | None = None,
        closes: Sequence[Callable[[], Awaitable[None]]] = (),
    ) -> None:
        if not steps:
            raise ValueError("no source of keys is enabled, so nobody could get in")
        self._steps = tuple(steps)
        self._quick_steps = tuple(step for step in steps if not step.knows_nobody)
        self._carriers = tuple(name.lower().encode() for name in header_names)
        self._all = mode == "all"
        self._timeout_s = timeout_s
        self._script = script
        self._threads = threads
        self._closes = closes
        self._counters = counters
        self._handles = handles
        self._tasks = tasks
        self._seldom = Seldom(_log)
        self._keyless = any(step.per_request for step in steps)
        self._scripted = script is not None or any(step.script is not None for step in steps)
        self._simple = not self._scripted and not self._keyless and not self._all
        self._rechecks = asyncio.Semaphore(MAX_RECHECKS)
        self._rechecking: dict[str, asyncio.Task[None]] = {}
        self._revoked: dict[str, Refusal] = {}
        self._asking = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def identify(self, caller: Caller) -> Principal | Refusal:
        key, digest = self._shown(caller)
        if key is None:
            if self._keyless:
                return await self._identify_slowly(Credential(caller, None, ""))
            self._counters.decisions[PIPELINE, "missing"] += 1
            return NO_KEY
        if self._simple:
            now_s = clock.monotonic_s()
            for step in self._quick_steps:
                answer = step.known(digest, now_s)
                if answer is None:
                    break
                if (record := answer.found) is None:
                    continue
                if isinstance(record, KeyRecord) and answer.plain is not None:
                    refusal = judge(record, caller.address, clock.wall_s()) or record.refusal
                    if refusal is None:
                        if digest not in self._handles.kept:
                            self._handles.keep(digest, key, caller, whole=False)
                        self._counters.decisions[step.allowed] += 1
                        return answer.plain
                break
        return await self._identify_slowly(Credential(caller, key, digest))

    def _shown(self, caller: Caller) -> tuple[bytes | None, str]:
        """The key that a caller shows, and its digest."""
        memo = caller.memo
        if memo is not None and memo.credential_by is self:
            return memo.credential, memo.credential_digest
        key = find_key(caller.fields, self._carriers)
        digest = "" if key is None else digest_of(key)
        if memo is not None:
            memo.credential_by, memo.credential, memo.credential_digest = self, key, digest
        return key, digest

    async def _identify_slowly(self, presented: Credential) -> Principal | Refusal:
        """With questions and scripts, within the deadline."""
        self._asking += 1
        self._idle.clear()
        try:
            source, answer = await self._judge(presented)
        finally:
            self._asking -= 1
            if not self._asking:
                self._idle.set()
        if isinstance(answer, Principal):
            self._counters.decisions[source, "allowed"] += 1
            if presented.key is not None:
                self._handles.keep(presented.digest, presented.key, presented.caller, whole=self._scripted)
            return answer
        if answer is UNAVAILABLE:
            self._counters.decisions[source, "error"] += 1
        elif answer is UNKNOWN_KEY or answer is NO_KEY:
            self._counters.decisions[source, "unknown" if answer is UNKNOWN_KEY else "missing"] += 1
        else:
            self._counters.decisions[source, "denied"] += 1
        return answer

    async def _judge(
        self, presented: Credential, since_s: float = 0.0, *, again: bool = False
    ) -> tuple[str, Principal | Refusal]:
        """The source that decided, and how. Every failure is a refusal. `again`: of a request that runs already."""
        if presented.key is not None and not sendable(presented.key):
            return PIPELINE, UNKNOWN_KEY
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await self._find(presented, since_s, again)
                if not found:
                    return PIPELINE, UNKNOWN_KEY if presented.key is not None else NO_KEY
                return await self._decide(found, presented)
        except _SourceFailed as failure:
            self._seldom.warning("key source %s failed: %s", failure.source, _reason(failure.cause))
            return failure.source, UNAVAILABLE
        except TimeoutError:
            self._seldom.warning("the key could not be checked within %g s", self._timeout_s)
        except Exception:
            _log.exception("the key could not be checked")
        return PIPELINE, UNAVAILABLE

    async def _find(self, presented: Credential, since_s: float, again: bool) -> list[tuple[Step, LookupResult]]:
        """What the sources know: of the first that knows the credential, or in mode `all` of each."""
        found: list[tuple[Step, LookupResult]] = []
        for step in self._steps:
            answer = None
            if step.per_request:
                if again:
                    continue
            else:
                if presented.key is None:
                    continue
                answer = step.known(presented.digest, clock.monotonic_s(), since_s)
            if answer is None:
                try:
                    answer = await step.ask(presented)
                except Exception as error:
                    raise _SourceFailed(step.name, error) from error
            if answer.found is not None:
                found.append((step, answer))
                if not self._all:
                    break
        return found

    async def _decide(
        self, found: list[tuple[Step, LookupResult]], presented: Credential
    ) -> tuple[str, Principal | Refusal]:
        """All that was found must agree; then the pipeline's own script."""
        principals: list[Principal] = []
        metadata: dict[str, Any] = {}
        said: dict[str, Any] = {}
        now_s = clock.wall_s()
        steady = True
        for step, answer in found:
            record = answer.found
            if not isinstance(record, KeyRecord):
                return step.name, record or UNKNOWN_KEY
            refusal = judge(record, presented.caller.address, now_s)
            if refusal is None and not step.script_decides:
                refusal = record.refusal
            if refusal is not None:
                return step.name, refusal
            principal = answer.plain or record.principal
            principals.append(principal)
            metadata = {"user_id": principal.user_id, "name": principal.name, **metadata}
            if step.script is not None:
                verdict = await _ask_script(step.script, presented, record, metadata, answer if steady else None)
                if verdict.refusal is not None:
                    return step.name, verdict.refusal
                steady = steady and not verdict.per_request
                metadata = {**metadata, **verdict.metadata}
                said = {**said, **verdict.metadata}
        if self._script is not None:
            first = found[0][1].found
            assert isinstance(first, KeyRecord)
            verdict = await _ask_script(self._script, presented, first, metadata, None)
            if verdict.refusal is not None:
                return PIPELINE, verdict.refusal
            said = {**said, **verdict.metadata}
        principal = merged(principals)
        return found[0][0].name, with_fields(principal, said) if said else principal

    async def recheck(self, principals: Sequence[Principal]) -> Sequence[tuple[Principal, Refusal]]:
        """Takes at most `RECHECK_WAIT_S`: what is not answered by then is reported the next time. A source that fails
        cuts nobody.
        """
        waiting = []
        for principal in principals:
            credential = principal.credential
            if self._still_fine(credential):
                continue
            if credential not in self._rechecking and credential not in self._revoked:
                self._rechecking[credential] = self._tasks.spawn(self._recheck(credential), "recheck")
            if credential in self._rechecking:
                waiting.append(self._rechecking[credential])
        if waiting:
            await asyncio.wait(waiting, timeout=RECHECK_WAIT_S)
        revoked, self._revoked = self._revoked, {}
        return [
            (principal, revoked[principal.credential]) for principal in principals if principal.credential in revoked
        ]

    def _still_fine(self, credential: str) -> bool:
        """Whether a credential is known to be good without asking."""
        handle = self._handles.kept.get(credential)
        if not self._simple or handle is None:
            return False
        now_s = clock.monotonic_s()
        for step in self._steps:
            answer = step.known(credential, now_s, now_s - RECHECK_AGE_S)
            if answer is None or isinstance(answer.found, Refusal):
                return False
            if answer.found is not None:
                return (judge(answer.found, handle.caller.address, clock.wall_s()) or answer.found.refusal) is None
        return False

    async def _recheck(self, credential: str) -> None:
        try:
            if "/" in credential:  # no digest: a source that looks at each request gave it out, and knows it
                refusal = await self._ask_owner(credential)
                if refusal is not None:
                    self._revoked[credential] = refusal
                return
            handle = self._handles.renew(credential)
            if handle is None:
                return
            async with self._rechecks:
                presented = Credential(handle.caller, handle.key, credential)
                _, answer = await self._judge(presented, clock.monotonic_s() - RECHECK_AGE_S, again=True)
            if isinstance(answer, Refusal) and answer is not UNAVAILABLE and answer is not SCRIPT_FAILED:
                self._revoked[credential] = answer
        finally:
            self._rechecking.pop(credential, None)

    async def _ask_owner(self, credential: str) -> Refusal | None:
        """What all sources that look at each request say of a running one; None if one of them would let it in."""
        refusal: Refusal | None = KEY_REVOKED
        for step in self._steps:
            if step.per_request and (ask := getattr(step.source, "recheck", None)) is not None:
                try:
                    async with asyncio.timeout(self._timeout_s):
                        refusal = await ask(credential)
                except Exception as error:
                    self._seldom.warning("key source %s failed: %s", step.name, _reason(error))
                    return None
                if refusal is None:
                    return None
        return refusal

    async def aclose(self) -> None:
        """Let go of the sources, once nobody asks them any more, or when the deadline of those who do has passed."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await self._idle.wait()
        await self._tasks.aclose()
        for step in self._steps:
            await step.source.aclose()
        for close in self._closes:
            await close()
        if self._threads is not None:
            self._threads.close()


class _SourceFailed(Exception):
    def __init__(self, source: str, cause: Exception) -> None:
        super().__init__(source)
        self.source = source
        self.cause = cause


def _reason(error: Exception) -> str:
    """What a failure says, if its words cannot hold what was asked; else its kind."""
    if isinstance(error, HttpFailure | GrpcFailure):
        return error.kind
    return str(error) if isinstance(error, UnreadableAnswer | DatabaseError | RedisError) else type(error).__name__


async def _ask_script(
    script: DecisionScript,
    presented: Credential,
    record: KeyRecord,
    metadata: Mapping[str, Any],
    memo: LookupResult | None,
) -> ScriptDecision:
    """Ask a script, or remember what it said of the same answer and the same metadata."""
    if memo is not None and memo.memo is not None and memo.memo[0] == metadata:
        return memo.memo[1]
    data = dict(record.data)
    if presented.key is not None and "key" not in data:
        data["key"] = presented.key
    verdict = await script.decide(presented, data, metadata)
    if memo is not None and not verdict.per_request:
        memo.memo = (metadata, verdict)
    return verdict


class OpenDoor:
    """No keys needed: everybody is the same principal."""

    async def identify(self, caller: Caller) -> Principal | Refusal:
        return ANONYMOUS

    async def recheck(self, principals: Sequence[Principal]) -> Sequence[tuple[Principal, Refusal]]:
        return []

    async def aclose(self) -> None:
        """There is nothing to let go of."""
