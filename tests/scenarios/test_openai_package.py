"""The openai package, sync and async, cannot tell the gateway from the service it was written for."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from tests.support.records import line_of, written

HELLO: dict[str, Any] = {"model": "sim-small", "messages": [{"role": "user", "content": "Hello there"}]}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TOKENS = 8
LIMITED, DISABLED = "sk-limited-0123456789", "sk-disabled-0123456789"

Call = Callable[..., Any]
Run = Callable[[Call], Any]


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "0", "--tokens", str(TOKENS)) as process:
        yield process


@pytest.fixture(scope="module")
def gateway(sim: Sim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    # Long enough that a server is not taken for silent when the machine is busy; a silent one costs as much.
    config = {
        "backends": [{"url": sim.url, "first_byte_timeout": "1s", "idle_timeout": "1s", "timeout": "3s"}],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
        "api_keys": [
            {"key": KEY, "name": "test"},
            {"key": LIMITED, "requests_per_minute": 1},
            {"key": DISABLED, "enabled": False},
        ],
    }
    with running(tmp_path_factory.mktemp("gateway"), config) as process:
        yield process


@pytest.fixture(autouse=True)
def _no_faults(sim: Sim) -> None:
    sim.control("DELETE", "/_sim/faults")


async def _gathered(client: openai.AsyncOpenAI, call: Call) -> Any:
    async with client:
        answer = await call(client)
        return [chunk async for chunk in answer] if isinstance(answer, openai.AsyncStream) else answer


def runner(kind: str, url: str, *, key: str = KEY, path: str = "/v1", **options: Any) -> Run:
    """A function that runs a call on a fresh client; streams are read to their end."""
    common = {"api_key": key, "base_url": url + path, "max_retries": 0, "timeout": 10.0, **options}

    def run(call: Call) -> Any:
        if kind == "async":
            return asyncio.run(_gathered(openai.AsyncOpenAI(**common), call))
        with openai.OpenAI(**common) as client:
            answer = call(client)
            return list(answer) if isinstance(answer, openai.Stream) else answer

    return run


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["/v1", ""], ids=["v1", "root"])
def run(kind: str, gateway: Gateway, request: pytest.FixtureRequest) -> Run:
    return runner(kind, gateway.url, path=request.param)


def chat(**options: Any) -> Call:
    return lambda client: client.chat.completions.create(**{**HELLO, **options})


def said(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


@pytest.mark.requirement("A034", "A036", "A295")
def test_a_chat_says_the_same_whole_and_streamed(run: Run) -> None:
    whole = run(chat())
    chunks = run(chat(stream=True))
    counted = run(chat(stream=True, stream_options={"include_usage": True}))
    assert said(chunks) == said(counted) == whole.choices[0].message.content
    assert whole._request_id.startswith("req_")
    assert [chunk.usage for chunk in chunks] == [None] * len(chunks)
    assert all(chunk.choices for chunk in chunks)
    assert (counted[-1].choices, counted[-1].usage) == ([], whole.usage)


@pytest.mark.requirement("A147")
def test_tools_are_called_whole_and_streamed(run: Run) -> None:
    asked = {"tools": [WEATHER], "tool_choice": "required"}
    call = run(chat(**asked)).choices[0].message.tool_calls[0]
    chunks = run(chat(stream=True, **asked))
    deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or ()]
    assert (call.function.name, list(json.loads(call.function.arguments))) == ("get_weather", ["city"])
    assert (deltas[0].id, deltas[0].function.name) == (call.id, "get_weather")
    assert "".join(delta.function.arguments for delta in deltas) == call.function.arguments
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


@pytest.mark.requirement("A037")
def test_completions_whole_and_streamed(run: Run) -> None:
    whole = run(lambda client: client.completions.create(model="sim-small", prompt="Once upon"))
    chunks = run(lambda client: client.completions.create(model="sim-small", prompt="Once upon", stream=True))
    assert whole.object == "text_completion"
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert whole.usage.completion_tokens == TOKENS


@pytest.mark.requirement("A038")
def test_embeddings(run: Run) -> None:
    answer = run(lambda client: client.embeddings.create(model="sim-small", input=["one", "two"], dimensions=8))
    assert [len(each.embedding) for each in answer.data] == [8, 8]
    assert answer.usage.prompt_tokens > 0


def test_models_are_listed_and_found(run: Run) -> None:
    assert {model.id for model in run(lambda client: client.models.list()).data} == {"sim-small", "sim-large"}
    assert run(lambda client: client.models.retrieve("sim-large")).id == "sim-large"
    with pytest.raises(openai.NotFoundError):
        run(lambda client: client.models.retrieve("nobody"))


ERRORS = {
    "wrong key": (openai.AuthenticationError, "sk-wrong-0123456789", {}, "invalid_api_key"),
    "disabled key": (openai.PermissionDeniedError, DISABLED, {}, "key_disabled"),
    "no messages": (openai.BadRequestError, KEY, {"messages": []}, None),
    "wrong type": (openai.BadRequestError, KEY, {"extra_body": {"model": 5}}, "invalid_request"),
    "unknown model": (openai.NotFoundError, KEY, {"model": "nobody"}, None),
    "rate limit": (openai.RateLimitError, LIMITED, {}, "rate_limit_exceeded"),
    "server error": (openai.InternalServerError, KEY, {"extra_body": {"sim": {"fault": 500}}}, None),
    "bad answer": (openai.InternalServerError, KEY, {"extra_body": {"sim": {"fault": "html"}}}, "bad_answer"),
    "silence": (openai.InternalServerError, KEY, {"extra_body": {"sim": {"fault": "hang"}}}, "backend_timeout"),
}


@pytest.mark.requirement("A048")
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_the_classes_that_programs_catch(gateway: Gateway, kind: str, case: str, stream: bool) -> None:
    expected, key, change, code = ERRORS[case]
    client = runner(kind, gateway.url, key=key)
    if case == "rate limit":
        with contextlib.suppress(openai.RateLimitError):
            client(chat())
    with pytest.raises(expected) as caught:
        client(chat(stream=stream, **change))
    error = caught.value
    assert isinstance(error, openai.APIStatusError)
    assert (error.code == code) if code else error.body
    assert error.response.headers["x-request-id"] == error.request_id

    assert line_of(gateway, error.request_id)["status"] == error.status_code


def test_a_stream_that_breaks_raises(gateway: Gateway, kind: str) -> None:
    with pytest.raises(openai.APIError, match="broke off") as caught:
        runner(kind, gateway.url)(chat(stream=True, extra_body={"sim": {"fault": "truncate", "after_events": 3}}))
    assert caught.value.code == "incomplete_answer"


def test_a_client_that_times_out_is_settled_as_gone(gateway: Gateway, kind: str) -> None:
    def gone() -> list[Any]:
        return [line for line in gateway.access_lines() if line["termination_reason"] == "client_gone"]

    written(gateway)
    before = len(gone())
    with pytest.raises(openai.APITimeoutError):
        runner(kind, gateway.url, timeout=0.5)(chat(extra_body={"sim": {"fault": "hang"}}))
    line = until(lambda: gone()[before:], "the access line of the client that left")[0]
    assert (line["status"], line["code"]) == (499, "client_closed_request")


@pytest.mark.parametrize(("status", "requests"), [(500, 1), (503, 2), (429, 2)])
def test_the_package_obeys_what_the_gateway_says_about_retries(
    gateway: Gateway, sim: Sim, kind: str, status: int, requests: int
) -> None:
    """A backend's 500 may have cost something; 429 and 503 ask to come again. Alone the package retries a 500 too."""
    sim.fault(str(status), retry_after_s=0)
    for url, expected in ((gateway.url, requests), (sim.url, 2))[: 2 if status == 500 else 1]:
        before = sim.stats()["requests_started"]
        with pytest.raises(openai.APIStatusError):
            runner(kind, url, max_retries=1)(chat())
        assert sim.stats()["requests_started"] - before == expected


def test_the_gateways_own_timeout_is_not_retried(gateway: Gateway, kind: str) -> None:
    def timeouts() -> list[Any]:
        return [line for line in gateway.access_lines() if line["code"] == "backend_timeout"]

    written(gateway)
    before = len(timeouts())
    with pytest.raises(openai.InternalServerError) as caught:
        runner(kind, gateway.url, max_retries=2)(chat(extra_body={"sim": {"fault": "hang"}}))
    assert caught.value.status_code == 504
    line_of(gateway, caught.value.request_id)
    written(gateway)
    assert len(timeouts()) == before + 1
