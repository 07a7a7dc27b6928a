import asyncio
import logging
import threading
import time

import pytest

from zuebee.auth.sources.sandbox import ScriptLimits, ScriptMistake
from zuebee.auth.sources.script import SCRIPT_FAILED, DecisionScript, ScriptBusy, ScriptThreads, request_of
from zuebee.auth.state import AuthCounters
from zuebee.contracts.admission import Caller
from zuebee.contracts.keys import Credential

CALLER = Caller("POST", "/v1/x", {b"x-api-key": b"sk-secret"}, "10.0.0.1", path="/v1/x")
SHOWN = Credential(CALLER, b"sk-secret", "d")


def script(source: str, counters: AuthCounters | None = None, seconds: float = 0.2) -> DecisionScript:
    return DecisionScript("s", source, ScriptLimits(seconds), ScriptThreads(), counters or AuthCounters())


def test_a_script_that_cannot_be_compiled_is_found_when_it_is_made() -> None:
    with pytest.raises(ScriptMistake):
        script("return return")


async def test_a_denial_has_the_scripts_message_without_the_key_and_bounded() -> None:
    verdict = await script("return {allow=false, message='no ' .. api_key .. '\\n' .. ('x'):rep(999)}").decide(
        SHOWN, {}, {}
    )
    assert verdict.refusal is not None
    assert (verdict.refusal.status, verdict.refusal.code) == (403, "denied_by_script")
    assert verdict.refusal.message.startswith("no *** x")
    assert len(verdict.refusal.message) <= 200


@pytest.mark.parametrize("metadata", ["user_id={1}", "name='a\\0b'", "models=7", "tags='[1'"])
async def test_metadata_that_names_nobody_is_a_failure_of_the_script(metadata: str) -> None:
    counters = AuthCounters()
    verdict = await script(f"return {{allow=true, metadata={{{metadata}}}}}", counters).decide(SHOWN, {}, {})
    assert verdict.refusal is SCRIPT_FAILED
    assert +counters.script_failures == {("s", "result"): 1}


@pytest.mark.requirement("A070")
async def test_a_runaway_script_is_a_denial_and_a_count_and_the_loop_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    counters = AuthCounters()
    spinning = script("while true do end", counters, seconds=5.0)  # it is stopped by what it does, not by the clock
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.001)
            ticks += 1

    ticking = asyncio.ensure_future(tick())
    verdict = await spinning.decide(SHOWN, {}, {})
    ticking.cancel()
    assert verdict.refusal is SCRIPT_FAILED
    assert +counters.script_failures == {("s", "instructions"): 1}
    assert ticks >= 2
    assert "sk-secret" not in caplog.text


async def test_what_nothing_inside_can_stop_is_waited_for_no_longer_than_the_timeout() -> None:
    threads, free = ScriptThreads(1), threading.Event()
    began_s = time.monotonic()
    with pytest.raises(TimeoutError):
        await threads.run(lambda: free.wait(5), 0.05, lambda _: None)
    assert time.monotonic() - began_s < 1
    waiting = asyncio.ensure_future(threads.run(lambda: 7, 1, lambda _: None))
    await asyncio.sleep(0.02)
    assert not waiting.done()  # its thread is not given to others while it is in use
    free.set()
    assert await waiting == 7
    threads.close()


async def test_not_everybody_can_wait() -> None:
    counters, full = AuthCounters(), ScriptThreads(max_waiting=0)
    with pytest.raises(ScriptBusy):
        await full.run(lambda: 1, 1, lambda _: None)
    busy = DecisionScript("s", "return true", ScriptLimits(0.2), full, counters)
    assert (await busy.decide(SHOWN, {}, {})).refusal is SCRIPT_FAILED
    assert +counters.script_failures == {("s", "busy"): 1}


async def test_what_it_logs_goes_to_the_log_without_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    await script("log('saw ' .. api_key)").decide(SHOWN, {}, {})
    assert "script s: saw ***" in caplog.text


async def test_many_at_once_get_each_their_own() -> None:
    echo = script("return {metadata={user_id=data.who}}")
    verdicts = await asyncio.gather(*(echo.decide(SHOWN, {"who": str(n)}, {}) for n in range(100)))
    assert [verdict.metadata["user_id"] for verdict in verdicts] == [str(n) for n in range(100)]


def test_what_a_script_sees_of_a_request() -> None:
    assert request_of(CALLER) == {
        "method": "POST", "path": "/v1/x", "ip": "10.0.0.1", "headers": {"X-Api-Key": b"sk-secret"}
    }  # fmt: skip
