import json
from typing import Any

import pytest

from zuebee.dialects.gemini.converter import GeminiConverter
from zuebee.dialects.hub.canonical import (
    AnswerChoice,
    ChatAnswer,
    ChatMessage,
    ChatRequest,
    Counts,
    FunctionCall,
    Malformed,
    Media,
    Omissions,
    Opaque,
    Text,
    Thinking,
)

CALL = {"functionCall": {"name": "weather", "args": {"at": "Bern"}}}


def read(*parts: dict[str, Any], reason: str | None = "STOP", **fields: Any) -> AnswerChoice:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": reason, "index": 0}
    return answer({"candidates": [candidate], **fields}).choices[0]


def answer(said: Any) -> ChatAnswer:
    return GeminiConverter().read_answer(json.dumps(said).encode())


def test_an_answer_with_its_figures() -> None:
    found = answer(
        {
            "candidates": [
                {"content": {"parts": [{"text": "Hel"}, {"text": "lo"}], "role": "model"}, "finishReason": "STOP"}
            ],
            "usageMetadata": {
                "promptTokenCount": 10,
                "candidatesTokenCount": 5,
                "thoughtsTokenCount": 20,
                "cachedContentTokenCount": 4,
                "toolUsePromptTokenCount": 3,
                "totalTokenCount": 38,
            },
            "modelVersion": "gemini-2.5-flash",
            "responseId": "abc",
        }
    )
    assert found == ChatAnswer("abc", "gemini-2.5-flash", [AnswerChoice([Text("Hello")])], Counts(13, 25, 4, 0, 20))


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("STOP", "stop"),
        (None, "stop"),
        ("MAX_TOKENS", "length"),
        ("MALFORMED_FUNCTION_CALL", "stop"),
        ("NEVER_HEARD_OF", "stop"),
        *((each, "content_filter") for each in ("SAFETY", "PROHIBITED_CONTENT", "BLOCKLIST", "SPII", "RECITATION")),
        *((each, "content_filter") for each in ("IMAGE_SAFETY", "LANGUAGE")),
    ],
)
def test_why_it_ended(reason: str | None, stop: str) -> None:
    assert read({"text": "x"}, reason=reason).stop == stop


def test_an_answer_with_calls_asks_for_them_and_one_cut_off_says_so() -> None:
    assert read(CALL).stop == "tool_calls"
    assert read(CALL, reason=None).stop == "tool_calls"
    assert read(CALL, reason="MAX_TOKENS").stop == "length"
    assert read(CALL, reason="SAFETY").stop == "content_filter"


def test_a_blocked_prompt_is_an_answer_that_was_filtered() -> None:
    found = answer({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}})
    assert found.choices == [AnswerChoice([], "content_filter")]
    assert found.usage == Counts(4)


def test_a_candidate_without_content_is_an_empty_answer() -> None:
    found = answer(
        {"candidates": [{"finishReason": "MAX_TOKENS", "content": {"role": "model"}}, {"finishReason": "STOP"}]}
    )
    assert found.choices == [AnswerChoice([], "length"), AnswerChoice([])]
    assert found.usage is None


def test_calls_without_ids_get_the_same_ones_each_time() -> None:
    given = {"functionCall": {"name": "f", "id": "call_2"}}
    parts = read(CALL, CALL, CALL, given).parts
    assert [part.id for part in parts if isinstance(part, FunctionCall)] == ["call_0", "call_1", "call_2_2", "call_2"]
    assert parts[0] == FunctionCall("call_0", "weather", '{"at": "Bern"}')
    assert parts[3] == FunctionCall("call_2", "f", "{}")


def test_calls_of_two_answers_have_different_ids() -> None:
    first, second = (read(CALL, responseId=each).parts[0] for each in ("m/A+1", "mB2" * 40))
    assert isinstance(first, FunctionCall)
    assert isinstance(second, FunctionCall)
    assert first.id == "call_mA1_0"
    assert first.id != second.id
    assert len(second.id) <= 40


def test_thoughts_and_signatures_come_back_to_gemini_as_they_were() -> None:
    parts = [
        {"text": "Hm.", "thought": True},
        {"text": "Let me see.", "thoughtSignature": "dGV4dA=="},
        CALL | {"thoughtSignature": "Y2FsbA=="},
    ]
    choice = read(*parts)
    assert choice.parts == [
        Thinking("Hm."),
        Text("Let me see."),
        Thinking(signature="gemini:dGV4dA=="),
        FunctionCall("call_0", "weather", '{"at": "Bern"}', "Y2FsbA=="),
    ]
    history = [ChatMessage("user", [Text("Hi")]), ChatMessage("assistant", choice.parts)]
    body = GeminiConverter().write_request(ChatRequest("anthropic", "gemini-3-pro", history), Omissions())
    call = {"functionCall": {"name": "weather", "args": {"at": "Bern"}, "id": "call_0"}, "thoughtSignature": "Y2FsbA=="}
    assert json.loads(body)["contents"][1]["parts"] == [parts[1], call]


def test_pictures_and_code_of_an_answer_are_kept() -> None:
    choice = read({"inlineData": {"mimeType": "image/png", "data": "iVBOR"}}, {"executableCode": {"code": "1"}})
    code = Opaque("gemini", b'{"executableCode":{"code": "1"}}', "content.parts", "executableCode")
    assert choice.parts == [Media("image", "image/png", "iVBOR"), code]


def test_probabilities_are_told_in_openais_form() -> None:
    chosen = {"token": "é", "tokenId": 5, "logProbability": -0.5}
    result = {"chosenCandidates": [chosen], "topCandidates": [{"candidates": [chosen, {"token": "e"}]}]}
    found = answer({"candidates": [{"content": {"parts": [{"text": "é"}]}, "logprobsResult": result}]})
    told = json.loads(found.choices[0].logprobs)
    token = {"token": "é", "logprob": -0.5, "bytes": [195, 169]}
    top = [token, {"token": "e", "logprob": 0.0, "bytes": [101]}]
    assert told == {"content": [token | {"top_logprobs": top}], "refusal": None}


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{}", b'{"candidates":[]}', b'{"candidates":[1]}', b"[" * 99999]
)
def test_what_is_no_answer_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        GeminiConverter().read_answer(body)


QUOTA = {
    "error": {
        "code": 429,
        "message": "You exceeded your quota.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [1, {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "27.5s"}],
    }
}


@pytest.mark.parametrize("body", [QUOTA, [QUOTA]], ids=["object", "array"])
def test_an_error_is_read_whether_it_is_an_object_or_in_a_list(body: Any) -> None:
    refusal = GeminiConverter().read_error(429, json.dumps(body).encode())
    assert (refusal.status, refusal.type, refusal.code) == (429, "rate_limit_error", "RESOURCE_EXHAUSTED")
    assert (refusal.message, refusal.retry_after_s) == ("You exceeded your quota.", 27.5)


def test_a_prompt_that_is_too_long_is_named_so_that_clients_shorten_it() -> None:
    message = "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576)."
    body = {"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}
    assert GeminiConverter().read_error(400, json.dumps(body).encode()).code == "context_length_exceeded"


@pytest.mark.parametrize("body", [b"", b"<html><title>Bad Gateway</title>", b"[]", b'{"error":"no"}', b'{"error":{}}'])
def test_errors_of_others_still_have_their_status_and_a_message(body: bytes) -> None:
    refusal = GeminiConverter().read_error(502, body)
    assert (refusal.status, refusal.type) == (502, "api_error")
    assert refusal.message
