"""PURE. A request for chat completions, read into the hub form.

Each field has its reader in one table. A field that is not there is unknown to the hub form and stays as it is: it
passes to a backend of the same dialect, and others leave it out.
"""

from collections.abc import Callable
from typing import Any, Final, get_args

import msgspec
from msgspec import UNSET, Raw, UnsetType

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
from zuebee.dialects.openai_chat.conversation import Conversation
from zuebee.dialects.openai_chat.parts import NAME
from zuebee.dialects.openai_chat.shapes import decoded, given

EFFORTS: Final = frozenset(get_args(Effort)) - {""}


class WantedFunction(msgspec.Struct):
    """The function of a tool."""

    name: str = ""
    description: str | None = None
    parameters: Raw | UnsetType = UNSET
    strict: bool | None = None


class ToolSaid(msgspec.Struct):
    """An entry of `tools`; those of other types than functions may hold anything."""

    type: str | None = None
    function: Raw | UnsetType = UNSET
    cache_control: Raw | UnsetType = UNSET


class NamedTool(msgspec.Struct):
    """The function that is to be called."""

    name: str = ""


class ChosenTool(msgspec.Struct):
    """`tool_choice`, where it is an object."""

    type: str = "function"
    function: NamedTool | None = None
    name: str | None = None


class SchemaSaid(msgspec.Struct):
    """`response_format.json_schema`."""

    schema: Raw | UnsetType = UNSET
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class FormatSaid(msgspec.Struct):
    """`response_format`. Llama.cpp and others have the schema right under it."""

    type: str = ""
    json_schema: SchemaSaid | None = None
    schema: Raw | UnsetType = UNSET


def _lax(kind: Any) -> "msgspec.json.Decoder[Any]":
    """Numbers may be texts, and truths numbers, as SDKs let them pass."""
    return msgspec.json.Decoder(kind, strict=False)


_fields: Final = msgspec.json.Decoder(dict[str, Raw])
_some_fields: Final = msgspec.json.Decoder(dict[str, Raw] | None)
_list: Final = msgspec.json.Decoder(list[Raw])
_some: Final = msgspec.json.Decoder(list[Raw] | None)
_tool: Final = _lax(ToolSaid)
_function: Final = _lax(WantedFunction)
_choice: Final = _lax(ChosenTool | str | None)
_format: Final = _lax(FormatSaid | None)
_texts: Final = msgspec.json.Decoder(list[str] | str | None)
_text: Final = msgspec.json.Decoder(str | None)
_whole: Final = _lax(int | None)
_number: Final = _lax(float | None)
_truth: Final = _lax(bool | None)
_anything: Final = msgspec.json.Decoder(Any)


def read_request(body: bytes) -> ChatRequest:
    """The request that a client wrote. Raises Malformed."""
    fields = decoded(_fields, body, "The body")
    if "messages" not in fields:
        raise Malformed("The field `messages` is required.", "messages")
    request = ChatRequest(NAME, "", [])
    for name, raw in fields.items():
        data = bytes(raw)
        if data == b"null" and name != "messages":
            continue
        if (reader := _READERS.get(name)) is None:
            request.extra[name] = data
        else:
            reader(request, data)
    if "max_completion_tokens" in fields and (bound := _bound(fields["max_completion_tokens"])) is not None:
        request.max_tokens = bound  # the newer name counts where both are said
    request.stream_usage = request.stream and request.stream_usage
    return request


def _value(decoder: "msgspec.json.Decoder[Any]", raw: bytes, name: str) -> Any:
    """A field's value. Raises Malformed with its full name."""
    try:
        return decoded(decoder, raw, f"The field `{name}`")
    except Malformed as error:
        field = f"{name}.{error.field}" if error.field and not error.field.startswith("[") else f"{name}{error.field}"
        raise Malformed(str(error), field) from None


def _plain(name: str, decoder: "msgspec.json.Decoder[Any]") -> Callable[[ChatRequest, bytes], None]:
    """The reader of a field that the hub form has under the same name."""

    def read(request: ChatRequest, raw: bytes) -> None:
        setattr(request, name, _value(decoder, raw, name))

    return read


def _bound(raw: Raw) -> int | None:
    found: int | None = _value(_whole, bytes(raw), "max_completion_tokens")
    return found


def _read_bound(request: ChatRequest, raw: bytes) -> None:
    """The newer name of `max_tokens`: looked at when all is read."""


def _read_messages(request: ChatRequest, raw: bytes) -> None:
    conversation = Conversation(request.extra)
    for index, each in enumerate(_value(_list, raw, "messages")):
        request.messages.append(_message(conversation, index, bytes(each)))


def _message(conversation: Conversation, index: int, raw: bytes) -> ChatMessage:
    where = f"messages[{index}]"
    try:
        return conversation.read(index, raw)
    except Malformed as error:
        field = error.field
        if not field.startswith(where):
            field = f"{where}.{field}" if field else where
        raise Malformed(str(error), field) from None


def _read_stop(request: ChatRequest, raw: bytes) -> None:
    found = _value(_texts, raw, "stop")
    request.stop = [found] if isinstance(found, str) else found or []


def _read_stream_options(request: ChatRequest, raw: bytes) -> None:
    for name, value in _value(_fields, raw, "stream_options").items():
        if name == "include_usage":
            request.stream_usage = _value(_truth, bytes(value), "stream_options.include_usage") is True
        elif bytes(value) != b"null":
            request.extra[f"stream_options.{name}"] = bytes(value)


# --- tools ---


def _read_tools(request: ChatRequest, raw: bytes) -> None:
    for index, each in enumerate(_value(_some, raw, "tools") or ()):
        where = f"tools[{index}]"
        said = _value(_tool, bytes(each), where)
        function = given(said.function)
        if said.type not in (None, "", "function"):
            request.tools.append(Opaque(NAME, bytes(each), where, said.type))
        elif not function:
            raise Malformed(f"The field `{where}.function` is required.", f"{where}.function")
        else:
            request.tools.append(_function_tool(function, f"{where}.function", given(said.cache_control)))


def _function_tool(raw: bytes, where: str, cache: bytes = b"") -> FunctionTool:
    said = _value(_function, raw, where)
    if not said.name:
        raise Malformed(f"The field `{where}.name` is required.", f"{where}.name")
    return FunctionTool(said.name, said.description or "", given(said.parameters), said.strict, cache)


def _read_functions(request: ChatRequest, raw: bytes) -> None:
    """What tools were called before; who says it wants to be answered so."""
    found = _value(_some, raw, "functions") or ()
    request.tools += [_function_tool(bytes(each), f"functions[{index}]") for index, each in enumerate(found)]
    request.extra["functions"] = raw


def _read_tool_choice(request: ChatRequest, raw: bytes) -> None:
    choice = _value(_choice, raw, "tool_choice")
    if isinstance(choice, str):
        if (mode := _MODES.get(choice)) is None:
            raise Malformed(f"The field `tool_choice` is not valid: `{choice[:40]}`.", "tool_choice")
        request.tool_choice = ToolChoice(mode)  # type: ignore[arg-type]
    elif choice is not None:
        name = (choice.function.name if choice.function is not None else "") or choice.name or ""
        if choice.type != "function":
            request.extra["tool_choice"] = raw
        elif name:
            request.tool_choice = ToolChoice("named", name)
        else:
            raise Malformed("The field `tool_choice.function.name` is required.", "tool_choice.function.name")


_MODES: Final = {"auto": "auto", "none": "none", "required": "required", "any": "required"}


# --- what the answer is to be ---


def _read_format(request: ChatRequest, raw: bytes) -> None:
    said = _value(_format, raw, "response_format")
    if said is None or said.type == "text":
        return
    if said.type == "json_object":
        request.response_format = ResponseFormat(given(said.schema))
    elif said.type == "json_schema":
        wanted = said.json_schema or SchemaSaid()
        schema = given(wanted.schema) or given(said.schema)
        request.response_format = ResponseFormat(schema, wanted.name or "", wanted.description or "", wanted.strict)
    else:
        request.extra["response_format"] = raw


def _reasoning(request: ChatRequest) -> Reasoning:
    if request.reasoning is None:
        request.reasoning = Reasoning()
    return request.reasoning


def _read_effort(request: ChatRequest, raw: bytes) -> None:
    effort = _value(_text, raw, "reasoning_effort")
    if effort in EFFORTS:
        _reasoning(request).effort = effort
    elif effort:
        request.extra["reasoning_effort"] = raw


def _read_reasoning(request: ChatRequest, raw: bytes) -> None:
    """OpenRouter's way. What it leaves out stays as `reasoning_effort` may have it."""
    for name, value in (_value(_some_fields, raw, "reasoning") or {}).items():
        data, where = bytes(value), f"reasoning.{name}"
        if data == b"null":
            continue
        if name == "effort" and (effort := _value(_text, data, where)) in EFFORTS:
            _reasoning(request).effort = effort
        elif name == "max_tokens":
            _reasoning(request).budget_tokens = _value(_whole, data, where)
        elif name == "enabled":
            _reasoning(request).enabled = _value(_truth, data, where)
        elif name == "exclude":
            _reasoning(request).visible = _value(_truth, data, where) is not True
        else:
            request.extra[where] = data
    if request.reasoning == Reasoning():
        request.reasoning = None


def _read_user(request: ChatRequest, raw: bytes) -> None:
    found = _value(_anything, raw, "user")
    request.user = found if isinstance(found, str) else msgspec.json.encode(found).decode()


_READERS: Final[dict[str, Callable[[ChatRequest, bytes], None]]] = {
    "model": _plain("model", _text),
    "messages": _read_messages,
    "max_tokens": _plain("max_tokens", _whole),
    "max_completion_tokens": _read_bound,
    "temperature": _plain("temperature", _number),
    "top_p": _plain("top_p", _number),
    "top_k": _plain("top_k", _whole),
    "stop": _read_stop,
    "n": _plain("n", _whole),
    "seed": _plain("seed", _whole),
    "presence_penalty": _plain("presence_penalty", _number),
    "frequency_penalty": _plain("frequency_penalty", _number),
    "logprobs": _plain("logprobs", _truth),
    "top_logprobs": _plain("top_logprobs", _whole),
    "stream": _plain("stream", _truth),
    "stream_options": _read_stream_options,
    "tools": _read_tools,
    "functions": _read_functions,
    "tool_choice": _read_tool_choice,
    "function_call": _read_tool_choice,
    "parallel_tool_calls": _plain("parallel_tool_calls", _truth),
    "response_format": _read_format,
    "reasoning_effort": _read_effort,
    "reasoning": _read_reasoning,
    "user": _read_user,
}
