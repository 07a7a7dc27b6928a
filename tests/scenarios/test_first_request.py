"""The thinnest path: a gateway, a model server, one request each way."""

import json
import urllib.request
from pathlib import Path

import pytest

from tests.support.processes import KEY, running, simulated


def post(url: str, body: dict[str, object]) -> bytes:
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    request = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        data: bytes = answer.read()
    return data


@pytest.mark.requirement("A326")
def test_a_chat_and_a_stream_are_answered_and_metered(tmp_path: Path) -> None:
    body = {"model": "sim-small", "max_tokens": 5, "messages": [{"role": "user", "content": "Hello!"}]}
    with (
        simulated(tmp_path / "sim", "--tokens-per-s", "0") as sim,
        running(tmp_path / "gateway", {"backends": [{"url": sim.url}]}) as gateway,
    ):
        answer = json.loads(post(gateway.url, body))
        stream = post(gateway.url, {**body, "stream": True})
        rows = gateway.wait_for_rows(2)
    assert answer["usage"]["completion_tokens"] == 5
    assert stream.endswith(b"data: [DONE]\n\n")
    assert b'"usage"' not in stream
    assert [(row["prompt_tokens"], row["completion_tokens"], row["usage_source"]) for row in rows] == [
        (answer["usage"]["prompt_tokens"], 5, "provider"),
        (answer["usage"]["prompt_tokens"], 5, "provider"),
    ]
