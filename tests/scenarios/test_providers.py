"""Clients of OpenAI and of Anthropic reach models of OpenAI, Anthropic and Google, each with its own package."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import llmock.main  # noqa: F401  (here, while no thread runs: CPython 3.11 cannot parse two files at once)
import openai
import pytest
from llmock.scenarios import Fail, Reply, ToolCall
from llmock.testing import LLMockServer
from llmock.verdict import judge

from tests.support.processes import KEY, Gateway, running
from tests.support.records import record_of

TEXT = "One two three four five six seven eight nine ten. Ünïcödé 😀."
MODELS = {"gpt-4o": "openai", "claude-test-1": "anthropic", "gemini-2.5-flash": "gemini"}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture(scope="module")
def provider() -> Iterator[LLMockServer]:
    with LLMockServer() as server:
        yield server


@pytest.fixture(scope="module")
def gateway(provider: LLMockServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "backends": [
            {"url": provider.url, "name": "openai", "models": ["gpt-*"]},
            {"url": f"{provider.url}/anthropic", "type": "anthropic", "models": ["claude-*"], "api_key": "a"},
            {"url": f"{provider.url}/gemini", "type": "gemini", "models": ["gemini-*"], "api_key": "g"},
        ],
        "routing": {"retry": {"initial_wait": "50ms"}, "aliases": {"fast": "gemini-2.5-flash"}},
        "health_check": {"enabled": False},
    }
    with running(tmp_path_factory.mktemp("gateway"), config) as process:
        yield process


@pytest.fixture(autouse=True)
def _fresh(provider: LLMockServer) -> None:
    provider.state.reset()


@pytest.fixture
def chat(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def messages(gateway: Gateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0) as client:
        yield client


HELLO: list[Any] = [{"role": "user", "content": "hello"}]


@pytest.mark.requirement("A124", "A125", "A126", "A137", "A150", "A157")
@pytest.mark.parametrize("model", MODELS)
def test_an_openai_client_reaches_each(
    provider: LLMockServer, gateway: Gateway, chat: openai.OpenAI, model: str
) -> None:
    provider.state.scenarios.add(Reply(TEXT, times=2))
    whole = chat.chat.completions.with_raw_response.create(model=model, messages=HELLO)
    answer = whole.parse()
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    row = record_of(gateway, whole.headers["x-request-id"])
    assert (row["prompt_tokens"], row["completion_tokens"]) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    )
    assert (row["usage_source"], row["model"]) == ("provider", model)
    chunks = list(
        chat.chat.completions.create(model=model, messages=HELLO, stream=True, stream_options={"include_usage": True})
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == TEXT
    assert [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason] == ["stop"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


@pytest.mark.requirement("A125", "A126", "A137", "A150", "A157")
@pytest.mark.parametrize("model", MODELS)
def test_an_anthropic_client_reaches_each(
    provider: LLMockServer, gateway: Gateway, messages: anthropic.Anthropic, model: str
) -> None:
    provider.state.scenarios.add(Reply(TEXT, times=2))
    whole = messages.messages.with_raw_response.create(model=model, max_tokens=200, messages=HELLO)
    answer: Any = whole.parse()
    assert [block.text for block in answer.content] == [TEXT]
    assert (answer.stop_reason, answer.type, answer.role) == ("end_turn", "message", "assistant")
    row = record_of(gateway, whole.headers["x-request-id"])
    figures = answer.usage.input_tokens, answer.usage.output_tokens
    assert (row["prompt_tokens"], row["completion_tokens"]) == figures
    assert row["usage_source"] == "provider"
    with messages.messages.stream(model=model, max_tokens=200, messages=HELLO) as stream:
        assert "".join(stream.text_stream) == TEXT
        final: Any = stream.get_final_message()
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens > 0


def weather_call(city: str) -> Reply:
    return Reply(tool_calls=(ToolCall("get_weather", {"city": city}),))


@pytest.mark.requirement("A137", "A147")
@pytest.mark.parametrize("model", MODELS)
def test_tools_of_an_openai_client_are_called_and_answered(
    provider: LLMockServer, chat: openai.OpenAI, model: str
) -> None:
    provider.state.scenarios.add(weather_call("Zürich"), weather_call("Zürich"), Reply(TEXT))
    tools: Any = [{"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}}]
    message = chat.chat.completions.create(model=model, messages=HELLO, tools=tools).choices[0]
    assert message.finish_reason == "tool_calls"
    [call] = message.message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"city": "Zürich"}
    arguments, reasons = "", []
    for chunk in chat.chat.completions.create(model=model, messages=HELLO, tools=tools, stream=True):
        for choice in chunk.choices:
            for piece in choice.delta.tool_calls or []:
                arguments += (piece.function and piece.function.arguments) or ""
            reasons += [choice.finish_reason] if choice.finish_reason else []
    assert (json.loads(arguments), reasons) == ({"city": "Zürich"}, ["tool_calls"])
    history: Any = [*HELLO, message.message.model_dump(exclude_none=True)]
    history.append({"role": "tool", "tool_call_id": call.id, "content": "rain"})
    last = chat.chat.completions.create(model=model, messages=history, tools=tools).choices[0]
    assert last.message.content == TEXT
    assert judge(provider.state.journal.records(wait=2.0)).passed


@pytest.mark.requirement("A137", "A147")
@pytest.mark.parametrize("model", MODELS)
def test_tools_of_an_anthropic_client_are_called_and_answered(
    provider: LLMockServer, messages: anthropic.Anthropic, model: str
) -> None:
    provider.state.scenarios.add(weather_call("Oslo"), weather_call("Oslo"), Reply(TEXT))
    tools: Any = [{"name": "get_weather", "description": "d", "input_schema": WEATHER}]
    ask: Any = {"model": model, "max_tokens": 100, "tools": tools}
    answer: Any = messages.messages.create(messages=HELLO, **ask)
    assert answer.stop_reason == "tool_use"
    [call] = [block for block in answer.content if block.type == "tool_use"]
    assert call.input == {"city": "Oslo"}
    with messages.messages.stream(messages=HELLO, **ask) as stream:
        final: Any = stream.get_final_message()
    assert [b.input for b in final.content if b.type == "tool_use"] == [{"city": "Oslo"}]
    assert final.stop_reason == "tool_use"
    result = [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]
    said: Any = [block.model_dump(exclude_none=True) for block in answer.content]
    history: Any = [*HELLO, {"role": "assistant", "content": said}, {"role": "user", "content": result}]
    last: Any = messages.messages.create(messages=history, **ask)
    assert last.content[0].text == TEXT
    assert judge(provider.state.journal.records(wait=2.0)).passed


@pytest.mark.parametrize("model", MODELS)
def test_a_failure_is_told_in_the_dialect_of_the_client(
    provider: LLMockServer, chat: openai.OpenAI, messages: anthropic.Anthropic, model: str
) -> None:
    provider.state.scenarios.add(Fail(400, times=2))
    with pytest.raises(openai.BadRequestError) as told:
        chat.chat.completions.create(model=model, messages=HELLO)
    assert told.value.body
    with pytest.raises(anthropic.BadRequestError) as failed:
        messages.messages.create(model=model, max_tokens=10, messages=HELLO)
    body: Any = failed.value.body
    assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")


@pytest.mark.requirement("A135")
def test_an_alias_stands_for_its_model(gateway: Gateway, provider: LLMockServer, chat: openai.OpenAI) -> None:
    provider.state.scenarios.add(Reply(TEXT))
    whole = chat.chat.completions.with_raw_response.create(model="fast", messages=HELLO)
    assert whole.parse().choices[0].message.content == TEXT
    assert record_of(gateway, whole.headers["x-request-id"])["model"] == "gemini-2.5-flash"


def test_an_unknown_model_and_a_bad_key_are_told_as_anthropic_does(gateway: Gateway) -> None:
    with anthropic.Anthropic(base_url=gateway.url, api_key="sk-wrong", max_retries=0) as stranger:
        with pytest.raises(anthropic.AuthenticationError) as refused:
            stranger.messages.create(model="gpt-4o", max_tokens=10, messages=HELLO)
        body: Any = refused.value.body
        assert body["error"]["type"] == "authentication_error"
    client = anthropic.Anthropic(base_url=gateway.url, api_key=KEY, max_retries=0)
    with client, pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="nobody-has-it", max_tokens=10, messages=HELLO)


@pytest.mark.requirement("A042", "A154", "A159")
def test_providers_are_listed_without_secrets(gateway: Gateway) -> None:
    status, body = gateway.get("/v1/providers", authorization=f"Bearer {KEY}")
    told = json.loads(body)
    assert (status, told["total"], told["healthy"]) == (200, 3, 3)
    assert [each["type"] for each in told["providers"]] == ["openai", "anthropic", "gemini"]
    assert all(each["circuit_breaker"]["state"] == "closed" for each in told["providers"])
    assert "api_key" not in body.decode()
    assert gateway.get("/v1/providers")[0] == 401


def test_models_are_listed_in_the_dialect_of_the_client(
    gateway: Gateway, chat: openai.OpenAI, messages: anthropic.Anthropic
) -> None:
    assert {"fast"} <= {model.id for model in chat.models.list()}
    page: Any = messages.models.list()
    assert all(model.type == "model" for model in page.data)


def test_tokens_are_counted_or_estimated(messages: anthropic.Anthropic) -> None:
    count = messages.messages.count_tokens(model="gpt-4o", messages=HELLO)
    assert 1 <= count.input_tokens < 100


def test_who_asks_a_backend_to_count_too_often_rests_it_for_nobody(
    gateway: Gateway, provider: LLMockServer, messages: anthropic.Anthropic
) -> None:
    """llmock has no such endpoint, as many servers: its answer is no reason to leave it alone."""
    for _ in range(12):
        assert messages.messages.count_tokens(model="claude-test-1", messages=HELLO).input_tokens > 0
    provider.state.scenarios.add(Reply(TEXT))
    assert messages.messages.create(model="claude-test-1", max_tokens=100, messages=HELLO).content
    assert json.loads(gateway.get("/v1/providers", authorization=f"Bearer {KEY}")[1])["healthy"] == 3
