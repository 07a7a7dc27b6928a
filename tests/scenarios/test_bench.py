"""The measurements of `make bench`, short: figures come out, and what is wrong is not measured."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import machine, preflight
from bench.services import Running, Unusable
from tests.support.servers import need_nginx_lua

pytestmark = pytest.mark.alone

ROOT = Path(__file__).parents[2]
BURN_S = 0.3
BURN = f"import time\nwhile time.process_time() < {BURN_S}: pass"
BURN_IN_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {BURN!r}]); input()"


def run_bench(module: str, *arguments: str, results: Path) -> Any:
    command = [sys.executable, "-m", f"bench.{module}", *arguments, "--json", str(results)]
    environment = {**os.environ, "PYTHONPATH": "src"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    return json.loads(results.read_text())


def test_even_streams_stay_even_through_nginx(tmp_path: Path) -> None:
    need_nginx_lua()
    short = ("--streams", "20", "--seconds", "1", "--rounds", "1", "--repeats", "5", "--rest", "0.5")
    record = run_bench("streams", "nginx", *short, results=tmp_path / "streams.json")
    for gaps in (*record["direct"], *record["proxied"]):
        assert gaps["broken_streams"] == 0
        assert gaps["events"] == 20 * 20  # 20 streams of 20 events and `[DONE]`
        assert 45 < gaps["p50_ms"] < 100


def test_cpu_time_of_ended_grandchildren_counts() -> None:
    with subprocess.Popen([sys.executable, "-c", BURN_IN_CHILD], stdin=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        while machine.cpu_time_s(parent.pid) < BURN_S or len(machine.process_tree(parent.pid)) > 1:
            assert parent.poll() is None, "ended before its CPU time was seen"
        spent_s = machine.cpu_time_s(parent.pid)
        parent.stdin.close()
    assert BURN_S <= spent_s < BURN_S + 1.0


def test_a_proxy_that_answers_wrongly_is_not_measured() -> None:
    with (
        server_that_says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}") as port,
        pytest.raises(Unusable, match="answers wrongly"),
    ):
        preflight.check("impostor", Running(os.getpid(), port, 0.0))


@contextlib.contextmanager
def server_that_says(answer: bytes) -> Iterator[int]:
    """One connection, and the same answer to whatever comes in on it."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(65536):
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(timeout=5)
