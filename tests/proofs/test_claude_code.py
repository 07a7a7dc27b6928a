"""Claude Code, as its users start it, edits a file with a model behind OpenAI's chat, and with one behind its own API.

The program is installed for this proof, from npm.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import KEY, Gateway, running
from tests.support.scripted import Received, ScriptedServer, http_answer, scripted

pytestmark = pytest.mark.proof

EVENTS = "content-type: text/event-stream"
TEXT = "Hello from the model\n"


def chat_answer(path: str, body: dict[str, Any]) -> bytes:
    """What a chat model says: first a call of the tool `Write`, then that it is done."""

    def chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        said = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
        return b"data: " + json.dumps(said).encode() + b"\n\n"

    tools = [tool["function"]["name"] for tool in body.get("tools", [])]
    if "Write" not in tools or any(message["role"] == "tool" for message in body["messages"]):
        said = chunk({"role": "assistant", "content": "Done."}) + chunk({}, "stop")
    else:
        arguments = json.dumps({"file_path": path, "content": TEXT})
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "Write", "arguments": ""}}
        said = chunk({"role": "assistant", "content": "I write it."}) + chunk({"tool_calls": [call]})
        for at in range(0, len(arguments), 9):
            said += chunk({"tool_calls": [{"index": 0, "function": {"arguments": arguments[at : at + 9]}}]})
        said += chunk({}, "tool_calls")
    usage = {"id": "c", "choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}}
    return said + b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n"


def message_answer(path: str, body: dict[str, Any]) -> bytes:
    """The same as Anthropic's API says it."""
    tools = [tool["name"] for tool in body.get("tools", [])]
    contents = [message["content"] for message in body["messages"] if isinstance(message["content"], list)]
    answered = any(block.get("type") == "tool_result" for content in contents for block in content)
    calls = "Write" in tools and not answered
    if calls:
        start = {"type": "tool_use", "id": "toolu_1", "name": "Write", "input": {}}
        piece = {"type": "input_json_delta", "partial_json": json.dumps({"file_path": path, "content": TEXT})}
    else:
        start, piece = {"type": "text", "text": ""}, {"type": "text_delta", "text": "Done."}
    usage = {"input_tokens": 100, "output_tokens": 1}
    message = {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": usage,
    }  # fmt: skip
    stop = {"stop_reason": "tool_use" if calls else "end_turn", "stop_sequence": None}
    events = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": start},
        {"type": "content_block_delta", "index": 0, "delta": piece},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": stop, "usage": {"output_tokens": 20}},
        {"type": "message_stop"},
    ]
    return b"".join(b"event: %b\ndata: %b\n\n" % (str(e["type"]).encode(), json.dumps(e).encode()) for e in events)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    command = ["npm", "install", "--silent", "--no-fund", "--no-audit", "@anthropic-ai/claude-code"]
    if subprocess.run(command, cwd=folder, check=False).returncode:
        pytest.skip("Claude Code cannot be installed from npm")
    return folder / "node_modules/.bin/claude"


@pytest.fixture(params=["openai", "anthropic"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Gateway, ScriptedServer, Path]]:
    file = tmp_path / "project" / "hello.txt"
    file.parent.mkdir()
    says = chat_answer if request.param == "openai" else message_answer

    def answer(received: Received) -> bytes:
        if not received.body:
            return http_answer(b'{"object":"list","data":[{"id":"tiny","object":"model"}]}')
        return http_answer(says(str(file), json.loads(received.body)), EVENTS)

    with scripted(answer) as server:
        backend = {"url": server.url, "type": request.param, "api_key": "theirs"}
        config = {"backends": [backend], "health_check": {"enabled": False}}
        with running(tmp_path / "gateway", config) as gateway:
            yield gateway, server, file


@pytest.mark.requirement("A125", "A147")
def test_claude_code_edits_a_file(place: tuple[Gateway, ScriptedServer, Path], program: Path, tmp_path: Path) -> None:
    gateway, server, file = place
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    settings = {
        "HOME": str(tmp_path), "ANTHROPIC_BASE_URL": gateway.url, "ANTHROPIC_AUTH_TOKEN": KEY,
        "ANTHROPIC_MODEL": "tiny", "ANTHROPIC_SMALL_FAST_MODEL": "tiny", "DISABLE_AUTOUPDATER": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    done = subprocess.run(
        [program, "-p", "Write hello.txt", "--permission-mode", "acceptEdits"],
        cwd=file.parent, env={**kept, **settings}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, "Done."), done.stderr
    assert file.read_text() == TEXT
    asked = [each for each in server.received if each.body]
    rows = gateway.wait_for_rows(len(asked))
    assert {row["termination_reason"] for row in rows} == {"complete"}
    assert {row["completion_tokens"] for row in rows} == {20}
    assert len(asked) == len(rows)
    if "/v1/messages" in asked[0].target:
        assert asked[0].header("anthropic-version")
        assert asked[0].header("x-api-key") == "theirs"
