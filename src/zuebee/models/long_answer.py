"""PURE. An answer too long to hold, on its way through: what it has cost so far, and what it says itself in the end."""

from zuebee.contracts.inference import Job, Usage
from zuebee.dialects import openai

TAIL_BYTES = 1 << 16
BYTES_PER_TOKEN = 4
BYTES_PER_TOKEN_WITH_LOGPROBS = 100


class LongAnswer:
    """Counts what passes. Usage stands at the end of an answer, as a rule, else before it; `begun` is its beginning."""

    def __init__(self, job: Job, prompt_estimate: int, begun: bytes) -> None:
        self._job = job
        self._prompt_estimate = prompt_estimate
        self._begun = openai.tail_usage(begun)
        self._tail = b""
        self._passed_bytes = 0

    def passes(self, data: bytes) -> None:
        """A piece of it goes to the client."""
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        self._passed_bytes += len(data)

    def usage(self, *, whole: bool) -> Usage:
        """The figures of the answer where they have come by, else an estimate from its size."""
        figures = openai.tail_usage(self._tail) or self._begun
        if figures is not None:
            return Usage(figures.prompt, figures.completion, "provider" if whole else "partial", figures.cached)
        return Usage(self._prompt_estimate, self._completion_estimate(), "estimate" if whole else "partial")

    def _completion_estimate(self) -> int:
        job = self._job
        if job.operation == "embeddings":
            return 0
        is_verbose = b'"logprobs"' in job.body
        tokens = self._passed_bytes // (BYTES_PER_TOKEN_WITH_LOGPROBS if is_verbose else BYTES_PER_TOKEN)
        if job.max_output_tokens is None:
            return tokens
        return min(tokens, job.max_output_tokens * job.choices * job.prompts)
