import json
import random

import pytest

from zuebee.dialects.openai_stream import without_usage
from zuebee.dialects.sse import event_data


def cut(event: bytes) -> bytes:
    return without_usage(event, event_data(event))


@pytest.mark.parametrize(
    ("event", "kept"),
    [
        (b'data: {"usage":{"a":1},"id":"x"}\n\n', b'data: {"id":"x"}\n\n'),
        (b'data: {"id":"x","usage":{"a":{"b":1}}}\n\n', b'data: {"id":"x"}\n\n'),
        (b'data:{ "id" : "x" , "usage" : {} , "n" : [1,{"usage":2}] }\r\n\r\n',
         b'data:{ "id" : "x", "n" : [1,{"usage":2}] }\r\n\r\n'),
        (b'data: {"us\\u0061ge":{},"usage":{"a":1},"id":"x","usage":{}}\n\n', b'data: {"id":"x"}\n\n'),
        (b'id: 7\ndata: {"id":"x","usage":{}}\nevent: e\n\n', b'id: 7\ndata: {"id":"x"}\nevent: e\n\n'),
        (b'id: 7\ndata: {"id":"x",\ndata: "usage":{}}\nevent: e\n\n', b'id: 7\ndata: {"id":"x"}\nevent: e\n\n'),
        (b'data: {"text":"\\"usage\\": {}","usage":{}}\n\n', b'data: {"text":"\\"usage\\": {}"}\n\n'),
        (b'data: {"text":"\\"usage\\": {}","p":NaN,"usage":{"a":{"b":1},"c":2}}\n\n',
         b'data: {"text":"\\"usage\\": {}","p":NaN,"usage":null}\n\n'),
    ],
)  # fmt: skip
def test_only_the_usage_goes(event: bytes, kept: bytes) -> None:
    assert cut(event) == kept


def test_whatever_else_stands_there_stays() -> None:
    draw = random.Random(11)
    for _ in range(500):
        names = draw.sample(["id", "choices", "model", "x", "y,}", "object"], draw.randrange(6))
        said = {name: draw.choice([1, None, "a,b", {"usage": 1}, [{}, "usage"]]) for name in names}
        items = [*said.items(), ("usage", {"total": {"n": 1}})]
        draw.shuffle(items)
        text = json.dumps(dict(items), indent=draw.choice([None, None, 1]))
        event = "".join(f"data: {line}\n" for line in text.split("\n")).encode() + b"\n"
        assert json.loads(event_data(cut(event))) == said, event
