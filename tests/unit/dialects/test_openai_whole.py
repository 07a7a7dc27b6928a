import json

import pytest

from zuebee.dialects.hub.whole import as_event, event_of


def read(event: bytes) -> object:
    """What the one event of a stream says."""
    assert event.startswith(b"data: ")
    assert event.endswith(b"\n\n")
    assert event.count(b"\n") == 2
    return json.loads(event[6:])


def test_messages_become_deltas_and_calls_are_numbered() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    body = {
        "object": "chat.completion",
        "more": [1],
        "choices": [{"index": 0, "message": {"content": None, "tool_calls": [call, call]}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1},
    }
    said = read(as_event(json.dumps(body, indent=2).encode(), usage=False))
    delta = {"content": None, "tool_calls": [{**call, "index": 0}, {**call, "index": 1}]}
    choice = {"index": 0, "delta": delta, "finish_reason": "stop"}
    assert said == {"object": "chat.completion.chunk", "more": [1], "choices": [choice]}
    assert "usage" in as_event(json.dumps(body).encode(), usage=True).decode()


def test_a_text_completion_is_a_chunk_as_it_stands() -> None:
    body = {"object": "text_completion", "choices": [{"index": 0, "text": "Hi", "finish_reason": "stop"}]}
    assert read(as_event(json.dumps(body).encode(), usage=False)) == body


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"choices": [{"message": {"content": "\\ud83d"}}]}', {"choices": [{"delta": {"content": "�"}}]}),
        (b"[1,\r\n2]", [1, 2]),
        (b'{"choices": {"0": 1}}', {"choices": {"0": 1}}),
        (b'{"choices": [null, {"message": "text"}]}', {"choices": [None, {"message": "text"}]}),
        (b'{"object": ["x"], "choices": 7}', {"object": ["x"], "choices": 7}),
    ],
)
def test_odd_answers(body: bytes, said: object) -> None:
    assert read(as_event(body, usage=False)) == said


def test_what_cannot_be_read_stays_as_it_is_on_one_line() -> None:
    assert (
        as_event(b"not\r\nJSON", usage=False)
        == event_of(b"not\nJSON".replace(b"\n", b"\r\n"))
        == b"data: not  JSON\n\n"
    )
