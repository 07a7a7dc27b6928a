"""Durations and sizes as people write them."""

import re
from typing import Any

_DURATION_UNITS_S = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
    "d": 86400.0,
}
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")
_SIZE = re.compile(r"(\d+)\s*([kmg]i?b?|b)?", re.IGNORECASE)
_SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Duration(float):
    """Seconds. Written as in Go (`500ms`, `1m30s`, `2h`) or as a plain number of seconds."""

    @classmethod
    def parse(cls, value: object) -> "Duration":
        """Read a duration; raises ValueError with what is expected."""
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError("Expected a duration such as `10s`")
        if isinstance(value, str):
            text = value.strip()
            parts = _DURATION_PART.findall(text)
            if not parts or "".join(number + unit for number, unit in parts) != text:
                raise ValueError("Expected a duration such as `500ms`, `10s` or `1m30s`")
            seconds = sum(float(number) * _DURATION_UNITS_S[unit] for number, unit in parts)
        else:
            seconds = float(value)
        if not 0 <= seconds < 1e9:
            raise ValueError("Expected a duration between 0 and 30 years")
        return cls(seconds)


class Timeout(Duration):
    """A duration above 0: there is always a limit."""

    @classmethod
    def parse(cls, value: object) -> "Timeout":
        """Like `Duration.parse`."""
        seconds = Duration.parse(value)
        if seconds <= 0:
            raise ValueError("Expected a duration above 0: there is always a limit")
        return cls(seconds)


class Size(int):
    """Bytes. Written as a number, or with a unit of 1,024 (`64KiB`, `32MiB`, `10MB`)."""

    @classmethod
    def parse(cls, value: object) -> "Size":
        """Read a size; raises ValueError with what is expected."""
        if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            return cls(value)
        match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError("Expected a size such as `1048576` or `32MiB`")
        return cls(int(match[1]) * _SIZE_UNITS[(match[2] or "").lower()[:1]])


def decode_custom(kind: type, value: object) -> Any:
    """msgspec's hook for the types above."""
    if kind is Duration or kind is Timeout or kind is Size:
        return kind.parse(value)
    raise TypeError(f"no setting is of type {kind}")
