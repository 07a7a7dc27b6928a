import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from zuebee.dialects.openai_shapes import text_bytes

CHOICES = [
    (b"[]", 0),
    (b'[{"index":0,"delta":{},"finish_reason":"stop"}]', 0),
    (b'[{"delta":{"role":"assistant","content":""}}]', 0),
    (b'[{"delta":{"content":null,"refusal":"no"}}]', 2),
    ('[{"delta":{"content":"zwölf"}},{"delta":{"content":"ab"}}]'.encode(), 8),
    (b'[{"text":"abc","logprobs":{"tokens":["abc"]}}]', 3),
    (b'[{"delta":{"reasoning_content":"abc","reasoning":"abc"}}]', 3),
    (b'[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":"{}"}},{"index":1}]}}]', 3),
    (b'[{"delta":{"content":[{"type":"text","text":"abc"}]}}]', len('[{"type":"text","text":"abc"}]')),
    (b'[{"delta":"abc"}]', len('[{"delta":"abc"}]')),
    (b'{"delta":1}', len('{"delta":1}')),
]


@pytest.mark.parametrize(("choices", "size"), CHOICES)
def test_only_text_counts_and_what_is_odd_counts_whole(choices: bytes, size: int) -> None:
    assert text_bytes(Raw(choices)) == size


def test_no_choices_have_no_text() -> None:
    assert text_bytes(UNSET) == 0


_ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["delta", "text", "content"]), inner),
)


@pytest.mark.slow
@given(st.lists(_ANY))
def test_no_choices_raise_or_weigh_more_than_they_are(choices: list[object]) -> None:
    raw = msgspec.json.encode(choices)
    assert 0 <= text_bytes(Raw(raw)) <= len(raw)
