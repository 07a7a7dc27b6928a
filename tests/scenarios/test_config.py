"""Configuration files in real processes: published ones start, bad ones do not, and a reload is all or nothing."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import Failed, here
from tests.support.processes import KEY, READY, Gateway, Process, running, until

ROOT = Path(__file__).parent.parent.parent
BACKENDS = [{"url": "http://127.0.0.1:1"}]


def zuebee(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "zuebee", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)


@pytest.mark.requirement("A271", "A273")
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("tests/fixtures/llmproxy_scenario_1.yaml", 401),
        ("tests/fixtures/llmproxy_configuration.yaml", 200),
        ("config.yaml.example", 200),
    ],
)
def test_published_files_start_unmodified(tmp_path: Path, name: str, status: int) -> None:
    shutil.copy(ROOT / name, tmp_path / "config.yaml")
    # Only the port is another: those of the files may be taken on the machine that tests.
    gateway = Process(["run"], tmp_path / "log", READY, ZUEBEE_LISTEN=":0", ZUEBEE_SHUTDOWN__GRACE="0s")
    try:
        assert gateway.get("/v1/models")[0] == status
        assert gateway.get("/health/liveliness")[0] == 200
        assert (tmp_path / "data" / "zuebee.db").exists()
    finally:
        assert gateway.stop() == 0


@pytest.mark.requirement("A272")
def test_a_bad_file_is_refused_by_run_and_by_check_config(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("backends:\n  - url: http://127.0.0.1:1\n    wieght: 3\nlisten: nowhere\n")
    for command in ("run", "check-config"):
        done = zuebee(command, "--config", str(path))
        assert done.returncode == 2
        assert done.stderr == f"{path}:3: backends[0].wieght: unknown key `wieght`; did you mean `weight`?\n"
    path.write_text("backends:\n  - url: http://127.0.0.1:1\n    weight: 3\n")
    assert here(tmp_path, "check-config", "--config", str(path)), "a positive control"


@pytest.mark.parametrize(
    ("auth", "words"),
    [
        ("{pipeline: [{type: store, script: {script: 'return return'}}]}", "the script of `store` cannot be compiled"),
        ("{enabled: true, script: {path: decide.lua}}", "the script of `pipeline` cannot be compiled"),
        (
            "{pipeline: [{type: jwt, jwt: {issuer: i, audience: a, jwks_file: decide.lua}}]}",
            "keys of `jwt`: not a JWKS",
        ),
    ],
)
def test_what_is_only_seen_when_it_is_made_is_no_surprise_at_the_start(tmp_path: Path, auth: str, words: str) -> None:
    (tmp_path / "decide.lua").write_text("return return")
    path = tmp_path / "config.yaml"
    path.write_text(
        f"backends: [{{url: 'http://127.0.0.1:1'}}]\nauth: {auth}\n".replace("decide", f"{tmp_path}/decide")
    )
    with pytest.raises(Failed) as caught:
        here(tmp_path, "check-config", "--config", str(path))
    assert (caught.value.status, caught.value.stdout) == (2, "")
    assert caught.value.stderr.startswith(f"{path}: auth: ")
    assert words in caught.value.stderr
    path.write_text(path.read_text().partition("auth:")[0])
    assert here(tmp_path, "check-config", "--config", str(path)), "a positive control"


def reload(gateway: Gateway, config: dict[str, object], outcome: str) -> None:
    """Write the file, send SIGHUP, and wait until the log says `outcome` once more."""
    before = gateway.output.count(outcome)
    gateway.write_config({"backends": BACKENDS, **config})
    gateway.send_signal(signal.SIGHUP)
    until(lambda: gateway.output.count(outcome) > before, outcome)


def status(gateway: Gateway, key: str | None) -> int:
    return gateway.get("/v1/models", **({"Authorization": f"Bearer {key}"} if key else {}))[0]


def test_a_reload_takes_effect_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    other = "sk-other-0123456789abcdef"
    with running(tmp_path, {"backends": BACKENDS}) as gateway:
        assert [status(gateway, key) for key in (KEY, other)] == [200, 401]
        reload(gateway, {"api_keys": [{"key": other}]}, "configuration reloaded")
        assert [status(gateway, key) for key in (KEY, other)] == [401, 200]
        bad = {"api_keys": [{"key": KEY}], "routing": {"retry": {"max_retries": "many"}}}
        reload(gateway, bad, "the old one stays")
        assert "routing.retry.max_retries: expected a whole number" in gateway.output
        assert [status(gateway, key) for key in (KEY, other)] == [401, 200]
        reload(gateway, {"api_keys": [{"key": KEY}], "stream": {"keepalive_interval": "1s"}}, "the old one stays")
        assert [status(gateway, key) for key in (KEY, other)] == [401, 200]


def test_taking_the_last_key_does_not_open_the_door(tmp_path: Path) -> None:
    with running(tmp_path, {"backends": BACKENDS, "listen": ":0"}) as gateway:
        assert status(gateway, None) == 401
        reload(gateway, {"listen": ":0", "api_keys": []}, "the old one stays")
        assert status(gateway, None) == 401
        assert status(gateway, KEY) == 200
