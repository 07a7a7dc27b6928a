"""The gRPC API (proto/llm/v1/llm.proto) in OpenAI's words, and OpenAI's answers in its own. PURE."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value

from zuebee.contracts.errors import BACKEND_ERROR, INTERNAL, TOO_MANY_FIELDS, ErrorType, Refusal, bad_request
from zuebee.dialects import json_text, openai
from zuebee.dialects.json_text import mend
from zuebee.dialects.llm_v1_loose import LooseCall, LooseChoice, LooseFunction, LooseMessage, arguments_in, text_in
from zuebee.dialects.openai_usage import Json, TokenCounts, usage_figures
from zuebee.dialects.sse import event_data, split_events
from zuebee.protos.llm_pb2 import ChatCompletionRequest, ChatMessage, ToolCall

# How many parts a protobuf message has, found in its bytes before anything is made of them.
#
# Encoding: protobuf.dev, "Encoding". An empty part takes two bytes on the wire, and a hundred and more once it is
# parsed.

_VARINT, _FIXED64, _BYTES, _BEGIN, _END, _FIXED32 = 0, 1, 2, 3, 4, 5


def crowded_field(data: bytes, descriptor: Any, most: int) -> str | None:
    """The field of a message that has more than `most` parts, itself and all that is in it; None: there is none.

    Of what is no message nothing is said: its parser will.
    """
    view, left, field = memoryview(data), most, ""
    inside: list[tuple[int, int, Any]] = [(0, len(data), descriptor)]
    counts: dict[str, int] = {}
    try:
        while inside:
            at, end, kind = inside.pop()
            while at < end:
                tag, at = _varint(view, at)
                part = None if kind is None else kind.fields_by_number.get(tag >> 3)
                if kind is descriptor:
                    field = "" if part is None else part.name
                counts[field] = counts.get(field, 0) + 1
                left -= 1
                if left < 0:
                    return max(counts, key=lambda name: counts[name])
                wire = tag & 7
                if wire == _VARINT:
                    _, at = _varint(view, at)
                elif wire == _BYTES:
                    size, at = _varint(view, at)
                    if part is not None and part.message_type is not None and size:
                        if end > at + size:
                            inside.append((at + size, end, kind))
                        end, kind = at + size, part.message_type
                    else:
                        at += size
                elif wire in (_FIXED64, _FIXED32):
                    at += 8 if wire == _FIXED64 else 4
                elif wire not in (_BEGIN, _END):
                    return None
    except IndexError:
        pass
    return None


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    byte = view[at]
    at += 1
    if byte < 0x80:
        return byte, at
    value, shift = byte & 0x7F, 7
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise IndexError


# What a google.protobuf.Struct holds, as Python has it. PURE.


def plain(struct: Struct) -> dict[str, Any]:
    """A Struct as a dictionary with its names in order; whole numbers are integers. Raises ValueError."""
    return {name: _plain(struct.fields[name]) for name in sorted(struct.fields)}


def _plain(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "struct_value":
            return plain(value.struct_value)
        case "list_value":
            return [_plain(each) for each in value.list_value.values]
        case "number_value":
            number = value.number_value
            if not math.isfinite(number):
                raise ValueError("it has a number that is not finite")
            return int(number) if number.is_integer() and abs(number) <= 1 << 53 else number
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


OPTIONAL = ("temperature", "top_p", "max_tokens", "seed", "presence_penalty", "frequency_penalty")
MAX_PARTS = 100_000
"""Fields of a request, with those inside: a chat of twenty thousand messages has fewer."""
INLINE_BYTES = 1 << 14
"""No request up to here takes longer than a few milliseconds, whatever stands in it; nor does an answer."""
MAX_CALLS = 1024
_OWN = frozenset({"model", "messages", "stop", "user", "stream", "stream_options", *OPTIONAL})
"""What `extra` must not set: it has a field, or is not the caller's to say."""


def read_request(data: bytes) -> ChatCompletionRequest | Refusal:
    """The message that the bytes are."""
    if len(data) > 2 * MAX_PARTS:
        field = crowded_field(data, ChatCompletionRequest.DESCRIPTOR, MAX_PARTS)
        if field is not None:
            most = f"in `{field}`" if field else "unknown"
            text = f"The request has more than {MAX_PARTS} fields, most of them {most}."
            return bad_request(text, param=field or None, code=TOO_MANY_FIELDS)
    try:
        return ChatCompletionRequest.FromString(data)
    except DecodeError:
        return bad_request("The request is not a message of type llm.v1.ChatCompletionRequest.", code="invalid_message")


def chat_body(request: ChatCompletionRequest, default_model: str, *, stream: bool) -> bytes | Refusal:
    """The same as the body of a chat completion. Equal requests give equal bytes."""
    model = request.model or default_model
    if not model:
        return bad_request("The field `model` is required: the gate has no default model.", param="model")
    messages = _messages(request)
    if isinstance(messages, Refusal):
        return messages
    body: dict[str, Any] = {"model": model, "messages": messages}
    for name in OPTIONAL:
        if request.HasField(name):
            body[name] = value = getattr(request, name)
            if isinstance(value, float) and not math.isfinite(value):
                return bad_request(f"The field `{name}` must be a finite number.", param=name)
    if request.stop:
        body["stop"] = list(request.stop)
    if request.meta.user_id:
        body["user"] = request.meta.user_id
    if request.HasField("extra"):
        extra = _extra(request.extra)
        if isinstance(extra, Refusal):
            return extra
        body |= extra
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode(body)


def _messages(request: ChatCompletionRequest) -> list[dict[str, Any]] | Refusal:
    in_parts = request.system_prompt or request.user_prompt or request.context
    if request.messages:
        if in_parts:
            return bad_request("Give either `messages` or a prompt in parts, not both.", param="messages")
        for index, message in enumerate(request.messages):
            if not message.role:
                field = f"messages[{index}].role"
                return bad_request(f"The field `{field}` is required.", param=field)
        return [_message(message) for message in request.messages]
    if not in_parts:
        return bad_request("Give `messages`, or `user_prompt`.", param="messages")
    prompt = request.user_prompt
    if request.context:
        prompt = f"{prompt}\n\nContext:\n{request.context}".lstrip()
    messages = [{"role": "system", "content": request.system_prompt}] if request.system_prompt else []
    return [*messages, {"role": "user", "content": prompt}] if prompt else messages


def _message(message: ChatMessage) -> dict[str, Any]:
    made: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.name:
        made["name"] = message.name
    if message.tool_call_id:
        made["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        made["content"] = message.content or None
        made["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return made


def _extra(extra: Struct) -> dict[str, Any] | Refusal:
    try:
        found = plain(extra)
    except ValueError as error:
        return bad_request(f"The field `extra` cannot be sent on: {error}.", param="extra")
    for name in found:
        if name in _OWN:
            return bad_request(f"`{name}` cannot be set in `extra`.", param=f"extra.{name}")
    if found.get("n") not in (None, 1):
        return bad_request("An answer has one text: `n` can only be 1.", param="extra.n")
    return found


# --- answers ---


class _ReplyFunction(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _ReplyCall(msgspec.Struct):
    id: str | None = None
    function: _ReplyFunction | None = None
    index: int | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class _ReplyMessage(_Said):
    tool_calls: list[_ReplyCall] | None = None


class _ReplyChoice(msgspec.Struct):
    message: _ReplyMessage | None = None
    delta: _ReplyMessage | None = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct):
    choices: list[_ReplyChoice] | None = None
    usage: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    model: str | None = None


class _LongMessage(_Said):
    tool_calls: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _LongChoice(msgspec.Struct):
    message: _LongMessage | None = None
    delta: _LongMessage | None = None
    finish_reason: str | None = None


class _LongAnswer(msgspec.Struct):
    choices: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    usage: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    model: str | None = None


class _LooseAnswer(msgspec.Struct):
    choices: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    usage: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    model: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode = msgspec.json.Decoder(_Answer).decode
_decode_long = msgspec.json.Decoder(_LongAnswer).decode
_long_choice = msgspec.json.Decoder(_LongChoice).decode
_call = msgspec.json.Decoder(_ReplyCall).decode
_decode_loose = msgspec.json.Decoder(_LooseAnswer).decode
_loose_choice = msgspec.json.Decoder(LooseChoice).decode
_loose_call = msgspec.json.Decoder(LooseCall).decode


class Piece(msgspec.Struct):
    """What one answer, or one event of a stream, says. `error`: what it says went wrong, as a refusal."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    finish_reason: str = ""
    model: str = ""
    usage: TokenCounts | None = None
    error: Refusal | None = None

    @property
    def speaks(self) -> bool:
        """Whether it has something for the reader."""
        return bool(self.text or self.reasoning or self.tool_calls)


class NotAnAnswer(Exception):
    """A model server's answer that is not a chat completion."""


def read_answer(body: bytes) -> Piece:
    """What a chat completion, or a chunk of one, says. Raises NotAnAnswer."""
    try:
        answer = _read(body)
    except (msgspec.DecodeError, json_text.NotJson, UnicodeDecodeError, RecursionError) as error:
        raise NotAnAnswer(str(error)) from None
    piece = Piece(model=answer.model or "", usage=usage_figures(answer.usage))
    if openai.tells_of_error(answer.error):
        piece.error = told_refusal(answer.error)
    if answer.choices:
        choice = answer.choices[0]
        piece.finish_reason = choice.finish_reason or ""
        message = choice.message or choice.delta
        if message is not None:
            piece.text = message.content or message.refusal or ""
            piece.reasoning = message.reasoning_content or message.reasoning or ""
            piece.tool_calls = [_tool_call(call, index) for index, call in enumerate(message.tool_calls or ())]
    return piece


def _read(body: bytes) -> _Answer:
    try:
        return _read_typed(body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, json_text.NotJson):
        return _read_typed(mend(body))


def _read_typed(body: bytes) -> _Answer:
    try:
        return _decode(body) if len(body) <= INLINE_BYTES else _read_long(body)
    except msgspec.ValidationError:
        return _read_loose(body)


def _read_loose(body: bytes) -> _Answer:
    """The same of an answer whose texts stand in parts or objects."""
    found = _decode_loose(body)
    answer = _Answer(None, found.usage, found.error, text_in(found.model))
    if choices := _elements(found.choices, 0):
        choice = _loose_choice(choices[0])
        message = choice.message or choice.delta or LooseMessage()
        said = message.said()
        calls = [_plain_call(_loose_call(call)) for call in _elements(message.tool_calls, MAX_CALLS)]
        told = _ReplyMessage(said.text, said.thoughts, None, None, calls)
        answer.choices = [_ReplyChoice(told, None, text_in(choice.finish_reason))]
    return answer


def _plain_call(call: LooseCall) -> _ReplyCall:
    function = call.function or LooseFunction()
    return _ReplyCall(call.id, _ReplyFunction(function.name, arguments_in(function.arguments)), call.index)


def _read_long(body: bytes) -> _Answer:
    """The same answer with its first choice only, and the first calls of that: nothing is made of the others."""
    found = _decode_long(body)
    answer = _Answer(None, found.usage, found.error, found.model)
    if choices := _elements(found.choices, 0):
        choice = _long_choice(choices[0])
        said = choice.message or choice.delta or _LongMessage()
        calls = [_call(call) for call in _elements(said.tool_calls, MAX_CALLS)]
        message = _ReplyMessage(said.content, said.reasoning_content, said.reasoning, said.refusal, calls)
        answer.choices = [_ReplyChoice(message, None, choice.finish_reason)]
    return answer


def _elements(raw: Json, most: int) -> list[bytes]:
    """The first elements of a list, which may be null or missing. Raises as json_walk does."""
    if raw is msgspec.UNSET or bytes(raw) == b"null":
        return []
    data = bytes(raw)
    return [data[start:end] for start, end in json_text.elements(data, 0, most)]


def _tool_call(call: _ReplyCall, index: int) -> ToolCall:
    function = call.function or _ReplyFunction()
    place = index if call.index is None else call.index
    return ToolCall(
        id=call.id or "", name=function.name or "", arguments=function.arguments or "", index=max(0, min(place, 1023))
    )


def read_events(block: bytes) -> Iterator[Piece]:
    """What the events of a block say, one by one; comments and the end say nothing. Raises NotAnAnswer."""
    for event in split_events(block):
        data = event_data(event)
        if data and data != b"[DONE]":
            yield read_answer(data)


# --- errors that came as bytes ---

_STATUSES: Mapping[str, int] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "insufficient_quota": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "rate_limit_error": 429,
    "api_error": 502,
    "overloaded_error": 503,
    "timeout_error": 504,
}
_TYPES: Mapping[int, ErrorType] = {
    401: "authentication_error",
    402: "insufficient_quota",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class _Told(msgspec.Struct):
    message: Any = None
    type: Any = None
    code: Any = None
    param: Any = None


_told = msgspec.json.Decoder(_Told).decode


def told_refusal(raw: Json, status: int = 0) -> Refusal:
    """What stands under `error` in an answer, as a refusal; `status`: of the answer, 0 for an event of a stream."""
    try:
        told = _told(raw) if len(bytes(raw)) <= openai.MAX_ERROR_BYTES else _Told()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        told = _Told(message=openai.read_error(raw)[2])
    code = told.code if isinstance(told.code, str) and told.code else BACKEND_ERROR
    if not status:
        status = _STATUSES.get(str(told.type), 0) or openai.read_error(raw)[0] or 502
        status = 500 if code == INTERNAL.code else status
    kind = _TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    message = str(told.message or "The model server reported an error.")[: openai.MAX_MESSAGE]
    param = told.param if isinstance(told.param, str) and told.param else None
    return Refusal(status, kind, code[: openai.MAX_CODE], message, param)
