import json

import pytest

from zuebee.sim.base import count_tokens, cut_at, seed_of, token, tokens


def test_the_same_seed_gives_the_same_text_and_another_seed_another() -> None:
    assert tokens(7, 50, whole=True) == tokens(7, 50, whole=True)
    starts = {"".join(word.text for word in tokens(seed, 50, whole=True)) for seed in range(31)}
    assert len(starts) == 31


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_there_are_as_many_tokens_as_asked_for(count: int) -> None:
    found = tokens(3, count, whole=True)
    assert len(found) == count
    for word in found:
        assert json.loads(word.json) == word.text
        assert json.loads(word.delta) == {"content": word.text}


def test_a_whole_text_reads_like_sentences() -> None:
    text = "".join(word.text for word in tokens(5, 60, whole=True))
    assert text[0].isupper()
    assert text.endswith(".")
    assert "  " not in text
    assert " ." not in text
    assert not "".join(word.text for word in tokens(5, 10, whole=False)).endswith(".")


def test_a_shorter_answer_is_the_beginning_of_a_longer_one() -> None:
    assert tokens(9, 10, whole=False) == tokens(9, 100, whole=True)[:10]


def test_a_stop_string_cuts_even_inside_a_token_and_the_first_one_counts() -> None:
    found = [token(text) for text in ("One", " two", " three", ".")]
    assert [word.text for word in cut_at(found, ["ree", "zzz"]) or []] == ["One", " two", " th"]
    assert [word.text for word in cut_at(found, [".", "o t"]) or []] == ["One", " tw"]
    assert cut_at(found, ["One"]) == []
    assert cut_at(found, ["four", ""]) is None


def test_seed_depends_on_every_part() -> None:
    assert seed_of(["a", "b"]) != seed_of(["a", "c"])
    assert seed_of(["\ud800"]) >= 0  # half a surrogate pair, as JSON can carry it


def test_a_token_is_four_bytes() -> None:
    assert [count_tokens(text) for text in ("", "a", "abcd", "abcde", "ééé")] == [0, 1, 1, 2, 2]
