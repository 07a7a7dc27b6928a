"""PURE. A request in the hub form, written for Gemini's `generateContent` and `streamGenerateContent`.

Its model and whether it streams stand in the path.
"""

from typing import Any, Final

import msgspec
from msgspec import Raw

from zuebee.dialects.gemini.generation import thinking_config
from zuebee.dialects.gemini.shapes import NAME
from zuebee.dialects.gemini.written import Contents, Piece
from zuebee.dialects.hub.canonical import ChatRequest, FunctionTool, NotCarried, Omissions, Opaque

MAX_STOPS: Final = 5

_CARRIED: Final = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}
"""What is a number here as there. (Penalties of 0 are none, and some models refuse to hear of any.)"""
_PENALTIES: Final = ("presence_penalty", "frequency_penalty")

_CALLED: Final = {
    "anthropic": {
        "stop": "stop_sequences",
        "reasoning_effort": "thinking",
        "user": "metadata.user_id",
        "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    },
}
"""What clients of other dialects than OpenAI's call a field."""
_MODES: Final = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}


class GeminiRequestWriter:
    """Writes one request."""

    def __init__(self, request: ChatRequest, notes: Omissions) -> None:
        self._request = request
        self._notes = notes

    def body(self) -> bytes:
        """The whole of it. Raises NotCarried."""
        request = self._request
        contents = Contents(request, self._notes)
        if not contents.turns:
            raise NotCarried("messages", "there must be something in them.")
        body: Piece = {"contents": [{"role": role, "parts": pieces} for role, pieces in contents.turns]}
        if contents.system:
            body["systemInstruction"] = {"parts": [{"text": "\n\n".join(contents.system)}]}
        self._tools(body)
        if config := self._config():
            body["generationConfig"] = config
        if request.user:
            self._notes.drop(self._name("user"))
        for name, raw in request.extra.items():
            if request.dialect == NAME:
                body[name] = Raw(raw)
            else:
                self._notes.drop(name)
        return msgspec.json.encode(body)

    def _name(self, field: str) -> str:
        """What the client calls a field."""
        return _CALLED.get(self._request.dialect, {}).get(field, field)

    # --- tools ---

    def _tools(self, body: Piece) -> None:
        declared: list[Piece] = []
        tools: list[Any] = []
        for index, tool in enumerate(self._request.tools):
            if isinstance(tool, FunctionTool):
                declared.append(self._declaration(tool))
            elif tool.dialect == NAME:
                tools.append(Raw(tool.raw))
            else:
                self._notes.drop(_where(tool, index))
        if declared:
            tools.insert(0, {"functionDeclarations": declared})
        if tools:
            body["tools"] = tools
        self._choice(body, {each["name"] for each in declared})

    def _declaration(self, tool: FunctionTool) -> Piece:
        declared: Piece = {"name": tool.name}
        if tool.description:
            declared["description"] = tool.description
        if tool.schema:
            declared["parametersJsonSchema"] = Raw(tool.schema)
        if tool.strict:
            self._notes.drop("strict")
        if tool.cache:
            self._notes.drop("cache_control")
        return declared

    def _choice(self, body: Piece, names: set[str]) -> None:
        request = self._request
        choice = request.tool_choice
        if request.parallel_tool_calls is False and names:
            self._notes.drop(self._name("parallel_tool_calls"))
        if choice is None:
            return
        if (choice.mode == "required" and not names) or (choice.mode == "named" and choice.name not in names):
            raise NotCarried("tool_choice", "it has no such tool.")
        if names:
            config: Piece = {"mode": _MODES[choice.mode]}
            if choice.mode == "named":
                config["allowedFunctionNames"] = [choice.name]
            body["toolConfig"] = {"functionCallingConfig": config}

    # --- the rest ---

    def _config(self) -> Piece:
        request = self._request
        config: Piece = {}
        for field, name in _CARRIED.items():
            value = getattr(request, field)
            if value is not None and not (field in _PENALTIES and value == 0):
                config[name] = value
        if stops := [each for each in request.stop if each]:
            if len(stops) > MAX_STOPS:
                raise NotCarried(self._name("stop"), f"it takes {MAX_STOPS} of them.")
            config["stopSequences"] = stops
        if request.n > 1:
            config["candidateCount"] = request.n
        if request.logprobs:
            config["responseLogprobs"] = True
            if request.top_logprobs:
                config["logprobs"] = request.top_logprobs
        if (wanted := request.response_format) is not None:
            config["responseMimeType"] = "application/json"
            if wanted.schema:
                config["responseJsonSchema"] = Raw(wanted.schema)
        if request.reasoning is not None:
            field = self._name("reasoning_effort")
            thinking = thinking_config(request.model, request.reasoning, self._notes, field)
            if thinking is not None:
                config["thinkingConfig"] = thinking
        return config


def _where(tool: Opaque, index: int) -> str:
    return tool.where or f"tools[{index}]"
