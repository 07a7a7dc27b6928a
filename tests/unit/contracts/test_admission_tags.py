"""Each usage record has all tags of its principal, so there is a bound to them."""

import msgspec
import pytest

from zuebee.accounts.schemas import Tags
from zuebee.auth.records import merged, record_of
from zuebee.contracts.admission import MAX_TAGS, MAX_TAGS_CHARS, Principal, some_tags

MANY = [f"tag {number}" for number in range(5 * MAX_TAGS)]
LONG = [f"{number:03}" + "t" * 250 for number in range(MAX_TAGS)]


def written(tags: tuple[str, ...]) -> bytes:
    """As they stand in a usage record."""
    return msgspec.json.encode(tags)


def test_the_first_that_fit_are_kept_each_once() -> None:
    assert some_tags(["a", "b"], ["b", "c"]) == ("a", "b", "c")
    assert some_tags(MANY) == tuple(MANY[:MAX_TAGS])
    assert some_tags(LONG) == tuple(LONG[: MAX_TAGS_CHARS // 253])
    assert some_tags(["x" * MAX_TAGS_CHARS, "y"], ["z"]) == ("x" * MAX_TAGS_CHARS,)
    assert some_tags(["x" * (MAX_TAGS_CHARS + 1)], ["z"]) == ()
    assert some_tags() == ()


@pytest.mark.parametrize("tags", [MANY, LONG, ",".join(MANY)])
def test_no_source_gives_a_principal_more(tags: object) -> None:
    principal = record_of({"name": "ann", "tags": tags}, "d" * 64).principal
    assert 0 < len(principal.tags) <= MAX_TAGS
    assert len(written(principal.tags)) < 2 * MAX_TAGS_CHARS
    both = merged([principal, Principal("k", tags=tuple(LONG)), Principal("k", tags=tuple(MANY))])
    assert len(written(both.tags)) < 2 * MAX_TAGS_CHARS


def test_a_form_with_more_is_refused() -> None:
    assert msgspec.convert(MANY[:MAX_TAGS], Tags)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(MANY[: MAX_TAGS + 1], Tags)
