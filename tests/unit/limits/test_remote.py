from dataclasses import replace

import msgspec
import pytest

from zuebee.contracts.admission import Limit
from zuebee.limits.redis_limiter import LimiterDecision, ScriptCall, share_of

MINUTE = Limit("key:k", "requests", 60, 60)
TOKENS = Limit("key:k", "tokens", 100, 60)
BUCKET = Limit("key:k", "requests", 10, 1, 20)
AT_ONCE = Limit("key:k", "concurrent", 3)


def test_what_is_said_in_one_call() -> None:
    batch = ScriptCall("p:")
    assert not batch
    batch.take("lease1", (MINUTE, AT_ONCE), 5)
    batch.take("lease2", (AT_ONCE, TOKENS), 7)
    batch.give_back("lease0", (TOKENS, AT_ONCE), 30, 10, LimiterDecision(1000, (0, 0, 30, 77, 1, 0)))
    batch.renew("lease1", (MINUTE, AT_ONCE))
    assert batch
    assert batch.keys == ["p:requests:60:key:k", "p:concurrent:0:key:k", "p:tokens:60:key:k"]
    specs, operations, lease_us = msgspec.msgpack.decode(batch.payload())
    assert specs == [[1, 60_000_000], [3, 0], [1, 60_000_000]]
    assert lease_us == 30_000_000
    assert operations == [
        [1, "lease1", 5, [[1, 60, 0, 0], [2, 3, 0, 0]]],
        [1, "lease2", 7, [[2, 3, 0, 0], [3, 100, 0, 1]]],
        [2, "lease0", [2], [[3, 100, -20, 1000, 77]]],
        [3, "lease1", [2]],
    ]


def test_what_needs_no_word() -> None:
    batch = ScriptCall("")
    batch.give_back("lease", (MINUTE, TOKENS), 30, 30, LimiterDecision(0, (0, 0, 1, 1, 1, 1)))
    batch.give_back("lease", (MINUTE, TOKENS), 30, -1, LimiterDecision(0, (0, 0, 1, 1, 1, 1)))
    batch.give_back("lease", (MINUTE, TOKENS), 30, 10, None)
    assert not batch


def test_buckets_and_long_names_have_keys_of_their_own() -> None:
    batch = ScriptCall("p:")
    batch.take("l", (BUCKET, Limit("model:" + "x" * 5000, "requests", 1, 60)), 0)
    assert batch.keys[0] == "p:requests:1b:key:k"
    assert len(batch.keys[1]) < 120


def test_verdicts() -> None:
    admitted, refused = ScriptCall("").verdicts([90_500_000, [0, 0, 59, 7, 1, 0], [2, 1_500_000, 60, 7, 3, 0]])
    assert admitted is not None
    assert refused is not None
    assert (admitted.refused_by, admitted.at_us, admitted.birth_us(0)) == (-1, 90_500_000, 7)
    assert (refused.refused_by, refused.wait_s) == (1, 1.5)
    (state,) = admitted.states((MINUTE, AT_ONCE))
    assert (state.amount, state.remaining, state.reset_s) == (60, 1, 60.5)
    (bucket,) = admitted.states((BUCKET,))
    assert (bucket.amount, bucket.remaining, bucket.reset_s) == (20, 0, 5.9)


@pytest.mark.parametrize(
    ("limit", "processes", "share"),
    [
        (MINUTE, 4, (15, 0)),
        (AT_ONCE, 4, (1, 0)),
        (BUCKET, 3, (3, 6)),
        (MINUTE, 1, (60, 0)),
    ],
)
def test_the_share_of_one_process(limit: Limit, processes: int, share: tuple[int, int]) -> None:
    found = share_of(limit, processes)
    assert found is not None
    assert (found.amount, found.burst) == share


def test_an_open_scope_has_no_share() -> None:
    assert share_of(replace(MINUTE, on_store_down="open"), 2) is None
