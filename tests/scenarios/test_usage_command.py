"""`zuebee usage`, as an operator types it, while the gateway serves."""

import csv
import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from tests.support.client import HELLO, ask
from tests.support.commands import Failed, here, on_terminal, zuebee
from tests.support.processes import Gateway, Sim, running, simulated, until
from tests.support.receivers import inbox
from tests.support.stores import made
from tests.support.usage import make_event, payload
from tests.unit.usage.test_report import NOW_S, record
from zuebee.lib.sql.database import Database
from zuebee.schema.tables import usage_outbox, usage_records
from zuebee.usage.outbox import PARKED_AT_S

QUICK = {**HELLO, "max_tokens": 1}


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "0") as process:
        yield process


def command(config: Path, *arguments: str, status: int = 0, process: bool = False) -> str:
    """What `zuebee usage ...` prints; `process`: in one of its own."""
    run = partial(zuebee if process else here, config.parent, "usage", *arguments, "--config", str(config))
    if not status:
        return run()
    with pytest.raises(Failed) as caught:
        run()
    assert caught.value.status == status
    return caught.value.stderr


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration on a store with a few records of two days."""
    store = Database(f"sqlite:///{made(tmp_path / 'store.db')}", timeout_s=20.0)
    records = [
        record("1", cost_nano=2_500_000_000),
        record("2", at_s=NOW_S - 2 * 86400, user_id="you", model="=HYPERLINK(1)"),
        record("3", key_id="key_2", key_name="other", status=500, prompt_tokens=None, completion_tokens=None),
    ]
    events = [
        {"event_id": f"e{n}", "reporter": "gone", "payload": payload(make_event()), "due_at_s": due_s, "attempts": n}
        for n, due_s in enumerate((1.0, PARKED_AT_S))
    ]
    store.call(lambda connection: connection.execute(insert(usage_records), records))
    store.call(lambda connection: connection.execute(insert(usage_outbox), events))
    store.close()
    path = tmp_path / "config.yaml"
    hook = "{name: hook, type: webhook, url: 'http://127.0.0.1:1/'}"
    path.write_text(f"backends: [{{url: 'http://a:1'}}]\nstore: {{path: store.db}}\nusage: {{reporters: [{hook}]}}\n")
    return path


ALL = ("--since", "2020-01-01")


@pytest.mark.requirement("A107")
def test_totals_for_people(config: Path) -> None:
    shown = command(config, *ALL, process=True)
    assert "mine" in shown
    assert "other" in shown
    assert "2.503 USD" in shown
    seen = on_terminal(config.parent, "usage", *ALL, "--config", str(config))
    assert "2027-01-13" in seen, "the chart has each day"
    assert "2027-01-14" in seen, "also one without requests"
    assert "█" in seen


@pytest.mark.requirement("A107")
def test_totals_for_programs(config: Path) -> None:
    found = json.loads(command(config, *ALL, "--by", "user,day", "--json"))
    assert found["total"]["requests"] == 3
    assert found["currency"] == "USD"
    assert [(each["day"], each["user"], each["requests"], each["total_tokens"]) for each in found["items"]] == [
        ("2027-01-13", "you", 1, 12),
        ("2027-01-15", "me", 2, 12),
    ]
    only = json.loads(command(config, *ALL, "--key", "other", "--json"))
    assert (only["total"]["requests"], only["total"]["errors"]) == (1, 1)
    assert json.loads(command(config, "--until", "2027-01-14", "--json"))["total"]["requests"] == 1
    assert json.loads(command(config, *ALL, "--user", "' OR 1=1 --", "--json"))["total"]["requests"] == 0


@pytest.mark.requirement("A107")
def test_a_callers_choice_of_words_moves_nothing_on_the_operators_screen(config: Path) -> None:
    store = Database(f"sqlite:///{config.parent}/store.db", timeout_s=20.0)
    evil = record("4", model="m\x1b[2J\x1b]0;x\x07\x9b\u202e")
    store.call(lambda connection: connection.execute(insert(usage_records), [evil]))
    store.close()
    shown = command(config, *ALL, "--by", "model", process=True)
    assert "m\\x1b[2J\\x1b]0;x\\x07\\x9b\\u202e" in shown
    assert all(letter.isprintable() or letter in "\n\t" for letter in shown)


def test_csv_and_exports(config: Path) -> None:
    command(config, *ALL, "--by", "model", "--csv", "totals.csv")
    rows = list(csv.DictReader((config.parent / "totals.csv").open()))
    assert {row["model"]: row["requests"] for row in rows} == {"m": "2", "'=HYPERLINK(1)": "1"}
    lines = [json.loads(line) for line in command(config, "export", "--format", "jsonl").splitlines()]
    assert [line["request_id"] for line in lines] == ["1", "2", "3"]
    assert lines[1]["model"] == "=HYPERLINK(1)"
    assert lines[0]["timestamp"] == "2027-01-15T08:00:00.500Z"
    exported = list(csv.DictReader(io.StringIO(command(config, "export", "--user", "me"))))
    assert [row["request_id"] for row in exported] == ["1", "3"]
    assert command(config, "export", "--user", "nobody").startswith("timestamp,request_id,"), "a header, and no rows"
    command(config, "export", "--output", "all.csv")
    assert len((config.parent / "all.csv").read_text().splitlines()) == 4


def test_the_outbox_and_what_can_be_done_about_it(config: Path) -> None:
    def gone() -> dict[str, Any]:
        return next(
            each for each in json.loads(command(config, "outbox", "--json"))["items"] if each["reporter"] == "gone"
        )

    shown = command(config, "outbox")
    assert "hook" in shown
    assert "not configured" in shown
    assert (gone()["waiting"], gone()["parked"], gone()["enabled"]) == (1, 1, False)
    assert "1 were parked" in command(config, "retry", "gone")
    assert (gone()["waiting"], gone()["parked"]) == (2, 0)
    assert "2 events removed" in command(config, "discard", "gone", "--yes")
    assert "gone" not in command(config, "outbox")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--by", "colour"), "--by"),
        (("--since", "yesterday"), "--since"),
        (("--last", "soon"), "--last"),
        (("--last", "7d", "--since", "2026-01-01"), "--last"),
    ],
)
def test_mistakes_name_the_option(config: Path, arguments: tuple[str, ...], problem: str) -> None:
    assert problem in command(config, *arguments, status=2, process=arguments[0] == "--by")


def test_without_records_it_says_so_and_makes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("backends: [{url: 'http://a:1'}]\nstore: {path: none.db}\n")
    assert f"{tmp_path}/none.db (`store.path` of {path}): there is no such file" in command(path, status=1)
    assert not (tmp_path / "none.db").exists()


@pytest.mark.requirement("A107")
def test_it_works_while_the_gateway_serves_and_ends_a_pause(tmp_path: Path, sim: Sim) -> None:
    with inbox() as box:
        box.status = 410
        reporter = {"name": "box", "type": "webhook", "url": box.url}
        config = {
            "backends": [{"url": sim.url}],
            "health_check": {"enabled": False},
            "usage": {"reporters": [reporter]},
        }
        with running(tmp_path, config) as gateway:
            for _ in range(5):
                ask(gateway.url, QUICK)
            gateway.wait_for_rows(5)
            assert json.loads(command(gateway.config_path, "--json"))["total"]["requests"] == 5
            _until_paused(gateway)
            box.status = 200
            command(gateway.config_path, "retry", "box")
            _until_told(gateway, 5)


def _until_paused(gateway: Gateway) -> None:
    paused = 'zuebee_usage_reporter_state{reporter="box",state="paused"}'
    until(lambda: gateway.metrics().get(paused) == 1.0, "paused")


def _until_told(gateway: Gateway, count: int) -> None:
    until(lambda: gateway.total("llmproxy_webhook_success_total") == count, "told", 20)
