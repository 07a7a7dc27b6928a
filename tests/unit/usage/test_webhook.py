import asyncio
import json
from typing import Any

import pytest

from tests.support.usage import Receiver, always, make_event, payload, receiving, script
from tests.unit.usage.test_signing import SECRET, accepts
from zuebee.config.settings_billing import ReporterSettings
from zuebee.lib import clock
from zuebee.usage.outbox import Delivered, Failed, Gone, OutboxEntry
from zuebee.usage.webhook import WebhookSink


def sink(url: str, proxy: str | None = None, **changes: Any) -> WebhookSink:
    return WebhookSink(ReporterSettings(name="hook", type="webhook", url=url, **changes), proxy)


def entry(request_id: str = "req_1", **changes: Any) -> OutboxEntry:
    return OutboxEntry(1, request_id, payload(make_event(request_id, **changes)), 0)


async def deliver(webhook: WebhookSink, *, probe: bool = False) -> Any:
    (outcome,) = await webhook.deliver([entry()], probe=probe)
    await webhook.aclose()
    return outcome


@pytest.mark.requirement("A260", "A283", "A284", "A285", "A286", "A287", "A288", "A289", "A290", "A291", "A292", "A293")
async def test_what_a_receiver_gets() -> None:
    async with receiving() as receiver:
        outcome = await deliver(sink(receiver.url, headers={"Authorization": "Bearer t", "X-A": "b"}))
        assert outcome == Delivered()
        ((line, headers, body),) = receiver.got
    assert line == "POST /llm-usage HTTP/1.1"
    assert (headers["content-type"], headers["authorization"], headers["x-a"]) == ("application/json", "Bearer t", "b")
    assert headers["webhook-id"] == "req_1"
    assert abs(int(headers["webhook-timestamp"]) - clock.wall_s()) < 5
    assert "webhook-signature" not in headers
    said = json.loads(body)
    assert {name: said[name] for name in list(said)[:11]} == {
        "request_id": "req_1",
        "user_id": "me",
        "api_key": "key_0123456789",
        "model": "m",
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "is_stream": False,
        "endpoint": "/v1/chat/completions",
        "timestamp": "2027-01-15T08:00:00.500Z",
        "backend_url": "http://vllm:8000",
    }
    assert (said["status_code"], said["latency_ms"], said["method"]) == (200, 500, "POST")


async def test_put_query_and_mask() -> None:
    async with receiving() as receiver:
        await deliver(sink(receiver.url + "?a=1&b=2", method="PUT", api_key="masked"))
        ((line, _, body),) = receiver.got
    assert line == "PUT /llm-usage?a=1&b=2 HTTP/1.1"
    assert json.loads(body)["api_key"] == "key_***6789"


async def test_a_signed_delivery() -> None:
    async with receiving() as receiver:
        await deliver(sink(receiver.url, secrets=[SECRET]))
        ((_, headers, body),) = receiver.got
    assert accepts(SECRET, headers, body, clock.wall_s())
    assert not accepts(SECRET, headers, body + b" ", clock.wall_s())


@pytest.mark.requirement("A262", "A280")
@pytest.mark.parametrize("retry", [0, 1, 3])
async def test_retry_is_the_number_of_attempts(retry: int) -> None:
    async with receiving(always(b"500")) as receiver:
        assert await deliver(sink(receiver.url, retry=retry)) == Failed("status 500")
        assert len(receiver.got) == max(1, retry)
        assert len(set(receiver.ids)) == 1


async def test_attempts_end_with_the_first_success() -> None:
    async with receiving(script(b"500", b"204")) as receiver:
        assert await deliver(sink(receiver.url, retry=5)) == Delivered()
        assert len(receiver.got) == 2


async def test_a_probe_is_one_attempt() -> None:
    async with receiving(always(b"500")) as receiver:
        await deliver(sink(receiver.url, retry=5), probe=True)
        assert len(receiver.got) == 1


async def test_who_wants_to_be_left_alone_is_not_tried_again_at_once() -> None:
    async with receiving(always(b"429\nretry-after: 3\r\n")) as receiver:
        assert await deliver(sink(receiver.url, retry=5)) == Failed("status 429", 3.0)
        assert len(receiver.got) == 1


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"302\nlocation: http://127.0.0.1:1/other\r\n", Failed("status 302")),
        (b"410", Gone()),
        (b"429\nretry-after: 9\r\n", Failed("status 429", 9.0)),
        (None, Failed("reset")),
    ],
    ids=str,
)
async def test_answers_that_are_no_success(answer: bytes | None, outcome: object) -> None:
    async with receiving(always(answer)) as receiver:
        assert await deliver(sink(receiver.url)) == outcome
        assert len(receiver.got) == 1


@pytest.mark.requirement("A261")
async def test_a_receiver_that_is_slower_than_the_timeout() -> None:
    async def slow(receiver: Receiver, number: int) -> bytes:
        await asyncio.sleep(5)
        return b"200"

    async with receiving(slow) as receiver:
        begun_s = clock.monotonic_s()
        assert await deliver(sink(receiver.url, timeout_s=0.2)) in (
            Failed("no answer in time"),
            Failed("first_byte_timeout"),
            Failed("total_timeout"),
        )
        assert clock.monotonic_s() - begun_s < 2


async def test_nobody_listens() -> None:
    outcome = await deliver(sink("http://127.0.0.1:1/x"))
    assert isinstance(outcome, Failed)
    assert "connect" in outcome.reason


async def test_through_a_proxy() -> None:
    async with receiving() as receiver:
        proxy = receiver.url.removesuffix("/llm-usage")
        assert await deliver(sink("http://billing.example/usage", proxy)) == Delivered()
        ((line, headers, _),) = receiver.got
    assert line == "POST http://billing.example/usage HTTP/1.1"
    assert headers["host"] == "billing.example"


async def test_connections_are_kept() -> None:
    async with receiving() as receiver:
        webhook = sink(receiver.url)
        for _ in range(3):
            await webhook.deliver([entry()], probe=False)
        assert (len(receiver.got), receiver.connections) == (3, 1)
        await webhook.aclose()
