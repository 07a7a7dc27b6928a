"""PURE. A conversation in the hub form, written as messages of chat completions.

Results of tools are messages of their own, right behind the turn with the calls; what they show in pictures follows in
a message of the user, since servers read texts only there.
"""

from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from msgspec import Raw

from zuebee.dialects.hub.canonical import (
    ChatMessage,
    ChatRequest,
    Declined,
    FunctionCall,
    Media,
    NotCarried,
    Omissions,
    Opaque,
    Part,
    Text,
    ToolResult,
)
from zuebee.dialects.openai_chat.parts import NAME, ContentWriter, call_json, thinking_json

Json: TypeAlias = dict[str, Any]
BLANK_LINE: Final = "\n\n"
SEE_BELOW: Final = "The result follows in the next message of the user."


class TurnWriter:
    """Writes the messages of one request. `same`: the client speaks this dialect as well."""

    def __init__(self, request: ChatRequest, notes: Omissions, *, same: bool) -> None:
        self._request = request
        self._notes = notes
        self._same = same
        self._content = ContentWriter(same=same)
        self._written: list[Json] = []
        self._shown: list[Text | Media | Opaque] = []  # what results hold beside texts, until the user's next message
        self._names: dict[str, str] = {}
        self._open: list[tuple[str, str]] = []  # name and id of calls that came without ids
        self._made = 0

    def messages(self) -> list[Json]:
        """All of them. Raises NotCarried."""
        for index, message in enumerate(self._request.messages):
            if message.role == "assistant":
                self._show()
                self._add(index, self._turn(message))
            elif message.role == "system":
                self._show()
                self._add(index, self._named("system", message, self._content.content(message.parts, BLANK_LINE)))
            else:
                self._said(index, message)
        self._show()
        return self._written

    def _add(self, index: int, made: Json) -> None:
        if self._same:
            start = f"messages[{index}]."
            for name, raw in self._request.extra.items():
                if name.startswith(start):
                    made[name[len(start) :]] = Raw(raw)
        self._written.append(made)

    def _named(self, role: str, message: ChatMessage, content: Any) -> Json:
        made: Json = {"role": role, "content": content}
        if message.name:
            made["name"] = message.name
        return made

    # --- the user and tools ---

    def _said(self, index: int, message: ChatMessage) -> None:
        results = [part for part in message.parts if isinstance(part, ToolResult)]
        others: list[Part] = [part for part in message.parts if not isinstance(part, ToolResult)]
        for result in results:
            self._add(index, self._result(result))
        if results and not others:
            return
        parts = [*self._shown, *others]
        self._shown = []
        self._add(index, self._named("user", message, self._content.content(parts, BLANK_LINE)))

    def _result(self, result: ToolResult) -> Json:
        call = result.id or self._id_of(result.name)
        if result.is_error:
            self._notes.drop("is_error")
        made: Json = {"role": "tool", "tool_call_id": call}
        if self._same:
            made["content"] = self._content.content(result.parts, None)
            if result.name and result.name != self._names.get(call):
                made["name"] = result.name
            return made
        media = [part for part in result.parts if isinstance(part, Media)]
        texts = [part for part in result.parts if not isinstance(part, Media)]
        if media:
            self._shown.append(Text(f"What the call `{call}` gave:"))
            self._shown.extend(media)
        made["content"] = self._content.content(texts, "\n") or (SEE_BELOW if media else "")
        return made

    def _show(self) -> None:
        if self._shown:
            self._written.append({"role": "user", "content": self._content.content(self._shown, None)})
            self._shown = []

    def _id_of(self, name: str) -> str:
        """Which call a result without an id belongs to."""
        for each in self._open:
            if each[0] == name or not name:
                self._open.remove(each)
                return each[1]
        return ""

    # --- the model ---

    def _turn(self, message: ChatMessage) -> Json:
        parts = self._own(message.parts)
        calls = [self._call(part) for part in parts if isinstance(part, FunctionCall)]
        content = self._content.content(parts, "")
        made = self._named("assistant", message, None if calls and content == "" else content)
        if refusal := "".join([part.text for part in parts if isinstance(part, Declined)]):
            made["refusal"] = refusal
        made |= thinking_json(parts)
        if calls:
            made["tool_calls"] = calls
        return made

    def _own(self, parts: Sequence[Part]) -> list[Part]:
        """Without what other providers' models had in their turns, unless there is nothing else."""
        kept: list[Part] = []
        for part in parts:
            if isinstance(part, Opaque) and part.dialect != NAME:
                self._notes.drop(part.where or part.type)
            else:
                kept.append(part)
        if parts and not kept:
            lost = parts[0]
            where = (lost.where or lost.type) if isinstance(lost, Opaque) else "messages"
            raise NotCarried(where, "chat completions have no such content.")
        return kept

    def _call(self, call: FunctionCall) -> Json:
        if call.id:
            id = call.id
        else:
            id = f"call_{self._made}"
            self._made += 1
            self._open.append((call.name, id))
        self._names[id] = call.name
        arguments = call.arguments if self._same else call.arguments or "{}"  # servers read them as JSON
        made = call_json(id, call.name, arguments, call.signature)
        if call.cache and self._same:
            made["cache_control"] = Raw(call.cache)
        return made
