"""PURE. Whether the texts of a stream came to their ends, as the choices of its chunks say."""

from typing import Any, Final

import msgspec

from zuebee.dialects.openai_shapes import FinishedChoice
from zuebee.dialects.openai_usage import Json

_NO_REASONS: Final = ("", "null", "none")
"""What servers say that have no other word for a text that goes on."""

_decode: Final = msgspec.json.Decoder(list[FinishedChoice]).decode


def all_finished(choices: Json) -> bool:
    """Whether each of these choices gives a reason why it ended."""
    found = _read(choices)
    return bool(found) and all(_finished(choice) for choice in found)


def finished_by_index(choices: Json) -> dict[int, bool]:
    """Which texts these choices belong to, and whether each gives a reason why it ended."""
    return {choice.index: _finished(choice) for choice in _read(choices) if type(choice.index) is int}


def _read(choices: Json) -> list[FinishedChoice]:
    if choices is msgspec.UNSET:
        return []
    try:
        return _decode(choices)
    except (ValueError, RecursionError):
        return []


def _finished(choice: Any) -> bool:
    reason = choice.finish_reason
    return isinstance(reason, str) and reason.strip().lower() not in _NO_REASONS
