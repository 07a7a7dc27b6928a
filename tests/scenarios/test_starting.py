"""What a user sees who starts ZueBee: it runs, or one clear line says why not. Never a traceback."""

import atexit
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import Failed, here
from tests.support.processes import KEY, READY, SIM_READY, Process
from tests.support.starts import SOURCES
from zuebee import __version__

DEMO_READY = re.compile(r"address +(http://\S+)/v1")

Change = Callable[[Path, dict[str, Any]], None]


def zuebee(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; it must not need more than ten seconds for that."""
    command = [sys.executable, "-m", "zuebee", *arguments]
    environ = {**os.environ, "PYTHONPATH": SOURCES}
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=10, check=False)


def within_ours(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same within our process, for a command that is expected to fail."""
    with pytest.raises(Failed) as caught:
        here(folder, *arguments)
    return subprocess.CompletedProcess(arguments, caught.value.status, caught.value.stdout, caught.value.stderr)


def write_config(folder: Path, change: Change) -> None:
    config: dict[str, Any] = {
        "listen": "127.0.0.1:0",
        "backends": [{"url": "http://127.0.0.1:9"}],
        "api_keys": [{"key": KEY}],
        "usage": {"path": "usage.db"},
        "log": {"access": "off"},
    }
    change(folder, config)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))


def take_port(folder: Path, config: dict[str, Any]) -> None:
    config["listen"] = f"127.0.0.1:{TAKEN.getsockname()[1]}"


def foreign_address(folder: Path, config: dict[str, Any]) -> None:
    config["listen"] = "192.0.2.1:8000"


def bad_certificate(folder: Path, config: dict[str, Any]) -> None:
    (folder / "cert.pem").write_text("no certificate")
    config["server"] = {"tls": {"cert_file": "cert.pem", "key_file": "cert.pem"}}


def missing_certificate(folder: Path, config: dict[str, Any]) -> None:
    config["server"] = {"tls": {"cert_file": "nowhere.pem", "key_file": "nowhere.pem"}}


def newer_database(folder: Path, config: dict[str, Any]) -> None:
    connection = sqlite3.connect(folder / "usage.db")
    connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
    connection.execute("INSERT INTO alembic_version VALUES ('0099')")
    connection.commit()
    connection.close()


def no_database(folder: Path, config: dict[str, Any]) -> None:
    (folder / "usage.db").write_bytes(b"no database at all" * 100)


def database_is_a_folder(folder: Path, config: dict[str, Any]) -> None:
    (folder / "usage.db").mkdir()


def no_room_for_the_database(folder: Path, config: dict[str, Any]) -> None:
    (folder / "file").write_text("")
    config["usage"] = {"path": "file/usage.db"}


def no_room_for_the_access_log(folder: Path, config: dict[str, Any]) -> None:
    config["log"] = {"access": "nowhere/access.log"}


def no_room_for_the_process_log(folder: Path, config: dict[str, Any]) -> None:
    config["log"] = {"access": "off", "output": "nowhere/zuebee.log"}


def bad_authorities(folder: Path, config: dict[str, Any]) -> None:
    (folder / "ca.pem").write_text("no certificate")
    config["backends"] = [{"url": "https://127.0.0.1:9", "ca_file": "ca.pem"}]


TAKEN = socket.create_server(("127.0.0.1", 0))
atexit.register(TAKEN.close)

# What stands in the way, and what the line must tell.
OBSTACLES: list[tuple[Change, str]] = [
    (take_port, r"cannot listen on 127\.0\.0\.1:\d+: .*in use"),
    (foreign_address, r"cannot listen on 192\.0\.2\.1:8000: .*assign"),
    (bad_certificate, r"cert\.pem"),
    (newer_database, r"usage\.db.*a newer one has been here"),
    (no_database, r"usage\.db.*not a database"),
    (database_is_a_folder, r"usage\.db"),
    (no_room_for_the_database, r"file"),
    (no_room_for_the_access_log, r"nowhere/access\.log"),
    (no_room_for_the_process_log, r"nowhere/zuebee\.log"),
    (bad_authorities, r"ca\.pem"),
]


@pytest.mark.parametrize(("change", "reason"), OBSTACLES, ids=[change.__name__ for change, _ in OBSTACLES])
def test_what_stands_in_the_way_is_said_in_one_line(tmp_path: Path, change: Change, reason: str) -> None:
    write_config(tmp_path, change)
    done = zuebee(tmp_path, "run", "--config", "config.yaml")
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    *before, line = done.stderr.splitlines()
    expected = (" WARNING backend 127.0.0.1:9 is out", " open files are allowed")
    assert all(any(words in each for words in expected) for each in before)
    assert line.startswith("zuebee cannot start: ")
    assert re.search(reason, line)


MISTAKES: list[tuple[str, str]] = [
    ("backends:\n  - urll: http://a\n", r"config\.yaml:2: .*urll.*`url`"),
    ("backends:\n  - url: http://a\nserver:\n  body_timeout: soon\n", r"config\.yaml:4: .*body_timeout"),
    ("backends: [\n", r"config\.yaml:\d: "),
    ("backends:\n  - url: ftp://a\n", r"config\.yaml:2: .*http://"),
    ("listen: :8000\n", r"backends"),
    ("backends:\n  - url: http://a\nlisten: 0.0.0.0:8000\n", r"config\.yaml:3: listen: .*without keys"),
    ("backends:\n  - url: http://a\napi_keys:\n  - key: os.environ/NO_SUCH_NAME\n", r"config\.yaml:4: .*NO_SUCH_NAME"),
]


@pytest.mark.requirement("A272")
@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_is_shown_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    done = zuebee(tmp_path, "run") if text is MISTAKES[0][0] else within_ours(tmp_path, "check-config")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    assert all(re.match(r"config\.yaml(:\d+)?: ", line) for line in done.stderr.splitlines())


@pytest.mark.parametrize("command", ["run", "check-config"])
def test_without_a_configuration_it_says_what_to_do(tmp_path: Path, command: str) -> None:
    done = zuebee(tmp_path, command)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "There is no config.yaml. Write one (see config.yaml.example), or try: zuebee run --demo"
    ]


def test_a_missing_certificate_is_a_mistake_in_the_file(tmp_path: Path) -> None:
    write_config(tmp_path, missing_certificate)
    done = zuebee(tmp_path, "run")
    assert done.returncode == 2
    assert "server.tls.cert_file" in done.stderr


def test_a_folder_as_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").mkdir()
    done = zuebee(tmp_path, "run")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)


def test_a_good_file_is_called_good(tmp_path: Path) -> None:
    write_config(tmp_path, lambda _, config: config.update(backends=[{"url": "http://127.0.0.1:9", "name": "one"}]))
    done = zuebee(tmp_path, "check-config", "--config", "config.yaml")
    assert (done.returncode, done.stderr) == (0, "")
    said, store = done.stdout.splitlines()
    assert said == "config.yaml is valid: 1 keys, backends http://127.0.0.1:9"
    assert store.startswith(f"store: {tmp_path}/")


def test_version_and_help(tmp_path: Path) -> None:
    assert zuebee(tmp_path, "--version").stdout == f"zuebee {__version__}\n"
    shown = zuebee(tmp_path, "--help")
    assert shown.returncode == 0
    for command in ("run", "check-config", "sim"):
        assert command in shown.stdout
    assert zuebee(tmp_path, "ruin").returncode == 2


@pytest.mark.requirement("A325", "A380")
def test_the_printed_curl_line_streams_an_answer(tmp_path: Path) -> None:
    demo = Process(["run", "--demo", "--port", "0"], tmp_path / "demo.log", DEMO_READY)
    try:
        [line] = [line for line in demo.output.splitlines() if line.startswith("curl ")]
        assert re.search(r"^  key +sk-zuebee-\S{20,}$", demo.output, re.MULTILINE)
        answer = subprocess.run(line, shell=True, capture_output=True, timeout=20, check=True).stdout
        [shown] = re.findall(r"Metrics: (\S+)", demo.output)
        assert shown == f"{demo.url}/metrics"
        assert b"llmproxy_requests_total" in demo.get("/metrics")[1]
    finally:
        status = demo.stop()
    events = answer.decode().strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    assert len(events) > 10
    words = [
        json.loads(event.removeprefix("data: "))["choices"][0]["delta"].get("content", "") for event in events[:-1]
    ]
    assert "".join(words).strip()
    assert status == 0
    assert "Traceback" not in demo.output


# Each took a tenth of a second or more of every start, of the simulated server's too.
NOT_NEEDED = {
    "run": {"alembic", "psycopg", "redis", "rich"},
    "sim": {"alembic", "psycopg", "redis", "rich", "sqlalchemy", "cryptography"},
}


@pytest.mark.parametrize("command", NOT_NEEDED)
def test_a_start_loads_nothing_that_it_does_not_need(tmp_path: Path, command: str) -> None:
    write_config(tmp_path, lambda _, config: config.update(shutdown={"grace": "0s"}))
    options, ready = {"run": ([], READY), "sim": (["--port", "0"], SIM_READY)}[command]
    process = Process([command, *options], tmp_path / "log", ready, PYTHONPROFILEIMPORTTIME="1")
    assert process.stop() == 0
    loaded = set(re.findall(r"^import time: .*\| +(\w+)$", process.output, re.MULTILINE))
    assert {"typer", "uvloop"} <= loaded
    assert not loaded & NOT_NEEDED[command]
