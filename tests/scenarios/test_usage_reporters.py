"""Others are told of each request: webhooks and databases, whatever becomes of them and of the gateway."""

import json
import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text

from tests.support.client import HELLO, Client, ask
from tests.support.databases import mysql_database, postgres_database
from tests.support.processes import Gateway, Sim, running, simulated, until
from tests.support.receivers import Inbox, inbox, wsgi

QUICK = {**HELLO, "max_tokens": 1}
REQUESTS = 20


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "0") as process:
        yield process


def settings(folder: Path, sim: Sim, *reporters: dict[str, Any], **usage: Any) -> dict[str, Any]:
    return {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "usage": {"reporters": list(reporters), "drain": "1s", **usage},
    }


def webhook(name: str, url: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "type": "webhook", "url": url, **more}


def waiting(gateway: Gateway, reporter: str) -> int:
    engine = sqlalchemy.create_engine(f"sqlite:///{gateway.usage_path}")
    try:
        with engine.connect() as connection:
            query = text("SELECT count(*) FROM usage_outbox WHERE reporter = :name")
            return int(connection.execute(query, {"name": reporter}).scalar() or 0)
    finally:
        engine.dispose()


def until_empty(gateway: Gateway, reporter: str) -> None:
    until(lambda: waiting(gateway, reporter) == 0, f"nothing waits for {reporter}", 15)


@pytest.mark.requirement("A256", "A257", "A283", "A286", "A287", "A288", "A289", "A290", "A291", "A292")
@pytest.mark.requirement("A316", "A294")
def test_a_receiver_like_the_published_one(tmp_path: Path, sim: Sim) -> None:
    totals: dict[str, int] = {}

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        """As in the guide: reads the user, the tokens and the model, and answers `{"status": "ok"}`."""
        assert (environ["REQUEST_METHOD"], environ["PATH_INFO"]) == ("POST", "/llm-usage")
        assert environ["CONTENT_TYPE"] == "application/json"
        data = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        tokens = data["prompt_tokens"] + data["completion_tokens"]
        name = f"{data['user_id']}/{data['model']}"
        totals[name] = totals.get(name, 0) + tokens
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b'{"status":"ok"}']

    keys = [{"key": "sk-test-0123456789abcdef", "name": "test", "user_id": "alice"}]
    with wsgi(application) as url, inbox() as box:
        config = settings(tmp_path, sim, webhook("guide", f"{url}/llm-usage"), webhook("box", box.url))
        with running(tmp_path, {**config, "api_keys": keys}) as gateway:
            plain = ask(gateway.url, QUICK)
            stream = ask(gateway.url, {**QUICK, "stream": True})
            until(lambda: len(box.got) == 2, "both events arrived")
            until_empty(gateway, "guide")
            used = sum(plain.json["usage"][name] for name in ("prompt_tokens", "completion_tokens"))
            assert totals == {"alice/sim-small": 2 * used}
            ids = {answer.header("x-request-id") for answer in (plain, stream)}
            assert {event["request_id"] for event in box.got} == set(box.ids) == ids
            first, second = sorted(box.got, key=lambda event: bool(event["is_stream"]))
            assert (first["is_stream"], second["is_stream"]) == (False, True)
            for event in (first, second):
                assert event["endpoint"] == "/v1/chat/completions"
                assert event["total_tokens"] == event["prompt_tokens"] + event["completion_tokens"] == used
                assert event["timestamp"].endswith("Z")
                assert (event["status_code"], event["termination_reason"], event["user_id"]) == (
                    200,
                    "complete",
                    "alice",
                )
                assert "Hello" not in json.dumps(event)
            assert gateway.total("llmproxy_webhook_success_total") == 4
            assert gateway.total("llmproxy_webhook_failure_total") == 0


@pytest.mark.requirement("A293")
def test_the_event_names_the_backend_that_answered(tmp_path: Path, sim: Sim) -> None:
    with inbox() as box, running(tmp_path, settings(tmp_path, sim, webhook("box", box.url))) as gateway:
        ask(gateway.url, QUICK)
        until(lambda: box.got, "told")
        assert box.got[0]["backend_url"] == sim.url


@pytest.mark.requirement("A275", "A276", "A277", "A278", "A263", "A264")
def test_webhook_and_three_databases_at_once_and_one_that_fails(tmp_path: Path, sim: Sim) -> None:
    with mysql_database() as mysql, postgres_database() as postgres, inbox() as box, inbox() as broken:
        broken.status = 500
        login, _, place = mysql.removeprefix("mysql://").rpartition("@")
        host, _, name = place.partition("/")
        targets = {
            "mysql": ("mysql", f"{login}@tcp({host})/{name}", mysql.replace("mysql:", "mysql+pymysql:")),
            "postgres": ("postgres", postgres, postgres.replace("postgresql:", "postgresql+psycopg:")),
            "sqlite": ("sqlite", str(tmp_path / "told.db"), f"sqlite:///{tmp_path}/told.db"),
        }
        reporters = [webhook("broken", broken.url), webhook("box", box.url)]
        reporters += [
            {"name": kind, "type": "database", "database": {"driver": driver, "dsn": dsn, "table": "usage_told"}}
            for kind, (driver, dsn, _) in targets.items()
        ]
        with running(tmp_path, settings(tmp_path, sim, *reporters)) as gateway:
            ids = {ask(gateway.url, QUICK).header("x-request-id") for _ in range(REQUESTS)}
            gateway.wait_for_rows(REQUESTS)
            for kind in (*targets, "box"):
                until_empty(gateway, kind)
            for _, _, url in targets.values():
                assert told(url) == ids
            assert set(box.ids) == ids
            assert waiting(gateway, "broken") == REQUESTS
            state = gateway.metrics()
            assert state['zuebee_usage_deliveries_total{reporter="mysql",result="delivered"}'] == REQUESTS
            assert state["llmproxy_webhook_failure_total"] > 0


def told(url: str) -> set[str]:
    """The request ids in a reporter's table; none of them is there twice."""
    engine = sqlalchemy.create_engine(url)
    try:
        with engine.connect() as connection:
            rows = connection.execute(text("SELECT * FROM usage_told")).mappings().all()
    finally:
        engine.dispose()
    assert all(row["request_body"] is None and row["total_tokens"] > 0 for row in rows)
    ids = [row["request_id"] for row in rows]
    assert len(set(ids)) == len(ids)
    return set(ids)


@pytest.mark.alone
@pytest.mark.requirement("A274", "A281", "A282")
def test_no_client_waits_for_a_webhook_that_sleeps(tmp_path: Path, sim: Sim) -> None:
    def median_s(folder: Path, *reporters: dict[str, Any]) -> float:
        with running(folder, settings(folder, sim, *reporters)) as gateway, Client(gateway.url) as client:
            times_s = []
            for _ in range(60):
                begun_s = time.monotonic()
                assert client.ask(QUICK).status == 200
                times_s.append(time.monotonic() - begun_s)
            return statistics.median(times_s)

    with inbox() as box:
        box.wait_s = 5.0
        without_s = median_s(tmp_path / "without")
        with_s = median_s(tmp_path / "with", webhook("slow", box.url, timeout="10s"))
        assert box.got, "the receiver was asked meanwhile"
    assert with_s < without_s * 2 + 0.005


@pytest.mark.requirement("A279")
def test_switches(tmp_path: Path, sim: Sim) -> None:
    with inbox() as on, inbox() as off:
        reporters = [webhook("on", on.url), webhook("off", off.url, enabled=False)]
        with running(tmp_path / "a", settings(tmp_path / "a", sim, *reporters)) as gateway:
            ask(gateway.url, QUICK)
            until(lambda: on.got, "told")
            assert waiting(gateway, "off") == 0
        with running(tmp_path / "b", settings(tmp_path / "b", sim, *reporters, enabled=False)) as gateway:
            ask(gateway.url, QUICK)
            gateway.wait_for_rows(1)
        assert (len(on.got), len(off.got)) == (1, 0)


@pytest.mark.requirement("A317")
def test_failed_deliveries_are_counted_and_come_again(tmp_path: Path, sim: Sim) -> None:
    """Of an error, of a redirect, and of a connection that is closed without an answer."""
    with ExitStack() as stack:
        boxes = {status: stack.enter_context(inbox()) for status in (500, 302, 0)}
        for status, box in boxes.items():
            box.status = status
        reporters = [webhook(f"box{status}", box.url) for status, box in boxes.items()]
        gateway = stack.enter_context(running(tmp_path, settings(tmp_path, sim, *reporters)))
        assert ask(gateway.url, QUICK).status == 200
        until(lambda: gateway.total("llmproxy_webhook_failure_total") == 3, "counted")
        for box in boxes.values():
            box.status = 200
        until(lambda: all(len(box.got) == 2 for box in boxes.values()), "they came again after 5 s", 15)
        for status, box in boxes.items():
            assert len(set(box.ids)) == 1
            until_empty(gateway, f"box{status}")
        assert gateway.total("llmproxy_webhook_success_total") == 3


def test_a_receiver_that_says_it_is_gone(tmp_path: Path, sim: Sim) -> None:
    with inbox() as box:
        box.status = 410
        with running(tmp_path, settings(tmp_path, sim, webhook("box", box.url))) as gateway:
            ask(gateway.url, QUICK)
            paused = 'zuebee_usage_reporter_state{reporter="box",state="paused"}'
            until(lambda: gateway.metrics().get(paused) == 1.0, "paused")
            for _ in range(5):
                assert ask(gateway.url, QUICK).status == 200
            time.sleep(1.0)
            assert len(box.got) == 1
            assert waiting(gateway, "box") == 6
            assert "wants no events any more" in gateway.output


@pytest.mark.requirement("A282")
def test_nothing_is_lost_when_the_gateway_is_killed_while_it_delivers(tmp_path: Path, sim: Sim) -> None:
    with inbox() as box:
        box.wait_s = 0.05
        config = settings(tmp_path, sim, webhook("box", box.url))
        ids: set[str | None] = set()
        for _ in range(3):
            with running(tmp_path, config) as gateway, Client(gateway.url) as client:
                ids |= {client.ask(QUICK).header("x-request-id") for _ in range(40)}
                before = len(box.got)
                until(lambda seen=before: len(box.got) > seen + 5, "it delivers")
                gateway.wait_for_rows(len(ids))
                gateway.send_signal(signal.SIGKILL)
                gateway.wait()
        box.wait_s = 0.0
        with running(tmp_path, config) as gateway:
            until_empty(gateway, "box")
        assert set(box.ids) == ids
        assert len(box.ids) >= len(ids)


def test_a_full_outbox_refuses_what_would_add_to_it(tmp_path: Path, sim: Sim) -> None:
    with inbox() as box:
        box.status = 500
        keys = [{"key": "sk-test-0123456789abcdef", "name": "test", "total_quota": 1_000_000}]
        config = {**settings(tmp_path, sim, webhook("box", box.url), outbox_capacity=1000), "api_keys": keys}
        with running(tmp_path, config) as gateway:
            ask(gateway.url, QUICK)
            gateway.wait_for_rows(1)
            assert gateway.metrics()["zuebee_usage_outbox_alarm"] == 0
            fill(gateway, 1000)
            until(lambda: gateway.metrics()["zuebee_usage_outbox_alarm"] == 1, "the alarm")
            assert gateway.metrics()["zuebee_usage_outbox_fill"] >= 1
            until(lambda: not_served(gateway) == "usage_outbox_full", "metered requests are refused")


def not_served(gateway: Gateway) -> str:
    answer = ask(gateway.url, QUICK)
    return "" if answer.status == 200 else answer.code


def fill(gateway: Gateway, count: int) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{gateway.usage_path}", connect_args={"timeout": 10})
    columns = "event_id, reporter, payload, created_at_s, due_at_s"
    add = f"INSERT INTO usage_outbox ({columns}) VALUES (:id, 'box', '{{}}', 1, 1)"
    with engine.begin() as connection:
        connection.execute(text(add), [{"id": f"x{n}"} for n in range(count)])
    engine.dispose()


def test_inbox_sees_what_is_sent(tmp_path: Path, sim: Sim) -> None:
    """A positive control: without a reporter nobody is told."""
    box: Inbox
    with inbox() as box, running(tmp_path, settings(tmp_path, sim)) as gateway:
        ask(gateway.url, QUICK)
        gateway.wait_for_rows(1)
        time.sleep(1.0)
        assert box.got == []
