import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.dialects.json_text import is_object_from_outside, mend, mend_halves

MENDED = {
    rb'{"a":"\ud83d"}': rb'{"a":"\ufffd"}',
    rb'{"a":"\ude00\ud83d"}': rb'{"a":"\ufffd\ufffd"}',
    rb'{"a":"\ud83d\ude00"}': rb'{"a":"\ud83d\ude00"}',
    rb'{"a":"\ud83d\ud83d\ude00\ude00"}': rb'{"a":"\ufffd\ud83d\ude00\ufffd"}',
    rb'{"a":"\\ud83d \\\ud83d"}': rb'{"a":"\\ud83d \\\ufffd"}',
    rb'{"\uDBFF":1}': rb'{"\ufffd":1}',
    b'{"a":NaN,"b":[-Infinity,Infinity]}': b'{"a":"" ,"b":[""       ,""      ]}',
    b'{"a":"NaN, \\" -Infinity","NaN":null}': b'{"a":"NaN, \\" -Infinity","NaN":null}',
    b'{"a":"\x01\n"}': b'{"a":"  "}',
    rb'{"a":"\x41\u12\""}': rb'{"a":" x41 u12\""}',
    b'\xef\xbb\xbf{"a":1}': b'   {"a":1}',
}


@pytest.mark.parametrize("text", MENDED)
def test_what_a_strict_reader_refuses_is_made_readable(text: bytes) -> None:
    mended = mend(text)
    assert mended == MENDED[text]
    msgspec.json.decode(mended)


@given(st.recursive(st.text() | st.floats() | st.integers() | st.none(), lambda one: st.lists(one, max_size=4)))
def test_each_part_keeps_its_place(value: object) -> None:
    text = json.dumps({"a": value, "b": "\ud83d"}).encode()
    mended = mend(text)
    assert len(mended) == len(text)
    read = msgspec.json.decode(mended)
    assert (list(read), read["b"]) == (["a", "b"], "\ufffd")


@given(st.binary(max_size=60))
def test_no_bytes_raise_or_change_their_number(data: bytes) -> None:
    assert len(mend(data)) == len(mend_halves(data)) == len(data)
    is_object_from_outside(data)


def test_nothing_takes_more_time_than_its_size() -> None:
    started_s = time.process_time()
    for big in (b'"', b"N", b"\\", b'\\"', b"{", rb"\ud83d", b"NaN,", b'"a",'):
        mend(b'{"a":"' + big * 200_000)
        is_object_from_outside(b'{"a":"' + big * 200_000 + b"}")
    assert time.process_time() - started_s < 10, "quadratic work would take hours"


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        (b'{"a":[1,]}', True),
        (b' {"a":"}{["}\n', True),
        (b'\xef\xbb\xbf{"a":+1}', True),
        (b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}", True),
        (b'{"a":{}', False),
        (b'{"a":"}', False),
        (b'{"a":[}', False),
        (b"{", False),
        (b"[]", False),
        (b"[DONE]", False),
        (b"hello", False),
        (b"", False),
    ],
)
def test_what_is_an_object_from_outside(data: bytes, is_one: bool) -> None:
    assert is_object_from_outside(data) is is_one
