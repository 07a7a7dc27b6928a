"""PURE. Usage that nobody asked for, cut out of an event that says more: LangChain, for one, adds up what it sees."""

import re
from typing import Final

from zuebee.dialects import json_walk

_USAGE: Final = re.compile(rb'("usage"\s*:\s*)\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}')
_DATA: Final = b"data:"


def without_usage(event: bytes, data: bytes) -> bytes:
    """The event, whose data is this, as it would be if its server had not been asked for usage."""
    kept = _without(data)
    if data in event:
        return event.replace(data, kept)
    # Its data stands on several lines, which become one.
    lines = event.splitlines(keepends=True)
    first = next(index for index, line in enumerate(lines) if line.startswith(_DATA))
    end = lines[first].removeprefix(lines[first].rstrip(b"\r\n"))
    lines[first] = b"data: " + kept.replace(b"\n", b" ") + end
    return b"".join(line for index, line in enumerate(lines) if index <= first or not line.startswith(_DATA))


def _without(data: bytes) -> bytes:
    try:
        places = json_walk.fields(data)
    except (ValueError, RecursionError):
        # It is no JSON, but a reader may take it. Inside a text the quotation marks would have backslashes.
        return _USAGE.sub(rb"\1null", data)
    begin = at = data.index(b"{") + 1
    kept = []
    for name, _, end in places:
        if name != "usage":
            kept.append(data[at:end])
        at = data.find(b",", end) + 1
    return data[:begin] + b",".join(kept) + data[places[-1][2] :]
