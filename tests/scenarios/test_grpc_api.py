"""The gRPC API as its callers see it: answers, streams, errors, and what happens when one side leaves."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.client import HELLO, ask
from tests.support.grpc_peers import SERVICES, Caller, answered, calling, chunks, failed, hello
from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from zuebee.protos.llm_pb2 import ChatCompletionRequest, ChatMessage, ToolCall


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim")) as process:
        yield process


def config(sim: Sim, **more: Any) -> dict[str, Any]:
    return {
        "backends": [{"url": sim.url, "first_byte_timeout": "1s", "idle_timeout": "1s", "timeout": "3s"}],
        "routing": {"retry": {"enabled": False}},
        "health_check": {"enabled": False},
        "grpc": {"listen": "127.0.0.1:0", "default_model": "sim-small"},
        **more,
    }


@pytest.fixture(scope="module")
def gateway(sim: Sim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), config(sim)) as process:
        yield process


@pytest.fixture(scope="module")
def caller(gateway: Gateway) -> Iterator[Caller]:
    with calling(gateway) as client:
        yield client


def seen(sim: Sim) -> dict[str, Any]:
    """The body of the last request that the model server got."""
    found: dict[str, Any] = json.loads(base64.b64decode(sim.control("GET", "/_sim/requests")[-1]["body_base64"]))
    return found


def logged(gateway: Gateway, **wanted: str) -> dict[str, Any]:
    """The line of the access log with this id: the gate's own (`request_id`), or the caller's (`client_request_id`)."""
    lines = gateway.access_lines
    return until(lambda: next((line for line in lines() if wanted.items() <= line.items()), None), "it is logged") or {}


def test_an_answer_is_the_same_as_over_http(sim: Sim, gateway: Gateway, caller: Caller) -> None:
    over_http = ask(gateway.url, {**HELLO, "max_tokens": 7}).json
    found, fields = caller.ask_whole(hello(max_tokens=7))
    answer = answered(found)
    assert seen(sim) == {"model": "sim-small", "messages": HELLO["messages"], "max_tokens": 7}
    assert answer.output_text == over_http["choices"][0]["message"]["content"]
    assert answer.finish_reason == over_http["choices"][0]["finish_reason"] == "length"
    usage = over_http["usage"]
    assert (answer.prompt_tokens, answer.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert answer.total_tokens == usage["total_tokens"]
    assert (answer.model, answer.usage_estimated) == ("sim-small", False)
    assert answer.latency_ms >= 1000 * 6 / 50, "seven tokens at fifty a second"
    assert fields["x-request-id"] == answer.request_id
    line = logged(gateway, request_id=answer.request_id)
    assert (line["method"], line["path"]) == ("GRPC", "/v1/chat/completions")
    assert (line["status"], line["termination_reason"], line["tokens"]) == (200, "complete", answer.total_tokens)


@pytest.mark.alone
@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("method", ["ChatCompletionStream", "StreamGenerate"])
def test_a_stream_gives_each_token_at_once_and_says_at_its_end_what_it_was(
    gateway: Gateway, caller: Caller, service: str, method: str
) -> None:
    whole = answered(caller.ask(hello(max_tokens=8)))
    came: list[float] = []
    found = []
    call = Caller(caller.channel, service=service).stream(hello(max_tokens=8), method=method)
    for chunk in call:
        came.append(time.monotonic())
        found.append(chunk)
    *deltas, last = found
    assert [chunk.index for chunk in found] == list(range(9))
    assert "".join(chunk.delta_text for chunk in deltas) == whole.output_text
    assert not any(chunk.finish_reason or chunk.total_tokens or chunk.latency_ms for chunk in deltas)
    assert (last.delta_text, last.finish_reason, last.usage_estimated) == ("", "length", False)
    assert (last.prompt_tokens, last.completion_tokens) == (whole.prompt_tokens, 8)
    assert last.total_tokens == whole.total_tokens
    assert 0 <= last.ttft_ms < 100 < last.latency_ms, "the first token did not wait for the last"
    assert came[7] - came[0] > 0.1
    assert dict(call.initial_metadata())["x-request-id"].startswith("req_")


def test_messages_tools_and_what_has_no_field_reach_the_model_server(sim: Sim, caller: Caller) -> None:
    tool = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
    call = ToolCall(id="call_1", name="get_time", arguments="{}")
    request = ChatCompletionRequest(
        messages=[
            ChatMessage(role="system", content="Be brief."),
            ChatMessage(role="user", content="What time is it?", name="ann"),
            ChatMessage(role="assistant", tool_calls=[call]),
            ChatMessage(role="tool", content="noon", tool_call_id="call_1"),
            ChatMessage(role="user", content="Again, with get_time"),
        ],
        temperature=0.0,
        top_p=0.5,
        seed=7,
        stop=["\n\n"],
        presence_penalty=-1,
        max_tokens=40,
    )
    request.meta.user_id = "end-user-1"
    request.extra.update({"tools": [tool], "top_k": 5, "guide": {"b": 1.5, "a": [None, True]}})
    answer = answered(caller.ask(request))
    assert seen(sim) == {
        "model": "sim-small",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What time is it?", "name": "ann"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
                ],
            },
            {"role": "tool", "content": "noon", "tool_call_id": "call_1"},
            {"role": "user", "content": "Again, with get_time"},
        ],
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": 7,
        "stop": ["\n\n"],
        "presence_penalty": -1.0,
        "max_tokens": 40,
        "user": "end-user-1",
        "tools": [tool],
        "top_k": 5,
        "guide": {"b": 1.5, "a": [None, True]},
    }
    assert (answer.finish_reason, [call.name for call in answer.tool_calls]) == ("tool_calls", ["get_time"])
    streamed, failure = chunks(caller.stream(request))
    assert failure is None
    pieces = [call for chunk in streamed for call in chunk.tool_calls]
    assert [call.name for call in pieces if call.name] == ["get_time"]
    assert "".join(call.arguments for call in pieces) == answer.tool_calls[0].arguments
    assert streamed[-1].finish_reason == "tool_calls"


def test_a_prompt_in_parts_is_a_conversation(sim: Sim, caller: Caller) -> None:
    answered(caller.ask(hello(system_prompt="Be brief.", user_prompt="Why?", context="The sky.", max_tokens=1)))
    assert seen(sim)["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?\n\nContext:\nThe sky."},
    ]


WRONG = {
    "messages": (ChatCompletionRequest(), "messages"),
    "both": (hello(messages=[ChatMessage(role="user", content="x")]), "messages"),
    "no role": (ChatCompletionRequest(messages=[ChatMessage(content="x")]), "messages[0].role"),
    "temperature": (hello(temperature=float("nan")), "temperature"),
    "max_tokens": (hello(max_tokens=-7), "max_tokens"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_cannot_be_right_names_its_field(sim: Sim, caller: Caller, name: str, stream: bool) -> None:
    request, field = WRONG[name]
    before = sim.stats()["requests_started"]
    failure = failed(chunks(caller.stream(request))[1] if stream else caller.ask(request))
    assert (failure.status, failure.retry_s) == ("INVALID_ARGUMENT", None)
    assert [violation.field for violation in failure.details["BadRequest"].field_violations] == [field]
    assert failure.fields["grpc-retry-pushback-ms"] == "-1", "clients that retry by themselves do not"
    assert failure.details["RequestInfo"].request_id == failure.fields["x-request-id"]
    assert sim.stats()["requests_started"] == before


@pytest.mark.parametrize("extra", [{"model": "x"}, {"stream": False}, {"n": 2}, {"number": float("inf")}])
def test_extra_cannot_say_what_has_a_field(caller: Caller, extra: dict[str, Any]) -> None:
    request = hello()
    request.extra.update(extra)
    failure = failed(caller.ask(request))
    assert failure.status == "INVALID_ARGUMENT"
    assert failure.details["BadRequest"].field_violations[0].field.startswith("extra")


def test_bytes_that_are_no_message_are_an_error_of_the_caller(gateway: Gateway, caller: Caller) -> None:
    call = caller.channel.unary_unary("/llm.v1.LlmService/ChatCompletion")
    with pytest.raises(grpc.RpcError) as error:
        call(b"\x0a\xff\xff", metadata=(("authorization", f"Bearer {KEY}"),), timeout=10)
    assert error.value.code() == grpc.StatusCode.INVALID_ARGUMENT


FAULTS = {
    "404": ("NOT_FOUND", None),
    "500": ("INTERNAL", None),
    "503": ("UNAVAILABLE", None),
    "401": ("UNAVAILABLE", None),  # it is the gate that the server does not know: none of the caller's business
    "reset": ("UNAVAILABLE", None),
    "hang": ("DEADLINE_EXCEEDED", None),
    "html": ("INTERNAL", None),
    "malformed": ("INTERNAL", None),
    "truncate": ("INTERNAL", None),
    "error_first": ("INTERNAL", None),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("stream", [False, True])
def test_what_goes_wrong_behind_the_gate_has_a_status_of_its_own(
    gateway: Gateway, caller: Caller, fault: str, stream: bool
) -> None:
    request = hello(max_tokens=6)
    request.extra.update({"sim": {"fault": fault, "after_events": 0 if fault in ("reset", "hang") else 2}})
    failure = failed(chunks(caller.stream(request))[1] if stream else caller.ask(request))
    status, retry_s = FAULTS[fault]
    assert failure.status == status, failure
    assert failure.retry_s == retry_s
    assert failure.details["ErrorInfo"].domain == "zuebee"
    line = logged(gateway, request_id=failure.details["RequestInfo"].request_id)
    assert line["termination_reason"] in ("refused", "upstream_broken", "timeout")
    assert KEY not in str(failure)


@pytest.mark.requirement("A092")
def test_a_server_that_asks_to_wait_is_quoted(sim: Sim, tmp_path: Path) -> None:
    with running(tmp_path, config(sim)) as gateway, calling(gateway) as caller:
        request = hello(max_tokens=6)
        request.extra.update({"sim": {"fault": "429", "retry_after_s": 7}})
        failure = failed(caller.ask(request))
        assert (failure.status, failure.retry_s) == ("RESOURCE_EXHAUSTED", 7.0)
        assert failure.fields["grpc-retry-pushback-ms"] == "7000"


@pytest.mark.parametrize(
    ("fault", "status"),
    [("reset", "UNAVAILABLE"), ("hang", "DEADLINE_EXCEEDED"), ("error_mid", "INTERNAL"), ("malformed", "INTERNAL")],
)
def test_a_stream_that_breaks_gives_what_came_and_says_so(caller: Caller, fault: str, status: str) -> None:
    request = hello(max_tokens=20)
    request.extra.update({"sim": {"fault": fault, "after_events": 4, "tokens_per_s": 0}})
    found, failure = chunks(caller.stream(request))
    assert failed(failure).status == status
    assert len(found) == 3, "the first event has only the role"
    assert not any(chunk.finish_reason for chunk in found)


def test_a_server_that_does_not_count_is_counted_for(caller: Caller) -> None:
    request = hello(max_tokens=5)
    request.extra.update({"sim": {"fault": "usage", "kind": "missing"}})
    answer = answered(caller.ask(request))
    assert answer.usage_estimated
    assert answer.total_tokens == answer.prompt_tokens + answer.completion_tokens > 0
    found, _ = chunks(caller.stream(request))
    assert found[-1].usage_estimated
    assert 5 <= found[-1].completion_tokens <= 7


@pytest.mark.parametrize("carrier", ["authorization", "x-api-key"])
def test_a_key_is_a_key_whoever_carries_it(caller: Caller, carrier: str) -> None:
    nobody = caller.with_key("")
    prefix = "Bearer " if carrier == "authorization" else ""
    answered(nobody.ask(None, (carrier, prefix + KEY)))
    wrong = failed(nobody.ask(None, (carrier, prefix + "sk-wrong-0123456789")))
    assert (wrong.status, wrong.reason) == ("UNAUTHENTICATED", "INVALID_API_KEY")
    assert failed(nobody.ask()).reason == "MISSING_API_KEY"


def test_a_key_that_is_an_attack_is_an_unknown_key(caller: Caller) -> None:
    """T1: whatever stands in the metadata, the answer is the same."""
    attacks = [
        "' OR '1'='1",
        "x'; DROP TABLE api_keys; --",
        '" UNION SELECT 1 --',
        "\\x00",
        "%27%20OR%201=1",
        "a" * 4000,
    ]
    for attack in attacks:
        for field, value in (("authorization", f"Bearer {attack}"), ("x-api-key", attack)):
            found = failed(caller.with_key("").ask(None, (field, value)))
            assert (found.status, found.reason) == ("UNAUTHENTICATED", "INVALID_API_KEY")
            assert attack not in str(found)
    answered(caller.ask())


def test_a_client_that_cancels_stops_the_model_server_and_pays_what_came(
    sim: Sim, gateway: Gateway, caller: Caller
) -> None:
    aborted = sim.stats()["streams_aborted"]
    request = hello(max_tokens=2000)
    request.extra.update({"sim": {"tokens": 2000}})
    call = caller.stream(request, ("x-request-id", "cancels"))
    for _ in range(3):
        next(call)
    call.cancel()
    until(lambda: sim.stats()["streams_aborted"] == aborted + 1, "the model server is stopped")
    line = logged(gateway, client_request_id="cancels")
    assert (line["termination_reason"], line["usage_source"]) == ("client_gone", "partial")
    assert 3 <= line["completion_tokens"] < 100


def test_a_deadline_of_the_caller_ends_the_work(sim: Sim, gateway: Gateway, caller: Caller) -> None:
    aborted = sim.stats()["requests_aborted"]
    assert failed(caller.ask(hello(), ("x-request-id", "hurries"), timeout_s=0.3)).status == "DEADLINE_EXCEEDED"
    until(lambda: sim.stats()["requests_aborted"] == aborted + 1, "the model server is stopped")
    assert logged(gateway, client_request_id="hurries")["termination_reason"] == "client_gone"


def test_the_callers_own_id_stands_beside_the_gates(gateway: Gateway, caller: Caller) -> None:
    request = hello(max_tokens=2)
    for inside, beside, kept in (("mine-1", "", "mine-1"), ("mine-1", "mine-2", "mine-2"), ("a\nb", "", "")):
        request.meta.request_id = inside
        answer = answered(caller.ask(request, *([("x-request-id", beside)] if beside else [])))
        assert logged(gateway, request_id=answer.request_id)["client_request_id"] == kept


def test_a_call_that_is_repeated_runs_once(sim: Sim, gateway: Gateway, caller: Caller) -> None:
    before = sim.stats()["requests_started"]
    first, fields = caller.ask_whole(hello(max_tokens=4), ("idempotency-key", "once"))
    again, fields_again = caller.ask_whole(hello(max_tokens=4), ("idempotency-key", "once"))
    assert answered(first).output_text == answered(again).output_text
    assert answered(again).request_id == answered(first).request_id == fields_again["x-request-id"], "as over HTTP"
    assert (fields.get("idempotent-replayed"), fields_again["idempotent-replayed"]) == (None, "true")
    streamed = [chunks(caller.stream(hello(max_tokens=4), ("idempotency-key", "two")))[0] for _ in range(2)]
    assert [chunk.delta_text for chunk in streamed[0]] == [chunk.delta_text for chunk in streamed[1]]
    assert streamed[1][-1].total_tokens == streamed[0][-1].total_tokens > 0
    assert sim.stats()["requests_started"] == before + 2
    other = failed(caller.ask(hello(max_tokens=5), ("idempotency-key", "once")))
    assert (other.status, other.reason) == ("INVALID_ARGUMENT", "IDEMPOTENCY_KEY_REUSED")


def test_what_is_too_large_is_refused(sim: Sim, tmp_path: Path) -> None:
    with running(tmp_path, config(sim, server={"max_body_size": "64KB"})) as gateway, calling(gateway) as caller:
        answered(caller.ask(hello(user_prompt="x" * 60_000, max_tokens=1)))
        assert failed(caller.ask(hello(user_prompt="x" * 70_000))).status == "RESOURCE_EXHAUSTED"
        assert failed(caller.ask(None, ("x-long", "y" * 100_000))).status == "RESOURCE_EXHAUSTED"
        answered(caller.ask())
