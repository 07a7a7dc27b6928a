"""PURE. What servers say of the tokens that an answer took, in the words of each of them.

OpenAI counts what was read from a cache within the prompt, and what a model thought within the completion. Others count
beside them (xAI and Gemini the thoughts, Anthropic's own names the cache), and only `total_tokens` tells. What is
billed is the careful reading: where the total says that there was more, there was.
"""

import re
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from zuebee.dialects.openai_shapes import MAX_TOKENS, SaidInChoice, UsageFigures

Json: TypeAlias = Any
"""Bytes or `msgspec.Raw`. Its stubs say that the latter is a kind of the former, which it is not: a compiler that
believes them would refuse it.
"""

MAX_USAGE_BYTES: Final = 1 << 16
MAX_UNNAMED: Final = 1 << 20
"""More tokens than this that only a total knows of are a mistake in the total."""

_DIGITS: Final = re.compile(r"[0-9]{1,10}(\.0*)?")
_CACHED: Final = ("cached_tokens", "cache_read_tokens", "cache_read_input_tokens")
_WRITTEN: Final = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")

_figures: Final = msgspec.json.Decoder(UsageFigures | None)
_said_in_choices: Final = msgspec.json.Decoder(list[SaidInChoice])


class TokenCounts:
    """Tokens as a server reports them, each from 0 to MAX_TOKENS.

    `cached` of the prompt came from the server's cache, `written` of it went there; `reasoning` of the completion are
    thoughts. `odd`: the server's total says something else than its parts, and none of them explains it.
    """

    def __init__(
        self, prompt: int, completion: int, cached: int = 0, written: int = 0, reasoning: int = 0, odd: bool = False
    ) -> None:
        self.prompt: Final = prompt
        self.completion: Final = completion
        self.cached: Final = cached
        self.written: Final = written
        self.reasoning: Final = reasoning
        self.odd: Final = odd

    @property
    def all(self) -> tuple[int, int, int, int, int, bool]:
        """All that it says, in the order above."""
        return self.prompt, self.completion, self.cached, self.written, self.reasoning, self.odd

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TokenCounts) and self.all == other.all

    def __hash__(self) -> int:
        return hash(self.all)

    def __repr__(self) -> str:
        return f"TokenCounts{self.all}"


def usage_figures(usage: Json | UnsetType) -> TokenCounts | None:
    """The tokens of a usage object; None if there is none, it is not whole, or it cannot be true.

    Nothing at all for an answer is not true: servers that do not count say so with zeros.
    What it says of the cache is believed only where the rest is, and never for more than the prompt has.
    """
    if usage is UNSET or len(bytes(usage)) > MAX_USAGE_BYTES:
        return None
    try:
        figures = _figures.decode(usage)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return believed(figures)


def usage_in_choices(choices: Raw | UnsetType) -> TokenCounts | None:
    """The tokens that the choices of a chunk tell of, as Moonshot has it."""
    if choices is UNSET or len(bytes(choices)) > MAX_USAGE_BYTES:
        return None
    try:
        for choice in _said_in_choices.decode(choices):
            if (figures := usage_figures(choice.usage)) is not None:
                return figures
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    return None


def believed(usage: Any) -> TokenCounts | None:
    """What is billed of a usage object."""
    if usage is None:
        return None
    prompt, completion, total = usage.prompt_tokens, usage.completion_tokens, usage.total_tokens
    if type(prompt) is int and type(completion) is int and total == prompt + completion and usage.is_plain():
        return TokenCounts(prompt, completion) if 0 < total <= MAX_TOKENS and prompt >= 0 <= completion else None
    given_prompt = usage.input_tokens if prompt is None else prompt
    given_completion = usage.output_tokens if completion is None else completion
    counted_prompt, counted_total = _count(given_prompt), _count(total)
    counted_completion = _count(given_completion)
    if counted_prompt is None or (given_completion is not None and counted_completion is None):
        return None
    if counted_completion is None:
        if counted_total is None:
            return None
        counted_completion = max(0, counted_total - counted_prompt)
    cached, written, reasoning = _parts(usage)
    beside = usage.cache_read_input_tokens is not None or usage.cache_creation_input_tokens is not None
    if beside and (cached + written > counted_prompt or (prompt is None and total is None)):
        # Anthropic's own way: what was read from the cache and what was written to it is counted beside the prompt.
        counted_prompt += cached + written
        if counted_total is not None and counted_total < counted_prompt + counted_completion:
            counted_total = None
    return _sum(counted_prompt, counted_completion, counted_total, cached, written, reasoning, beside=beside)


def _sum(
    prompt: int, completion: int, total: int | None, cached: int, written: int, reasoning: int, *, beside: bool
) -> TokenCounts | None:
    """The figures, once the total was heard. `beside`: what it has more may be the cache."""
    more = 0 if total is None else total - prompt - completion
    odd = more < 0 or more > MAX_UNNAMED
    if total is None and reasoning > completion:
        completion += reasoning
    elif more > 0 and beside and more in (cached + written, cached + written + reasoning):
        prompt += cached + written
        completion += more - cached - written
    elif 0 < more <= MAX_UNNAMED:
        # Thoughts, whether they are named or not.
        odd = reasoning > 0 and more != reasoning
        completion += more
        reasoning = max(reasoning, more)
    if prompt + completion <= 0 or prompt > MAX_TOKENS or completion > MAX_TOKENS:
        return None
    cached = min(cached, prompt)
    return TokenCounts(prompt, completion, cached, min(written, prompt - cached), min(reasoning, completion), odd)


def _parts(usage: Any) -> tuple[int, int, int]:
    """Tokens from a cache, tokens written to one, and thoughts, wherever they stand."""
    details = usage.prompt_tokens_details if usage.prompt_tokens_details is not None else usage.input_tokens_details
    cached = _first(details, _CACHED) or (
        _count(usage.prompt_cache_hit_tokens) or _count(usage.cached_tokens) or _count(usage.cache_read_input_tokens)
    )
    written = _first(details, _WRITTEN) or _count(usage.cache_creation_input_tokens)
    out = usage.completion_tokens_details
    out = usage.output_tokens_details if out is None else out
    reasoning = _first(out, ("reasoning_tokens",)) or _count(usage.reasoning_tokens)
    return cached or 0, written or 0, reasoning or 0


def _first(details: Any, names: tuple[str, ...]) -> int:
    if type(details) is dict:
        for name in names:
            if count := _count(details.get(name)):
                return count
    return 0


def _count(value: Any) -> int | None:
    """A number of tokens that can be true, written as it may be."""
    if type(value) is float and value.is_integer() and 0 <= value <= MAX_TOKENS:
        return int(value)
    if type(value) is str and _DIGITS.fullmatch(value):
        value = int(value.partition(".")[0])
    # bool is a type of its own
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None
