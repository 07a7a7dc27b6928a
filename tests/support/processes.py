"""Real processes for scenarios: a gateway and simulated model servers, each on a port of its own.

They end with the test, whatever happens, and what they printed is shown when they do not come up.
"""

import json
import os
import re
import signal
import sqlite3
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml

from tests.support.starts import start

T = TypeVar("T")

START_TIMEOUT_S = 20.0
KEY = "sk-test-0123456789abcdef"
READY = re.compile(r"ready at (https?://[^\s\"]+)")
SIM_READY = re.compile(r"simulated model server at (http://\S+)")


def until(check: Callable[[], T], what: str, timeout_s: float = 10.0) -> T:
    """Wait for `check` to give something true; fails with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := check():
            return value
        time.sleep(0.01)
    raise AssertionError(f"not within {timeout_s} s: {what}")


class Process:
    """A `zuebee` command with its output in a file."""

    def __init__(self, arguments: list[str], log: Path, ready: re.Pattern[str], **environ: str) -> None:
        self.log = log
        with log.open("wb") as sink, Path(os.devnull).open("rb") as nothing:
            self.popen = start(arguments, log.parent, nothing, sink, sink, **environ)
        self.url = until(lambda: self._find(ready), f"{arguments} is ready", START_TIMEOUT_S)

    def _find(self, ready: re.Pattern[str]) -> str:
        found = ready.search(self.output)
        if found is None and self.popen.poll() is not None:
            raise AssertionError(f"it ended with {self.popen.returncode}:\n{self.output}")
        return found[1] if found else ""

    @property
    def output(self) -> str:
        """What the process printed so far, both streams."""
        return self.log.read_text(errors="replace")

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self.url.rsplit(":", 1)[1])

    @property
    def resident_bytes(self) -> int:
        """Its resident memory."""
        fields = Path(f"/proc/{self.popen.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.popen.send_signal(number)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for its end; its exit status."""
        return self.popen.wait(timeout_s)

    def stop(self) -> int:
        """Ask it to end, and wait; its exit status."""
        if self.popen.poll() is None:
            self.popen.terminate()
            self.popen.terminate()
        try:
            return self.popen.wait(15)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            raise AssertionError(f"it did not stop:\n{self.output}") from None

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """Status and body of a GET."""
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()


class Sim(Process):
    """A simulated model server (docs/sim.md)."""

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """Call one of its `/_sim` endpoints."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def fault(self, name: str, **options: Any) -> None:
        """Let coming requests meet a fault."""
        self.control("POST", "/_sim/faults", {"fault": name, **options})

    def stats(self) -> dict[str, Any]:
        """Its counters."""
        answer: dict[str, Any] = self.control("GET", "/_sim/stats")
        return answer


class Gateway(Process):
    """A gateway with its configuration file, access log and usage records."""

    def __init__(self, folder: Path, config: dict[str, Any], *, ready: re.Pattern[str] = READY, **environ: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.config_path = folder / "config.yaml"
        self.access_path = folder / "access.log"
        self.usage_path = folder / "usage.db"
        self.write_config(config)
        super().__init__(["run", "--config", str(self.config_path)], folder / "gateway.log", ready, **environ)

    def write_config(self, config: dict[str, Any]) -> None:
        """Write the configuration: `config` over a default that listens on a free port, with one key and no grace."""
        whole: dict[str, Any] = {
            "listen": "127.0.0.1:0",
            "api_keys": [{"key": KEY, "name": "test"}],
            "store": {"path": str(self.usage_path)},
            "log": {"access": str(self.access_path)},
            "shutdown": {"grace": "0s", "drain": "5s"},
            **config,
        }
        self.config_path.write_text(yaml.safe_dump({name: value for name, value in whole.items() if value is not None}))

    def access_lines(self) -> list[dict[str, Any]]:
        """The access log."""
        whole, _, _ = self.access_path.read_text().rpartition("\n")  # the last line may be on its way
        return [json.loads(line) for line in whole.splitlines()]

    def usage_rows(self) -> list[dict[str, Any]]:
        """The usage records, oldest first."""
        connection = sqlite3.connect(self.usage_path)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute("SELECT * FROM usage_records ORDER BY at_s, request_id")]
        finally:
            connection.close()

    def wait_for_rows(self, count: int) -> list[dict[str, Any]]:
        """The usage records, once there are at least so many."""
        return until(lambda: rows if len(rows := self.usage_rows()) >= count else [], f"{count} usage records")

    def metrics(self) -> dict[str, float]:
        """All series by their full name with labels, as in the exposition."""
        lines = self.get("/metrics")[1].decode().splitlines()
        pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
        return {name: float(value) for name, value in pairs}

    def total(self, name: str) -> float:
        """A metric over all its labels."""
        return sum(value for series, value in self.metrics().items() if series.partition("{")[0] == name)


@contextmanager
def simulated(folder: Path, *options: str) -> Iterator[Sim]:
    """A running simulated model server; `options` as for `zuebee sim`."""
    folder.mkdir(parents=True, exist_ok=True)
    process = Sim(["sim", "--port", "0", *options], folder / "sim.log", SIM_READY)
    try:
        yield process
    finally:
        process.stop()


@contextmanager
def running(folder: Path, config: dict[str, Any], **environ: str) -> Iterator[Gateway]:
    """A running gateway (`Gateway.write_config` says what `config` may leave out)."""
    process = Gateway(folder, config, **environ)
    try:
        yield process
    finally:
        process.stop()
