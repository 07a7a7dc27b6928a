"""PURE. Values of a request that are not of the type that OpenAI names, and that servers take all the same.

vLLM, SGLang and others read a body by pydantic's rules, for which `100.0` and `"10"` are numbers, `1` and `"yes"`
truth values. What one of them would obey is read here as it reads it: a bound that is held must be the bound that
counts.
"""

import re
from typing import Final

import msgspec

from zuebee.dialects import json_walk

_NUMBERS: Final = ("max_tokens", "max_completion_tokens", "n", "best_of")
_MAX_DIGITS: Final = 32
_WHOLE: Final = re.compile(r"[+-]?[0-9]+(?:_[0-9]+)*(?:\.0+)?")
_YES: Final = frozenset({"1", "on", "t", "true", "y", "yes"})
_NO: Final = frozenset({"0", "off", "f", "false", "n", "no"})

_value: Final = msgspec.json.Decoder(str | float | bool | None).decode


def typed(name: str, raw: bytes) -> bytes:
    """The value of a field as JSON of the type that it should have; as it is, where no server would take it."""
    if name == "stream_options":
        return _options(raw)
    try:
        value = _value(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):  # a list, an object
        return raw
    if name == "model":
        return b'""' if value is None else raw
    found = _truth(value) if name == "stream" else _number(value) if name in _NUMBERS else None
    return raw if found is None else found


def _number(value: str | float | bool | None) -> bytes | None:
    if isinstance(value, str):
        text = value.strip()
        if len(text) > _MAX_DIGITS or not _WHOLE.fullmatch(text):
            return None
        return b"%d" % int(text.partition(".")[0])
    if value is None or not float(value).is_integer():
        return None
    return b"%d" % int(value)


def _truth(value: str | float | bool | None) -> bytes | None:
    if isinstance(value, str):
        word = value.lower()
        return b"true" if word in _YES else b"false" if word in _NO else None
    return None if value is None or value not in (0, 1) else b"true" if value else b"false"


def _options(raw: bytes) -> bytes:
    try:
        found = json_walk.fields(raw)
    except (json_walk.NotJson, json_walk.TooMany, RecursionError):
        return raw
    said = [raw[start:end] for name, start, end in found if name == "include_usage"]
    return b'{"include_usage":%b}' % (typed("stream", said[-1])) if said else b"{}"
