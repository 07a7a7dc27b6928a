"""PURE. A request in the hub form, written for a server of chat completions."""

import re
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Raw

from zuebee.dialects.hub.canonical import ChatRequest, FunctionTool, Omissions, Opaque, Reasoning, ResponseFormat
from zuebee.dialects.openai_chat.parts import NAME
from zuebee.dialects.openai_chat.turns import TurnWriter

Json: TypeAlias = dict[str, Any]

MAX_USER: Final = 64
"""Characters of `user` that OpenAI takes."""
FORMAT_NAME: Final = "answer"
"""Of a schema without a name: OpenAI asks for one."""

_DOES_NOT_REASON: Final = re.compile(r"(?:.*/)?(?:gpt-3|gpt-4|chatgpt-4)")
_OPENAI_MODEL: Final = re.compile(r"(?:openai/)?(?:gpt-(?!oss)|o\d|chatgpt-)")
"""Models that only OpenAI's own servers have: these refuse fields that they do not know."""
_NEW_BOUND: Final = re.compile(r"(?:openai/)?(?:gpt-[5-9]|o\d)")
"""Those that refuse `max_tokens`. Other servers may know no other name."""

_EFFORTS: Final = {"xhigh": "high", "max": "high"}
"""What most servers have no word for, by the next that they have."""
_BUDGETS: Final = ((2048, "low"), (8192, "medium"))
"""Up to how many tokens of reasoning an effort comes near to."""

_SAME_NAMES: Final = (
    "temperature",
    "top_p",
    "top_k",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "top_logprobs",
)
_IN_OBJECTS: Final = ("stream_options.", "reasoning.", "messages[")
"""How the names of unknown fields begin that stand in an object, not in the body itself."""
_ASKED_FOR: Final = ("functions",)
"""What the caller said in old words and is written in new ones."""
_CALLED: Final = {
    "anthropic": {"user": "metadata.user_id", "reasoning": "thinking"},
    "gemini": {"top_k": "topK", "reasoning": "thinkingConfig"},
}
"""What clients of other dialects call a field."""


class ChatRequestWriter:
    """Writes one request."""

    def __init__(self, request: ChatRequest, notes: Omissions) -> None:
        self._request = request
        self._notes = notes
        self._same = request.dialect == NAME
        self._at_openai = _OPENAI_MODEL.match(request.model) is not None

    def body(self) -> bytes:
        """The whole of it. Raises NotCarried."""
        request = self._request
        body: Json = {"model": request.model}
        body["messages"] = TurnWriter(request, self._notes, same=self._same).messages()
        if request.max_tokens is not None:
            body["max_completion_tokens" if _NEW_BOUND.match(request.model) else "max_tokens"] = request.max_tokens
        self._sampling(body)
        self._tools(body)
        if request.response_format is not None:
            body["response_format"] = _format(request.response_format)
        if request.reasoning is not None:
            self._reasoning(body, request.reasoning)
        if request.user:
            self._user(body)
        if request.stream:
            body["stream"] = True
            if request.stream_usage:
                body["stream_options"] = {"include_usage": True}
        self._extra(body)
        return msgspec.json.encode(body)

    def _drop(self, field: str) -> None:
        self._notes.drop(_CALLED.get(self._request.dialect, {}).get(field, field))

    def _sampling(self, body: Json) -> None:
        request = self._request
        for name in _SAME_NAMES:
            if (value := getattr(request, name)) is not None:
                body[name] = value
        if "top_k" in body and self._at_openai and not self._same:
            del body["top_k"]
            self._drop("top_k")
        if request.stop:
            body["stop"] = request.stop
        if request.n != 1:
            body["n"] = request.n
        if request.logprobs:
            body["logprobs"] = True

    # --- tools ---

    def _tools(self, body: Json) -> None:
        request = self._request
        tools: list[Any] = []
        for tool in request.tools:
            if not isinstance(tool, Opaque):
                tools.append(self._tool(tool))
            elif tool.dialect == NAME:
                tools.append(Raw(tool.raw))
            else:
                self._notes.drop(tool.where or tool.type)
        if tools:
            body["tools"] = tools
        elif not self._same:
            return  # OpenAI refuses the rest without any tools
        choice = request.tool_choice
        if choice is not None:
            named = {"type": "function", "function": {"name": choice.name}}
            body["tool_choice"] = named if choice.mode == "named" else choice.mode
        if request.parallel_tool_calls is not None:
            body["parallel_tool_calls"] = request.parallel_tool_calls

    def _tool(self, tool: FunctionTool) -> Json:
        function: Json = {"name": tool.name}
        if tool.description:
            function["description"] = tool.description
        if tool.schema:
            function["parameters"] = Raw(tool.schema)
        elif not self._same:
            function["parameters"] = {"type": "object", "properties": {}}
        if tool.strict is not None:
            function["strict"] = tool.strict
        made: Json = {"type": "function", "function": function}
        if tool.cache and self._same:
            made["cache_control"] = Raw(tool.cache)
        return made

    # --- the rest ---

    def _reasoning(self, body: Json, wanted: Reasoning) -> None:
        if self._same:
            _own_reasoning(body, wanted)
            return
        if wanted.enabled is False or wanted.effort == "none":
            self._drop("reasoning")  # few models can be told, and others refuse to be
        elif _DOES_NOT_REASON.match(self._request.model):
            self._drop("reasoning")  # OpenAI's models that do not reason refuse to be told how much
        elif effort := _effort(wanted):
            body["reasoning_effort"] = effort

    def _user(self, body: Json) -> None:
        if self._same or len(self._request.user) <= MAX_USER:
            body["user"] = self._request.user
        else:
            self._drop("user")

    def _extra(self, body: Json) -> None:
        for name, raw in self._request.extra.items():
            if name in _ASKED_FOR:
                continue
            if not self._same:
                self._notes.drop(name)
            elif not name.startswith(_IN_OBJECTS):
                body[name] = Raw(raw)
            elif not name.startswith("messages["):
                self._inside(body, name, raw)

    def _inside(self, body: Json, name: str, raw: bytes) -> None:
        """A field of an object. Servers refuse options of a stream where there is none."""
        outer, _, inner = name.partition(".")
        if outer != "stream_options" or self._request.stream:
            body.setdefault(outer, {})[inner] = Raw(raw)


def _effort(wanted: Reasoning) -> str:
    """What comes nearest; empty: as the model likes."""
    if wanted.effort:
        return _EFFORTS.get(wanted.effort, wanted.effort)
    budget = wanted.budget_tokens
    if budget is None:
        return ""
    return next((effort for most, effort in _BUDGETS if budget <= most), "high")


def _own_reasoning(body: Json, wanted: Reasoning) -> None:
    """In OpenAI's words where those will do, else in OpenRouter's."""
    inside: Json = {}
    if wanted.enabled is not None:
        inside["enabled"] = wanted.enabled
    if wanted.budget_tokens is not None:
        inside["max_tokens"] = wanted.budget_tokens
    if not wanted.visible:
        inside["exclude"] = True
    if not inside and wanted.effort:
        body["reasoning_effort"] = wanted.effort
        return
    if wanted.effort:
        inside["effort"] = wanted.effort
    body["reasoning"] = inside


def _format(wanted: ResponseFormat) -> Json:
    if not wanted.schema:
        return {"type": "json_object"}
    schema: Json = {"name": wanted.name or FORMAT_NAME}
    if wanted.description:
        schema["description"] = wanted.description
    schema["schema"] = Raw(wanted.schema)
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": schema}
