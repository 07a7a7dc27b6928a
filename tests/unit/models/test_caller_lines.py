import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakes import make_job
from zuebee.contracts.admission import Principal
from zuebee.models.header_policy import MAX_VALUE_BYTES, caller_lines


def user_line(user_id: str) -> bytes:
    lines = caller_lines(make_job(sender=Principal(user_id=user_id)))
    assert lines.endswith(b"\r\nx-zuebee-priority: normal\r\n")
    return lines.removesuffix(b"x-zuebee-priority: normal\r\n")


@pytest.mark.requirement("A102")
@given(st.text(min_size=1))
def test_no_value_can_break_out_of_its_line(text: str) -> None:
    line = user_line(text)
    assert re.fullmatch(rb"x-zuebee-user: [\x21-\x7e]+\r\n", line)
    assert len(line) <= MAX_VALUE_BYTES + len("x-zuebee-user: \r\n")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ann@example.org", b"ann@example.org"),
        ("Zoë B", b"Zo%C3%AB%20B"),
        ("a\r\nx-evil: 1", b"a%0D%0Ax-evil:%201"),
        ("100%", b"100%25"),
        ("ü" * 100, b"%C3%BC" * 42),
        ("\ud800", b"?"),
    ],
)
def test_what_is_not_visible_ascii_is_encoded(text: str, value: bytes) -> None:
    assert user_line(text) == b"x-zuebee-user: " + value + b"\r\n"


def test_what_is_not_known_is_not_said() -> None:
    assert caller_lines(make_job(priority="low")) == b"x-zuebee-priority: low\r\n"
