"""The simulated model server answers as the openai package expects."""

import asyncio
import contextlib
import json
import ssl
import urllib.request
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import trustme
import uvloop

from tests.support.sim import CHAT, HELLO, TIMEOUT_S, Wire, faulty, running
from zuebee.sim.server import SimSettings

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
        },
    },
}


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=TIMEOUT_S) as made:
        yield made


def test_chat_is_the_same_every_time_and_streams_the_same_text(client: openai.OpenAI) -> None:
    answers = [client.chat.completions.create(**HELLO) for _ in range(2)]
    text = answers[0].choices[0].message.content
    assert text
    assert text == answers[1].choices[0].message.content
    assert answers[0].id != answers[1].id
    stream = client.chat.completions.create(**HELLO, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == text
    other = client.chat.completions.create(model="sim-small", messages=[{"role": "user", "content": "Other"}])
    assert other.choices[0].message.content != text


def test_max_tokens_cuts_the_answer_and_says_length(client: openai.OpenAI) -> None:
    short = client.chat.completions.create(**HELLO, max_tokens=3)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 3)
    whole = client.chat.completions.create(**HELLO, max_tokens=100)
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("stop", 8)
    assert whole.choices[0].message.content.startswith(short.choices[0].message.content)


def test_a_stop_string_ends_the_answer_before_it(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**HELLO).choices[0].message.content
    word = whole.split()[3]
    cut = client.chat.completions.create(**HELLO, stop=[word]).choices[0]
    assert (cut.message.content, cut.finish_reason) == (whole[: whole.index(word)], "stop")


@pytest.mark.parametrize("choices", [1, 3])
def test_usage_of_a_stream_comes_in_an_event_of_its_own(client: openai.OpenAI, choices: int) -> None:
    usage = client.chat.completions.create(**HELLO, n=choices).usage
    stream = client.chat.completions.create(**HELLO, n=choices, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == usage
    assert usage.completion_tokens == 8 * choices
    assert {chunk.choices[0].index for chunk in chunks[:-1]} == set(range(choices))


def test_continuous_usage_counts_up_in_every_event(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(client.chat.completions.create(**HELLO, stream=True, stream_options=options))
    assert [chunk.usage.completion_tokens for chunk in chunks] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8]


def test_continuous_usage_alone_means_nothing(wire: Wire) -> None:
    wire.send({**HELLO, "stream": True, "stream_options": {"continuous_usage_stats": True}})
    assert b"usage" not in wire.message()[2]


def test_text_completions_of_several_prompts(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {"model": "sim-large", "prompt": ["One two", "Three four"], "max_tokens": 4}
    answer = client.completions.create(**ask)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2 + 3, 8)
    texts = ["", ""]
    for chunk in client.completions.create(**ask, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in answer.choices]


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_that_the_user_mentions_is_called(client: openai.OpenAI, stream: bool) -> None:
    messages: Any = [{"role": "user", "content": "Use get_weather for Berlin"}]
    ask: dict[str, Any] = {"model": "sim-small", "messages": messages, "tools": [WEATHER]}
    if stream:
        with client.chat.completions.stream(**ask) as chunks:
            answer: Any = chunks.get_final_completion()
    else:
        answer = client.chat.completions.create(**ask)
    assert answer.choices[0].finish_reason == "tool_calls"
    (made,) = answer.choices[0].message.tool_calls
    assert made.function.name == "get_weather"
    assert set(json.loads(made.function.arguments)) == {"city", "unit"}
    messages += [
        {"role": "assistant", "tool_calls": [made.model_dump(exclude={"function": {"parsed_arguments"}})]},
        {"role": "tool", "tool_call_id": made.id, "content": "sunny"},
    ]
    after = client.chat.completions.create(**ask)
    assert after.choices[0].finish_reason == "stop"


def test_tools_are_called_only_when_asked_for(client: openai.OpenAI) -> None:
    ask: dict[str, Any] = {**HELLO, "tools": [WEATHER]}
    assert client.chat.completions.create(**ask).choices[0].finish_reason == "stop"
    assert client.chat.completions.create(**ask, tool_choice="required").choices[0].finish_reason == "tool_calls"
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        client.chat.completions.create(**ask, tool_choice={"type": "function", "function": {"name": "other"}})


def test_embeddings_as_numbers_and_packed(client: openai.OpenAI) -> None:
    numbers = client.embeddings.create(model="sim-small", input=["a", "b"], dimensions=5, encoding_format="float")
    packed = client.embeddings.create(model="sim-small", input=["a", "b"], dimensions=5)
    for one, other in zip(numbers.data, packed.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert sum(number * number for number in one.embedding) == pytest.approx(1)
    assert numbers.data[0].embedding != numbers.data[1].embedding
    assert numbers.usage.prompt_tokens == 2


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["sim-small", "sim-large"]
    assert client.models.retrieve("sim-large").id == "sim-large"


def test_mistakes_get_the_errors_of_a_real_server(client: openai.OpenAI, wire: Wire) -> None:
    with pytest.raises(openai.NotFoundError, match="`gpt-9` does not exist"):
        client.chat.completions.create(**{**HELLO, "model": "gpt-9"})
    for body, words in (
        (b'{"model": ', "not valid JSON"),
        ({"model": "sim-small"}, "messages"),
        ({**HELLO, "messages": []}, "messages"),
        ({**HELLO, "max_tokens": 0}, "max_tokens"),
        ({**HELLO, "max_tokens": 10_000_000}, "maximum context length"),
        ({**HELLO, "stream_options": {"include_usage": True}}, "Stream options"),
        ({**HELLO, "sim": {"fault": "earthquake"}}, "earthquake"),
    ):
        wire.send(body)
        status, _, answer = wire.message()
        assert (status, json.loads(answer)["error"]["code"]) == (400, 400)
        assert words in json.loads(answer)["error"]["message"]
    for method, path, expected in (("GET", "/health", 200), ("GET", CHAT, 405), ("GET", "/nowhere", 404)):
        wire.send(path=path, method=method)
        assert wire.message()[0] == expected


def test_only_the_right_key_is_served_when_one_is_set() -> None:
    with running(SimSettings(api_key="right", tokens_per_s=0)) as url:
        for key, error in (("right", contextlib.nullcontext()), ("wrong", pytest.raises(openai.AuthenticationError))):
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client, error:
                client.chat.completions.create(**HELLO)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_tls(run: Any) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with running(SimSettings(ssl=context, tokens_per_s=0), run) as url:
        assert url.startswith("https://")
        with urllib.request.urlopen(f"{url}/v1/models", context=trust) as answer:
            assert answer.status == 200
        wire = Wire(url)
        options: dict[str, Any] = {"server_hostname": "127.0.0.1", "suppress_ragged_eofs": False}
        with trust.wrap_socket(wire.socket, **options) as wire.socket:
            wire.send(faulty("truncate", stream=True))
            assert wire.read()[1] == "eof"
        wire = Wire(url)
        with trust.wrap_socket(wire.socket, **options) as wire.socket:
            wire.send(faulty("reset", stream=True, after_events=2))
            with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
                wire.read()
