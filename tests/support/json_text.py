"""JSON written oddly, so that nothing depends on how it is spelled."""

import json
from typing import Any

from hypothesis import strategies as st

blanks = st.text(" \t\r\n", max_size=3)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["model", '"model"', "{", "}]", ",", ":", "\\", '\\"', "stream_options", "é", "😀", "\u2028"]
)
values = st.recursive(
    scalars | texts, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=8
)


@st.composite
def written(draw: st.DrawFn, value: Any) -> str:
    """A value as JSON with blanks and escapes where JSON allows them."""
    if isinstance(value, str):
        return "".join(['"', *(draw(written_character(character)) for character in value), '"'])
    before, after = draw(blanks), draw(blanks)
    if isinstance(value, list):
        return before + "[" + ",".join(draw(written(item)) + draw(blanks) for item in value) + "]" + after
    if isinstance(value, dict):
        items = (draw(blanks) + draw(written(k)) + draw(blanks) + ":" + draw(written(v)) for k, v in value.items())
        return before + "{" + ",".join(items) + draw(blanks) + "}" + after
    return before + json.dumps(value) + after


def written_character(character: str) -> st.SearchStrategy[str]:
    plain = json.dumps(character, ensure_ascii=False)[1:-1]
    escaped = "".join(f"\\u{unit:04x}" for unit in _utf16_units(character))
    return st.sampled_from([plain, plain, plain, escaped, escaped.upper().replace("\\U", "\\u")])


def _utf16_units(character: str) -> list[int]:
    data = character.encode("utf-16-be")
    return [int.from_bytes(data[n : n + 2]) for n in range(0, len(data), 2)]
