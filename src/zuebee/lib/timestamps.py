"""Times as text. PURE."""

from datetime import UTC, datetime

_second = (-1, "")


def rfc3339(at_s: float) -> str:
    """Seconds since 1970 as RFC 3339 in UTC with milliseconds and `Z`."""
    global _second
    whole_s = int(at_s)
    known_s, text = _second
    if whole_s != known_s:
        # Records come in the order of time: most ask for the second of the one before.
        text = datetime.fromtimestamp(whole_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        _second = (whole_s, text)
    # A float just below a millisecond means that millisecond.
    return f"{text}.{min(int((at_s - whole_s) * 1000 + 0.001), 999):03d}Z"
