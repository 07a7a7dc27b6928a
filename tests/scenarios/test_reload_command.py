"""`zuebee reload`: the server that runs with a file takes it over, or the command says why it does not."""

import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.client import HELLO, ask
from tests.support.commands import Failed, here
from tests.support.databases import postgres_database
from tests.support.processes import Gateway, Sim, running, simulated, until
from tests.support.receivers import Inbox, inbox


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens", "4", "--tokens-per-s", "0") as process:
        yield process


@pytest.fixture
def config(sim: Sim, tmp_path: Path) -> dict[str, Any]:
    return {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "store": {"path": str(tmp_path / "usage.db")},
        "billing": {"prices": [{"model": "*", "input_per_million": "1"}]},
    }


def write(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump({"listen": "127.0.0.1:0", **config}))


def fails(folder: Path, *command: str) -> str:
    with pytest.raises(Failed) as failed:
        here(folder, *command)
    assert failed.value.status == 1
    return failed.value.stderr


def test_it_is_in_force_or_the_command_says_why(tmp_path: Path, config: dict[str, Any]) -> None:
    write(tmp_path, config)
    assert "No server runs with config.yaml" in fails(tmp_path, "reload")
    with running(tmp_path, config) as gateway:
        door = tmp_path / "usage.db.control"
        assert stat.S_IMODE(door.stat().st_mode) == 0o600
        pid = f"(pid {gateway.popen.pid})"
        assert "would accept it: zuebee reload --config config.yaml" in here(tmp_path, "check-config")
        assert f"config.yaml is in force {pid}" in here(tmp_path, "reload")

        changed = {"billing": {**config["billing"], "hold_ttl": "99s"}, "stream": {"keepalive_interval": "9s"}}
        gateway.write_config({**config, **changed})
        assert f"the running server {pid} needs a restart for billing.hold_ttl, stream.keepalive_interval" in here(
            tmp_path, "check-config"
        )
        said = fails(tmp_path, "reload")
        assert "not reloaded, the old configuration stays" in said
        assert "billing.hold_ttl, stream.keepalive_interval cannot change in a running process" in said

        (tmp_path / "config.yaml").write_text(
            "backends: [{url: nonsense}]\nstore: {path: %s}\n" % (tmp_path / "usage.db")
        )
        assert "backends[0].url" in fails(tmp_path, "reload")
        assert gateway.metrics()['zuebee_config_reloads_total{result="refused"}'] == 2
        assert ask(gateway.url, HELLO).status == 200
    assert not door.exists()


def test_the_server_of_the_store_is_not_told_of_another_file(tmp_path: Path, config: dict[str, Any]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with running(tmp_path, config) as gateway:
        write(other, {**config, "log": {"level": "debug"}})
        said = fails(other, "reload")
        assert "runs with another file" in said
        assert str(gateway.config_path) in said
        assert gateway.metrics()['zuebee_config_reloads_total{result="ok"}'] == 0


def test_after_a_kill_the_next_server_is_found(tmp_path: Path, config: dict[str, Any]) -> None:
    with running(tmp_path, config) as gateway:
        gateway.send_signal(signal.SIGKILL)
        gateway.wait()
        assert "No server runs" in fails(tmp_path, "reload")
    with running(tmp_path, config) as gateway:
        assert f"(pid {gateway.popen.pid})" in here(tmp_path, "reload")


def test_whoever_says_nothing_or_nonsense_keeps_nobody_waiting(tmp_path: Path, config: dict[str, Any]) -> None:
    with running(tmp_path, config) as gateway:
        idle = [socket.socket(socket.AF_UNIX) for _ in range(4)]
        try:
            for each in idle:
                each.connect(str(tmp_path / "usage.db.control"))
            idle[0].sendall(b"nonsense\n")
            assert idle[0].recv(10) == b""
            assert "is in force" in here(tmp_path, "reload")
        finally:
            for each in idle:
                each.close()
        assert ask(gateway.url, HELLO).status == 200


def test_on_postgresql_it_is_beside_the_spool(tmp_path: Path, config: dict[str, Any]) -> None:
    with postgres_database() as url:
        config["store"] = {"url": url, "spool_path": str(tmp_path / "spool.jsonl")}
        with running(tmp_path, config):
            assert "is in force" in here(tmp_path, "reload")


def asked(gateway: Gateway, number: int) -> None:
    """Ask, and wait until that is written: events are for those who are reporters then."""
    assert ask(gateway.url, HELLO).status == 200
    until(lambda: len(gateway.usage_rows()) == number, f"{number} records")


def test_metrics_move_and_reporters_come_and_go(tmp_path: Path, config: dict[str, Any]) -> None:
    with inbox() as first, inbox() as second:
        names = {first.url: "first", second.url: "second"}

        def told(*boxes: Inbox) -> dict[str, Any]:
            reporters = [{"name": names[box.url], "type": "webhook", "url": box.url} for box in boxes]
            return {**config, "usage": {"reporters": reporters}}

        with running(tmp_path, config) as gateway:
            asked(gateway, 1)
            steps = (((first,), (1, 0)), ((first, second), (2, 1)), ((second,), (2, 2)), ((), (2, 2)))
            for number, (boxes, counts) in enumerate(steps, 2):
                gateway.write_config(told(*boxes))
                here(tmp_path, "reload")
                asked(gateway, number)
                until(lambda counts=counts: (len(first.got), len(second.got)) == counts, f"{counts} events")
            gateway.write_config({**config, "metrics": {"path": "/elsewhere", "token": "token-0123456789"}})
            here(tmp_path, "reload")
            assert ask(gateway.url, None, "/metrics", method="GET").status == 404
            assert ask(gateway.url, None, "/elsewhere", method="GET").status == 401
            assert ask(gateway.url, None, "/elsewhere", method="GET", key="token-0123456789").status == 200
