"""Calls of the gRPC API in OpenAI's words, and OpenAI's answers in the API's."""

import json
from typing import Any

import pytest

from zuebee.contracts.errors import Refusal
from zuebee.dialects import openai
from zuebee.dialects.llm_v1 import NotAnAnswer, chat_body, read_answer, read_events, read_request, told_refusal
from zuebee.dialects.openai_usage import TokenCounts
from zuebee.protos.llm_pb2 import ChatCompletionRequest, ChatMessage


def body(request: ChatCompletionRequest, default: str = "", *, stream: bool = False) -> dict[str, Any]:
    found = chat_body(request, default, stream=stream)
    assert isinstance(found, bytes), found
    decoded: dict[str, Any] = json.loads(found)
    return decoded


def wrong(request: ChatCompletionRequest) -> Refusal:
    found = chat_body(request, "m", stream=False)
    assert isinstance(found, Refusal)
    assert found.status == 400
    return found


def asked(**fields: Any) -> ChatCompletionRequest:
    return ChatCompletionRequest(**{"user_prompt": "hi", **fields})


def test_zero_is_not_the_same_as_nothing() -> None:
    assert body(asked(), "m") == {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    zeros = asked(temperature=0, top_p=0, max_tokens=0, seed=0, presence_penalty=0, frequency_penalty=0)
    assert body(zeros, "m").items() >= {
        "temperature": 0, "top_p": 0, "max_tokens": 0, "seed": 0, "presence_penalty": 0, "frequency_penalty": 0,
    }.items()  # fmt: skip


def test_a_stream_asks_for_its_usage() -> None:
    found = body(asked(), "m", stream=True)
    assert (found["stream"], found["stream_options"]) == (True, {"include_usage": True})
    assert "stream" not in body(asked(), "m")


def test_the_model_of_a_request_wins_over_the_default() -> None:
    assert body(asked(model="mine"), "default")["model"] == "mine"
    assert body(asked(), "default")["model"] == "default"
    assert isinstance(chat_body(asked(), "", stream=False), Refusal)


def test_context_stands_behind_the_prompt() -> None:
    assert body(asked(context="C"), "m")["messages"][-1]["content"] == "hi\n\nContext:\nC"
    assert body(ChatCompletionRequest(context="C"), "m")["messages"] == [{"role": "user", "content": "Context:\nC"}]
    assert body(ChatCompletionRequest(system_prompt="S"), "m")["messages"] == [{"role": "system", "content": "S"}]


def test_equal_requests_give_equal_bytes() -> None:
    names = [f"field_{number}" for number in range(50)]
    first, second = asked(), asked()
    first.extra.update(dict.fromkeys(names, 1))
    second.extra.update(dict.fromkeys(reversed(names), 1))
    assert chat_body(first, "m", stream=True) == chat_body(second, "m", stream=True)


@pytest.mark.parametrize("name", sorted(openai_name for openai_name in ("model", "messages", "stream", "user", "seed")))
def test_what_has_a_field_or_is_not_the_callers_is_not_taken_from_extra(name: str) -> None:
    request = asked()
    request.extra.update({name: "x"})
    assert wrong(request).param == f"extra.{name}"


def test_what_decides_over_the_price_is_seen_in_extra_too() -> None:
    request = asked()
    request.extra.update({"max_completion_tokens": 900})
    found = openai.read_request(chat_body(request, "m", stream=False))  # type: ignore[arg-type]
    assert not isinstance(found, Refusal)
    assert found.max_output_tokens == 900
    request.extra.update({"n": 3})
    assert wrong(request).param == "extra.n"


def test_bytes_are_a_request_or_a_refusal() -> None:
    assert read_request(asked().SerializeToString()) == asked()
    for data in (b"\x12\x02\xff\xfe", b"\x0a", b"\x0a\xff"):  # a text that is none, and what ends too early
        found = read_request(data)
        assert isinstance(found, Refusal)
        assert (found.status, found.code) == (400, "invalid_message")


def test_an_empty_role_is_named() -> None:
    request = ChatCompletionRequest(messages=[ChatMessage(role="user", content="a"), ChatMessage(content="b")])
    assert wrong(request).param == "messages[1].role"


# --- answers ---


def answer(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def test_text_reasoning_and_refusals_are_found() -> None:
    piece = read_answer(answer(choices=[{"message": {"content": "a", "reasoning_content": "r"}}], model="m"))
    assert (piece.text, piece.reasoning, piece.model, piece.speaks) == ("a", "r", "m", True)
    assert read_answer(answer(choices=[{"message": {"content": None, "refusal": "no"}}])).text == "no"
    assert read_answer(answer(choices=[{"delta": {"reasoning": "r"}}])).reasoning == "r"
    assert not read_answer(answer(choices=[{"delta": {"role": "assistant", "content": ""}}])).speaks
    assert not read_answer(answer(choices=[])).speaks


def test_usage_is_believed_only_where_it_can_be_true() -> None:
    good = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
    assert read_answer(answer(usage=good)).usage == TokenCounts(5, 2, 3)
    for bad in ({"prompt_tokens": -1, "completion_tokens": 2}, {"prompt_tokens": "5"}, [], "x", None):
        assert read_answer(answer(usage=bad)).usage is None


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{", b'{"choices": 1}', b'{"choices":[{"message":{"content":[1]}}]}', b"\xff", b"[" * 100_000],
)
def test_what_is_no_answer_is_an_error(body: bytes) -> None:
    with pytest.raises(NotAnAnswer):
        read_answer(body)


def test_events_are_read_one_by_one_and_comments_say_nothing() -> None:
    block = (
        b": keep-alive\n\n"
        b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n'
        b'event: x\ndata: {"choices":[{"delta":{"content":"b"},"finish_reason":"stop"}]}\r\n\r\n'
        b"data: [DONE]\n\n"
    )
    pieces = list(read_events(block))
    assert [(piece.text, piece.finish_reason) for piece in pieces] == [("a", ""), ("b", "stop")]
    with pytest.raises(NotAnAnswer):
        list(read_events(b"data: nonsense\n\n"))


# --- errors ---


@pytest.mark.parametrize(
    ("told", "status", "outcome"),
    [
        ({"type": "authentication_error", "code": "key_revoked", "message": "m"}, 0, (401, "key_revoked", "m")),
        ({"type": "overloaded_error", "code": "shutting_down"}, 0, (503, "shutting_down", None)),
        ({"type": "insufficient_quota", "code": "budget_exceeded"}, 0, (402, "budget_exceeded", None)),
        ({"type": "api_error", "code": "internal_error"}, 0, (500, "internal_error", None)),
        ({"type": "api_error", "code": "backend_broken"}, 0, (502, "backend_broken", None)),
        ({"type": "BadRequestError", "code": 400, "message": "m"}, 0, (400, "backend_error", "m")),
        ({"message": "m"}, 0, (502, "backend_error", "m")),
        ("words", 0, (502, "backend_error", "words")),
        (17, 0, (502, "backend_error", None)),
        ({"type": "overloaded_error", "message": "m"}, 429, (429, "backend_error", "m")),
        ({}, 418, (418, "backend_error", None)),
    ],
)
def test_what_an_answer_says_of_its_failure_is_a_refusal(told: Any, status: int, outcome: tuple[Any, ...]) -> None:
    refusal = told_refusal(json.dumps(told).encode(), status)
    message = outcome[2] or "The model server reported an error."
    assert (refusal.status, refusal.code, refusal.message) == (outcome[0], outcome[1], message)


def test_an_error_has_bounds() -> None:
    told = {"type": "x", "code": "c" * 10_000, "message": "m" * 100_000, "param": "temperature"}
    refusal = told_refusal(json.dumps(told).encode(), 400)
    assert (len(refusal.code), len(refusal.message), refusal.param) == (64, 2000, "temperature")
