"""What the termination reason of a reply is."""

from typing import Any

import pytest

from zuebee.contracts.errors import CLIENT_LEFT, INTERNAL
from zuebee.contracts.inference import End
from zuebee.edge.client import conclusion, reason_of


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        ("timeout", "timeout"),
        ("none", "refused"),
        ("broken", "upstream_broken"),
        ("connect_failure", "upstream_broken"),
        ("overload", "upstream_broken"),
        ("unwelcome", "upstream_broken"),
    ],
)
def test_a_reply_that_is_not_whole_is_called_by_its_cause(cause: Any, reason: str) -> None:
    assert reason_of(End(refusal=INTERNAL, cause=cause)) == reason
    assert conclusion(End(refusal=INTERNAL, cause=cause), 200, client_gone=True) == (reason, INTERNAL.code)


def test_a_whole_answer_is_complete_unless_it_was_an_error_or_nobody_saw_it() -> None:
    assert conclusion(End(), 200, client_gone=False) == ("complete", "")
    assert conclusion(End(), 422, client_gone=False) == ("refused", "backend_error")
    assert conclusion(End(), 422, client_gone=True) == ("refused", "backend_error")
    assert conclusion(End(), 200, client_gone=True) == ("client_gone", CLIENT_LEFT.code)
