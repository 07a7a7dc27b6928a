"""Web pages, base URLs made by hand, and error answers that are none: a real gateway, and what its clients see."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.loopback import loopback, whole
from tests.support.processes import KEY, running
from tests.support.raw_http import ask, chat, request

PAGE = b"https://chat.example"
PREFLIGHT = (
    b"OPTIONS /v1/chat/completions HTTP/1.1\r\nhost: x\r\norigin: %b\r\naccess-control-request-method: POST\r\n"
    b"access-control-request-headers: authorization,content-type\r\n\r\n"
)


def config(url: str, **server: Any) -> dict[str, Any]:
    return {
        "backends": [{"url": url}],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
        "server": server,
    }


async def test_a_page_asks_and_then_sends(tmp_path: Path) -> None:
    answer = whole(b'{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1,"total_tokens":2}}')
    head: bytes = answer[0]
    own = head.replace(b"\r\n", b"\r\naccess-control-allow-origin: https://evil.example\r\n", 1)
    async with loopback([own, *answer[1:]], [own, *answer[1:]]) as backend:
        with running(tmp_path / "gateway", config(backend.url, cors={"origins": [PAGE.decode()]})) as gateway:
            asked = await ask(gateway.port, PREFLIGHT % PAGE)
            assert (asked.status, asked.headers["access-control-allow-origin"]) == (204, PAGE.decode())
            assert (await ask(gateway.port, PREFLIGHT % b"https://evil.example")).status == 403
            given = await ask(gateway.port, request(chat(), origin=PAGE.decode()))
            assert (given.status, given.headers["access-control-allow-origin"]) == (200, PAGE.decode())
            other = await ask(gateway.port, request(chat(), origin="https://evil.example"))
            assert (other.status, other.headers.get("access-control-allow-origin")) == (200, None)


NGINX = b"<html>\r\n<head><title>413 Request Entity Too Large</title></head>\r\n<body>nginx/1.22</body>\r\n</html>"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_proxys_page_is_an_error_that_the_sdk_can_read(tmp_path: Path, stream: bool) -> None:
    head = b"HTTP/1.1 413 X\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n" % len(NGINX)
    async with loopback([head + NGINX]) as backend:
        with running(tmp_path / "gateway", config(backend.url)) as gateway:
            answer = await ask(gateway.port, request(chat(stream=stream)))
    assert (answer.status, answer.headers["content-type"]) == (413, "application/json")
    assert answer.error["message"] == "413 Request Entity Too Large"
    assert answer.error["code"] == "backend_error"


async def test_an_error_without_end_is_cut(tmp_path: Path) -> None:
    page = b"<title>500 Oops</title>" + b"x" * (3 << 20)
    head = b"HTTP/1.1 500 X\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n" % len(page)
    async with loopback([head + page]) as backend:
        with running(tmp_path / "gateway", config(backend.url)) as gateway:
            answer = await ask(gateway.port, request(chat()))
    assert (answer.status, answer.error["message"]) == (500, "500 Oops")


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_fetch_in_node_reads_what_a_page_may_read(tmp_path: Path) -> None:
    script = """
    const [port, key] = process.argv.slice(1);
    const headers = {origin: "https://chat.example", authorization: `Bearer ${key}`};
    const answer = await fetch(`http://127.0.0.1:${port}//v1/models/`, {headers});
    const fields = ["access-control-allow-origin", "vary"].map((name) => answer.headers.get(name));
    console.log(JSON.stringify([answer.status, ...fields]));
    """
    with running(
        tmp_path / "gateway", config("http://127.0.0.1:9", cors={"origins": ["https://*.example"]})
    ) as gateway:
        done = subprocess.run(
            ["node", "--input-type=module", "-e", script, str(gateway.port), KEY],
            capture_output=True,
            text=True,
            timeout=20,
        )
    assert json.loads(done.stdout) == [200, "https://chat.example", "origin"], done.stderr
