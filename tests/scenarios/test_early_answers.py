"""Answers that are given before the body was read: Python's client, node's and nginx get them, each time."""

import asyncio
import http.client
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.services import free_port
from tests.support.processes import KEY, Gateway, running, simulated, until
from tests.support.raw_http import CHAT
from tests.support.servers import need_program

TRIES = 20
MAX_BODY = 1 << 20

# What is wrong, the header fields that make it so, the size of the body, and the status.
EARLY: dict[str, tuple[dict[str, str], int, int]] = {
    "a wrong key": ({"authorization": "Bearer sk-wrong"}, 3_000_000, 401),
    "no key": ({"authorization": ""}, 700_000, 401),
    "too large": ({}, 3_000_000, 413),
    "compressed": ({"content-encoding": "gzip"}, 900_000, 415),
    "headers too large": ({"x-long": "y" * 20_000}, 900_000, 431),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("early")
    with simulated(folder / "sim") as sim:
        config = {
            "backends": [{"url": sim.url}],
            "server": {"max_body_size": MAX_BODY, "max_header_bytes": "16KB"},
            "health_check": {"enabled": False},
        }
        with running(folder / "gateway", config) as process:
            yield process


def upload(port: int, fields: dict[str, str], size: int) -> tuple[int, str]:
    """Status and error code, as Python's own client sees them: it sends all before it reads."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    client.request("POST", CHAT, b"y" * size, {"authorization": f"Bearer {KEY}", **fields})
    answer = client.getresponse()
    body = json.loads(answer.read())
    client.close()
    return answer.status, body["error"]["code"]


@pytest.mark.parametrize("case", EARLY)
async def test_pythons_client_gets_them(gateway: Gateway, case: str) -> None:
    fields, size, status = EARLY[case]
    with ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(upload, gateway.port, fields, size) for _ in range(TRIES)]
    seen = {job.result()[0] for job in jobs}
    # Whoever fails too often is told to wait, as early and as surely.
    assert seen <= {status, 429} if status == 401 else seen == {status}
    await asyncio.to_thread(until, lambda: gateway.metrics()["zuebee_connections"] == 1, "all connections are closed")


NODE = """
const [url, size, tries, fields] = JSON.parse(process.argv[1]);
const body = Buffer.alloc(size, "y"), seen = [];
for (let n = 0; n < tries; n++) {
  try {
    const answer = await fetch(url, {method: "POST", body, headers: fields});
    await answer.text();
    seen.push(answer.status);
  } catch (error) { seen.push(String(error.cause ?? error)); }
}
console.log(JSON.stringify(seen));
"""


@pytest.mark.parametrize("case", ["too large", "compressed", "headers too large"])
def test_nodes_fetch_gets_them(gateway: Gateway, case: str) -> None:
    node = need_program("node", "nodejs")
    fields, size, status = EARLY[case]
    wish = json.dumps([gateway.url + CHAT, size, TRIES, {"authorization": f"Bearer {KEY}", **fields}])
    run = subprocess.run(
        [node, "--input-type=module", "-e", NODE, wish], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(run.stdout) == [status] * TRIES


@contextmanager
def nginx(folder: Path, upstream_port: int, port: int) -> Iterator[None]:
    """nginx in front, which passes a body on while it comes."""
    folder.mkdir()
    paths = " ".join(f"{name}_temp_path {folder}/{name};" for name in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(f"""
pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 0; client_body_temp_path {folder}/body; {paths}
  upstream gateway {{ server 127.0.0.1:{upstream_port}; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://gateway; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_request_buffering off;
    }}
  }}
}}
""")
    program = need_program("nginx", "nginx")
    process = subprocess.Popen([program, "-c", str(folder / "nginx.conf"), "-g", "daemon off;"])
    try:
        until((folder / "pid").exists, "nginx runs")
        yield
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize("case", ["too large", "compressed", "headers too large"])
def test_nginx_in_front_makes_no_502_of_them(gateway: Gateway, tmp_path: Path, case: str) -> None:
    fields, size, status = EARLY[case]
    if "x-long" in fields:
        fields = {"x-long": "y" * 5000, "x-longer": "y" * 5000, "x-longest": "y" * 7000}  # nginx takes lines of 8 KiB
    port = free_port()
    with nginx(tmp_path / "nginx", gateway.port, port), ThreadPoolExecutor(4) as threads:
        jobs = [threads.submit(upload, port, fields, size) for _ in range(TRIES)]
        seen: dict[Any, int] = {}
        for job in jobs:
            seen[job.result()[0]] = seen.get(job.result()[0], 0) + 1
    assert seen == {status: TRIES}
