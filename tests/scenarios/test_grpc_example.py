"""The example of docs/grpc.md, pasted as it stands by somebody who has the .proto file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.grpc_peers import grpc_port
from tests.support.pages import blocks, page
from tests.support.processes import KEY, running, simulated
from tests.support.source import ROOT

PAGE = page("docs/grpc.md")


@pytest.mark.requirement("A092")
def test_the_example_prints_an_answer_twice_and_then_when_to_come_again(tmp_path: Path) -> None:
    (command,) = blocks(PAGE, "sh")
    call, error = blocks(PAGE, "python")
    (tmp_path / "proto").symlink_to(ROOT / "proto")
    subprocess.run([sys.executable, *command.split()[1:]], cwd=tmp_path, check=True, timeout=60)
    with simulated(tmp_path / "sim", "--tokens-per-s", "0") as sim:
        limits = {"per_key": {"requests_per_minute": 2}}
        config = {"backends": [{"url": sim.url}], "grpc": {"listen": "127.0.0.1:0"}, "rate_limit": limits}
        with running(tmp_path / "gateway", config) as gateway:
            text = f"{call}\nprint()\n{error}".replace("127.0.0.1:50052", f"127.0.0.1:{grpc_port(gateway)}")
            assert text.count(str(grpc_port(gateway))) == 1
            done = subprocess.run(
                [sys.executable, "-"],
                input=text,
                cwd=tmp_path,
                env={**os.environ, "ZUEBEE_API_KEY": KEY, "PYTHONPATH": str(tmp_path)},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
    assert done.returncode == 0, done.stderr
    whole, streamed, again = done.stdout.splitlines()
    assert whole.rpartition(" ")[0] == streamed
    assert len(streamed) > 50
    assert again.startswith(("again in 0:00:5", "again in 0:01:00"))
