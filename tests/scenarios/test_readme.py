"""The examples of the README, pasted as they stand, work against the demonstration."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import blocks, page
from tests.support.processes import Process

ADDRESS = "http://127.0.0.1:8000"
DEMO = re.compile(r"address   (http://\S+)/v1")
KEY = re.compile(r"key       (\S+)")
README = page("README.md")


class Demo(Process):
    """`zuebee run --demo`, and a shell in which somebody pastes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(["run", "--demo", "--port", "0"], folder / "demo.log", DEMO)
        found = KEY.search(self.output)
        assert found is not None
        self.key = found[1]

    def paste(self, command: list[str], text: str) -> subprocess.CompletedProcess[str]:
        """Feed a block to a shell or an interpreter, with the demonstration's address in place of the default."""
        assert ADDRESS in text
        return subprocess.run(
            command,
            input=text.replace(ADDRESS, self.url),
            env={**os.environ, "ZUEBEE_API_KEY": self.key, "NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    process = Demo(tmp_path_factory.mktemp("demo"))
    yield process
    assert process.stop() == 0


@pytest.mark.requirement("A344")
def test_the_python_example_prints_an_answer_twice(demo: Demo) -> None:
    (text,) = blocks(README, "python")
    done = demo.paste([sys.executable, "-"], text)
    assert done.returncode == 0, done.stderr
    whole, streamed = done.stdout.split("\n", 1)
    answer, tokens = re.fullmatch(r"(.*) (\d+)", whole).groups()  # type: ignore[union-attr]
    assert answer == streamed
    assert len(answer) > 50
    assert int(tokens) > 50


def test_every_curl_line_is_answered(demo: Demo) -> None:
    answers = []
    for text in blocks(README, "bash"):
        done = demo.paste(["bash", "-e"], text.replace("curl ", "curl --silent --show-error --fail-with-body "))
        assert done.returncode == 0, done.stdout + done.stderr
        answers.append(done.stdout)
    stream, watched = answers
    assert stream.startswith("data: {")
    assert stream.endswith("data: [DONE]\n\n")
    assert '{"status":"ready"' in watched
    assert "llmproxy_requests_total{" in watched
    assert '"id":"sim-small"' in watched


def test_the_line_that_the_demonstration_prints_can_be_pasted(demo: Demo) -> None:
    line = next(line for line in demo.output.splitlines() if line.startswith("curl "))
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout.endswith("data: [DONE]\n\n"), done.stderr


def test_a_wrong_key_fails_the_same_lines(demo: Demo) -> None:
    text = blocks(README, "bash")[0].replace("$ZUEBEE_API_KEY", "sk-wrong")
    done = demo.paste(["bash", "-e"], text)
    assert '"code":"invalid_api_key"' in done.stdout
