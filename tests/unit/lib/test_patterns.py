import pytest

from zuebee.lib.patterns import allowed, fits, is_clear, is_open, stem_of


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
