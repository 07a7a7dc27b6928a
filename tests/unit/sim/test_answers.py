import json
from typing import Any

import pytest

from zuebee.sim import answers
from zuebee.sim.asks import ChatAsk, CompletionAsk, EmbeddingAsk, decode
from zuebee.sim.base import SimRefused, SimSettings

SETTINGS = SimSettings(tokens=6, tokens_per_s=2)


def chat(**fields: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    ask = decode(json.dumps(body).encode(), ChatAsk)
    answer: dict[str, Any] = json.loads(answers.chat(ask, "1", "m", SETTINGS, None).body)
    return answer


def test_the_answer_depends_on_the_question_and_on_nothing_else() -> None:
    assert chat() == chat()
    assert chat()["choices"] == chat(user="somebody", stream_options=None)["choices"]
    assert chat()["choices"] != chat(seed=1)["choices"]
    assert chat()["choices"] != chat(messages=[{"role": "user", "content": "ho"}])["choices"]


def test_choices_differ() -> None:
    texts = [choice["message"]["content"] for choice in chat(n=3)["choices"]]
    assert len(set(texts)) == 3


def test_a_body_takes_the_time_of_its_longest_choice() -> None:
    ask = decode(b'{"prompt":["a","b"],"sim":{"first_token_delay_s":1}}', CompletionAsk)
    assert answers.completion(ask, "1", "m", SETTINGS, None).delay_s == 1 + 6 / 2


def test_a_tool_call_may_be_cut_by_its_limit() -> None:
    tools = [{"function": {"name": "weather", "parameters": {"properties": {"city": {"type": "string"}}}}}]
    messages = [{"role": "user", "content": "weather"}]
    (choice,) = chat(messages=messages, tools=tools, max_tokens=2)["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == '{"city'


@pytest.mark.parametrize("fields", [b'"input":[]', b'"input":"a","encoding_format":"hex"'])
def test_embeddings_that_cannot_be_made_are_refused(fields: bytes) -> None:
    with pytest.raises(SimRefused):
        answers.embeddings(decode(b"{%b}" % fields, EmbeddingAsk), "1", "m", SETTINGS, None)


def test_no_prompt_is_refused() -> None:
    with pytest.raises(SimRefused):
        answers.completion(decode(b'{"prompt":[]}', CompletionAsk), "1", "m", SETTINGS, None)
