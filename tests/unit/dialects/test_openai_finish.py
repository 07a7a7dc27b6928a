import pytest
from msgspec import UNSET

from zuebee.dialects.openai_stream import all_finished, finished_by_index


@pytest.mark.parametrize(
    ("choices", "finished"),
    [
        (b'[{"finish_reason":"stop"}]', True),
        (b'[{"finish_reason":"stop"},{"finish_reason":"length"}]', True),
        (b'[{"finish_reason":"stop"},{"finish_reason":null}]', False),
        *((b'[{"finish_reason":%b}]' % word, False) for word in (b'""', b'" "', b'"null"', b'"None"', b"7", b"false")),
        (b"[{}]", False),
        (b"[]", False),
        (b"null", False),
        (b'"text"', False),
        (b"[" * 5000, False),
        (UNSET, False),
    ],
)
def test_when_texts_are_finished(choices: object, finished: bool) -> None:
    assert all_finished(choices) is finished


def test_each_text_by_its_index() -> None:
    assert finished_by_index(b'[{"index":1,"finish_reason":"stop"},{"finish_reason":""}]') == {1: True, 0: False}
    assert finished_by_index(b'[{"index":"1"}]') == finished_by_index(b"7") == {}
