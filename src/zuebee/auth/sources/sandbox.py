"""One Lua runtime for one decision script. The walls are in sandbox.lua.

No object of Python is handed in: neither functions nor data. So there is nothing whose attributes a script could
follow. `Sandbox.run` blocks and releases the interpreter's lock; call it in a thread.
"""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import lupa.lua54
import msgspec

MAX_ITEMS = 2000
MAX_INPUT_BYTES = 256 * 1024
MAX_DEPTH = 8
MIN_MEMORY_BYTES = 2 << 20
"""What a runtime needs with the largest input: below it a script could not even begin."""

Fault: TypeAlias = Literal["error", "result", "instructions", "time", "memory", "input"]

_WALLS = Path(__file__).with_name("sandbox.lua")


class ScriptMistake(Exception):
    """A script that cannot be compiled; the message has its line."""


class ScriptLimits(msgspec.Struct, frozen=True):
    """What one run may take. The time is that of the processor, of all threads together."""

    seconds: float = 0.1
    memory_bytes: int = 10 << 20
    instructions: int = 1_000_000


class Question(msgspec.Struct, frozen=True):
    """What a script is told. `now_s`: seconds since 1970. `request`: method, path, ip and headers."""

    api_key: str
    data: Mapping[str, Any]
    request: Mapping[str, Any]
    metadata: Mapping[str, Any]
    now_s: float


class ScriptResult(msgspec.Struct):
    """What became of a run. With a `failure` nothing else counts but `text` (for operators) and `lines`.

    `request`: the script looked at the request, so its decision is for this request alone. `lines`: what it logged.
    """

    allow: bool = False
    message: str | None = None
    metadata: dict[str, Any] | None = None
    request: bool = False
    lines: str = ""
    failure: Fault | None = None
    text: str = ""


_decoder = msgspec.json.Decoder(ScriptResult)


class Sandbox:
    """Runs one script, again and again, each time as if it were the first. Not for two threads at once."""

    def __init__(self, source: str, limits: ScriptLimits) -> None:
        """Raises ScriptMistake."""
        self._lua = lupa.lua54.LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            attribute_filter=_no_attributes,
            unpack_returned_tuples=True,
            max_memory=max(limits.memory_bytes, MIN_MEMORY_BYTES),
        )
        prepare, self._disarm = self._lua.execute(_WALLS.read_bytes())
        made = prepare(source.encode(), limits.instructions, limits.seconds)
        if isinstance(made, tuple):
            raise ScriptMistake(_text(made[1]))
        self._run = made
        self._high_water = self._lua.get_max_memory(True) // 2

    def run(self, question: Question) -> ScriptResult:
        """Decide. Whatever the script does, this returns."""
        try:
            budget = _Budget()
            data, request, metadata = (
                self._lua.table_from(_inward(part, budget, 0), recursive=True)
                for part in (question.data, question.request, question.metadata)
            )
        except (ValueError, TypeError) as error:
            return ScriptResult(failure="input", text=str(error))
        try:
            said = self._run(question.api_key.encode(), data, request, metadata, question.now_s)
            outcome = _decoder.decode(said.decode("utf-8", "replace"))
            return outcome if outcome.failure != "error" else _failed(outcome.text)
        except (lupa.lua54.LuaError, msgspec.ValidationError, msgspec.DecodeError) as error:
            self._disarm()
            return _failed(str(error))
        finally:
            # Tables of the last run are freed here, not in the middle of the next one's input.
            if self._lua.get_memory_used(True) > self._high_water:
                self._lua.gccollect()


def _failed(text: str) -> ScriptResult:
    kinds: tuple[tuple[str, Fault], ...] = (
        ("over: instructions", "instructions"), ("over: time", "time"), ("not enough memory", "memory")
    )  # fmt: skip
    kind: Fault = next((fault for mark, fault in kinds if mark in text), "error")
    return ScriptResult(failure=kind, text=text[:500])


def _no_attributes(_owner: object, _name: object, _setting: bool) -> str:
    raise AttributeError("not available")


class _Budget:
    __slots__ = ("left_bytes", "left_items")

    def __init__(self) -> None:
        self.left_items = MAX_ITEMS
        self.left_bytes = MAX_INPUT_BYTES


def _inward(value: Any, budget: _Budget, depth: int) -> Any:
    """A value as Lua can hold it: texts as bytes, nothing but plain tables, numbers and booleans."""
    budget.left_items -= 1
    if budget.left_items < 0 or depth > MAX_DEPTH:
        raise ValueError("the data for the script is too large or nested too deeply")
    if isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -(1 << 63) <= value < 1 << 63 else float(value)
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, Mapping):
        inner = ((name, _inward(each, budget, depth + 1)) for name, each in value.items() if each is not None)
        return {_bytes(name, budget): each for name, each in inner}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_inward(each, budget, depth + 1) for each in value if each is not None]
    return _bytes(value, budget)


def _bytes(value: Any, budget: _Budget) -> bytes:
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")
    budget.left_bytes -= len(raw)
    if budget.left_bytes < 0:
        raise ValueError("the data for the script is too large or nested too deeply")
    return raw


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


@lru_cache(maxsize=1024)
def canonical(name: bytes) -> str:
    """A header's name as Go writes it: `x-api-key` is `X-Api-Key`."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in name.decode("latin-1").split("-"))
