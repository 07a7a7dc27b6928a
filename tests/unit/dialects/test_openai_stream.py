import json
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.samples import BIG, SMALL, SPELLINGS, VLLM
from zuebee.dialects.openai_stream import StreamMeter
from zuebee.dialects.openai_usage import TokenCounts

STREAMS = {**VLLM, **SMALL}
USAGES = {
    "chat_stream": None,
    "chat_stream_engine_killed": TokenCounts(7, 4453, 0),
    "chat_stream_n2_usage": TokenCounts(7, 12, 0),
    "chat_stream_sigterm": TokenCounts(7, 5042, 0),
    "chat_stream_stop_usage": TokenCounts(7, 1, 0),
    "chat_stream_usage": TokenCounts(7, 6, 0),
    "chat_stream_usage_cached": TokenCounts(605, 2, 0),
    "chat_stream_usage_continuous": TokenCounts(7, 6, 0),
    "completion_stream": None,
    "completion_stream_usage": TokenCounts(5, 6, 0),
    "tools_auto_stream": None,
    "tools_named_stream_usage": TokenCounts(209, 51, 0),
    "tools_required_stream_usage": TokenCounts(209, 51, 0),
}
WITHOUT_EXTRA = ("chat_stream", "chat_stream_engine_killed", "completion_stream", "tools_auto_stream")
CHUNK = b'data: {"choices":[{"delta":{"content":"x"},"finish_reason":null}]}\n\n'
LAST = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
EXTRA = b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}\n\n'
DONE = b"data: [DONE]\n\n"


class Seen(NamedTuple):
    """All that a meter tells of a stream, and what it passed on."""

    output: bytes
    usage: tuple[int, int] | None
    chunks: int
    done: bool
    error: bytes | None
    fault: str
    whole: bool


def replay(parts: list[bytes], *, hide: bool) -> Seen:
    meter = StreamMeter(hide_usage=hide)
    output = b"".join(meter.feed(part) for part in parts) + meter.last_words
    error = None if meter.error is None else bytes(meter.error)
    return Seen(output, meter.usage, meter.chunks, meter.done, error, meter.fault, meter.whole)


@pytest.mark.slow
@pytest.mark.requirement("A034", "A295")
@pytest.mark.parametrize("hide", [False, True], ids=["shown", "hidden"])
@pytest.mark.parametrize("name", STREAMS)
def test_where_the_network_cuts_a_stream_changes_nothing(name: str, hide: bool) -> None:
    stream = STREAMS[name]
    whole = replay([stream], hide=hide)
    assert replay([stream[n : n + 1] for n in range(len(stream))], hide=hide) == whole
    for at in range(1, len(stream)):
        assert replay([stream[:at], stream[at:]], hide=hide) == whole, at


@pytest.mark.slow
@pytest.mark.parametrize("hide", [False, True], ids=["shown", "hidden"])
@pytest.mark.parametrize("name", BIG)
def test_where_the_network_cuts_a_long_event_changes_nothing(name: str, hide: bool) -> None:
    stream = BIG[name]
    whole = replay([stream], hide=hide)
    assert (whole.chunks, whole.usage, whole.whole) == (2, TokenCounts(3, 2, 0), True)
    assert replay([stream[n : n + 1] for n in range(len(stream))], hide=hide) == whole
    near_the_ends = [*range(1, 70), *range(65590, 65650), *range(len(stream) - 40, len(stream))]
    for at in near_the_ends:
        assert replay([stream[:at], stream[at:]], hide=hide) == whole, at


@given(
    events=st.lists(st.sampled_from([CHUNK, LAST, EXTRA, DONE, b": c\n\n", b"data: {\n\n", b'data: {"error":1}\n\n'])),
    sizes=st.lists(st.integers(1, 90), max_size=30),
    spelling=st.sampled_from(list(SPELLINGS)),
)
def test_any_cuts_of_any_stream_change_nothing(events: list[bytes], sizes: list[int], spelling: str) -> None:
    stream = SPELLINGS[spelling](b"".join(events))
    parts, at = [], 0
    for size in [*sizes, len(stream)]:
        parts.append(stream[at : at + size])
        at += size
    assert replay(parts, hide=True) == replay([stream], hide=True)


@given(st.lists(st.integers(1, 90), max_size=20))
def test_idle_empty_lines_do_no_harm(sizes: list[int]) -> None:
    stream = b"\n\n" + (CHUNK + EXTRA + LAST + DONE).replace(b"\n\n", b"\n\n\n\n\n")
    parts, at = [], 0
    for size in [*sizes, len(stream)]:
        parts.append(stream[at : at + size])
        at += size
    seen = replay(parts, hide=True)
    assert [line for line in seen.output.split(b"\n") if line] == (CHUNK + LAST + DONE).split(b"\n\n")[:-1]
    assert seen.usage == TokenCounts(3, 2, 0)
    assert seen.whole


@pytest.mark.requirement("A123", "A146", "A147", "A295")
@pytest.mark.parametrize("name", VLLM)
def test_a_stream_of_vllm_passes_byte_for_byte(name: str) -> None:
    seen = replay([VLLM[name]], hide=False)
    assert seen.usage == USAGES[name]
    assert seen.fault == ""
    if name == "chat_stream_engine_killed":
        assert b"InternalServerError" in (seen.error or b"")
        assert VLLM[name].startswith(seen.output)
        assert not seen.whole
    else:
        assert seen.output == VLLM[name]
        assert seen.whole


@pytest.mark.requirement("A297")
@pytest.mark.parametrize("name", sorted({*VLLM} - {*WITHOUT_EXTRA, "chat_stream_usage_continuous"}))
def test_exactly_the_extra_chunk_is_hidden(name: str) -> None:
    events = VLLM[name].split(b"\n\n")
    kept = [event for event in events if b'"choices":[]' not in event]
    assert len(kept) == len(events) - 1
    seen = replay([VLLM[name]], hide=True)
    assert seen.output == b"\n\n".join(kept)
    assert seen.usage == USAGES[name]


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 16])
def test_usage_in_every_chunk_is_taken_out_of_each(size: int) -> None:
    stream = VLLM["chat_stream_usage_continuous"]
    assert stream.count(b'"usage":{') == 6
    parts = [stream[at : at + size] for at in range(0, len(stream), size)]
    seen = replay(parts, hide=True)
    assert b'"usage"' not in seen.output
    assert seen.usage == USAGES["chat_stream_usage_continuous"]
    said = [json.loads(event[6:]) for event in stream.split(b"\n\n") if event.startswith(b"data: {")]
    expected = [{name: value for name, value in chunk.items() if name != "usage"} for chunk in said if chunk["choices"]]
    passed = [json.loads(event[6:]) for event in seen.output.split(b"\n\n") if event.startswith(b"data: {")]
    assert passed == expected
    assert replay(parts, hide=False).output == stream


@pytest.mark.parametrize(
    ("event", "hidden"),
    [
        (b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n', True),
        (b'data: { "choices" : [ \t ] , "usage" : { "prompt_tokens" : 1 } }\n\n', True),
        (b'data: {"usage":{"prompt_tokens":1},"choices":[]}\r\n\r\n', True),
        (b'data: {"choices":[],\ndata: "usage":{"prompt_tokens":1}}\n\n', True),
        (b'data: {"choices":[],"usage":null}\n\n', False),
        (b'data: {"choices":[],"prompt_filter_results":[1]}\n\n', False),
        (b'data: {"choices":[{"delta":{}}],"usage":null}\n\n', False),
        (b'data: {"choices":[{"delta":{"content":"\\"choices\\":[],\\"usage\\":{}"}}]}\n\n', False),
        (b": keep-alive\n\n", False),
        (b"event: ping\n\n", False),
    ],
)
def test_what_is_hidden(event: bytes, hidden: bool) -> None:
    stream = CHUNK + event + DONE
    assert replay([stream], hide=True).output == (CHUNK + DONE if hidden else stream)
    assert replay([stream], hide=False).output == stream


def test_a_done_is_passed_on_only_if_it_came() -> None:
    assert b"[DONE]" not in replay([CHUNK, LAST], hide=True).output
    assert replay([CHUNK, LAST, DONE], hide=True).output.count(b"[DONE]") == 1


@pytest.mark.parametrize("later", [CHUNK, DONE, EXTRA, b": c\n\n", b"garbage"])
def test_nothing_follows_done(later: bytes) -> None:
    assert replay([CHUNK + DONE + later], hide=False).output == CHUNK + DONE
    assert replay([CHUNK + DONE, later, later], hide=False).output == CHUNK + DONE


@pytest.mark.requirement("A048")
@pytest.mark.parametrize("later", [CHUNK, DONE, b"garbage"])
def test_an_error_event_ends_the_stream(later: bytes) -> None:
    error = b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'
    for parts in ([CHUNK + error + later], [CHUNK, error, later]):
        seen = replay(parts, hide=False)
        assert seen.output == CHUNK
        assert b"out of memory" in (seen.error or b"")
        assert not seen.whole


def test_an_error_of_null_is_none() -> None:
    chunk = CHUNK.replace(b"}]}", b'}],"error":null}')
    assert replay([chunk, DONE], hide=False).output == chunk + DONE


@pytest.mark.parametrize(
    "event",
    [
        b"data: {\n\n",
        b"data: hello\n\n",
        b'data: {"choices":[]}x\n\n',
        b"data: []\n\n",
        b"data: [DONE]x\n\n",
        b"data: " + b"[" * 100_000 + b"\n\n",
        b'data: {"choices":' + b"[" * 100_000 + b"\n\n",
    ],
    ids=lambda event: event[:24].decode(),
)
def test_a_malformed_event_ends_the_stream(event: bytes) -> None:
    for parts in ([CHUNK + event + CHUNK], [CHUNK, event, CHUNK]):
        seen = replay(parts, hide=False)
        assert seen.output == CHUNK
        assert seen.fault
        assert not seen.whole


def test_an_endless_event_ends_the_stream() -> None:
    meter = StreamMeter(hide_usage=False)
    assert meter.feed(CHUNK) == CHUNK
    fed = 0
    while not meter.over:
        assert meter.feed(b"data: " + b"x" * 65536) == b""
        fed += 65536
        assert fed < 2 << 20
    assert "too large" in meter.fault


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        ([CHUNK, LAST], True),
        ([CHUNK, LAST, EXTRA], True),
        ([CHUNK, LAST, b"\n"], True),
        ([CHUNK], False),
        ([], False),
        ([CHUNK, LAST, b"data: {"], False),
        ([CHUNK, b'data: {"choices":[{"finish_reason":"stop"},{"finish_reason":null}]}\n\n'], False),
        ([CHUNK, b'data: {"choices":[{"finish_reason":7}]}\n\n'], False),
        ([b'data: {"choices":"no list"}\n\n'], False),
    ],
)
def test_without_done_a_stream_is_whole_if_its_choices_finished(parts: list[bytes], whole: bool) -> None:
    for hide in (False, True):
        assert replay(parts, hide=hide).whole is whole
        assert replay([b"".join(parts)], hide=hide).whole is whole


@given(st.binary(max_size=300), st.integers(0, 300))
def test_no_bytes_raise(data: bytes, at: int) -> None:
    replay([data[:at], data[at:], b"\n\n"], hide=True)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": 2**63, "completion_tokens": 1},
        {"prompt_tokens": 1e308, "completion_tokens": 1},
        {"prompt_tokens": "seven", "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {"prompt_tokens": None},
        {},
        None,
    ],
)
def test_figures_that_cannot_be_true_leave_the_last_true_ones(usage: object) -> None:
    hostile = b"data: " + msgspec.json.encode({"choices": [], "usage": usage}) + b"\n\n"
    assert replay([EXTRA, hostile], hide=False).usage == TokenCounts(3, 2, 0)


def _event(choice: dict[str, object]) -> bytes:
    return b"data: " + msgspec.json.encode({"id": "x" * 40, "choices": [choice]}) + b"\n\n"


BIG_PIECES: dict[str, dict[str, object]] = {
    "content": {"delta": {"content": "word " * 80}},
    "reasoning, under two names": {"delta": {"reasoning_content": "word " * 80, "reasoning": "word " * 80}},
    "text": {"text": "word " * 80},
    "a tool's arguments": {"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "word " * 80}}]}},
    "with log probabilities": {"delta": {"content": "word " * 80}, "logprobs": {"content": ["x" * 5000]}},
}


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("name", BIG_PIECES)
def test_events_of_many_tokens_count_by_their_text(name: str, together: bool) -> None:
    small, big = _event({"delta": {"role": "assistant", "content": ""}}), _event(BIG_PIECES[name])
    meter = StreamMeter(hide_usage=False)
    for part in [small + small + big + big] if together else [small, small, big, big]:
        assert meter.feed(part) == part
    assert (meter.chunks, meter.tokens) == (4, 2 + 2 * 100)


def test_events_of_a_token_each_are_a_token_each() -> None:
    word = [_event({"delta": {"content": " internationalisation"}})] * 50
    tool = [_event({"delta": {"tool_calls": [{"index": 0, "function": {"arguments": '{"a'}}]}})] * 50
    for parts in (word, [b"".join(word)], tool, [b"".join(tool)], word + tool):
        meter = StreamMeter(hide_usage=False)
        for part in parts:
            meter.feed(part)
        assert meter.tokens == meter.chunks


@pytest.mark.requirement("A295")
@pytest.mark.parametrize("odd", [b"data: \n\n", b"data: \n\n" * 3, b"data: \n\n" + CHUNK])
def test_an_event_without_data_passes_and_counts_for_nothing(odd: bytes) -> None:
    seen = replay([CHUNK, odd, LAST + DONE], hide=False)
    assert seen.output == CHUNK + odd + LAST + DONE
    assert seen.chunks == 2 + odd.count(CHUNK)
    assert seen.whole


@pytest.mark.parametrize("odd", [b"data: xdata: [DONE]\n\n", b"data: {}data: [DONE]\n\n", b"data: data: [DONE]\n\n"])
def test_an_end_within_an_event_is_no_end(odd: bytes) -> None:
    seen = replay([CHUNK, odd], hide=False)
    assert seen.output == CHUNK
    assert seen.fault
    assert not seen.whole
