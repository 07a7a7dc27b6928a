"""A pipeline over sources that say what a test tells them to."""

import asyncio
from typing import Any

from zuebee.auth.records import digest_of
from zuebee.auth.service import AuthPipeline
from zuebee.auth.sources.cached import Step
from zuebee.auth.sources.sandbox import ScriptLimits
from zuebee.auth.sources.script import DecisionScript, ScriptThreads
from zuebee.auth.state import AuthCounters, Handles
from zuebee.contracts.admission import Caller, Principal
from zuebee.contracts.errors import KEY_DISABLED, Refusal
from zuebee.contracts.keys import Credential, KeyRecord
from zuebee.lib.tasks import Tasks


class Source:
    """Knows some keys, or fails."""

    def __init__(self, name: str, *keys: bytes, failure: BaseException | None = None, **fields: Any) -> None:
        self.name = name
        self.asked: list[str] = []
        self.closed = False
        self.failure = failure
        self.delay_s = 0.0
        self.records = {
            digest_of(key): KeyRecord(digest_of(key), Principal(f"key_{name}", name, key.decode()), **fields)
            for key in keys or (b"k",)
        }

    async def find(self, presented: Credential) -> KeyRecord | Refusal | None:
        self.asked.append(presented.digest)
        await asyncio.sleep(self.delay_s)
        if self.failure is not None:
            raise self.failure
        return self.records.get(presented.digest)

    async def aclose(self) -> None:
        self.closed = True


class Bad(Source):
    """Knows that a token is forged."""

    async def find(self, presented: Credential) -> KeyRecord | Refusal | None:
        return KEY_DISABLED


def caller(key: bytes | None = b"k", address: str = "10.0.0.1", carrier: bytes = b"authorization") -> Caller:
    value = b"Bearer " + key if key is not None and carrier == b"authorization" else key
    return Caller("POST", "/v1/chat/completions", {} if value is None else {carrier: value}, address)


def pipeline(
    *sources: Any, mode: str = "first_match", cache_s: float = 2.0, timeout_s: float = 1.0,
    scripts: dict[str, str] | None = None, script: str = "", counters: AuthCounters | None = None,
) -> AuthPipeline:  # fmt: skip
    counters, tasks, threads = counters or AuthCounters(), Tasks(), ScriptThreads()

    def compiled(name: str, text: str | None) -> DecisionScript | None:
        return DecisionScript(name, text, ScriptLimits(), threads, counters) if text else None

    steps = [
        Step(
            source, compiled(source.name, (scripts or {}).get(source.name)), cache_s=cache_s, timeout_s=timeout_s,
            counters=counters, tasks=tasks,
        )
        for source in sources
    ]  # fmt: skip
    return AuthPipeline(
        steps, header_names=["Authorization", "X-API-Key"], mode=mode, timeout_s=timeout_s, counters=counters,
        handles=Handles(), tasks=tasks, script=compiled("pipeline", script), threads=threads,
    )  # fmt: skip


async def outcome(mode: str, *sources: Any, key: bytes | None = b"k", **more: Any) -> object:
    found = await pipeline(*sources, mode=mode, **more).identify(caller(key))
    return found.name if isinstance(found, Principal) else found
