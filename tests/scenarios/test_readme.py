"""The examples of the README, pasted as they stand, work against the demonstration."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pages import blocks, page
from tests.support.processes import Process, simulated, until
from tests.support.starts import SOURCES

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


class Terminal:
    """A folder in which somebody follows the README, with a simulated model server in place of vLLM."""

    def __init__(self, folder: Path, server_url: str) -> None:
        self.folder = folder
        self.address = ""
        self._server_url = server_url
        (folder / ".venv").symlink_to(Path(sys.executable).parents[1])

    def _here(self, text: str) -> str:
        text = text.replace("http://127.0.0.1:8001", self._server_url).replace("qwen-coder", "sim-small")
        return text.replace(ADDRESS, self.address) if self.address else text

    def write_config(self, text: str) -> None:
        """Write the block into `config.yaml`; the server listens on a free port, for others may have 8000."""
        (self.folder / "config.yaml").write_text(self._here(text).replace("qwen-*", "sim-*") + "listen: 127.0.0.1:0\n")

    def command(self, text: str) -> list[str]:
        """A shell that runs these lines; what is installed already is not installed again."""
        absent = ("make install", "sqlite3 " if shutil.which("sqlite3") is None else "make install")
        lines = [line for line in self._here(text).splitlines() if not line.startswith(absent)]
        return ["sh", "-ec", "\n".join(lines)]

    def run(self, text: str) -> str:
        """What the lines print. They must succeed."""
        surroundings = {name: value for name, value in os.environ.items() if name != "TEAM_KEY"}
        done = subprocess.run(
            self.command(text.replace("curl ", "curl --silent --show-error --fail-with-body ")),
            cwd=self.folder,
            env={**surroundings, "NO_PROXY": "127.0.0.1", "PYTHONPATH": SOURCES},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr


def test_from_the_first_configuration_to_budgets_as_it_is_printed(tmp_path: Path) -> None:
    """Two terminals: one in which the server runs, one in which all else is typed."""
    _, start, second, manage, configure, query = (
        text for text in blocks(README, "sh") if not text.startswith(("make run", "export ZUEBEE"))
    )
    first, _, with_budget = blocks(README, "yaml")
    with simulated(tmp_path / "sim", "--tokens-per-s", "0", "--tokens", "8") as sim:
        terminal = Terminal(tmp_path, sim.url)
        terminal.write_config(first)
        with subprocess.Popen(
            terminal.command(start),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": SOURCES},
            stdout=subprocess.DEVNULL,
            stderr=(tmp_path / "log").open("wb"),
            start_new_session=True,
        ) as server:
            try:
                ready = re.compile(r"ready at (http://\S+)")
                terminal.address = until(
                    lambda: found[1] if (found := ready.search((tmp_path / "log").read_text())) else "", "ready"
                )
                assert '"object":"chat.completion"' in terminal.run(second)
                assert (tmp_path / "team.env").stat().st_mode & 0o077 == 0
                terminal.write_config(with_budget)
                said = terminal.run(manage)
                assert "config.yaml is in force" in said
                (key,) = re.findall(r"\bsk-\S+", said)
                asked = second.replace(". ./team.env\n", "").replace("$TEAM_KEY", key)
                assert '"object":"chat.completion"' in terminal.run(asked)
                assert "is in force" in terminal.run(configure)
                left = terminal.run(".venv/bin/zuebee accounts show organization acme")
                assert "49.99" in left
                until(lambda: "sim-small" in terminal.run(query), "the records")
            finally:
                os.killpg(server.pid, signal.SIGTERM)
