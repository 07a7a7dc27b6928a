from typing import get_args

import pytest

from zuebee.contracts import errors
from zuebee.contracts.errors import ErrorType, Refusal, bad_request

KNOWN = {name: value for name, value in vars(errors).items() if isinstance(value, Refusal)}


@pytest.mark.parametrize("name", KNOWN)
def test_a_refusal_is_fit_to_be_shown(name: str) -> None:
    refusal = KNOWN[name]
    assert 400 <= refusal.status <= 599
    assert refusal.type in get_args(ErrorType)
    assert refusal.code.replace("_", "").isalpha()
    assert refusal.message.endswith(".")


def test_codes_tell_refusals_apart() -> None:
    assert len({refusal.code for refusal in KNOWN.values()}) == len(KNOWN) > 5


def test_a_bad_request_names_its_field() -> None:
    refusal = bad_request("No.", param="model")
    assert (refusal.status, refusal.type, refusal.code) == (400, "invalid_request_error", "invalid_request")
    assert refusal.param == "model"
    assert not refusal.should_retry
