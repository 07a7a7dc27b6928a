"""A gateway with a pipeline of sources: revocation reaches running streams, a runaway script stops nobody else."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.processes import Gateway, running, simulated
from tests.support.promises import within

KEY = "sk-hook-0123456789"
CHAT = {"model": "sim-small", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 8}


class Desk:
    """A service that knows keys."""

    def __init__(self) -> None:
        self.status = 200
        self.asked = 0


@contextmanager
def desk() -> Iterator[tuple[Desk, str]]:
    state = Desk()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            state.asked += 1
            body = json.dumps({"user_id": "ann", "status": "active"}).encode()
            self.send_response(state.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield state, f"http://127.0.0.1:{server.server_port}/check"
    finally:
        server.shutdown()
        server.server_close()


def post(gateway: Gateway, body: dict[str, object], key: str = KEY, timeout_s: float = 20) -> tuple[int, bytes]:
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(gateway.url + "/v1/chat/completions", json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.mark.requirement("A069", "A070")
def test_a_webhook_and_a_script_decide_and_a_runaway_one_stops_nobody_else(tmp_path: Path) -> None:
    script = """
    if request.headers["Authorization"] == "Bearer sk-spin-0123456789" then while true do end end
    return {allow = data.user_id == "ann", metadata = {name = "Ann"}}
    """
    with desk() as (state, url), simulated(tmp_path) as sim:
        source = {"type": "webhook", "webhook": {"url": url}, "script": {"script": script}}
        config = {"backends": [{"url": sim.url}], "api_keys": None, "auth": {"pipeline": [source]}}
        with running(tmp_path / "gateway", config) as gateway:
            assert post(gateway, CHAT)[0] == 200
            assert post(gateway, CHAT)[0] == 200
            assert state.asked == 1
            status, body = post(gateway, CHAT, "sk-spin-0123456789")
            assert (status, json.loads(body)["error"]["code"]) == (403, "script_failed")
            assert post(gateway, CHAT)[0] == 200
            assert "sk-hook" not in gateway.output + gateway.access_path.read_text()


def test_a_revoked_key_is_cut_within_five_seconds_also_in_a_running_stream(tmp_path: Path) -> None:
    with desk() as (state, url), simulated(tmp_path, "--tokens-per-s", "5", "--tokens", "200") as sim:
        source = {"type": "webhook", "webhook": {"url": url}}
        config = {"backends": [{"url": sim.url}], "api_keys": None, "auth": {"pipeline": [source], "cache": "3s"}}
        with running(tmp_path / "gateway", config) as gateway:
            threading.Timer(1.5, setattr, (state, "status", 404)).start()
            with within(1.5 + 5, "cutting the stream"):
                status, body = post(gateway, {**CHAT, "stream": True, "max_tokens": 200}, timeout_s=30)
            assert status == 200
            assert b"invalid_api_key" in body
            assert b"[DONE]" not in body
            assert post(gateway, CHAT)[0] == 401
