"""wrk, driven for one measurement."""

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.peers import KEY, find
from bench.services import BENCH, Unusable

CONNECTIONS = 32


@dataclass(frozen=True)
class Load:
    """What wrk saw: whole answers, bytes (of unfinished answers too), requests that failed in any way."""

    requests: int
    received_bytes: int
    duration_us: int
    failed: int


def run(port: int, body_file: Path, seconds: int, cores: frozenset[int]) -> Load:
    """Post `body_file` on 32 connections for so long. Raises `Unusable` if wrk fails."""
    command = [
        *(find("wrk"), "--threads", "1", "--connections", str(CONNECTIONS), "--duration", f"{seconds}s"),
        *("--timeout", "60s", "--script", str(BENCH / "load.lua")),
        *(f"http://127.0.0.1:{port}/v1/chat/completions", "--", str(body_file), KEY),
    ]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    lines = result.stdout.strip().splitlines()
    if result.returncode or not lines or not lines[-1].startswith("{"):
        raise Unusable(f"wrk failed: {result.stdout[-300:]} {result.stderr[-300:]}")
    return Load(**json.loads(lines[-1]))
