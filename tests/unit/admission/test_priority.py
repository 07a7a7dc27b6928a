import pytest

from zuebee.admission.service import priority_of
from zuebee.contracts.admission import Priority
from zuebee.contracts.errors import Refusal

CLASSES: list[Priority] = ["low", "normal", "high"]


@pytest.mark.requirement("A100")
@pytest.mark.parametrize("entitled", CLASSES)
def test_a_caller_may_lower_but_not_raise(entitled: Priority) -> None:
    for asked in CLASSES:
        expected = CLASSES[min(CLASSES.index(entitled), CLASSES.index(asked))]
        assert priority_of(entitled, {b"x-priority": f" {asked.upper()} ".encode()}) == expected
    assert priority_of(entitled, {}) == entitled


@pytest.mark.parametrize(("digit", "expected"), [(b"0", "low"), (b"3", "low"), (b"4", "normal"), (b"9", "high")])
def test_digits_are_classes(digit: bytes, expected: str) -> None:
    assert priority_of("high", {b"x-priority": digit}) == expected


@pytest.mark.parametrize("text", [b"", b"urgent", b"10", b"-1", b"\xff", b"\xb2"])
def test_anything_else_is_refused_by_name(text: bytes) -> None:
    refusal = priority_of("high", {b"x-priority": text})
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.param) == (400, "x-priority")
