"""PURE. Which class a request belongs to: its principal's, or a lower one that the caller asks for."""

from collections.abc import Mapping

from zuebee.contracts.admission import Priority
from zuebee.contracts.errors import Refusal, bad_request

HEADER = b"x-priority"
_ORDER: tuple[Priority, ...] = ("low", "normal", "high")
_LOW_DIGITS, _HIGH_DIGITS = b"0123", b"789"


def priority_of(entitled: Priority, fields: Mapping[bytes, bytes]) -> Priority | Refusal:
    """`x-priority` is `low`, `normal`, `high`, or a digit (0 to 3 low, 7 to 9 high).

    It can lower the class of one request; asking for a higher one than entitled leaves the entitled one.
    """
    asked = fields.get(HEADER)
    if asked is None:
        return entitled
    wanted = _read(asked.strip().lower())
    if wanted is None:
        return bad_request("`x-priority` must be low, normal, high or a digit.", param="x-priority")
    return min(entitled, wanted, key=_ORDER.index)


def _read(text: bytes) -> Priority | None:
    for name in _ORDER:
        if text == name.encode():
            return name
    if len(text) != 1 or not text.isdigit():
        return None
    return "low" if text in _LOW_DIGITS else "high" if text in _HIGH_DIGITS else "normal"
