"""What a real vLLM put on the wire passes byte for byte, and is metered to the token."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.client import CHAT, Answer, ask
from tests.support.processes import Gateway, running, until
from tests.support.scripted import ScriptedServer, scripted

SAMPLES = Path(__file__).parents[1] / "fixtures" / "vllm"
NAMES = sorted(path.name.removesuffix(".request.json") for path in SAMPLES.glob("*.request.json"))
PATHS = {"completion": "/v1/completions", "embeddings": "/v1/embeddings"}
OWN = {"date", "server", "transfer-encoding", "connection", "x-request-id", "cache-control", "x-accel-buffering"}


@pytest.fixture(scope="module")
def vllm() -> Iterator[ScriptedServer]:
    with scripted(lambda _: b"") as server:
        yield server


@pytest.fixture(scope="module")
def gateway(vllm: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "backends": [{"url": vllm.url, "type": "vllm"}],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
    }
    with running(tmp_path_factory.mktemp("gateway"), config) as process:
        yield process


def both(vllm: ScriptedServer, gateway: Gateway, answer: str, request: str) -> tuple[Answer, Answer]:
    """A recorded answer to a recorded request: as it comes from the server, and through the gateway."""
    raw = (SAMPLES / f"{answer}.raw").read_bytes()
    body = (SAMPLES / f"{request}.request.json").read_bytes()
    vllm.answer = lambda _: raw
    path = PATHS.get(request.split("_")[0], CHAT)
    return ask(vllm.url, body, path), ask(gateway.url, body, path)


def usage_row(gateway: Gateway, answer: Answer) -> tuple[object, ...]:
    request_id = answer.header("x-request-id")
    (row,) = until(
        lambda: [row for row in gateway.usage_rows() if row["request_id"] == request_id], f"the record of {request_id}"
    )
    return tuple(row[name] for name in ("prompt_tokens", "completion_tokens", "usage_source", "termination_reason"))


def reported(answer: Answer) -> tuple[int, int] | None:
    """The last usage figures of an answer."""
    texts = answer.events if answer.body.startswith(b"data:") else [answer.body.decode()]
    values = [json.loads(text) for text in texts if text != "[DONE]"]
    figures = [value["usage"] for value in values if value.get("usage")]
    return (figures[-1]["prompt_tokens"], figures[-1]["completion_tokens"]) if figures else None


@pytest.mark.requirement("A123", "A146", "A147", "A295")
@pytest.mark.parametrize("name", NAMES)
def test_bytes_pass_and_tokens_count(vllm: ScriptedServer, gateway: Gateway, name: str) -> None:
    direct, through = both(vllm, gateway, name, name)
    assert through.whole
    if direct.body.startswith(b'{"detail"'):  # FastAPI's own way: no OpenAI error
        assert through.status == direct.status
        assert json.loads(through.body)["error"]["message"] == json.loads(direct.body)["detail"]
    else:
        assert (through.status, through.body) == (direct.status, direct.body)
    kept = [(field, value) for field, value in direct.headers if field not in OWN]
    if through.body != direct.body:
        kept = [(field, value) for field, value in kept if field != "content-length"]
    assert sorted(field for field in through.headers if field[0] in dict(kept)) == sorted(kept)
    figures = reported(direct)
    row = usage_row(gateway, through)
    if direct.status != 200:
        assert row == (None, None, None, "refused")
    elif figures is not None:
        assert row == (*figures, "provider", "complete")
    else:
        assert row[2:] == ("estimate", "complete")


def without_usage(events: list[str]) -> list[str]:
    """The events as they would be had nobody asked for usage."""
    kept = [event for event in events if '"choices":[]' not in event]
    return [re.sub(r',"usage":\{[^{}]*(?:\{[^{}]*\}[^{}]*)?\}', "", event) for event in kept]


@pytest.mark.requirement("A297")
@pytest.mark.parametrize(
    ("answer", "request_name"),
    [
        ("chat_stream_usage", "chat_stream"),
        ("chat_stream_usage_continuous", "chat_stream"),
        ("chat_stream_n2_usage", "chat_stream"),
        ("tools_required_stream_usage", "tools_auto_stream"),
        ("completion_stream_usage", "completion_stream"),
        ("chat_stream_sigterm", "chat_stream"),
    ],
)
def test_usage_that_nobody_asked_for_is_counted_and_left_out(
    vllm: ScriptedServer, gateway: Gateway, answer: str, request_name: str
) -> None:
    direct, through = both(vllm, gateway, answer, request_name)
    assert through.body == b"".join(f"data: {event}\n\n".encode() for event in without_usage(direct.events))
    assert usage_row(gateway, through) == (*(reported(direct) or ()), "provider", "complete")


def test_an_engine_that_dies_is_said_aloud_and_its_done_is_not_believed(vllm: ScriptedServer, gateway: Gateway) -> None:
    direct, through = both(vllm, gateway, "chat_stream_engine_killed", "chat_stream")
    *begun, _error, done = direct.events
    assert done == "[DONE]"
    assert through.events[:-1] == without_usage(begun)
    error = json.loads(through.events[-1])["error"]
    assert error["message"].startswith("EngineCore encountered an issue")
    assert usage_row(gateway, through) == (*(reported(direct) or ()), "partial", "upstream_broken")
