"""PURE. Faults: their names and parameters, the ways of asking for one, and the book of armed ones."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec

MODEL_PREFIX = "sim-fault-"
HEADER = b"x-sim-fault"
ANY_PATH = "*"

FAULTS = {
    "refuse": "the connection is reset, and new connections are refused for `for_s` seconds",
    "hang": "nothing more is sent: before the head, or after `after_events` events",
    "reset": "the connection ends with a TCP reset: before the head, or after `after_events` events",
    "truncate": "the connection is closed properly, but before the message is complete",
    "malformed": "an event (or a body) that is not JSON, after `after_events` events; the stream goes on",
    "slow_drip": "the whole response is sent one byte at a time, `interval_s` apart",
    "html": "200 with an HTML page",
    "error_first": "200, and the first event (or the body) is an error",
    "error_mid": "an error event after `after_events` events ends the stream",
    "no_done": "the stream ends without `[DONE]`",
    "close_delimited": "neither content-length nor chunks: the body ends where the connection does",
    "garbage_after": "bytes that nobody asked for follow the complete message",
    "close_after": "the connection is closed after a message that promised to keep it, `for_s` seconds later",
    "big_event": "one event (or a body) of `size_bytes`, after `after_events` events",
    "usage": "the usage figures are hostile in the way that `kind` says",
    "interim_1xx": "interim responses (100, 102, 103) come before the final one",
    "redirect": "302 to `location`",
    "gzip": "the body is compressed with gzip, whatever the request accepts",
}
"""Every fault by name, and what it does. A status from 400 to 599 is a fault, too: `429`, `500`, `503`."""

_STATUS = re.compile(r"[45]\d\d")
_MAX_WAIT_S = 3600

Seconds = Annotated[float, msgspec.Meta(ge=0, le=_MAX_WAIT_S)]
Count = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)]
UsageKind = Literal[
    "negative",
    "huge",
    "string",
    "float",
    "exponent",
    "nan",
    "infinity",
    "bool",
    "nested",
    "list",
    "null_figures",
    "cached",
    "null",
    "missing",
]


class FaultError(ValueError):
    """A fault was asked for that does not exist or with parameters that make no sense; says which."""


class Wish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a request may ask of the simulation in its field `sim`: a fault, a length, a pace."""

    fault: str | int | None = None
    after_events: Count | None = None
    for_s: Seconds | None = None
    """`hang`: go on after so long. `refuse`: how long (1 s). `close_after`: how long after the message (0 s)."""
    retry_after_s: Count | None = None
    """The `retry-after` header of an error status; 1 for 429 when not given."""
    interval_s: Seconds = 0.002
    size_bytes: Annotated[int, msgspec.Meta(ge=1, le=64 * 1024 * 1024)] = 1024 * 1024
    kind: UsageKind = "negative"
    location: Annotated[str, msgspec.Meta(pattern=r"^[!-~]+$")] = "/_sim/redirected"
    tokens: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = None
    """Length of the answer in tokens, before `max_tokens` cuts it."""
    cached_tokens: Count | None = None
    """Tokens of the prompt that the usage says came from the cache; None says nothing of a cache."""
    prompt_tokens: Count | None = None
    """Tokens that the prompt has, whatever its text: pictures, a hidden system prompt; None: they are counted."""
    tokens_per_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    first_token_delay_s: Seconds | None = None

    def __post_init__(self) -> None:
        name = self.name
        if name and name not in FAULTS and not _STATUS.fullmatch(name):
            raise FaultError(f"unknown fault {name!r}; there are: {', '.join(FAULTS)}, and any status from 400 to 599")

    @property
    def name(self) -> str:
        """The fault asked for, or an empty string."""
        return "" if self.fault is None else str(self.fault)

    @property
    def status(self) -> int | None:
        """The error status asked for, if the fault is one."""
        return int(self.name) if _STATUS.fullmatch(self.name) else None


class Armed(Wish, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A fault for coming requests, as `POST /_sim/faults` takes it."""

    times: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many requests it strikes; None means all until it is deleted."""
    path: str | None = None
    """The path it strikes, `*` for all; None means the inference paths, so that health checks pass."""


NO_WISH = Wish()


def parse_header(value: str) -> Wish:
    """Return the wish of a header `name;after=3;kind=huge`; raise FaultError for nonsense."""
    name, *parameters = (part.strip() for part in value.split(";"))
    fields: dict[str, Any] = {"fault": name}
    for parameter in parameters:
        key, _, text = parameter.partition("=")
        fields["after_events" if key == "after" else key] = text
    try:
        return msgspec.convert(fields, Wish, strict=False)
    except msgspec.ValidationError as error:
        raise FaultError(str(error)) from None


def asked(body: Wish | None, headers: Iterable[tuple[bytes, bytes]], model: str | None) -> Wish | None:
    """Return what the request itself asks for: its body first, then its header, then its model's name."""
    if body is not None and body.name:
        return body
    for name, value in headers:
        if name == HEADER:
            return parse_header(value.decode("latin-1"))
    if model is not None and model.startswith(MODEL_PREFIX):
        return Wish(fault=model.removeprefix(MODEL_PREFIX))
    return None


class FaultBook:
    """The faults armed for coming requests, oldest first; at most `LIMIT`."""

    LIMIT = 100

    def __init__(self) -> None:
        self._armed: list[Armed] = []

    def arm(self, armed: Armed) -> None:
        """Add a fault; raise FaultError when the book is full."""
        if len(self._armed) >= self.LIMIT:
            raise FaultError(f"{self.LIMIT} faults are armed already")
        self._armed.append(armed)

    def clear(self) -> None:
        """Forget all faults."""
        self._armed.clear()

    def list(self) -> list[Armed]:
        """Return the armed faults with the number of times left."""
        return list(self._armed)

    def strike(self, path: str, *, inference: bool) -> Armed | None:
        """Return the first fault armed for this request, used up by one time, or None."""
        for place, armed in enumerate(self._armed):
            if armed.path in (path, ANY_PATH) or (armed.path is None and inference):
                if armed.times == 1:
                    del self._armed[place]
                elif armed.times is not None:
                    self._armed[place] = msgspec.structs.replace(armed, times=armed.times - 1)
                return armed
        return None
