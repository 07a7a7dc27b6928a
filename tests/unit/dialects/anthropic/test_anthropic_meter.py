"""A stream of Anthropic's events on its way through."""

import json
from typing import Any, NamedTuple

import pytest

from zuebee.dialects.anthropic.meter import AnthropicMeter
from zuebee.dialects.openai_usage import TokenCounts


def event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


def delta(text: str, kind: str = "text", index: int = 0) -> bytes:
    name = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}[kind]
    return event("content_block_delta", index=index, delta={"type": name, kind: text})


FIRST = {"input_tokens": 10, "cache_read_input_tokens": 100, "cache_creation_input_tokens": 5, "output_tokens": 1}
START = event("message_start", message={"id": "msg_1", "content": [], "usage": FIRST})
BLOCK = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
PING = event("ping")
BLOCK_STOP = event("content_block_stop", index=0)
ENDING = event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 42})
STOP = event("message_stop")
ERROR = event("error", error={"type": "overloaded_error", "message": "Overloaded"})
BEGINNING = START + BLOCK + PING + delta("Hello") + delta(" ✓ wörld")
WHOLE = BEGINNING + BLOCK_STOP + ENDING + STOP


class Seen(NamedTuple):
    """What a meter tells of a stream, and what it passed on."""

    output: bytes
    last_words: bytes
    usage: TokenCounts | None
    chunks: int
    tokens: int
    whole: bool
    told: str
    fault: str


def seen(*parts: bytes, max_event_bytes: int = 1 << 20) -> Seen:
    meter = AnthropicMeter(max_event_bytes=max_event_bytes)
    output = b"".join(meter.feed(part) for part in parts) + meter.end()
    told = meter.told.message if meter.told else ""
    return Seen(
        output, meter.close(), meter.figures, meter.chunks, meter.tokens, meter.whole, told, meter.fault
    )  # fmt: skip


def test_a_stream_passes_byte_for_byte_and_its_last_words_are_held_back() -> None:
    found = seen(WHOLE)
    assert (found.output + found.last_words, found.last_words) == (WHOLE, STOP)
    assert found.usage == TokenCounts(115, 42, 100, 5)
    assert (found.chunks, found.whole, found.told, found.fault) == (3, True, "", "")


@pytest.mark.parametrize(
    "stream", [WHOLE, BEGINNING + ERROR + PING, WHOLE.replace(b"\n", b"\r\n"), b": hi\n\n" + WHOLE]
)
def test_where_the_network_cuts_a_stream_changes_nothing(stream: bytes) -> None:
    whole = seen(stream)
    for cut in range(1, len(stream)):
        assert seen(stream[:cut], stream[cut:]) == whole, cut
    assert seen(*[stream[at : at + 1] for at in range(len(stream))]) == whole


def test_an_error_is_told_and_not_passed_on() -> None:
    meter = AnthropicMeter()
    assert meter.feed(BEGINNING + ERROR + PING) == BEGINNING
    assert meter.over
    assert not meter.whole
    assert meter.told is not None
    assert (meter.told.status, meter.told.code, meter.told.message) == (529, "overloaded_error", "Overloaded")
    assert meter.feed(STOP) == meter.close() == b""


@pytest.mark.parametrize("data", [b"data: broken\n\n", b"data: {}\n\n", b"\n"])
def test_an_error_that_cannot_be_read_is_an_error(data: bytes) -> None:
    meter = AnthropicMeter()
    assert meter.feed(BEGINNING + b"event: error\n" + data) == BEGINNING
    assert meter.told is not None


def test_a_stream_cut_off_has_cost_what_has_passed() -> None:
    text = "a few words of an answer " * 40
    found = seen(START + BLOCK + delta(text) + delta(text, "thinking"))
    assert not found.whole
    assert found.usage == TokenCounts(115, 2 * (len(text) // 4), 100, 5), "not the single token of its first event"


def test_figures_that_come_last_count_for_more_than_sizes() -> None:
    usage = seen(START + BLOCK + delta("x" * 4000) + ENDING + STOP).usage
    assert usage is not None
    assert usage.completion == 42


def test_a_last_event_without_figures_leaves_the_count() -> None:
    ending = event("message_delta", delta={"stop_reason": "end_turn"}, usage={})
    usage = seen(START + BLOCK + delta("x" * 4000) + ending + STOP).usage
    assert usage is not None
    assert usage.completion == 1000


def test_zeros_are_no_figures() -> None:
    start = event("message_start", message={"usage": {"input_tokens": 0, "output_tokens": 0}})
    assert seen(start + BLOCK + delta("Hello")).usage is None
    late = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"input_tokens": 7, "output_tokens": 3})
    assert seen(start + BLOCK + delta("Hello") + late + STOP).usage == TokenCounts(7, 3)


@pytest.mark.parametrize("kind", ["text", "thinking", "partial_json"])
def test_each_piece_is_a_token_and_a_long_one_as_many_as_its_size_says(kind: str) -> None:
    assert seen(START + delta("a", kind) + delta("b", kind)).tokens == 2
    assert seen(START + delta("é" * 200, kind)).tokens == 100


def test_arguments_that_come_at_once_count() -> None:
    block = {"type": "tool_use", "id": "t", "name": "f", "input": {"text": "x" * 400}}
    assert seen(START + event("content_block_start", index=0, content_block=block)).tokens > 100


def test_a_stream_is_whole_once_it_said_why_it_stopped() -> None:
    assert seen(BEGINNING + BLOCK_STOP + ENDING).whole
    assert not seen(BEGINNING + BLOCK_STOP).whole, "the control"
    unsaid = event("message_delta", delta={"stop_reason": None}, usage={"output_tokens": 4})
    assert not seen(BEGINNING + unsaid).whole


def test_an_end_without_its_empty_line_is_an_end() -> None:
    found = seen(WHOLE.rstrip(b"\n"))
    assert found.output + found.last_words == WHOLE
    assert found.whole
    assert seen(WHOLE[: -len(STOP) + 30]).output == WHOLE[: -len(STOP)], "what is cut off does not pass"


def test_pings_and_events_that_nobody_knows_pass() -> None:
    odd = b": keep\n\n" + PING + event("new_thing", delta={"stop_reason": 5}) + b"data: [DONE]\n\n" + event("other")
    found = seen(START + odd + STOP)
    assert found.output == START + odd
    assert not found.fault


def test_data_without_the_name_of_its_event_is_read_by_its_type() -> None:
    bare = b"".join(line + b"\n\n" for line in WHOLE.split(b"\n") if line.startswith(b"data:"))
    assert seen(bare).usage == TokenCounts(115, 42, 100, 5)
    assert seen(bare).last_words == b'data: {"type": "message_stop"}\n\n'


@pytest.mark.parametrize("step", [10_000, 7])
def test_a_large_event_passes_as_it_comes(step: int) -> None:
    block = {"type": "web_search_tool_result", "content": "x" * 9000}
    stream = START + event("content_block_start", index=0, content_block=block) + delta("Hi") + ENDING + STOP
    parts = [stream[at : at + step] for at in range(0, len(stream), step)]
    found = seen(*parts, max_event_bytes=4096)
    assert (found.output + found.last_words, found.whole) == (stream, True)
    assert found.usage == TokenCounts(115, 42, 100, 5)


def test_nothing_may_be_put_in_amid_a_large_event() -> None:
    meter = AnthropicMeter(max_event_bytes=4096)
    begun = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"' + b"x" * 5000
    assert meter.feed(begun) == begun
    assert meter.amid_event
    assert not meter.whole
    assert meter.feed(b'"}}\n\n' + PING) == b'"}}\n\n' + PING
    assert not meter.amid_event


@pytest.mark.parametrize("data", [b"data: <html>\n\n", b'data: {"type":"content_block_delta"\n\n', b"data: 5\n\n"])
def test_what_is_no_object_ends_the_stream(data: bytes) -> None:
    found = seen(BEGINNING + data + STOP)
    assert found.output == BEGINNING
    assert found.fault
    assert not found.whole


def test_half_a_character_passes() -> None:
    half = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"\\ud83d"}}\n\n'
    assert seen(START + half + ENDING + STOP).output == START + half + ENDING


def test_a_whole_answer_in_place_of_a_stream_is_kept_for_its_reader() -> None:
    meter = AnthropicMeter()
    assert meter.feed(b'{"type":"message"}') == meter.end() == b""
    assert meter.begun_event == b'{"type":"message"}'
    assert not meter.over
