"""Every byte that the gateway adds to a stream or takes out of it, before the SDKs that people use.

The openai package for Python is tried by the scenarios. These are installed for this proof, from npm and PyPI.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import KEY, Gateway, running
from tests.support.scripted import Received, ScriptedServer, http_answer, scripted

pytestmark = pytest.mark.proof

FOLDER = Path(__file__).with_name("sdks")
PACKAGES = ("openai", "ai", "@ai-sdk/openai-compatible")
SILENCE_S = 0.7
EVENTS = "content-type: text/event-stream"
DONE = b"data: [DONE]\n\n"
WHOLE = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi there!"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8},
}  # fmt: skip
ERROR = b'{"error": {"message": "it is broken", "type": "server_error", "code": "broken"}}'
SAID = {"model": "", "text": "Hi there!", "usage": [], "error": None}
EXPECTED = {
    "slow": SAID,
    "usage": SAID,
    "whole": SAID,
    "held": SAID,
    "error": {**SAID, "text": "", "error": "it is broken"},
}


def chunk(text: str, number: int, *, usage: bool = False, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None, **more}
    said: dict[str, Any] = {
        "id": "c",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [choice],
    }
    if usage:
        said["usage"] = {"prompt_tokens": 5, "completion_tokens": number, "total_tokens": 5 + number}
    return b"id: %d\ndata: %b\n\n" % (number, json.dumps(said).encode())


def stream(*, usage: bool = False) -> bytes:
    words = (("Hi", {}), (" there", {}), ("!", {"finish_reason": "stop"}))
    return b"".join(chunk(text, n, usage=usage, **more) for n, (text, more) in enumerate(words, 1))


def answer(request: Received) -> bytes:
    """`slow`: after a silence, in events with ids. `held`: without an end. The rest as its name says."""
    model = json.loads(request.body)["model"]
    if model in ("slow", "whole", "error"):
        time.sleep(SILENCE_S)
    match model:
        case "whole":
            return http_answer(json.dumps(WHOLE).encode())
        case "error":
            return http_answer(ERROR, status="500 Broken")
        case "held":
            begun = stream()
            return f"HTTP/1.1 200 OK\r\n{EVENTS}\r\ncontent-length: {len(begun) + 99}\r\n\r\n".encode() + begun
    return http_answer(stream(usage=model == "usage") + DONE, EVENTS)


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    with scripted(answer) as running_server:
        yield running_server


@pytest.fixture(scope="module")
def gateway(server: ScriptedServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    config = {
        "backends": [{"url": server.url}],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
        "stream": {"keepalive_interval": "200ms"},
    }
    with running(tmp_path_factory.mktemp("gateway"), config) as process:
        yield process


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the JavaScript packages and our scripts."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("node")
    if subprocess.run(["npm", "install", "--silent", *PACKAGES], cwd=folder, check=False).returncode:
        pytest.skip("the packages cannot be installed from npm")
    for script in FOLDER.glob("*.mjs"):
        shutil.copy(script, folder)
    return folder


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with LangChain."""
    folder = tmp_path_factory.mktemp("python")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    if subprocess.run([folder / "bin/pip", "install", "--quiet", "langchain-openai"], check=False).returncode:
        pytest.skip("LangChain cannot be installed")
    return folder / "bin/python"


def seen(gateway: Gateway, *command: str | Path, folder: Path) -> dict[str, Any]:
    surroundings = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "ZUEBEE_API_KEY")}
    urls = {"OPENAI_BASE_URL": f"{gateway.url}/v1", "OPENAI_API_KEY": KEY, "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [*command, *EXPECTED], cwd=folder, env={**surroundings, **urls}, capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip
    return {line["model"]: {**line, "model": ""} for line in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("script", ["openai_js.mjs", "ai_sdk.mjs"])
def test_in_javascript(gateway: Gateway, node: Path, script: str) -> None:
    assert seen(gateway, "node", script, folder=node) == EXPECTED


def test_in_langchain(gateway: Gateway, python: Path, tmp_path: Path) -> None:
    assert seen(gateway, python, FOLDER / "langchain_py.py", folder=tmp_path) == EXPECTED
