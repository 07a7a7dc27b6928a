import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.lib.patterns import Patterns, allowed, fits, is_clear, is_open, narrow, stem_of

NAMES = ["", "a", "ab", "abc", "abd", "a*", "a*b", "b", "ba", "*"]
SOME = ["", "a", "ab", "abc", "a*", "ab*", "abc*", "b*", "ba", "*", "a**", "a*b", "**"]
patterns = st.lists(st.sampled_from(SOME), max_size=3).map(tuple)


@pytest.mark.parametrize(
    ("pattern", "name", "fit"),
    [
        ("m", "m", True),
        ("m", "m2", False),
        ("m", "M", False),
        ("m*", "m2", True),
        ("m*", "m", True),
        ("m*", "m*", True),
        ("m*", "om", False),
        ("*", "", True),
        ("", "", True),
        ("", "m", False),
        ("a*b", "axb", False),
        ("a*b", "a*b", True),
        ("a**", "ab", False),
        ("a**", "a*b", True),
    ],
)
def test_a_star_stands_for_any_rest_only_at_the_end(pattern: str, name: str, fit: bool) -> None:
    assert fits(name, pattern) is fit
    assert allowed(name, (pattern,)) is fit
    assert allowed(name, ["other", pattern]) is fit


def test_where_nothing_is_named_all_is_allowed() -> None:
    assert allowed("m", ())
    assert allowed("", [])
    assert not allowed("m", ("",))


def test_what_a_pattern_is_made_of() -> None:
    assert [(is_open(each), stem_of(each)) for each in ("m*", "m", "*", "")] == [
        (True, "m"), (False, "m"), (True, ""), (False, ""),
    ]  # fmt: skip


def test_a_star_elsewhere_is_seen() -> None:
    assert [is_clear(each) for each in ("m*", "m", "*", "", "a*b", "**", "*a")] == [
        True, True, True, True, False, False, False,
    ]  # fmt: skip


@given(st.lists(patterns, max_size=4))
def test_a_name_is_left_exactly_if_all_allow_it(all_patterns: list[Patterns]) -> None:
    left = narrow(all_patterns)
    for name in NAMES:
        assert (left is not None and allowed(name, left)) == all(allowed(name, some) for some in all_patterns)


def test_nothing_in_common_is_not_everything() -> None:
    assert narrow([("a",), ("b",)]) is None
    assert narrow([("a",), ("b",), ()]) is None
    assert narrow([(), ()]) == narrow([]) == ()


def test_what_is_left_is_named_once_in_the_order_of_the_first() -> None:
    assert narrow([("gpt-*",), ("gpt-4*", "o1")]) == ("gpt-4*",)
    assert narrow([("o*", "gpt-4"), ("gpt-*", "o1", "gpt-4", "o*")]) == ("o1", "o*", "gpt-4")
