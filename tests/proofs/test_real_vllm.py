"""A real vLLM behind the gateway: the same answers as without it, and usage that equals vLLM's own counters.

`make vllm` serves one; TEST_VLLM_URL says where. Its other clients, if any, would spoil the counts.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.support.client import CHAT, Answer, Client, ask
from tests.support.processes import KEY, Gateway, running, until
from tests.support.vllm import HOW_TO_START, Count, Event, Vllm, events_of, folded, masked

pytestmark = pytest.mark.proof

COMPLETIONS = "/v1/completions"
CHATTING: Event = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello"}],
    "seed": 1,
    "max_tokens": 12,
}
COMPLETING: Event = {"model": "tiny", "prompt": "The gate stands", "seed": 1, "max_tokens": 12}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        # Without it vLLM lets the model write any JSON as arguments, and this one writes nonsense.
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2, 3]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
TOOLS: Event = {"tools": [WEATHER], "tool_choice": "required", "max_tokens": 300, "seed": 5}
STREAM: Event = {"stream": True}
USAGE: Event = {"stream_options": {"include_usage": True}}
CASES: dict[str, tuple[str, Event]] = {
    "chat": (CHAT, CHATTING),
    "chat, two choices": (CHAT, {**CHATTING, "n": 2}),
    "chat with a tool": (CHAT, {**CHATTING, **TOOLS}),
    "chat stream": (CHAT, {**CHATTING, **STREAM}),
    "chat stream with usage": (CHAT, {**CHATTING, **STREAM, **USAGE}),
    "chat stream, two choices": (CHAT, {**CHATTING, **STREAM, "n": 2}),
    "chat stream with a tool": (CHAT, {**CHATTING, **TOOLS, **STREAM}),
    "chat stream with a tool and usage": (CHAT, {**CHATTING, **TOOLS, **STREAM, **USAGE}),
    "completion": (COMPLETIONS, COMPLETING),
    "completion, two choices": (COMPLETIONS, {**COMPLETING, "n": 2}),
    "completion stream": (COMPLETIONS, {**COMPLETING, **STREAM}),
    "completion stream with usage": (COMPLETIONS, {**COMPLETING, **STREAM, **USAGE}),
}
TOO_LONG = {**CHATTING, "messages": [{"role": "user", "content": "too long " * 20_000}]}
ENDLESS = {**CHATTING, **STREAM, "max_tokens": 20_000, "ignore_eos": True}
"""More than a minute of generation."""


@pytest.fixture(scope="module")
def vllm() -> Vllm:
    url = os.environ.get("TEST_VLLM_URL", "").rstrip("/")
    if not url:
        pytest.skip(HOW_TO_START)
    server = Vllm(url)
    assert server.healthy, f"no vLLM answers at {url}/health"
    return server


@pytest.fixture(scope="module")
def gateway(vllm: Vllm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {"backends": [{"url": vllm.url, "type": "vllm"}]}
    with running(tmp_path_factory.mktemp("gateway"), config) as process:
        yield process


@pytest.fixture
def client(gateway: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key=KEY, base_url=f"{gateway.url}/v1", max_retries=0, timeout=30) as package:
        yield package


def record(gateway: Gateway, request_id: str | None) -> dict[str, Any]:
    (row,) = until(
        lambda: [row for row in gateway.usage_rows() if row["request_id"] == request_id], f"the record of {request_id}"
    )
    return row


def recorded(gateway: Gateway, answer: Answer) -> tuple[Count, str, str]:
    """Tokens, where they come from, and how the request ended."""
    row = record(gateway, answer.header("x-request-id"))
    return Count(row["prompt_tokens"], row["completion_tokens"]), row["usage_source"], row["termination_reason"]


def reported(vllm: Vllm, path: str, body: Event) -> Count:
    """What vLLM says that the request costs, asked directly."""
    answer = ask(vllm.url, {**body, **USAGE} if body.get("stream") else body, path, key=None)
    usage = (events_of(answer.body)[-1] if body.get("stream") else answer.json)["usage"]
    return Count(usage["prompt_tokens"], usage["completion_tokens"])


@pytest.mark.requirement("A123", "A146", "A147", "A295", "A297")
@pytest.mark.parametrize("name", CASES)
def test_an_answer_is_vllms_and_its_record_equals_vllms_counters(vllm: Vllm, gateway: Gateway, name: str) -> None:
    path, body = CASES[name]
    direct = ask(vllm.url, body, path, key=None)
    expected = reported(vllm, path, body)
    vllm.wait_until_idle()
    before = vllm.counted
    through = ask(gateway.url, body, path)

    assert (through.status, through.whole) == (direct.status, True) == (200, True)
    if body.get("stream"):
        # vLLM says its fingerprint with the finish reason, or with the usage if that is asked for; the gateway asks.
        moved = () if "stream_options" in body else ("system_fingerprint",)
        choices = folded(events_of(direct.body), moved)
        assert folded(events_of(through.body), moved) == choices
        assert "".join(choices[0][1].values()), "the model said something"
    else:
        assert masked(through.body) == masked(direct.body)
    assert recorded(gateway, through) == (expected, "provider", "complete")
    # Every choice is a request of its own to the counters, prompt included; the usage of an answer has the prompt once.
    counted = Count(expected.prompt * body.get("n", 1), expected.completion)
    until(lambda: vllm.counted - before == counted, f"vLLM's counters grow by {counted}")


@pytest.mark.requirement("A123")
def test_all_records_together_are_what_vllm_counted(vllm: Vllm, gateway: Gateway) -> None:
    vllm.wait_until_idle()
    before = vllm.counted
    single = [case for case in CASES.values() if "n" not in case[1]]
    ids = [ask(gateway.url, body, path).header("x-request-id") for path, body in single]
    rows = [record(gateway, request_id) for request_id in ids]
    total = Count(sum(row["prompt_tokens"] for row in rows), sum(row["completion_tokens"] for row in rows))
    until(lambda: vllm.counted - before == total, f"vLLM's counters grow by {total}")


def _chat(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(**{**CHATTING, **options})


@pytest.mark.requirement("A123")
def test_the_openai_package_chats(client: openai.OpenAI) -> None:
    answer = _chat(client)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert len(_chat(client, n=2).choices) == 2
    assert client.completions.create(**COMPLETING).choices[0].text


@pytest.mark.requirement("A123", "A297")
def test_the_openai_package_sees_usage_in_a_stream_if_it_asked(client: openai.OpenAI) -> None:
    whole = _chat(client).choices[0].message.content
    silent, telling = list(_chat(client, **STREAM)), list(_chat(client, **STREAM, **USAGE))
    for chunks in (silent, telling):
        assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole
    assert all(chunk.usage is None and chunk.choices for chunk in silent)
    assert telling[-1].usage.completion_tokens == 12
    texts = [chunk.choices[0].text for chunk in client.completions.create(**COMPLETING, **STREAM)]
    assert "".join(texts) == client.completions.create(**COMPLETING).choices[0].text


@pytest.mark.requirement("A123", "A147")
def test_the_openai_package_gets_the_same_tool_calls_streamed_or_not(client: openai.OpenAI) -> None:
    calls = [call.function for call in _chat(client, **TOOLS).choices[0].message.tool_calls]
    streamed: dict[int, list[str]] = {}
    for chunk in _chat(client, **TOOLS, **STREAM):
        for delta in chunk.choices[0].delta.tool_calls or ():
            name, arguments = streamed.setdefault(delta.index, ["", ""])
            streamed[delta.index] = [
                name + (delta.function.name or ""),
                arguments + (delta.function.arguments or ""),
            ]
    # Streamed are the model's own characters; in a whole answer vLLM has written them anew.
    assert [(name, json.loads(arguments)) for name, arguments in streamed.values()] == [
        (call.name, json.loads(call.arguments)) for call in calls
    ]
    assert calls
    assert calls[0].name == "get_weather"
    assert json.loads(calls[0].arguments)["city"] in ("Paris", "Rome")


@pytest.mark.requirement("A048", "A123")
@pytest.mark.parametrize("streamed", [{}, STREAM], ids=["whole", "stream"])
def test_what_vllm_refuses_is_refused_in_its_own_words(
    vllm: Vllm, gateway: Gateway, client: openai.OpenAI, streamed: Event
) -> None:
    for status, error, body in (
        (404, openai.NotFoundError, {**CHATTING, "model": "nobody"}),
        (400, openai.BadRequestError, TOO_LONG),
    ):
        direct, through = ask(vllm.url, {**body, **streamed}, key=None), ask(gateway.url, {**body, **streamed})
        assert (through.status, through.body) == (direct.status, direct.body)
        assert through.status == status
        row = record(gateway, through.header("x-request-id"))
        assert (row["termination_reason"], row["completion_tokens"]) == ("refused", None)
        with pytest.raises(error, match=r"does not exist|maximum context length"):
            client.chat.completions.create(**{**body, **streamed})


@pytest.mark.requirement("A123", "A296")
def test_vllm_stops_for_a_client_that_leaves(vllm: Vllm, gateway: Gateway) -> None:
    vllm.wait_until_idle()
    before = vllm.counted
    with Client(gateway.url) as leaving:
        stream = leaving.open(ENDLESS)
        for _ in range(20):
            assert stream.event()
        assert vllm.running == 1
    until(lambda: vllm.running == 0, "vLLM runs nothing any more", 5)
    row = record(gateway, dict(stream.headers)["x-request-id"])
    generated = (vllm.counted - before).completion
    assert (row["termination_reason"], row["usage_source"]) == ("client_gone", "partial")
    assert 19 <= row["completion_tokens"] <= generated < ENDLESS["max_tokens"] // 2


@pytest.mark.requirement("A123")
def test_its_models_are_listed(vllm: Vllm, gateway: Gateway, client: openai.OpenAI) -> None:
    direct = ask(vllm.url, None, "/v1/models", key=None, method="GET")
    through = ask(gateway.url, None, "/v1/models", method="GET")
    assert lasting(through) == lasting(direct)
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").id == "tiny"


def lasting(answer: Answer) -> list[Event]:
    """The model cards without what vLLM makes up anew each time."""
    return [{**card, "created": 0, "permission": []} for card in answer.json["data"]]


@pytest.mark.requirement("A144")
def test_a_vllm_that_hangs_makes_the_gateway_unready_until_it_is_back(vllm: Vllm, tmp_path: Path) -> None:
    process = vllm.process()
    if process is None:
        pytest.skip("vLLM runs on another machine or for another user: it cannot be stopped for a while")
    config = {
        "backends": [{"url": vllm.url, "type": "vllm"}],
        "health_check": {"interval": "200ms", "timeout": "2s", "unhealthy_threshold": 1, "healthy_threshold": 1},
    }
    with running(tmp_path, config) as gateway:
        until(lambda: gateway.get("/health/readiness")[0] == 200, "the gateway is ready")
        with suspended(process):
            until(lambda: gateway.get("/health/readiness")[0] == 503, "the gateway is not ready", 30)
            assert gateway.get("/health/liveliness")[0] == 200
        until(lambda: gateway.get("/health/readiness")[0] == 200, "the gateway is ready again", 30)
        assert ask(gateway.url, CHATTING).status == 200


@contextmanager
def suspended(process: psutil.Process) -> Iterator[None]:
    """The process does nothing inside the block."""
    process.suspend()
    try:
        yield
    finally:
        process.resume()


@pytest.mark.requirement("A123")
def test_the_first_token_is_hardly_later(
    vllm: Vllm, gateway: Gateway, record_property: Callable[[str, object], None]
) -> None:
    body = {**CHATTING, **STREAM, "max_tokens": 2}
    waits_ms: dict[str, list[float]] = {"direct": [], "through": []}
    with Client(vllm.url, None) as direct, Client(gateway.url) as through:
        for _ in range(30):
            for name, connection in (("direct", direct), ("through", through)):
                started_s = time.perf_counter()
                stream = connection.open(body)
                stream.event()
                waits_ms[name].append((time.perf_counter() - started_s) * 1000)
                stream.rest()
    medians_ms = {name: statistics.median(waits) for name, waits in waits_ms.items()}
    print({name: f"{wait:.1f} ms" for name, wait in medians_ms.items()})
    for name, wait in medians_ms.items():
        record_property(f"first_token_{name}_ms", round(wait, 1))
    assert medians_ms["through"] < medians_ms["direct"] + 50
