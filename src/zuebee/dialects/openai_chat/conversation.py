"""PURE. The messages of a request, read in their order: results find the calls that they belong to."""

from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec
from msgspec import Raw

from zuebee.dialects.hub.canonical import (
    ChatMessage,
    Declined,
    FunctionCall,
    Malformed,
    Media,
    Opaque,
    Part,
    Text,
    Thinking,
    ToolResult,
)
from zuebee.dialects.openai_chat.parts import read_content, read_thinking
from zuebee.dialects.openai_chat.shapes import MESSAGE_FIELDS, CallSaid, MessageSaid, decoded, given

MadeId: TypeAlias = Callable[[int], str]
_ROLES: Final = {"system": "system", "developer": "system", "user": "user"}
_SAYS_NOTHING: Final = (b"null", b"[]", b"{}", b'""', b"false")
_message: Final = msgspec.json.Decoder(MessageSaid, strict=False)
_fields: Final = msgspec.json.Decoder(dict[str, Raw])


class Conversation:
    """Reads one. `extra`: where the fields of messages go that nobody knows, as `messages[2].field`."""

    def __init__(self, extra: dict[str, bytes]) -> None:
        self._extra = extra
        self._names: dict[str, str] = {}
        self._open: list[FunctionCall] = []  # calls in the old form, which have no ids of their own
        self._made = 0

    def read(self, index: int, raw: bytes) -> ChatMessage:
        """One message. Raises Malformed."""
        where = f"messages[{index}]"
        said = decoded(_message, raw, f"`{where}`")
        self._keep_unknown(where, raw)
        role, name = said.role or "", said.name or ""
        if role == "tool":
            return ChatMessage("tool", [self._result(said, said.tool_call_id or "", where)])
        if role == "function":
            return ChatMessage("tool", [self._result(said, self._id_of(name), where)])
        parts = read_content(said.content, f"{where}.content")
        if role == "assistant":
            return ChatMessage("assistant", self._turn(said, parts), name)
        if role not in _ROLES:
            raise Malformed(f"The field `{where}.role` is not valid: `{role[:40]}`.", f"{where}.role")
        return ChatMessage(_ROLES[role], parts, name)  # type: ignore[arg-type]

    def _keep_unknown(self, where: str, raw: bytes) -> None:
        for field, value in decoded(_fields, raw, f"`{where}`").items():
            if field not in MESSAGE_FIELDS and bytes(value) not in _SAYS_NOTHING:
                self._extra[f"{where}.{field}"] = bytes(value)

    def _turn(self, said: MessageSaid, parts: list[Part]) -> list[Part]:
        calls = calls_of(said, self._made_id)
        self._names.update({call.id: call.name for call in calls})
        if said.function_call is not None:
            self._open += calls[-1:]
        return turn(said, parts, calls)

    def _made_id(self, index: int) -> str:
        self._made += 1
        return f"call_{self._made - 1}"

    def _result(self, said: MessageSaid, call: str, where: str) -> ToolResult:
        parts = [part for part in read_content(said.content, f"{where}.content") if isinstance(part, _IN_RESULTS)]
        return ToolResult(call, parts, name=said.name or self._names.get(call, ""))

    def _id_of(self, name: str) -> str:
        """Which call a result in the old form belongs to: the first one of that name that has none."""
        for call in self._open:
            if call.name == name:
                self._open.remove(call)
                return call.id
        return ""


_IN_RESULTS: Final = (Text, Media, Opaque)


def turn(said: MessageSaid, parts: list[Part], calls: list[FunctionCall]) -> list[Part]:
    """A turn of the model in order: what it thought, said, did not want to say, and calls."""
    found: list[Part] = [*read_thinking(said)]
    found += [part for part in parts if isinstance(part, Thinking)]
    found += [part for part in parts if not isinstance(part, Thinking | Declined)]
    found += [part for part in parts if isinstance(part, Declined)]
    if said.refusal:
        found.append(Declined(said.refusal))
    return [*found, *calls]


def calls_of(said: MessageSaid, made_id: MadeId) -> list[FunctionCall]:
    """The calls of a message, also in the old form. `made_id` gives an id to the one at an index that has none."""
    calls: list[FunctionCall] = []
    saids = list(said.tool_calls or ())
    if said.function_call is not None and not saids:
        saids.append(CallSaid(function=said.function_call))
    for index, each in enumerate(saids):
        call = FunctionCall(each.id or made_id(index), each.name, each.arguments, each.signature)
        call.cache = given(each.cache_control)
        calls.append(call)
    return calls
