"""Start, await and stop the programs that a measurement needs."""

import contextlib
import http.client
import os
import socket
import string
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

BENCH = Path(__file__).resolve().parent


class Unusable(Exception):
    """A program that is missing, does not start or answers wrongly; the text says which and why."""


@dataclass(frozen=True)
class Service:
    """A program to run: how to start it, and the path that answers 200 once it is ready."""

    name: str
    command: list[str]
    port: int
    ready_path: str
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_timeout_s: float = 20.0


@dataclass(frozen=True)
class Running:
    """A service that answers. `start_up_s` is the time from its start to its first ready answer."""

    pid: int
    port: int
    start_up_s: float


class _Template(string.Template):
    delimiter = "@"  # nginx and YAML files are full of dollar signs


def render(template: str, directory: Path, **values: object) -> Path:
    """Fill in `templates/<template>` and write it into `directory`."""
    text = (BENCH / "templates" / template).read_text()
    path = directory / template
    path.write_text(_Template(text).substitute(values, directory=directory, bench=BENCH))
    return path


def free_port() -> int:
    """Return a TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(service: Service, cores: frozenset[int], directory: Path) -> Iterator[Running]:
    """Run the service on these cores until the block is left. Its output goes to `<directory>/<name>.log`."""
    log = directory / f"{service.name}.log"
    with log.open("wb") as output:
        started_s = time.perf_counter()
        process = subprocess.Popen(
            service.command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **service.environment},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    try:
        _await_ready(service, process, log)
        yield Running(process.pid, service.port, time.perf_counter() - started_s)
    finally:
        _stop(process)


def _await_ready(service: Service, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.perf_counter() + service.ready_timeout_s
    while not _ready(service):
        if process.poll() is not None:
            raise Unusable(f"{service.name} ended with code {process.returncode}:\n{_tail(log)}")
        if time.perf_counter() > deadline_s:
            raise Unusable(f"{service.name} was not ready after {service.ready_timeout_s:g} s:\n{_tail(log)}")
        time.sleep(0.005)


def _ready(service: Service) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", service.ready_path)
        return connection.getresponse().status == 200
    return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])
