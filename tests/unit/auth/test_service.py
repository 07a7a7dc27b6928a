import asyncio
import random
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.pipelines import Bad, Source, caller, outcome, pipeline
from zuebee.auth.records import digest_of
from zuebee.auth.service import UNAVAILABLE, AuthPipeline, OpenDoor
from zuebee.auth.sources.base import FileSource
from zuebee.auth.sources.cached import Step
from zuebee.auth.state import AuthCounters, Handles
from zuebee.contracts.admission import ANONYMOUS, Caller, Principal
from zuebee.contracts.errors import ADDRESS_REFUSED, KEY_DISABLED, KEY_EXPIRED, NO_KEY, UNKNOWN_KEY, Refusal
from zuebee.contracts.heads import HeadMemo
from zuebee.contracts.keys import Credential, KeyRecord
from zuebee.lib import clock
from zuebee.lib.networks import parse_networks
from zuebee.lib.tasks import Tasks


def test_without_a_source_it_does_not_start() -> None:
    with pytest.raises(ValueError, match="nobody could get in"):
        AuthPipeline(
            [], header_names=["X"], mode="all", timeout_s=1, counters=AuthCounters(), handles=Handles(), tasks=Tasks()
        )


async def test_without_a_key_no_source_is_asked() -> None:
    source = Source("a")
    assert await outcome("first_match", source, key=None) == NO_KEY
    assert source.asked == []


@pytest.mark.parametrize("key", [b"a b", b"a\tb", b"\xc3\xa4", b"a\x00b", b"\x7f"])
async def test_a_key_that_no_header_can_carry_is_never_looked_up(key: bytes) -> None:
    source = Source("a")
    assert await outcome("first_match", source, key=key) == UNKNOWN_KEY
    assert source.asked == []


async def test_an_unknown_key_is_refused() -> None:
    assert await outcome("first_match", Source("a"), key=b"other") == UNKNOWN_KEY
    assert await outcome("all", Source("a"), key=b"other") == UNKNOWN_KEY


@pytest.mark.requirement("A071", "A072")
async def test_first_match_the_first_that_knows_the_key_decides() -> None:
    a, b = Source("a"), Source("b")
    assert await outcome("first_match", a, b) == "a"
    assert b.asked == []
    assert await outcome("first_match", Source("b"), Source("a")) == "b"
    assert await outcome("first_match", Source("x", b"other"), Source("b")) == "b"
    assert await outcome("first_match", Source("a", active=False), Source("b")) == KEY_DISABLED
    assert await outcome("first_match", Bad("a"), Source("b")) == KEY_DISABLED


@pytest.mark.requirement("A073")
async def test_all_each_that_knows_the_key_must_agree() -> None:
    assert await outcome("all", Source("a"), Source("b")) == "a"
    assert await outcome("all", Source("a"), Source("b", active=False)) == KEY_DISABLED
    assert await outcome("all", Source("x", b"other"), Source("b")) == "b"
    assert await outcome("all", Source("a"), Bad("b")) == KEY_DISABLED


@pytest.mark.parametrize("mode", ["first_match", "all"])
async def test_a_source_that_fails_opens_no_door(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    failing = Source("a", failure=OSError("db.internal:5432 refused"))
    assert await outcome(mode, failing, Source("b")) == UNAVAILABLE
    assert "db.internal" not in caplog.text + UNAVAILABLE.message
    late = Source("a")
    late.delay_s = 5
    assert await outcome(mode, late, Source("b"), timeout_s=0.02) == UNAVAILABLE


@pytest.mark.parametrize("mode", ["first_match", "all"])
@pytest.mark.parametrize("failure", [OSError(), ValueError(), KeyError("k"), RecursionError(), AssertionError()])
async def test_the_nth_failure_in_the_chain_lets_nobody_in(mode: str, failure: Exception) -> None:
    """T5. Each source in turn fails; whoever would be asked, nobody gets in past it."""
    for broken in range(4):
        sources = [Source(f"s{n}", b"other" if n < broken else b"k") for n in range(4)]
        sources[broken].failure = failure
        assert await outcome(mode, *sources) == UNAVAILABLE
    # The control: the same chain admits when nothing fails, and when the failure comes behind the decision.
    assert await outcome(mode, *(Source(f"s{n}") for n in range(4))) == "s0"
    assert await outcome("first_match", Source("s0"), Source("s1", failure=failure)) == "s0"


@pytest.mark.requirement("A254", "A054")
async def test_the_callers_address_is_judged_each_time() -> None:
    guarded = pipeline(Source("a", denied=parse_networks(["10.0.0.0/8"])))
    assert await guarded.identify(caller()) == ADDRESS_REFUSED
    assert isinstance(await guarded.identify(caller(address="11.0.0.1")), Principal)
    assert await guarded.identify(caller()) == ADDRESS_REFUSED


@pytest.mark.requirement("A080", "A149")
async def test_a_source_is_not_asked_again_for_a_while() -> None:
    source = Source("a")
    line = pipeline(source, cache_s=0.1)
    for _ in range(20):
        assert isinstance(await line.identify(caller()), Principal)
    assert len(source.asked) == 1
    await asyncio.sleep(0.12)
    source.records = {}
    assert await line.identify(caller()) == UNKNOWN_KEY
    assert await line.identify(caller()) == UNKNOWN_KEY
    assert len(source.asked) == 2


async def test_without_a_cache_every_request_asks_and_failures_are_never_kept() -> None:
    source = Source("a")
    line = pipeline(source, cache_s=0)
    for _ in range(3):
        await line.identify(caller())
    assert len(source.asked) == 3
    source.failure = OSError()
    kept = pipeline(source)
    assert await kept.identify(caller()) == UNAVAILABLE
    source.failure = None
    assert isinstance(await kept.identify(caller()), Principal)


async def test_those_who_ask_at_once_share_one_question_and_one_leaving_takes_nothing_away() -> None:
    source = Source("a")
    source.delay_s = 0.05
    line = pipeline(source)
    asks = [asyncio.ensure_future(line.identify(caller())) for _ in range(10)]
    await asyncio.sleep(0.01)
    asks[0].cancel()
    answers = await asyncio.gather(*asks, return_exceptions=True)
    assert all(isinstance(answer, Principal) for answer in answers[1:])
    assert len(source.asked) == 1


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=8), min_size=2, max_size=12), st.integers())
def test_the_cache_never_answers_one_with_another(keys: list[bytes], seed: int) -> None:
    """T5. Whatever the order, each key gets its own principal or none."""
    keys = [key.hex().encode() for key in keys]
    known = set(keys[::2])

    async def play() -> None:
        line = pipeline(Source("a", *known))
        order = keys * 3
        random.Random(seed).shuffle(order)
        for key in order:
            found = await line.identify(caller(key))
            if key in known:
                assert isinstance(found, Principal)
                assert found.user_id == key.decode()
                assert found.credential == digest_of(key)
            else:
                assert found == UNKNOWN_KEY

    asyncio.run(play())


async def test_a_source_that_answers_about_another_key_is_not_believed() -> None:
    """The control of the property above."""

    class Confused(Source):
        async def find(self, presented: Credential) -> KeyRecord | Refusal | None:
            return next(iter(self.records.values()))

    assert await outcome("first_match", Confused("a", b"other")) == UNAVAILABLE


@pytest.mark.parametrize("cached", [0.0, 2.0])
async def test_every_carrier_leads_to_the_same_decision(cached: float) -> None:
    """T8."""
    for key in (b"k", b"unknown", b"off"):
        source, off = Source("a"), Source("b", b"off", active=False)
        line = pipeline(source, off, cache_s=cached)
        answers = [
            await line.identify(caller(key, carrier=carrier)) for carrier in (b"authorization", b"x-api-key") * 2
        ]
        assert answers == [answers[0]] * 4


async def test_what_is_counted() -> None:
    counters = AuthCounters()
    line = pipeline(Source("a"), Source("b", b"off", active=False), Source("c", b"?"), counters=counters)
    for key in (b"k", b"k", b"off", b"nobody", None):
        await line.identify(caller(key))
    assert counters.decisions == {
        ("a", "allowed"): 2, ("b", "denied"): 1, ("pipeline", "unknown"): 1, ("pipeline", "missing"): 1
    }  # fmt: skip
    assert counters.asked == {("a",): 3, ("b",): 2, ("c",): 1}
    broken = pipeline(Source("a", failure=OSError()), counters=counters)
    await broken.identify(caller())
    assert counters.decisions["a", "error"] == 1


# --- running requests ---


async def rechecked(line: AuthPipeline, who: Principal, want: Callable[[object], bool]) -> object:
    for _ in range(100):
        found = await line.recheck([who])
        if want(found):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(found)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time goes by forty times as fast: what is known is soon too old."""
    monkeypatch.setattr(clock, "monotonic_s", lambda: 40 * time.monotonic())


async def test_a_revoked_key_is_reported_of_running_requests(impatient: None) -> None:
    source = Source("a")
    line = pipeline(source, cache_s=5)
    who = await line.identify(caller())
    assert isinstance(who, Principal)
    assert await line.recheck([who]) == []
    source.records = {}
    ((revoked, refusal),) = await rechecked(line, who, bool)  # type: ignore[misc, call-overload]
    assert (revoked, refusal) == (who, UNKNOWN_KEY)


async def test_a_source_that_fails_cuts_nobody(impatient: None) -> None:
    source = Source("a")
    line = pipeline(source, cache_s=0)
    who = await line.identify(caller())
    assert isinstance(who, Principal)
    source.failure = OSError()
    for _ in range(3):
        assert await line.recheck([who]) == []
        await asyncio.sleep(0.06)
    assert await line.recheck([msg_unknown()]) == []


def msg_unknown() -> Principal:
    return Principal("key_x", credential="0" * 64)


@pytest.mark.slow
async def test_a_slow_source_does_not_hold_up_the_round(impatient: None) -> None:
    source = Source("a")
    line = pipeline(source, cache_s=0)
    who = await line.identify(caller())
    assert isinstance(who, Principal)
    source.delay_s, source.records = 0.8, {}
    assert await line.recheck([who]) == []
    assert await rechecked(line, who, bool) == [(who, UNKNOWN_KEY)]


async def test_a_key_of_the_file_that_expires_or_is_gone_after_a_reload(impatient: None) -> None:
    handles = Handles()

    def line(*records: KeyRecord) -> AuthPipeline:
        counters, tasks = AuthCounters(), Tasks()
        step = Step(FileSource(records), None, cache_s=2, timeout_s=1, counters=counters, tasks=tasks)
        return AuthPipeline(
            [step], header_names=["X-API-Key"], mode="first_match", timeout_s=1, counters=counters, handles=handles,
            tasks=tasks,
        )  # fmt: skip

    record = KeyRecord(digest_of(b"k"), Principal("key_k"))
    who = await line(record).identify(caller(carrier=b"x-api-key"))
    assert isinstance(who, Principal)
    assert await line(record).recheck([who]) == []
    assert await line().recheck([who]) == [(who, UNKNOWN_KEY)]
    late = KeyRecord(digest_of(b"k"), Principal("key_k"), expires_at_s=1.0)
    assert await line(late).recheck([who]) == [(who, KEY_EXPIRED)]


async def test_what_rests_on_the_request_is_asked_each_time_and_never_again_of_a_running_one(impatient: None) -> None:
    class Signature(Source):
        per_request = True

        async def find(self, presented: Credential) -> KeyRecord | Refusal | None:
            self.asked.append(presented.digest)
            return KeyRecord("", Principal("client")) if b"x-signature" in presented.caller.fields else None

    signature, keys = Signature("s"), Source("a")
    line = pipeline(signature, keys)
    signed = Caller("POST", "/", {b"x-signature": b"1"}, "10.0.0.1")
    for _ in range(3):
        who = await line.identify(signed)
        assert isinstance(who, Principal)
        assert (who.key_id, who.credential) == ("client", "")
    assert len(signature.asked) == 3
    assert await line.identify(caller(None)) == NO_KEY
    key = await line.identify(caller())
    assert isinstance(key, Principal)
    before = len(signature.asked)
    await asyncio.sleep(0.06)
    assert await line.recheck([key]) == []
    assert len(signature.asked) == before


async def test_closing_waits_for_those_who_still_ask() -> None:
    source = Source("a")
    source.delay_s = 0.05
    line = pipeline(source)
    ask = asyncio.ensure_future(line.identify(caller()))
    await asyncio.sleep(0.01)
    await line.aclose()
    assert source.closed
    assert isinstance(await ask, Principal)


@pytest.mark.requirement("A248")
async def test_an_open_door_knows_everybody_as_the_same() -> None:
    door = OpenDoor()
    assert await door.identify(caller(None)) == ANONYMOUS
    assert await door.identify(caller(b"any")) == ANONYMOUS
    assert await door.recheck([ANONYMOUS]) == []
    await door.aclose()


async def test_what_a_head_shows_is_looked_for_once_and_judged_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("a")
    line, other = pipeline(source), pipeline(Source("b", b"another"))
    asks = caller()
    asks.memo = memo = HeadMemo()
    for _ in range(3):
        assert isinstance(await line.identify(asks), Principal)
    assert memo.credential_by is line
    assert await other.identify(asks) == UNKNOWN_KEY, "who takes its place after a reload looks for itself"
    source.records = {}
    monkeypatch.setattr(clock, "monotonic_s", lambda: time.monotonic() + 3600)  # its answer is too old
    assert await line.identify(asks) == UNKNOWN_KEY
