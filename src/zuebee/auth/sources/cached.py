"""One step of the pipeline: a source, what it said lately, and its script.

An answer is kept by the whole SHA-256 of the credential and by nothing else: what it decides from the address or the
request is decided anew each time. Failures are never kept.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from zuebee.auth.sources.base import FileSource
from zuebee.auth.sources.script import DecisionScript, ScriptDecision
from zuebee.auth.state import AuthCounters
from zuebee.contracts.admission import Principal
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import Credential, KeyRecord, KeySource
from zuebee.lib import clock
from zuebee.lib.tasks import Tasks

MAX_ANSWERS: Final = 20_000
MAX_UNKNOWN: Final = 2_000
MAX_UNKNOWN_S: Final = 1.0
MAX_FLIGHTS: Final = 1_000
FOREVER: Final = float("inf")


class AuthOverloaded(Exception):
    """Too many credentials are being looked up at once."""


class LookupResult:
    """What a source said of one credential. `memo`: a script's decision, and the metadata it was made from."""

    __slots__ = ("at_s", "found", "memo", "plain", "until_s")

    def __init__(self, found: KeyRecord | Refusal | None, digest: str, at_s: float, until_s: float) -> None:
        self.found = found
        self.at_s = at_s
        self.until_s = until_s
        self.memo: tuple[Mapping[str, Any], ScriptDecision] | None = None
        self.plain: Principal | None = None
        if isinstance(found, KeyRecord):
            self.plain = _with_handle(found.principal, digest)


NOT_KNOWN: Final = LookupResult(None, "", FOREVER, FOREVER)


class Step:
    """Asks one source, at most once for a credential at a time, and not again for `cache_s`."""

    def __init__(
        self,
        source: KeySource,
        script: DecisionScript | None,
        *,
        cache_s: float,
        timeout_s: float,
        counters: AuthCounters,
        tasks: Tasks,
    ) -> None:
        self.name = source.name
        self.source = source
        self.script = script
        self.script_decides = script is not None and getattr(source, "script_decides", False)
        self.per_request = bool(getattr(source, "per_request", False))
        self.allowed = (source.name, "allowed")
        self._cache_s = cache_s
        self._timeout_s = timeout_s
        self._counters = counters
        self._tasks = tasks
        self._fixed: dict[str, LookupResult] | None = None
        if isinstance(source, FileSource):
            records = source.records.items()
            self._fixed = {digest: LookupResult(record, digest, FOREVER, FOREVER) for digest, record in records}
        self.knows_nobody = self._fixed == {}
        self._answers: dict[str, LookupResult] = {}
        self._unknown: dict[str, LookupResult] = {}
        self._flights: dict[str, asyncio.Task[LookupResult | BaseException]] = {}

    def known(self, digest: str, now_s: float, since_s: float = 0.0) -> LookupResult | None:
        """What is known without asking: an answer that still holds and is not older than `since_s`; None if nothing."""
        if self._fixed is not None:
            return self._fixed.get(digest, NOT_KNOWN)
        answer = self._answers.get(digest) or self._unknown.get(digest)
        return answer if answer is not None and now_s < answer.until_s and answer.at_s >= since_s else None

    async def ask(self, presented: Credential) -> LookupResult:
        """Ask the source; who asks for the same credential meanwhile gets the same answer. Raises what it raises."""
        if self.per_request:
            async with asyncio.timeout(self._timeout_s):
                return self._answer(await self.source.find(presented), presented.digest)
        flight = self._flights.get(presented.digest)
        if flight is None:
            if len(self._flights) >= MAX_FLIGHTS:
                raise AuthOverloaded("too many credentials are being looked up")
            flight = self._tasks.spawn(self._fly(presented), "auth")
            self._flights[presented.digest] = flight
            flight.add_done_callback(lambda _: self._flights.pop(presented.digest, None))
        # The lookup belongs to nobody: a caller that leaves does not take the others' answer away.
        answer = await asyncio.shield(flight)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def _fly(self, presented: Credential) -> LookupResult | BaseException:
        self._counters.asked[(self.name,)] += 1
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = self._answer(await self.source.find(presented), presented.digest)
        except Exception as error:
            return error
        self._keep(presented.digest, answer)
        return answer

    def _answer(self, found: KeyRecord | Refusal | None, digest: str) -> LookupResult:
        if isinstance(found, KeyRecord) and found.digest and found.digest != digest and not self.per_request:
            raise ForeignAnswer("the source answered about another key")
        now_s = clock.monotonic_s()
        life_s = self._cache_s if isinstance(found, KeyRecord) else min(self._cache_s, MAX_UNKNOWN_S)
        # What rests on more than the credential cannot be asked about again by the credential.
        return LookupResult(found, "" if self.per_request else digest, now_s, now_s + life_s)

    def _keep(self, digest: str, answer: LookupResult) -> None:
        self._answers.pop(digest, None)
        self._unknown.pop(digest, None)
        if self._cache_s <= 0:
            return
        table, most = (
            (self._answers, MAX_ANSWERS) if isinstance(answer.found, KeyRecord) else (self._unknown, MAX_UNKNOWN)
        )
        table[digest] = answer
        if len(table) > most:
            # The oldest answer comes first: answers are put at the end when they are renewed.
            del table[next(iter(table))]


class ForeignAnswer(Exception):
    """A source answered about another credential than it was asked for."""


def _with_handle(principal: Principal, digest: str) -> Principal:
    return principal if principal.credential or not digest else replace(principal, credential=digest)
