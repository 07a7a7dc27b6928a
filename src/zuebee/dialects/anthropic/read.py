"""PURE. A request of Anthropic's Messages API, read into the hub form.

Each field has its reader in one table. A field that is not there is unknown to the hub form and stays as it is: it
passes to a backend of the same dialect, and others leave it out.
"""

from collections.abc import Callable
from typing import Any, Final, get_args

import msgspec
from msgspec import Raw

from zuebee.dialects.anthropic.blocks import NAME, malformed, mark, read_content
from zuebee.dialects.hub.canonical import (
    ChatMessage,
    ChatRequest,
    Effort,
    FunctionTool,
    Malformed,
    Opaque,
    Reasoning,
    ResponseFormat,
    ToolChoice,
)
from zuebee.dialects.json_text import BOM, mend_halves

EFFORTS: Final = frozenset(get_args(Effort)) - {""}
_NONE: Final = Raw(b"")


class MessageEntry(msgspec.Struct):
    """An entry of `messages`."""

    role: str
    content: Raw = _NONE


class CustomTool(msgspec.Struct):
    """An entry of `tools`."""

    type: str | None = None
    name: str = ""
    description: str | None = None
    input_schema: Raw = _NONE
    strict: bool | None = None
    cache_control: Raw = _NONE


class WantedTool(msgspec.Struct):
    """`tool_choice`."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class WantedThinking(msgspec.Struct):
    """`thinking`."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None


class WantedFormat(msgspec.Struct):
    """`output_config.format` and `output_format`."""

    type: str
    schema: Raw = _NONE


class CallerNamed(msgspec.Struct):
    """`metadata`."""

    user_id: str | None = None


def _lax(kind: Any) -> Callable[[Any], Any]:
    """Numbers may be texts, and truths numbers, as SDKs let them pass."""
    return msgspec.json.Decoder(kind, strict=False).decode


_fields: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_turns: Final = msgspec.json.Decoder(list[MessageEntry]).decode
_tools: Final = msgspec.json.Decoder(list[Raw] | None).decode
_tool: Final = _lax(CustomTool)
_choice: Final = _lax(WantedTool | None)
_thinking: Final = _lax(WantedThinking | None)
_format: Final = msgspec.json.Decoder(WantedFormat | None).decode
_output: Final = msgspec.json.Decoder(dict[str, Raw] | None).decode
_caller: Final = msgspec.json.Decoder(CallerNamed | None).decode
_texts: Final = msgspec.json.Decoder(list[str] | str | None).decode
_text: Final = msgspec.json.Decoder(str | None).decode
_whole: Final = _lax(int | None)
_number: Final = _lax(float | None)
_truth: Final = _lax(bool | None)


def read_request(body: bytes) -> ChatRequest:
    """The request that a client wrote. Raises Malformed."""
    try:
        fields = _decoded(body.removeprefix(BOM))
    except msgspec.ValidationError:
        raise Malformed("The body is not a JSON object.") from None
    except (ValueError, RecursionError) as error:
        raise Malformed(f"The body is not valid JSON: {error}") from None
    request = ChatRequest(NAME, "", [], stream_usage=True)
    if "messages" not in fields:
        raise Malformed("The field `messages` is required.", "messages")
    for name, raw in fields.items():
        reader = _READERS.get(name)
        if reader is None:
            request.extra[name] = bytes(raw)
            continue
        try:
            reader(request, bytes(raw))
        except (ValueError, RecursionError) as error:
            raise malformed(error, name) from None
    _join_reasoning(request)
    return request


def _decoded(body: bytes) -> dict[str, Raw]:
    try:
        return _fields(body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _fields(mend_halves(body))


def _read_model(request: ChatRequest, raw: bytes) -> None:
    request.model = _text(raw) or ""


def _read_system(request: ChatRequest, raw: bytes) -> None:
    if parts := read_content(raw, "system"):
        request.messages.insert(0, ChatMessage("system", parts))


def _read_messages(request: ChatRequest, raw: bytes) -> None:
    for index, turn in enumerate(_turns(raw)):
        where = f"messages[{index}]"
        role = turn.role
        if role not in ("user", "assistant", "system"):
            raise Malformed(f"The field `{where}.role` is not valid: `{role[:40]}`.", f"{where}.role")
        parts = read_content(turn.content, f"{where}.content")
        request.messages.append(ChatMessage(role, parts))  # type: ignore[arg-type]


def _read_tools(request: ChatRequest, raw: bytes) -> None:
    for index, each in enumerate(_tools(raw) or ()):
        where = f"tools[{index}]"
        try:
            tool = _tool(each)
        except (ValueError, RecursionError) as error:
            raise malformed(error, where) from None
        if tool.type not in (None, "", "custom"):
            request.tools.append(Opaque(NAME, bytes(each), where, tool.type))
            continue
        if not tool.name:
            raise Malformed(f"The field `{where}.name` is required.", f"{where}.name")
        schema, cache = mark(tool.input_schema), mark(tool.cache_control)
        request.tools.append(FunctionTool(tool.name, tool.description or "", schema, tool.strict, cache))


def _read_tool_choice(request: ChatRequest, raw: bytes) -> None:
    if (choice := _choice(raw)) is None:
        return
    if choice.type not in _MODES:
        raise Malformed(f"The field `tool_choice.type` is not valid: `{choice.type[:40]}`.", "tool_choice.type")
    request.tool_choice = ToolChoice(_MODES[choice.type], choice.name or "")  # type: ignore[arg-type]
    if choice.disable_parallel_tool_use is not None:
        request.parallel_tool_calls = not choice.disable_parallel_tool_use


_MODES: Final = {"auto": "auto", "any": "required", "tool": "named", "none": "none"}


def _reasoning(request: ChatRequest) -> Reasoning:
    if request.reasoning is None:
        request.reasoning = Reasoning()
    return request.reasoning


def _read_thinking(request: ChatRequest, raw: bytes) -> None:
    if (thinking := _thinking(raw)) is None:
        return
    reasoning = _reasoning(request)
    reasoning.enabled = thinking.type != "disabled"
    reasoning.adaptive = thinking.type == "adaptive"
    reasoning.budget_tokens = thinking.budget_tokens if thinking.type == "enabled" else None
    reasoning.visible = thinking.display != "omitted"
    if thinking.display and reasoning.visible:
        request.extra["thinking.display"] = msgspec.json.encode(thinking.display)


def _read_output_config(request: ChatRequest, raw: bytes) -> None:
    for name, value in (_output(raw) or {}).items():
        effort = bytes(value).strip(b'"').decode()
        if name == "format":
            _read_format(request, bytes(value))
        elif name == "effort" and effort in EFFORTS:
            _reasoning(request).effort = effort  # type: ignore[assignment]
        elif bytes(value) != b"null":
            request.extra[f"output_config.{name}"] = bytes(value)


def _read_format(request: ChatRequest, raw: bytes) -> None:
    wanted = _format(raw)
    if wanted is not None and wanted.type == "json_schema":
        request.response_format = ResponseFormat(mark(wanted.schema))


def _read_metadata(request: ChatRequest, raw: bytes) -> None:
    caller = _caller(raw)
    request.user = (caller.user_id if caller is not None else None) or ""


def _read_stop(request: ChatRequest, raw: bytes) -> None:
    found = _texts(raw)
    request.stop = [found] if isinstance(found, str) else found or []


def _read_max_tokens(request: ChatRequest, raw: bytes) -> None:
    request.max_tokens = _whole(raw)


def _read_temperature(request: ChatRequest, raw: bytes) -> None:
    request.temperature = _number(raw)


def _read_top_p(request: ChatRequest, raw: bytes) -> None:
    request.top_p = _number(raw)


def _read_top_k(request: ChatRequest, raw: bytes) -> None:
    request.top_k = _whole(raw)


def _read_stream(request: ChatRequest, raw: bytes) -> None:
    request.stream = _truth(raw) is True


_READERS: Final[dict[str, Callable[[ChatRequest, bytes], None]]] = {
    "model": _read_model,
    "messages": _read_messages,
    "system": _read_system,
    "max_tokens": _read_max_tokens,
    "temperature": _read_temperature,
    "top_p": _read_top_p,
    "top_k": _read_top_k,
    "stop_sequences": _read_stop,
    "stream": _read_stream,
    "tools": _read_tools,
    "tool_choice": _read_tool_choice,
    "thinking": _read_thinking,
    "output_config": _read_output_config,
    "output_format": _read_format,
    "metadata": _read_metadata,
}


def _join_reasoning(request: ChatRequest) -> None:
    """Take away what says nothing."""
    if request.reasoning == Reasoning():
        request.reasoning = None
