"""The two curl examples that users of LLMProxy know, to the letter but for the port, against an open gateway."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import Gateway, running, simulated
from tests.support.servers import need_program

EXAMPLE = """curl http://localhost:8000/v1/chat/completions \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "meta-llama/Llama-3-8b-Instruct",
    "messages": [{"role": "user", "content": "Hello"}],
    "stream": %s
  }'"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("curl")
    options = ("--models", "meta-llama/Llama-3-8b-Instruct", "--tokens-per-s", "0")
    with simulated(folder / "sim", *options) as sim:
        config = {"backends": [{"url": sim.url}], "api_keys": None, "listen": ":0"}
        with running(folder / "gateway", config) as process:
            yield process


def run(gateway: Gateway, stream: str) -> bytes:
    need_program("curl", "curl")
    command = (EXAMPLE % stream).replace("localhost:8000", f"127.0.0.1:{gateway.port}").replace("curl ", "curl -sS ", 1)
    return subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=30).stdout


@pytest.mark.requirement("A013", "A031", "A046", "A248", "A270")
def test_the_whole_answer(gateway: Gateway) -> None:
    answer = json.loads(run(gateway, "false"))
    assert answer["choices"][0]["message"]["content"]
    (row,) = gateway.wait_for_rows(1)
    assert row["total_tokens"] == answer["usage"]["total_tokens"]


@pytest.mark.requirement("A034", "A047")
def test_the_stream(gateway: Gateway) -> None:
    stream = run(gateway, "true")
    assert stream.count(b"\n\ndata: ") > 10
    assert stream.endswith(b"data: [DONE]\n\n")


@pytest.mark.requirement("A322")
def test_make_alone_lists_its_targets() -> None:
    root = Path(__file__).parents[2]
    text = subprocess.run([need_program("make", "make")], cwd=root, capture_output=True, text=True, check=True).stdout
    for target in ("run", "install", "test", "check", "bench", "proof", "vllm", "requirements", "help"):
        assert f"\n  {target} " in text or f"{target} " in text, target
