import json
from typing import Any

import pytest

from zuebee.sim.asks import ChatAsk, CompletionAsk, answer_size, decode, model_of, prompts
from zuebee.sim.base import SimRefused, SimSettings

SETTINGS = SimSettings(tokens=10, max_model_tokens=100)


def chat(**fields: Any) -> ChatAsk:
    return decode(json.dumps({"messages": [{"role": "user", "content": "abcd"}], **fields}).encode(), ChatAsk)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (10, True)),
        ({"max_tokens": 10}, (10, True)),
        ({"max_tokens": 9}, (9, False)),
        ({"max_tokens": 50, "max_completion_tokens": 3}, (3, False)),
        ({"max_tokens": 20, "ignore_eos": True}, (20, False)),
        ({"sim": {"tokens": 30}}, (30, True)),
        ({"sim": {"tokens": 30}, "max_tokens": 20}, (20, False)),
        ({"sim": {"tokens": 1000}}, (92, False)),
    ],
)
def test_how_long_an_answer_is_and_whether_it_ends_itself(fields: dict[str, Any], expected: tuple[int, bool]) -> None:
    ask = chat(**fields)
    assert ask.prompt_tokens == 8
    assert answer_size(ask, ask.prompt_tokens, 1, SETTINGS) == expected


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(SimRefused, match="maximum context length is 100"):
        answer_size(chat(max_tokens=93), 8, 1, SETTINGS)
    with pytest.raises(SimRefused, match="maximum context length is 100"):
        answer_size(chat(), 100, 1, SETTINGS)


def test_an_answer_has_a_bound() -> None:
    with pytest.raises(SimRefused, match="too long"):
        answer_size(chat(sim={"tokens": 100_000}), 8, 128, SimSettings())


def test_content_may_come_in_parts() -> None:
    parts = [{"type": "text", "text": "abcd"}, {"type": "image_url", "image_url": {}}, {"type": "text", "text": "ef"}]
    assert chat(messages=[{"role": "user", "content": parts}]).messages[0].text == "abcdef"


def test_what_is_wrong_is_said_with_its_place() -> None:
    with pytest.raises(SimRefused, match=r"\$\.messages\[0\]"):
        chat(messages=[{"role": "user", "content": 5}])
    with pytest.raises(SimRefused, match="messages"):
        decode(b"{}", ChatAsk)
    for body in (b"", b"{", b"\xff", b'{"messages":NaN}'):
        with pytest.raises(SimRefused, match="not valid JSON"):
            decode(body, ChatAsk)


def test_prompts_are_texts_numbers_or_lists_of_them() -> None:
    assert prompts("a") == ["a"]
    assert prompts(["a", "b"]) == ["a", "b"]
    assert prompts([1, 2, 3]) == [[1, 2, 3]]
    assert prompts([[1, 2], [3]]) == [[1, 2], [3]]
    assert decode(b'{"prompt":[[1,2],[3]]}', CompletionAsk).prompt_tokens == 3


def test_models_that_are_not_served_do_not_exist() -> None:
    assert model_of(None, SETTINGS) == model_of("sim-small", SETTINGS) == "sim-small"
    assert model_of("sim-fault-hang", SETTINGS) == "sim-fault-hang"
    with pytest.raises(SimRefused) as refused:
        model_of("gpt-9", SETTINGS)
    assert (refused.value.status, refused.value.param) == (404, "model")
