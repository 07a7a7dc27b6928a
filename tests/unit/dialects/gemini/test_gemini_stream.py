import json
from collections.abc import Iterable
from typing import Any

import pytest

from zuebee.dialects.gemini.converter import GeminiConverter
from zuebee.dialects.hub.base import StreamReader
from zuebee.dialects.hub.canonical import (
    Begin,
    CallBegin,
    CallDelta,
    Counts,
    Delta,
    FailureDelta,
    FinishDelta,
    Malformed,
    Over,
    TextDelta,
    ThinkingDelta,
    UsageDelta,
)
from zuebee.dialects.sse import EventCutter, event_data, split_events


def chunk(*parts: dict[str, Any], reason: str = "", index: int = 0, **fields: Any) -> dict[str, Any]:
    candidate: dict[str, Any] = {"index": index}
    if parts:
        candidate["content"] = {"role": "model", "parts": list(parts)}
    if reason:
        candidate["finishReason"] = reason
    return {"candidates": [candidate], **fields}


def feed(reader: StreamReader, pieces: Iterable[bytes]) -> list[Delta]:
    cutter, found = EventCutter(), list[Delta]()
    for piece in pieces:
        for event in split_events(cutter.feed(piece)):
            found += reader.read("", event_data(event))
    return found + reader.end()


def text_of(*chunks: Any, end: str = "\r\n\r\n") -> bytes:
    return "".join(f"data: {json.dumps(each, ensure_ascii=False)}{end}" for each in chunks).encode()


def read(*chunks: Any) -> list[Delta]:
    return feed(GeminiConverter().stream_reader(), [text_of(*chunks)])


STREAM = (
    chunk({"text": "Hm ü…", "thought": True}, usageMetadata={"promptTokenCount": 8}, modelVersion="m", responseId="r1"),
    chunk({"text": "Let me "}, usageMetadata={"promptTokenCount": 8, "thoughtsTokenCount": 4}),
    chunk({"text": "see. 😀"}),
    chunk({"functionCall": {"name": "weather", "args": {"at": "Zürich"}}, "thoughtSignature": "c2ln"}),
    chunk({"functionCall": {"name": "now", "id": "given"}}),
    chunk({"text": "", "thoughtSignature": "ZW5k"}),
    chunk(
        reason="STOP",
        usageMetadata={"promptTokenCount": 8, "thoughtsTokenCount": 4, "candidatesTokenCount": 6},
    ),
)
DELTAS: list[Delta] = [
    Begin("r1", "m", Counts(8)),
    ThinkingDelta("Hm ü…"),
    UsageDelta(Counts(8)),
    TextDelta("Let me "),
    UsageDelta(Counts(8, 4, reasoning=4)),
    TextDelta("see. 😀"),
    CallBegin(0, "call_r1_0", "weather", "c2ln"),
    CallDelta(0, '{"at": "Zürich"}'),
    CallBegin(1, "given", "now"),
    CallDelta(1, "{}"),
    ThinkingDelta(signature="gemini:ZW5k"),
    UsageDelta(Counts(8, 10, reasoning=4)),
    FinishDelta("tool_calls"),
    Over(),
]


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
def test_a_stream_means_the_same_wherever_it_is_cut(end: str) -> None:
    text = text_of(*STREAM, end=end)
    assert feed(GeminiConverter().stream_reader(), [text]) == DELTAS
    for at in range(1, len(text)):
        assert feed(GeminiConverter().stream_reader(), [text[:at], text[at:]]) == DELTAS
    assert feed(GeminiConverter().stream_reader(), [text[at : at + 1] for at in range(len(text))]) == DELTAS


def test_an_answer_that_stops_with_every_chunk_stops_once_at_the_end() -> None:
    found = read(*(chunk({"text": each}, reason="STOP") for each in "abc"))
    assert found[1:] == [TextDelta("a"), TextDelta("b"), TextDelta("c"), FinishDelta("stop"), Over()]


def test_a_reason_is_not_forgotten_for_a_stop_behind_it() -> None:
    assert FinishDelta("length") in read(chunk({"text": "a"}, reason="MAX_TOKENS"), chunk(reason="STOP"))
    assert FinishDelta("content_filter") in read(chunk({"text": "a"}, reason="STOP"), chunk(reason="SAFETY"))


def test_an_end_without_parts_is_an_end() -> None:
    assert read(chunk({"text": "a"}), chunk(reason="STOP"))[1:] == [TextDelta("a"), FinishDelta("stop"), Over()]


def test_a_stream_that_breaks_off_is_not_over() -> None:
    assert read(chunk({"text": "a"}))[1:] == [TextDelta("a")]
    assert read() == []
    assert read({"usageMetadata": {"promptTokenCount": 1}})[1:] == [UsageDelta(Counts(1))]


def test_calls_are_an_end_where_no_reason_comes() -> None:
    assert read(chunk({"functionCall": {"name": "f"}}))[-2:] == [FinishDelta("tool_calls"), Over()]


def test_a_malformed_call_ends_the_answer() -> None:
    assert read(chunk({"text": "a"}), chunk(reason="MALFORMED_FUNCTION_CALL"))[-2:] == [FinishDelta("stop"), Over()]


def test_a_blocked_prompt_is_a_filtered_answer() -> None:
    found = read({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3}})
    assert found == [Begin(usage=Counts(3)), UsageDelta(Counts(3)), FinishDelta("content_filter"), Over()]


def test_each_of_several_answers_has_its_own_calls_and_end() -> None:
    call = {"functionCall": {"name": "f"}}
    found = read(
        chunk(call), chunk(call, index=1), chunk({"text": "a"}, index=1, reason="STOP"), chunk(reason="MAX_TOKENS")
    )
    assert [each for each in found if isinstance(each, CallBegin)] == [
        CallBegin(0, "call_0", "f"),
        CallBegin(0, "call_0", "f", choice=1),
    ]
    assert found[-3:] == [FinishDelta("length"), FinishDelta("tool_calls", choice=1), Over()]
    half = read(chunk({"text": "a"}, reason="STOP"), chunk({"text": "b"}, index=1))
    assert not any(isinstance(each, FinishDelta | Over) for each in half)


def test_the_end_is_told_once() -> None:
    reader = GeminiConverter().stream_reader()
    reader.read("", json.dumps(chunk({"text": "a"}, reason="STOP")).encode())
    assert reader.end() == [FinishDelta("stop"), Over()]
    assert reader.end() == []


ERROR = {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}


@pytest.mark.parametrize("event", [ERROR, [ERROR]], ids=["object", "array"])
def test_an_error_amid_the_stream_is_its_end(event: Any) -> None:
    found = read(chunk({"text": "a"}, reason="STOP"), event)
    assert found[-1] == FailureDelta(503, "UNAVAILABLE", "UNAVAILABLE", "The model is overloaded.")
    assert not any(isinstance(each, FinishDelta | Over) for each in found)


def test_an_error_without_a_number_has_the_one_of_its_word() -> None:
    assert read({"error": {"message": "Slow down", "status": "RESOURCE_EXHAUSTED"}}) == [
        FailureDelta(429, "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED", "Slow down")
    ]
    assert read({"error": {"message": "?"}}) == [FailureDelta(0, "", "", "?")]


@pytest.mark.parametrize("data", [b"1", b"[]", b"[1]", b'"x"', b"null", b"{", b'{"candidates":1}', b"[" * 99999])
def test_an_event_that_is_no_object_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed):
        GeminiConverter().stream_reader().read("", data)


def test_an_index_out_of_reason_is_malformed() -> None:
    for index in (-1, 10**6):
        with pytest.raises(Malformed):
            read(chunk({"text": "a"}, index=index))


def test_figures_come_once_and_never_shrink() -> None:
    more, less = {"promptTokenCount": 5, "candidatesTokenCount": 2}, {"candidatesTokenCount": 1}
    found = read(*(chunk({"text": "a"}, usageMetadata=each) for each in (more, more, less, {"promptTokenCount": "x"})))
    assert [each for each in found if isinstance(each, UsageDelta)] == [UsageDelta(Counts(5, 2))]


def test_probabilities_ride_with_the_text() -> None:
    odd = chunk({"text": "a"})
    odd["candidates"][0]["logprobsResult"] = {"chosenCandidates": [{"token": "a", "logProbability": -1}]}
    delta = read(odd)[1]
    assert isinstance(delta, TextDelta)
    assert json.loads(delta.logprobs)["content"][0]["logprob"] == -1
