"""The script of limits in Redis against brute force, in virtual time: its own Lua 5.1, and just enough of Redis."""

from typing import Any

import lupa.lua51
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zuebee.contracts.admission import Limit
from zuebee.limits.buckets import SLOTS
from zuebee.limits.redis_limiter import SCRIPT, LimiterDecision, ScriptCall

WINDOW_S = 60
SLOT_S = WINDOW_S / SLOTS
START_S = 1_700_000_000


class MiniRedis:
    """Hashes, strings and sorted sets in memory, at the time it is told."""

    def __init__(self, script: str = SCRIPT) -> None:
        self.now_us = START_S * 1_000_000
        self.data: dict[str, Any] = {}
        self._lua = lupa.lua51.LuaRuntime()
        make = self._lua.eval(
            "function(call, decode, text) return function(keys, payload) "
            "KEYS, ARGV = keys, {payload}; redis = {call = call}; cmsgpack = {unpack = decode}; "
            "return assert(loadstring(text))() end end"
        )
        self._run = make(self._call, self._decode, script)

    def ask(self, batch: ScriptCall) -> list[LimiterDecision | None]:
        answer = self._run(self._lua.table_from(batch.keys), batch.payload().hex())
        return batch.verdicts(
            [int(answer[1]), *([int(n) for n in answer[i].values()] for i in range(2, len(answer) + 1))]
        )

    def _decode(self, payload: str) -> Any:
        return self._table(msgspec.msgpack.decode(bytes.fromhex(payload)))

    def _table(self, value: Any) -> Any:
        return self._lua.table_from([self._table(each) for each in value]) if isinstance(value, list) else value

    def _call(self, command: str, *args: Any) -> Any:
        words = [self._word(each) for each in args]
        match command:
            case "TIME":
                return self._lua.table_from([str(self.now_us // 1_000_000), str(self.now_us % 1_000_000)])
            case "HMGET":
                found = self.data.get(words[0], {})
                return self._lua.table_from([found.get(word, False) for word in words[1:]])
            case "HGET":
                return self.data.get(words[0], {}).get(words[1], False)
            case "HSET":
                self.data.setdefault(words[0], {}).update(zip(words[1::2], words[2::2], strict=True))
            case "HDEL":
                for word in words[1:]:
                    self.data.get(words[0], {}).pop(word, None)
            case "DEL":
                self.data.pop(words[0], None)
            case "GET":
                return self.data.get(words[0], False)
            case "SET":
                self.data[words[0]] = words[1]
            case "ZREMRANGEBYSCORE":
                members = self.data.setdefault(words[0], {})
                for member in [each for each, score in members.items() if score <= float(words[2])]:
                    del members[member]
            case "ZCARD":
                return len(self.data.get(words[0], {}))
            case "ZADD":
                members = self.data.setdefault(words[0], {})
                new = words[2] not in members
                members[words[2]] = float(words[1])
                return int(new)
            case "ZREM":
                return int(self.data.get(words[0], {}).pop(words[1], None) is not None)
        return 0

    @staticmethod
    def _word(value: Any) -> str:
        return f"{value:.17g}" if isinstance(value, float) else str(value)


def take(server: MiniRedis, limits: tuple[Limit, ...], tokens: int = 0, lease: str = "l") -> LimiterDecision:
    batch = ScriptCall("")
    batch.take(lease, limits, tokens)
    (verdict,) = server.ask(batch)
    assert verdict is not None
    return verdict


def most_in_any_window(taken: list[tuple[float, int]]) -> int:
    return max((sum(n for at, n in taken if start <= at < start + WINDOW_S) for start, _ in taken), default=0)


def let_through(script: str, limit: int, steps: list[tuple[int, int]]) -> list[tuple[float, int]]:
    server = MiniRedis(script)
    rule = (Limit("s", "tokens", limit, WINDOW_S),)
    taken: list[tuple[float, int]] = []
    for gap, tokens in steps:
        server.now_us += gap * 15_625
        now_s = server.now_us / 1e6
        verdict = take(server, rule, tokens)
        counts = min(tokens, limit)
        if verdict.refused_by < 0:
            taken.append((now_s, counts))
        else:
            inside = sum(n for at, n in taken if at > now_s - WINDOW_S - SLOT_S - 1e-3)
            assert inside + counts > limit, "refused for nothing"
            assert 0 < verdict.wait_s <= WINDOW_S + SLOT_S + 1e-3
            later = MiniRedis(script)
            later.data = {key: dict(value) for key, value in server.data.items()}
            later.now_us = server.now_us + round(verdict.wait_s * 1e6) + 1
            assert take(later, rule, tokens).refused_by < 0, "the wait is enough"
    return taken


STEPS = st.lists(st.tuples(st.integers(0, 64 * 20), st.integers(0, 60)), max_size=40)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(limit=st.integers(1, 50), steps=STEPS)
def test_windows_against_a_model(limit: int, steps: list[tuple[int, int]]) -> None:
    assert most_in_any_window(let_through(SCRIPT, limit, steps)) <= limit


def test_a_ring_that_is_one_slot_short_is_seen() -> None:
    """The control: the same script with a ring of 60 lets go too early."""
    short = SCRIPT.replace("SLOTS, RING = 60, 61", "SLOTS, RING = 60, 60")
    assert short != SCRIPT
    steps = [(57, 10), (64 * 60 - 50, 10)]
    assert most_in_any_window(let_through(short, 10, steps)) > 10
    server = MiniRedis()
    rule = (Limit("s", "tokens", 10, WINDOW_S),)
    server.now_us += 57 * 15_625
    assert take(server, rule, 10).refused_by < 0
    server.now_us += (64 * 60 - 50) * 15_625
    assert take(server, rule, 10).refused_by == 0


@settings(deadline=None, max_examples=60)
@given(
    limit=st.integers(5, 100),
    steps=st.lists(st.tuples(st.integers(0, 64 * 8), st.integers(0, 80), st.integers(0, 150)), max_size=30),
)
def test_corrections_against_a_model(limit: int, steps: list[tuple[int, int, int]]) -> None:
    """Corrected one request later: never below what was really used, and nothing is left of it in the end."""
    server = MiniRedis()
    limits = (Limit("s", "tokens", limit, WINDOW_S), Limit("s", "concurrent", 2))
    used: list[tuple[float, int]] = []
    late: list[tuple[str, int, int, LimiterDecision, int]] = []
    for number, (gap, tokens, real) in enumerate(steps):
        server.now_us += gap * 15_625
        now_s = server.now_us / 1e6
        batch = ScriptCall("")
        for lease, charged, spent, verdict, index in late:
            batch.give_back(lease, limits, charged, spent, verdict)
            held = min(charged, limit)
            used[index] = (used[index][0], min(spent, held))
            used.append((now_s, max(spent - held, 0)))  # more than was charged counts from when it is known
        late.clear()
        batch.take(f"{number}", limits, tokens)
        (verdict,) = server.ask(batch)
        assert verdict is not None
        inside = sum(n for at, n in used if at > now_s - WINDOW_S)
        if verdict.refused_by < 0:
            assert inside + min(tokens, limit) <= limit
            used.append((now_s, min(tokens, limit)))
            late.append((f"{number}", tokens, real, verdict, len(used) - 1))
    server.now_us += 3 * WINDOW_S * 1_000_000
    batch = ScriptCall("")
    for lease, charged, spent, verdict, _ in late:
        batch.give_back(lease, limits, charged, min(spent, charged, limit), verdict)
    batch.take("last", limits, limit)
    last = server.ask(batch)[0]
    assert last is not None
    assert last.refused_by < 0


@settings(deadline=None, max_examples=40)
@given(limit=st.integers(1, 20), burst=st.integers(1, 40), gaps=st.lists(st.integers(0, 128), max_size=60))
def test_buckets_against_a_model(limit: int, burst: int, gaps: list[int]) -> None:
    server = MiniRedis()
    rule = (Limit("s", "requests", limit, 1, burst),)
    level = float(burst)
    for gap in gaps:
        server.now_us += gap * 15_625
        level = min(burst, level + gap / 64 * limit)
        if take(server, rule).refused_by < 0:
            assert level >= 1 - 1e-3
            level -= 1
        else:
            assert level < 1 + 1e-3


def test_all_or_none() -> None:
    server = MiniRedis()
    limits = (Limit("a", "requests", 5, 60), Limit("b", "tokens", 10, 60), Limit("c", "concurrent", 2))
    for lease, tokens, refused_by in (("1", 5, -1), ("2", 6, 1), ("3", 5, -1), ("4", 0, 2)):
        assert take(server, limits, tokens, lease).refused_by == refused_by
    last = take(server, limits, 0, "5")
    assert [state.remaining for state in last.states(limits)] == [3, 0]
    server.now_us += 31_000_000
    assert take(server, limits, 0, "6").refused_by < 0, "leases that nobody renewed are gone"


def test_a_clock_that_goes_back_frees_nothing() -> None:
    server = MiniRedis()
    rule = (Limit("s", "requests", 2, 60),)
    assert take(server, rule).refused_by < 0
    server.now_us -= 20_000_000
    assert take(server, rule).refused_by < 0
    assert take(server, rule).refused_by == 0
