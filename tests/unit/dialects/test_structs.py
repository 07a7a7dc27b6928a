"""Struct, as Python has it."""

import pytest
from google.protobuf.struct_pb2 import Struct

from zuebee.dialects.llm_v1 import plain


def made(**fields: object) -> Struct:
    struct = Struct()
    struct.update(fields)
    return struct


def test_every_kind_of_value_is_itself_again() -> None:
    value = {"a": None, "b": True, "c": 1.5, "d": "x", "e": [1, {"f": []}], "g": {"h": -2}}
    assert plain(made(**value)) == value


def test_whole_numbers_are_integers_as_far_as_they_are_exact() -> None:
    found = plain(made(a=5.0, b=float(2**53), c=1e300, d=-0.5))
    assert [type(each) for each in found.values()] == [int, int, float, float]


def test_names_stand_in_order_whatever_the_order_they_came_in() -> None:
    assert list(plain(made(b=1, a={"d": 1, "c": 2}))) == ["a", "b"]
    assert list(plain(made(b=1, a={"d": 1, "c": 2}))["a"]) == ["c", "d"]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_json_has_no_word_for_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        plain(made(a=[{"b": number}]))
