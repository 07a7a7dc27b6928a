import json
from typing import Any

from zuebee.sim.answers import CHAT, TEXT, Pace, PlannedAnswer, PlannedChoice, Shape, body, events, usage_json
from zuebee.sim.base import DONE, Send, Step, Wait, token

HASTE = Pace(0, 0)


def answer(shape: Shape = CHAT, *sizes: int) -> PlannedAnswer:
    choices = [PlannedChoice([token(f" {index}") for index in range(size)], "stop", []) for size in sizes or (3,)]
    return PlannedAnswer(shape, "id-1", "m", choices, 5, None)


def chunks(steps: list[Step]) -> list[dict[str, Any]]:
    data = [step.data for step in steps if isinstance(step, Send)]
    assert data[-1] == DONE
    return [json.loads(part.removeprefix(b"data: ").removesuffix(b"\n\n")) for part in data[:-1]]


def test_a_stream_says_what_the_body_says() -> None:
    for shape, said in ((CHAT, lambda c: c["delta"].get("content", "")), (TEXT, lambda c: c["text"])):
        made = answer(shape, 3, 5)
        texts = ["", ""]
        for chunk in chunks(list(events(made, HASTE, include=False, continuous=False))):
            (choice,) = chunk["choices"]
            texts[choice["index"]] += said(choice)
        whole = json.loads(body(made))
        assert texts == [c["message"]["content"] if shape is CHAT else c["text"] for c in whole["choices"]]
        assert whole["usage"] == {"prompt_tokens": 5, "completion_tokens": 8, "total_tokens": 13}


def test_choices_come_side_by_side_and_each_finishes_once() -> None:
    parts = chunks(list(events(answer(TEXT, 1, 2), HASTE, include=False, continuous=False)))
    order = [(part["choices"][0]["index"], part["choices"][0]["finish_reason"]) for part in parts]
    assert order == [(0, None), (1, None), (0, "stop"), (1, None), (1, "stop")]


def test_usage_comes_only_when_asked_for() -> None:
    for include, continuous in ((False, False), (True, False), (True, True)):
        parts = chunks(list(events(answer(), HASTE, include=include, continuous=continuous)))
        assert (parts[-1]["choices"] == []) == include
        assert ["usage" in part for part in parts[:5]] == [continuous] * 5


def test_an_empty_answer_still_finishes() -> None:
    parts = chunks(list(events(answer(TEXT, 0), HASTE, include=False, continuous=False)))
    assert [part["choices"][0]["finish_reason"] for part in parts] == ["stop"]


def test_every_token_waits_for_its_turn_and_is_counted_once() -> None:
    steps = list(events(answer(CHAT, 3), Pace(2, 0.5), include=True, continuous=False))
    assert [step.delay_s for step in steps if isinstance(step, Wait)] == [2, 0.5, 0.5, 0.5]
    assert sum(step.tokens for step in steps if isinstance(step, Send)) == 3
    assert sum(step.events for step in steps if isinstance(step, Send)) == 1 + 3 + 1 + 1 + 1


def test_hostile_usage_is_json_all_the_same() -> None:
    for kind, tokens in (("negative", -7), ("huge", 2**63), ("string", "seven"), ("float", 6.5)):
        assert json.loads(usage_json(1, 2, kind) or b"")["completion_tokens"] == tokens  # type: ignore[arg-type]
    assert usage_json(1, 2, "null") == b"null"
    assert usage_json(1, 2, "missing") is None
    hostile = answer()._replace(hostile="missing")
    assert "usage" not in json.loads(body(hostile))
    assert all("usage" not in part for part in chunks(list(events(hostile, HASTE, include=True, continuous=True))))
