"""What a key may ask for over gRPC: how much, how fast, at whose cost. The same line as over HTTP, in gRPC's words."""

import asyncio
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.client import HELLO, ask
from tests.support.commands import ask_here
from tests.support.grpc_peers import Failure, billing_service, calling, chunks, failure, hello
from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from tests.support.promises import stopwatch, within
from tests.support.redis_server import RedisServer, new_prefix, redis_server
from zuebee.ledger.audit import reading, verify
from zuebee.protos.auth_pb2 import ValidateKeyRequest, ValidateKeyResponse
from zuebee.protos.llm_pb2 import ChatCompletionRequest, ChatCompletionResponse

MARKED = {"partial", "estimate"}
AT_ONCE = 7
CROWD = 200


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as process:
        yield process


def config(sim: Sim, **more: Any) -> dict[str, Any]:
    return {
        "backends": [{"url": sim.url, "idle_timeout": "60s"}],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
        "grpc": {"listen": "127.0.0.1:0"},
        **more,
    }


def quick() -> ChatCompletionRequest:
    request = hello(max_tokens=5)
    request.extra.update({"sim": {"tokens_per_s": 0}})
    return request


def held() -> ChatCompletionRequest:
    """A stream that stands still after its first token."""
    request = hello(max_tokens=5)
    request.extra.update({"sim": {"fault": "hang", "after_events": 2}})
    return request


def refused(found: ChatCompletionResponse | Failure | None) -> Failure:
    assert isinstance(found, Failure), found
    assert found.status == "RESOURCE_EXHAUSTED"
    return found


@pytest.mark.requirement("A092")
@pytest.mark.parametrize("stream", [False, True])
def test_a_rate_that_is_reached_is_resource_exhausted_and_says_when_to_come_again(
    tmp_path: Path, sim: Sim, stream: bool
) -> None:
    limits = {"per_key": {"requests_per_minute": 3}}
    with running(tmp_path, config(sim, rate_limit=limits)) as gateway, calling(gateway) as caller:
        passed_s = stopwatch()
        for left in (2, 1, 0):
            found, fields = caller.ask_whole(quick())
            assert isinstance(found, ChatCompletionResponse)
            assert (fields["x-ratelimit-limit-requests"], fields["x-ratelimit-remaining-requests"]) == ("3", str(left))
        before = sim.stats()["requests_started"]
        told = refused(chunks(caller.stream(quick()))[1] if stream else caller.ask(quick()))
        took_s = passed_s()
        assert told.reason == "RATE_LIMIT_EXCEEDED"
        assert told.retry_s is not None
        assert 60 - took_s <= told.retry_s <= 61
        assert int(told.fields["grpc-retry-pushback-ms"]) == round(told.retry_s * 1000)
        assert told.fields["x-ratelimit-remaining-requests"] == "0"
        assert sim.stats()["requests_started"] == before, "the model server was not asked"
        assert ask(gateway.url, HELLO).status == 429, "HTTP counts with it"


@pytest.mark.requirement("A092")
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"requests_per_minute": 1}, "RATE_LIMIT_EXCEEDED"),
        ({"requests_per_hour": 1}, "RATE_LIMIT_EXCEEDED"),
        ({"tokens_per_minute": 150}, "TOKEN_RATE_LIMIT_EXCEEDED"),
        ({"max_concurrent": 1}, "CONCURRENT_LIMIT_EXCEEDED"),
    ],
)
def test_each_limit_is_a_setting_and_each_can_be_changed_while_it_runs(
    tmp_path: Path, sim: Sim, limits: dict[str, int], reason: str
) -> None:
    whole = config(sim, rate_limit={"per_key": limits})
    with running(tmp_path, whole) as gateway, calling(gateway) as caller:
        first = caller.stream(held())
        next(first)
        told = refused(caller.ask(hello(max_tokens=100)))
        assert told.reason == reason
        assert told.retry_s is not None
        assert 0 < told.retry_s <= 3660  # a window slides by a sixtieth of itself
        gateway.write_config({**whole, "rate_limit": {"per_key": {name: n + 1000 for name, n in limits.items()}}})
        gateway.send_signal(signal.SIGHUP)
        until(lambda: "configuration reloaded" in gateway.output, "it is reloaded")
        assert isinstance(caller.ask(quick()), ChatCompletionResponse)
        first.cancel()


def crowd(gateways: list[Gateway], size: int, request: ChatCompletionRequest) -> tuple[list[Any], list[Failure]]:
    """So many callers at the same moment: the streams of those that were let in, and why the others were not."""
    barrier = threading.Barrier(size)
    with ExitStack() as stack:
        callers = [stack.enter_context(calling(gateway)) for gateway in gateways for _ in range(4)]
        for caller in callers:
            grpc.channel_ready_future(caller.channel).result(10)

        def one(number: int) -> Any:
            barrier.wait(30)
            call = callers[number % len(callers)].stream(request)
            try:
                next(call)
            except grpc.RpcError as error:
                return failure(error)
            return call

        with ThreadPoolExecutor(size) as pool:
            found = list(pool.map(one, range(size)))
        inside = [call for call in found if not isinstance(call, Failure)]
        for call in inside:
            call.cancel()
        return inside, [each for each in found if isinstance(each, Failure)]


@pytest.mark.requirement("A092", "A078")
@pytest.mark.parametrize(("storage", "count"), [("memory", 1), ("redis", 1), ("redis", 3)])
def test_of_two_hundred_at_once_exactly_as_many_are_let_in_as_fit(
    tmp_path: Path, sim: Sim, server: RedisServer, storage: str, count: int
) -> None:
    whole = config(sim, rate_limit={"per_key": {"max_concurrent": AT_ONCE}, "storage": storage})
    if storage == "redis":
        whole["redis"] = {"url": server.url, "prefix": new_prefix(), "timeout": "2s"}
    with ExitStack() as stack:
        gateways = [stack.enter_context(running(tmp_path / f"{number}", whole)) for number in range(count)]
        for _ in range(2):  # and again, when the first ones have left
            before = sim.stats()["requests_started"]
            inside, outside = crowd(gateways, CROWD, held())
            assert (len(inside), len(outside)) == (AT_ONCE, CROWD - AT_ONCE)
            assert {(each.status, each.reason) for each in outside} == {
                ("RESOURCE_EXHAUSTED", "CONCURRENT_LIMIT_EXCEEDED")
            }
            assert all(each.retry_s for each in outside)
            assert sim.stats()["requests_started"] - before == AT_ONCE, "the model server was not asked for the others"
            for gateway in gateways:
                until(
                    lambda gateway=gateway: gateway.metrics()["zuebee_requests_running"] == 0, "all requests have ended"
                )


@pytest.mark.requirement("A092")
def test_without_a_limit_all_are_let_in(tmp_path: Path, sim: Sim) -> None:
    """The positive control of the test above."""
    with running(tmp_path, config(sim)) as gateway:
        inside, outside = crowd([gateway], CROWD, held())
        assert (len(inside), outside) == (CROWD, [])


def spent(gateway: Gateway) -> tuple[int, int]:
    """(held, used) of all accounts."""
    with reading(str(gateway.usage_path)) as connection:
        row = connection.exec_driver_sql("SELECT coalesce(sum(held), 0), coalesce(sum(used), 0) FROM ledger_balances")
        held_, used = row.one()
    return int(held_), int(used)


@pytest.mark.requirement("A052", "A095")
def test_a_budget_that_is_gone_refuses_and_waiting_would_not_help(tmp_path: Path, sim: Sim) -> None:
    prices = [{"model": "sim-small", "input_per_million": "1", "output_per_million": "2"}]
    billing = {"prices": prices, "built_in_prices": False}
    with running(tmp_path, config(sim, auth={"enabled": True}, api_keys=None, billing=billing)) as gateway:
        key = ask_here(tmp_path, "keys", "create", "--budget", "0.01/never")["key"]
        with calling(gateway, key) as caller:
            answer = caller.ask(hello(max_tokens=1000))
            assert isinstance(answer, ChatCompletionResponse)
            used = answer.prompt_tokens * 1_000 + answer.completion_tokens * 2_000
            until(lambda: spent(gateway) == (0, used), "it is charged, and nothing is held")
            before = sim.stats()["requests_started"]
            told = refused(caller.ask(hello(max_tokens=6000)))
            assert (told.reason, told.retry_s) == ("BUDGET_EXCEEDED", None)
            assert told.fields["grpc-retry-pushback-ms"] == "-1"
            assert sim.stats()["requests_started"] == before
        with reading(str(gateway.usage_path)) as connection:
            assert not list(verify(connection))


def test_an_endpoint_that_a_key_may_not_use_is_closed_on_this_side_too(tmp_path: Path, sim: Sim) -> None:
    keys = [{"key": KEY, "endpoints": ["/v1/embeddings"]}, {"key": "sk-model-0123456789", "models": ["other-*"]}]
    with running(tmp_path, config(sim, api_keys=keys)) as gateway, calling(gateway) as caller:
        for key, reason in ((KEY, "ENDPOINT_NOT_ALLOWED"), ("sk-model-0123456789", "MODEL_NOT_ALLOWED")):
            found = caller.with_key(key).ask()
            assert isinstance(found, Failure)
            assert (found.status, found.reason) == ("PERMISSION_DENIED", reason)


@pytest.mark.requirement("A050")
async def test_a_key_that_the_billing_service_takes_back_is_cut_within_five_seconds(tmp_path: Path, sim: Sim) -> None:
    good = {"sk-billed-leaving-01", "sk-billed-staying-01"}

    async def validate(request: ValidateKeyRequest) -> ValidateKeyResponse:
        return ValidateKeyResponse(valid=request.api_key in good, user_id="ann", balance=1)

    def follow(gateway: Gateway, key: str, begun: threading.Event) -> Failure | None:
        tokens = 400 if "leaving" in key else 200
        request = hello(max_tokens=tokens)
        request.extra.update({"sim": {"tokens": tokens}})
        with calling(gateway, key) as caller:
            call = caller.stream(request)
            next(call)
            begun.set()
            return chunks(call)[1]

    async with billing_service(validate) as address:
        source = {"type": "billing", "billing": {"addr": address}}
        whole = config(sim, api_keys=None, auth={"pipeline": [source]})

        def story() -> None:
            with running(tmp_path, whole) as gateway, ThreadPoolExecutor(2) as pool:
                begun = [threading.Event(), threading.Event()]
                leaving, staying = (
                    pool.submit(follow, gateway, key, event) for key, event in zip(sorted(good), begun, strict=True)
                )
                assert all(event.wait(10) for event in begun)
                good.discard("sk-billed-leaving-01")
                with within(5.0, "cutting the stream"):
                    told = leaving.result(20)
                assert told is not None
                assert (told.status, told.reason) == ("UNAUTHENTICATED", "INVALID_API_KEY")
                with calling(gateway, "sk-billed-leaving-01") as caller:
                    again = caller.ask()
                    assert isinstance(again, Failure)
                    assert again.status == "UNAUTHENTICATED"
                assert staying.result(20) is None, "another key's stream ends as it should"

        await asyncio.to_thread(story)


@pytest.mark.requirement("A097")
def test_who_leaves_at_random_pays_what_the_model_server_counts(tmp_path: Path, sim: Sim) -> None:
    count = 120
    keys = [{"key": KEY, "name": "test", "total_quota": 10**9}]
    sim.control("POST", "/_sim/reset")
    with running(tmp_path, config(sim, api_keys=keys)) as gateway, calling(gateway) as caller:

        def one(number: int) -> None:
            chance = random.Random(number)
            request = hello(max_tokens=40)
            request.extra.update({"sim": {"tokens": 40, "tokens_per_s": chance.choice([0, 200, 1000])}})
            call = caller.stream(request)
            try:
                for _ in range(chance.randint(0, 30)):
                    next(call)
                time.sleep(chance.uniform(0, 0.02))
            except (grpc.RpcError, StopIteration):
                pass
            call.cancel()

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(one, range(count)))
        until(lambda: spent(gateway)[0] == 0, "nothing is held")
        until(lambda: gateway.metrics()["zuebee_requests_running"] == 0, "all have ended")
        accounts = {
            each["request_id"]: each["prompt_tokens"] + each["completion_tokens"]
            for each in sim.control("GET", "/_sim/account")
        }
        rows = {row["request_id"]: row for row in gateway.usage_rows()}
        assert accounts.keys() <= rows.keys()
        exact = [name for name, row in rows.items() if row["usage_source"] == "provider"]
        assert {name: rows[name]["prompt_tokens"] + rows[name]["completion_tokens"] for name in exact} == {
            name: accounts[name] for name in exact
        }
        assert {"provider", "partial"} <= {rows[name]["usage_source"] for name in accounts} <= MARKED | {"provider"}
        assert {row["termination_reason"] for row in rows.values()} <= {"client_gone", "complete"}
        assert "ERROR" not in gateway.output
        with reading(str(gateway.usage_path)) as connection:
            assert not list(verify(connection))


def test_by_policy_a_request_goes_on_when_its_client_leaves(tmp_path: Path, sim: Sim) -> None:
    whole = config(sim, on_disconnect=[{"policy": "detach"}])
    with running(tmp_path, whole) as gateway, calling(gateway) as caller:
        call = caller.stream(hello(max_tokens=50), ("x-request-id", "leaves"))
        next(call)
        call.cancel()
        line = until(lambda: gateway.access_lines(), "it is logged")[-1]
        assert (line["client_request_id"], line["termination_reason"]) == ("leaves", "client_gone")
        assert (line["completion_tokens"], line["usage_source"]) == (50, "provider")
        assert "ERROR" not in gateway.output


def test_a_client_that_takes_nothing_is_cut_off(tmp_path: Path, sim: Sim) -> None:
    whole = config(sim, server={"write_timeout": "1s"})
    window = ("grpc.http2.bdp_probe", 0)  # it would grow without an end
    with running(tmp_path, whole) as gateway, calling(gateway, KEY, None, window) as caller:
        request = hello(max_tokens=100_000)
        request.extra.update({"sim": {"tokens": 100_000, "tokens_per_s": 0}})
        call = caller.stream(request)
        next(call)
        until(lambda: gateway.metrics()["zuebee_requests_running"] == 0, "it is cut off", 20)
        line = until(lambda: gateway.access_lines(), "it is logged")[-1]
        assert line["termination_reason"] == "client_gone"
        assert isinstance(caller.ask(quick()), ChatCompletionResponse)
        assert "ERROR" not in gateway.output
        call.cancel()
