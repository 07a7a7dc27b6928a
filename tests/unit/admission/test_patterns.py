import time

import pytest

from zuebee.admission.firewall import address_set, searcher, whole_matcher


def test_search_and_whole_match() -> None:
    assert searcher("b+")(b"abbc")
    assert not searcher("b+")(b"ac")
    whole = whole_matcher(["/a.*", "/b"])
    assert [whole(text) for text in (b"/a", b"/abc", b"/b", b"/bc", b"x/a")] == [True, True, True, False, False]


def test_bytes_that_are_no_utf8_are_searched_too() -> None:
    assert searcher("x$")(b"\xff\xfe x")
    assert searcher("ü")("für".encode())


@pytest.mark.parametrize("pattern", ["(", "a{1001}", "(?=a)", r"(a)\1", "*"])
def test_what_is_not_re2_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        searcher(pattern)


def test_time_is_linear_in_the_text() -> None:
    search = searcher("(a*)*(a|aa)+b$")
    started_s = time.perf_counter()
    assert not search(b"a" * 1_000_000)
    assert time.perf_counter() - started_s < 2


def test_an_address_set_knows_both_families_and_their_mixture() -> None:
    contains = address_set(["10.0.0.0/8", "::ffff:192.0.2.0/120", "fe80::/10", "2001:db8::7"])
    inside = ["10.9.8.7", "::ffff:10.9.8.7", "192.0.2.255", "::ffff:c000:201", "fe80::1", "2001:db8::7"]
    outside = ["11.0.0.1", "192.0.3.0", "2001:db8::8", "", "10.0.0", "10.0.0.1, 11.0.0.1", "::a00:1"]
    assert all(map(contains, inside))
    assert not any(map(contains, outside))


def test_what_is_no_range_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/33"):
        address_set(["10.0.0.0/33"])
