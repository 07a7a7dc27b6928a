from typing import Any

import pytest

from tests.support.pipelines import Source, caller, outcome, pipeline
from zuebee.auth.records import digest_of
from zuebee.auth.sources.script import DecisionScript
from zuebee.auth.state import AuthCounters
from zuebee.contracts.admission import Principal
from zuebee.contracts.errors import KEY_DISABLED, UNKNOWN_KEY, Refusal


@pytest.mark.requirement("A070")
async def test_a_script_decides_about_what_its_source_found() -> None:
    script = {"a": "if data.tier == 'gold' then return true end return {allow=false, message='gold only'}"}
    gold = Source("a", data={"tier": "gold"})
    assert await outcome("first_match", gold, scripts=script) == "a"
    refusal = await outcome("first_match", Source("a", data={}), scripts=script)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code, refusal.message) == (403, "denied_by_script", "gold only")
    assert (
        await outcome("first_match", Source("a", data={"tier": "gold"}, active=False), scripts=script) == KEY_DISABLED
    )


@pytest.mark.requirement("A070")
async def test_what_a_script_says_of_the_user_is_who_calls() -> None:
    script = {"a": "return {metadata={user_id='u1', name='Ann', team='t', plan='pro', priority='high', other=1}}"}
    who = await pipeline(Source("a"), scripts=script).identify(caller())
    assert isinstance(who, Principal)
    assert (who.user_id, who.name, who.team_id, who.plan, who.priority) == ("u1", "Ann", "t", "pro", "high")
    assert who.key_id == "key_a"
    assert who.credential == digest_of(b"k")


async def test_metadata_goes_from_script_to_script_and_the_pipelines_own_comes_last() -> None:
    line = pipeline(
        Source("a"),
        Source("b"),
        mode="all",
        scripts={"a": "return {metadata={seen='a'}}", "b": "return {metadata={seen=metadata.seen .. 'b'}}"},
        script="return {allow = metadata.seen == 'ab', metadata={name=metadata.seen}}",
    )
    for _ in range(2):
        who = await line.identify(caller())
        assert isinstance(who, Principal)
        assert who.name == "ab"
    assert await outcome("first_match", Source("a"), key=b"other", script="return true") == UNKNOWN_KEY


async def test_a_decision_about_the_request_is_never_used_for_another() -> None:
    script = {"a": "return request.ip == '10.0.0.1'"}
    line = pipeline(Source("a"), scripts=script)
    assert isinstance(await line.identify(caller()), Principal)
    assert isinstance(await line.identify(caller(address="10.0.0.2")), Refusal)
    assert isinstance(await line.identify(caller()), Principal)


async def test_a_decision_without_the_request_is_remembered_with_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = AuthCounters()
    line = pipeline(Source("a"), scripts={"a": "log('run') return true"}, counters=counters)
    runs = 0
    decide = DecisionScript.decide

    async def counted(*args: Any) -> Any:
        nonlocal runs
        runs += 1
        return await decide(*args)

    monkeypatch.setattr(DecisionScript, "decide", counted)
    for _ in range(5):
        assert isinstance(await line.identify(caller()), Principal)
    assert runs == 1
