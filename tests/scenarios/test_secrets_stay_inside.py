"""Keys, prompts and answers are in no log, no metric and no record; and nobody is called who is not configured."""

import base64
import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support import tokens
from tests.support.processes import KEY, Gateway, Sim, running, simulated
from tests.support.raw_http import ask, chat, eventually, head, request, wire
from tests.support.source import ROOT
from tests.support.starts import SOURCES

BACKEND_KEY = "canary-backend-key-71c2"
BACKEND_HEADER = "canary-backend-header-9e1d"
WRONG_KEY = "canary-wrong-key-55ab"
PROMPT = "canary-prompt-0f3c"
LOOSE = "canary-loose-8d2e"
TOKEN = tokens.token(name="canary-claim-41ab").decode()
SIGNATURE = "canarysignature7f3e".ljust(43, "A") + "="
NONCE = "canary-nonce-2b8d0c61"
IDEMPOTENCY_KEY = "canary-idempotency-6c30"
HOOK_SECRET = "whsec_" + base64.b64encode(b"canary-hook-secret-93d1-0a7b44").decode()
HOOK_HEADER = "canary-hook-header-5e02"
CANARIES = (
    KEY, BACKEND_KEY, BACKEND_HEADER, WRONG_KEY, PROMPT, LOOSE, TOKEN, TOKEN.split(".")[2], "canary-claim", SIGNATURE,
    NONCE, IDEMPOTENCY_KEY, HOOK_SECRET.removeprefix("whsec_"), "canary-hook-secret", HOOK_HEADER,
)  # fmt: skip


class Place(NamedTuple):
    """A gateway that logs all it can, and its model server."""

    gateway: Gateway
    sim: Sim


def body(stream: bool = True, **sim: Any) -> dict[str, Any]:
    return {**chat(12, stream=stream, **sim), "messages": [{"role": "user", "content": f"Say {PROMPT}!"}]}


REQUESTS = {
    "stream": request(body()),
    "answer": request(body(stream=False)),
    "answer that is kept": request(body(stream=False), idempotency_key=IDEMPOTENCY_KEY),
    "wrong key": request(body(), authorization=f"Bearer {WRONG_KEY}"),
    "key without a scheme": request(body(), authorization=WRONG_KEY),
    "key in another header": request(body(), authorization="", x_api_key=WRONG_KEY),
    "a token": request(body(), authorization=f"Bearer {TOKEN}"),
    "a broken token": request(body(), authorization=f"Bearer {TOKEN[:-4]}"),
    "a signature": request(
        body(),
        authorization="",
        x_client_id="acme",
        x_timestamp="1800000000",
        x_nonce=NONCE,
        x_content_sha256="0" * 64,
        x_signature=f"v1={SIGNATURE}",
    ),
    "basic": request(body(), authorization=f"Basic {WRONG_KEY}"),
    "secrets all over": request(body(), cookie=LOOSE, x_stainless_lang=LOOSE, user_agent=LOOSE, referer=LOOSE),
    "secret in the query": request(body(), path=f"/v1/chat/completions?key={LOOSE}"),
    "secret in the path": head(f"/v1/{LOOSE}", "GET"),
    "secret in the model list": head(f"/v1/models/{LOOSE}", "GET"),
    "secret in the Host": head("/health", "GET", host=f"{LOOSE} x"),
    "broken JSON": request(f'{{"messages": "{PROMPT}'.encode()),
    "wrong type": request(json.dumps({"model": "sim-small", "stream": PROMPT}).encode()),
    "wrong type, inside": request(json.dumps({"model": "sim-small", "messages": PROMPT}).encode()),
    "not UTF-8": request(b'{"model":"sim-small","messages":"' + PROMPT.encode() + b'\xff"}'),
    "no HTTP": f"{PROMPT}\r\n\r\n".encode(),
    "bad header": f"GET /health HTTP/1.1\r\nHost: a\r\nX-A: {LOOSE}\rb\r\n\r\n".encode(),
    **{
        f"fault {fault}": request(body(fault=fault, retry_after_s=0))
        for fault in ("500", "401", "429", "reset", "truncate", "malformed", "html", "error_first", "error_mid")
    },
    "malformed answer": request(body(stream=False, fault="malformed")),
    "hostile usage": request(body(fault="usage", kind="string")),
    "too big an event": request(body(fault="big_event", size_bytes=3_000_000, after_events=1)),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("secrets")
    with simulated(folder / "sim") as sim:
        backend = {"url": sim.url, "api_key": BACKEND_KEY, "headers": {"x-tenant": BACKEND_HEADER}}
        log = {"level": "debug", "format": "json", "access": str(folder / "gateway" / "access.log")}
        hook = {"name": "hook", "type": "webhook", "url": "http://127.0.0.1:9/usage", "secrets": [HOOK_SECRET]}
        config = {
            "backends": [backend],
            "log": log,
            "routing": {"retry": {"enabled": False}},
            "usage": {"reporters": [{**hook, "headers": {"x-hook": HOOK_HEADER}}]},
        }
        with running(folder / "gateway", config) as gateway:
            yield Place(gateway, sim)


async def send(port: int, data: bytes) -> bytes:
    async with wire(port) as client:
        client.send(data)
        client.writer.write(head("/health/liveliness", "GET", connection="close"))
        return await client.closed()


def kept(gateway: Gateway) -> dict[str, bytes]:
    """All that a gateway writes down, by where."""
    written = [path for path in gateway.folder.glob("*") if path.is_file() and path.name != "config.yaml"]
    files = {path.name: path.read_bytes() for path in written}
    return {**files, "metrics": gateway.get("/metrics")[1]}


def tables_of(folder: Path) -> dict[str, bytes]:
    """All rows of all tables in the SQLite files of a folder, by file and table."""
    found: dict[str, bytes] = {}
    for path in folder.glob("*.db"):
        with contextlib.closing(sqlite3.connect(path)) as connection:
            names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for name in names:
                rows = connection.execute(f'SELECT * FROM "{name}"').fetchall()
                cells = (cell for row in rows for cell in row)
                found[f"{path.name}/{name}"] = b"\n".join(
                    cell if isinstance(cell, bytes) else str(cell).encode() for cell in cells
                )
    return found


async def test_no_secret_is_written_down(place: Place) -> None:
    gateway = place.gateway
    answers = {name: await send(gateway.port, data) for name, data in REQUESTS.items()}
    completion = json.loads((await ask(gateway.port, REQUESTS["answer"])).body)["choices"][0]["message"]["content"]
    async with wire(gateway.port) as client:
        client.send(request(body(fault="hang", after_events=2)))
        await client.read_head()
        client.vanish()
    gateway.config_path.write_text(f"api_keys:\n  - key: [{LOOSE}]\n  - {LOOSE}\nbackends: {LOOSE}\n")
    gateway.send_signal(signal.SIGHUP)
    await eventually(lambda: "not reloaded" in gateway.output, "the reload is refused")
    await eventually(lambda: gateway.metrics()["zuebee_requests_running"] == 0, "all is answered")
    endings, records = (gateway.total(f"zuebee_{name}_total") for name in ("terminations", "usage_records"))
    assert min(endings, records) > len(REQUESTS) / 2
    await eventually(lambda: len(gateway.access_lines()) == endings, "all is logged")
    await eventually(lambda: len(gateway.usage_rows()) == records, "all is on record")
    tables = tables_of(gateway.folder)
    places = {**kept(gateway), **tables}
    # The search finds what may be there.
    assert {name for name, data in places.items() if b"sim-small" in data} >= {"access.log", "metrics"}
    assert any(b"sim-small" in data for name, data in places.items() if name.startswith("usage.db"))
    assert b"sim-small" in tables["usage.db/usage_records"]
    assert b"req_" in tables["usage.db/usage_outbox"], "of whom the reporter is to be told"
    assert len(tables["usage-answers.db/kept_answers"]) > 200, "an answer is kept"
    assert b"refuses the gateway's own key" in places["gateway.log"]
    for canary in (*CANARIES, completion[:24]):
        found = [name for name, data in places.items() if canary.encode() in data]
        assert not found, f"{canary} is in {found}"
    for canary in (KEY, BACKEND_KEY, BACKEND_HEADER, WRONG_KEY, TOKEN, SIGNATURE, HOOK_SECRET, HOOK_HEADER):
        echoed = [name for name, answer in answers.items() if canary.encode() in answer]
        assert not echoed, f"{canary} is in the answer to {echoed}"


@pytest.mark.requirement("A077")
async def test_the_backend_sees_its_own_key_and_nothing_of_the_callers(place: Place) -> None:
    gateway, sim = place
    for name in ("stream", "secrets all over", "key in another header"):
        await send(gateway.port, REQUESTS[name])
    posts = [dict(one["headers"]) for one in sim.control("GET", "/_sim/requests") if one["method"] == "POST"]
    assert {headers["authorization"] for headers in posts} == {f"Bearer {BACKEND_KEY}"}
    assert not [headers for headers in posts if KEY in str(headers) or WRONG_KEY in str(headers)]
    assert not [headers for headers in posts if "cookie" in headers or "referer" in headers or "x-api-key" in headers]


@pytest.mark.requirement("A378")
def test_only_configured_backends_are_called(tmp_path: Path) -> None:
    """Run it all in a network of its own that leads nowhere, and count what tried to leave."""
    script = [sys.executable, "-m", "tests.support.offline", str(tmp_path)]
    alone = ["unshare", "--net"] if os.getuid() == 0 else ["unshare", "--net", "--map-root-user"]
    if not shutil.which("unshare") or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a network namespace (unshare --net)")
    environ = {"PYTHONPATH": f"{SOURCES}:{ROOT}", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run([*alone, *script], env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["statuses"] == [200] * len(seen["statuses"])
    assert seen["left"] == 0, "something tried to reach another address"
    assert seen["asked_names"] == 0, "something asked for a name"
    assert seen["control"] > 0, "the count must see what tries to leave"


WATCH_IMPORTS = """
import pkgutil, sys
calls = []
watched = ("socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.exec", "os.system")
sys.addaudithook(lambda event, arguments: calls.append((event, arguments)) if event in watched else None)
import zuebee
modules = [module.name for module in pkgutil.walk_packages(zuebee.__path__, "zuebee.") if "__main__" not in module.name]
for name in modules:
    __import__(name)
assert len(modules) > 50
assert not calls, calls
import socket
socket.getaddrinfo("127.0.0.1", 9)
assert calls, "the hook must see what happens"
"""


@pytest.mark.requirement("A378")
def test_importing_it_calls_nobody() -> None:
    command = [sys.executable, "-W", "ignore", "-c", WATCH_IMPORTS]
    done = subprocess.run(command, env={"PYTHONPATH": SOURCES}, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
