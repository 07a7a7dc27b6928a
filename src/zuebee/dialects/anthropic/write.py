"""PURE. A request in the hub form, written for a server of Anthropic's Messages API."""

import re
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Raw

from zuebee.dialects.anthropic.blocks import NAME
from zuebee.dialects.anthropic.written import MARK, Block, Blocks, begins_with_thinking, has_call, plain
from zuebee.dialects.hub.canonical import ChatRequest, FunctionTool, NotCarried, Omissions, Opaque, Reasoning

DEFAULT_MAX_TOKENS: Final = 4096
"""Anthropic demands a bound; it is this one where the caller sets none."""
MIN_BUDGET: Final = 1024
MAX_USER: Final = 256

BUDGETS: Final = {
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16384,
    "xhigh": 32000,
    "max": 32000,
}
"""Tokens of reasoning for each effort, for models that know budgets only."""

_VERSION: Final = re.compile(r"claude-(?:[a-z]+-)?(\d{1,2})(?:[-.](\d{1,2}))?(?!\d)")
ADAPTIVE_SINCE: Final = (4, 6)
NO_SAMPLING_SINCE: Final = (4, 7)
STRICT_SINCE: Final = (4, 5)
ONE_SAMPLING_SINCE: Final = (4, 1)

# --- what this dialect has no word for: by what the hub form calls it ---

_REFUSED: Final[dict[str, tuple[Callable[[ChatRequest], bool], str]]] = {
    "n": (lambda request: request.n > 1, "it gives one answer to a request."),
    "logprobs": (lambda request: request.logprobs, "it tells no probabilities."),
}
_DROPPED: Final[dict[str, Callable[[ChatRequest], bool]]] = {
    "seed": lambda request: request.seed is not None,
    "presence_penalty": lambda request: bool(request.presence_penalty),
    "frequency_penalty": lambda request: bool(request.frequency_penalty),
    "top_logprobs": lambda request: bool(request.top_logprobs),
}
_CALLED: Final = {
    "gemini": {
        "n": "candidateCount",
        "logprobs": "responseLogprobs",
        "top_logprobs": "logprobs",
        "presence_penalty": "presencePenalty",
        "frequency_penalty": "frequencyPenalty",
        "stop": "stopSequences",
        "response_format": "responseMimeType",
        "reasoning_effort": "thinkingConfig",
        "top_p": "topP",
        "top_k": "topK",
        "tool_choice": "toolConfig",
    },
    "anthropic": {"stop": "stop_sequences", "reasoning_effort": "thinking", "response_format": "output_config.format"},
}
"""What clients of other dialects than OpenAI's call a field."""


def model_version(model: str) -> tuple[int, int] | None:
    """Which Claude a model's name says that it is; None if it says none."""
    found = _VERSION.search(model)
    return None if found is None else (int(found[1]), int(found[2] or 0))


def effort_of(budget_tokens: int) -> str:
    """The effort that a budget comes nearest to."""
    return next((effort for effort in ("low", "medium", "high") if budget_tokens <= BUDGETS[effort]), "high")


class AnthropicRequestWriter:
    """Writes one request. `adaptive`: whether its model takes adaptive reasoning; None: as its name says."""

    def __init__(self, request: ChatRequest, notes: Omissions, default_max_tokens: int, adaptive: bool | None) -> None:
        self._request = request
        self._notes = notes
        self._own = request.dialect == NAME
        self._blocks = Blocks(notes, own=self._own)
        self._version = model_version(request.model)
        if adaptive is None:
            adaptive = self._version is not None and self._version >= ADAPTIVE_SINCE
        self._adaptive = adaptive
        self._max_tokens = request.max_tokens or default_max_tokens

    def body(self) -> bytes:
        """The whole of it. Raises NotCarried."""
        request = self._request
        self._check()
        tools = self._tools()
        system, turns = self._turns()
        body: Block = {"model": request.model, "max_tokens": self._max_tokens}
        body["messages"] = [{"role": role, "content": plain(blocks)} for role, blocks in turns]
        if system:
            body["system"] = plain(system)
        if tools:
            body["tools"] = tools
        if (choice := self._tool_choice(bool(tools))) is not None:
            body["tool_choice"] = choice
        output: Block = {}
        thinking = self._reasoning(output, turns)
        self._format(output)
        self._sampling(body, thinks=thinking is not None and thinking["type"] != "disabled")
        if thinking is not None:
            body["thinking"] = thinking
        body["max_tokens"] = self._max_tokens
        if request.stop:
            body["stop_sequences"] = self._stop()
        if request.user:
            self._user(body)
        if request.stream:
            body["stream"] = True
        self._extra(body, output)
        if output:
            body["output_config"] = output
        self._blocks.drop_marks(1 if MARK in body else 0)
        return msgspec.json.encode(body)

    def _name(self, field: str) -> str:
        """What the client calls a field."""
        return _CALLED.get(self._request.dialect, {}).get(field, field)

    def _check(self) -> None:
        for field, (asked, why) in _REFUSED.items():
            if asked(self._request):
                raise NotCarried(self._name(field), why)
        for field, given in _DROPPED.items():
            if given(self._request):
                self._notes.drop(self._name(field))

    # --- the conversation ---

    def _turns(self) -> tuple[list[Any], list[tuple[str, list[Any]]]]:
        """Instructions, and turns whose roles alternate.

        Instructions between turns stay there where the client knows of that; others mean them for the whole.
        """
        system: list[Any] = []
        turns: list[tuple[str, list[Any]]] = []
        for index, message in enumerate(self._request.messages):
            where = f"messages[{index}]"
            if message.role == "system":
                blocks = self._blocks.texts(message.parts, where)
                if not (self._own and turns):
                    system += blocks
                elif blocks:
                    turns.append(("system", blocks))
                continue
            role = "assistant" if message.role == "assistant" else "user"
            blocks = self._blocks.content(message.parts, where, role)
            if turns and turns[-1][0] == role:
                turns[-1][1].extend(blocks)
            elif blocks:
                turns.append((role, blocks))
        for role, blocks in turns:
            if role == "user":
                blocks.sort(key=lambda block: not (isinstance(block, dict) and block["type"] == "tool_result"))
        if not turns and system:  # there must be a turn
            return [], [("user", system)]
        if turns and turns[-1][0] == "assistant":
            _strip_end(turns[-1][1])
        return system, turns

    # --- tools ---

    def _tools(self) -> list[Any]:
        found: list[Any] = []
        for tool in self._request.tools:
            if isinstance(tool, Opaque):
                if (raw := self._blocks.opaque(tool)) is not None:
                    found.append(raw)
            else:
                found.append(self._tool(tool))
        return found

    def _tool(self, tool: FunctionTool) -> Block:
        block: Block = {"name": tool.name, "input_schema": _schema(tool.schema)}
        if tool.description:
            block["description"] = tool.description
        if tool.strict and not self._own and self._version is not None and self._version < STRICT_SINCE:
            self._notes.drop("strict")
        elif tool.strict or (self._own and tool.strict is not None):
            block["strict"] = tool.strict
        return self._blocks.marked(block, tool.cache)

    def _tool_choice(self, has_tools: bool) -> Block | None:
        request = self._request
        choice, parallel = request.tool_choice, request.parallel_tool_calls
        if not has_tools and not self._own:
            return None
        found: Block | None = None
        if choice is not None:
            found = {"type": {"required": "any", "named": "tool"}.get(choice.mode, choice.mode)}
            if choice.mode == "named":
                found["name"] = choice.name
        if parallel is False or (self._own and parallel is not None):
            found = found or {"type": "auto"}
            if found["type"] != "none" or self._own:
                found["disable_parallel_tool_use"] = not parallel
        return found

    # --- reasoning ---

    def _reasoning(self, output: Block, turns: list[tuple[str, list[Any]]]) -> Block | None:
        """The field `thinking`; an effort goes into `output`."""
        reasoning = self._request.reasoning
        if reasoning is None:
            return None
        if self._own:
            return self._own_reasoning(reasoning, output)
        if reasoning.enabled is False or reasoning.effort == "none":
            return {"type": "disabled"} if self._adaptive else None
        if reasoning == Reasoning(visible=reasoning.visible):
            return None
        if self._adaptive:
            self._adaptive_effort(reasoning, output)
        choice = self._request.tool_choice
        forced = choice is not None and choice.mode in ("required", "named")
        if forced or (not self._adaptive and _lacks_thinking(turns)):
            self._notes.drop(self._name("reasoning_effort"))
            return None
        if not self._adaptive:
            return self._budget(reasoning)
        thinking: Block = {"type": "adaptive"}
        if self._version is not None and self._version >= NO_SAMPLING_SINCE:
            thinking["display"] = "summarized" if reasoning.visible else "omitted"
        return thinking

    def _adaptive_effort(self, reasoning: Reasoning, output: Block) -> None:
        effort: str = reasoning.effort
        if not effort and reasoning.budget_tokens is not None:
            effort = effort_of(reasoning.budget_tokens)
        if effort == "xhigh" and self._version is not None and self._version < NO_SAMPLING_SINCE:
            effort = "high"
        if effort:
            output["effort"] = "low" if effort == "minimal" else effort

    def _budget(self, reasoning: Reasoning) -> Block | None:
        """A budget is a part of `max_tokens`: of a caller's bound at most a half, beside the default one."""
        budget = max(reasoning.budget_tokens or BUDGETS[reasoning.effort or "medium"], MIN_BUDGET)
        if self._request.max_tokens is None:
            self._max_tokens += budget
        else:
            budget = min(budget, max(self._max_tokens // 2, MIN_BUDGET))
        if budget >= self._max_tokens:
            self._notes.drop(self._name("reasoning_effort"))
            return None
        return {"type": "enabled", "budget_tokens": budget}

    def _own_reasoning(self, reasoning: Reasoning, output: Block) -> Block | None:
        if reasoning.effort:
            output["effort"] = reasoning.effort
        if reasoning.enabled is None:
            return None
        if not reasoning.enabled:
            return {"type": "disabled"}
        thinking: Block = {"type": "adaptive"}
        if not reasoning.adaptive:
            thinking = {"type": "enabled"}
            if reasoning.budget_tokens is not None:
                thinking["budget_tokens"] = reasoning.budget_tokens
        if not reasoning.visible:
            thinking["display"] = "omitted"
        elif (display := self._request.extra.get("thinking.display")) is not None:
            thinking["display"] = Raw(display)
        return thinking

    # --- the rest ---

    def _format(self, output: Block) -> None:
        wanted = self._request.response_format
        if wanted is None:
            return
        if not wanted.schema:
            raise NotCarried(self._name("response_format"), "it writes JSON only to a schema; give one.")
        output["format"] = {"type": "json_schema", "schema": Raw(wanted.schema)}

    def _sampling(self, body: Block, *, thinks: bool) -> None:
        request = self._request
        asked: dict[str, float | None] = {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
        }
        given = {name: value for name, value in asked.items() if value is not None}
        if not self._own:
            given = self._allowed(given, thinks=thinks)
        body.update(given)

    def _allowed(self, given: dict[str, float], *, thinks: bool) -> dict[str, float]:
        """Without what makes some models refuse the request: they have their own ways to be varied."""
        kept = dict(given)
        if (temperature := kept.get("temperature")) is not None and not 0 <= temperature <= 1:
            kept["temperature"] = min(max(temperature, 0.0), 1.0)
            self._notes.drop(self._name("temperature"))
        version = self._version
        for name, value in given.items():
            refused = thinks and not (name == "top_p" and value >= 0.95) and not (name == "temperature" and value == 1)
            if version is not None:
                refused = refused or version >= NO_SAMPLING_SINCE
                refused = refused or (name == "top_p" and "temperature" in kept and version >= ONE_SAMPLING_SINCE)
            if refused:
                del kept[name]
                self._notes.drop(self._name(name))
        return kept

    def _stop(self) -> list[str]:
        stop = self._request.stop
        if not self._own and not all(each.strip() for each in stop):
            raise NotCarried(self._name("stop"), "it stops at no blank text.")
        return stop

    def _user(self, body: Block) -> None:
        if self._own or len(self._request.user) <= MAX_USER:
            body["metadata"] = {"user_id": self._request.user}
        else:
            self._notes.drop("user")

    def _extra(self, body: Block, output: Block) -> None:
        for name, raw in self._request.extra.items():
            if not self._own:
                self._notes.drop(name)
            elif name.startswith("output_config."):
                output[name.partition(".")[2]] = Raw(raw)
            elif name != "thinking.display":
                body[name] = Raw(raw)


def _schema(schema: bytes) -> Any:
    """The schema of a tool's arguments, which must say that they are an object."""
    if not schema:
        return {"type": "object", "properties": {}}
    try:
        found = msgspec.json.decode(schema, type=dict[str, Raw])
    except (ValueError, RecursionError):
        return Raw(schema)
    return Raw(schema) if "type" in found else {"type": "object", **found}


def _lacks_thinking(turns: list[tuple[str, list[Any]]]) -> bool:
    """Whether the model is amid a turn with tools whose reasoning is lost: it would refuse to go on reasoning."""
    for role, blocks in reversed(turns):
        if role == "assistant":
            return has_call(blocks) and not begins_with_thinking(blocks)
    return False


def _strip_end(blocks: list[Any]) -> None:
    """An answer that the model is to go on with must not end in a blank."""
    last = blocks[-1] if blocks else None
    if isinstance(last, dict) and last["type"] == "text":
        last["text"] = last["text"].rstrip()
