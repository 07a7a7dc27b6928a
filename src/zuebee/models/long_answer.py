"""PURE. An answer too long to hold, on its way through: what it has cost so far, and what it says itself in the end."""

from zuebee.contracts.inference import Job, Usage, UsageSource
from zuebee.dialects import openai
from zuebee.dialects.openai_usage import Figures
from zuebee.models.unpacking import READABLE, Unpacker

TAIL_BYTES = openai.TAIL_BYTES
BYTES_PER_TOKEN = 4
BYTES_PER_TOKEN_WITH_LOGPROBS = 100


class LongAnswer:
    """Counts what passes. Usage stands at the end of an answer, as a rule, else before it; `begun` is its beginning.

    `coding`: how it is compressed. What cannot be unpacked counts by the size in which it comes.
    """

    def __init__(self, job: Job, begun: bytes, *, coding: bytes = b"") -> None:
        self._job = job
        self._unpacker = Unpacker(coding) if coding in READABLE else None
        self._looks_at_beginning = self._unpacker is not None
        self._begun = None if self._looks_at_beginning else openai.tail_usage(begun)
        self._tail = b""
        self._passed_bytes = 0
        self._per_token = 0

    def passes(self, data: bytes) -> None:
        """A piece of it goes to the client."""
        if self._unpacker is None or self._unpacker.broken:
            self._count(data)
            return
        for piece in self._unpacker.pieces(data):
            if self._looks_at_beginning:
                self._begun, self._looks_at_beginning = openai.tail_usage(piece), False
            self._count(piece)

    def _count(self, data: bytes) -> None:
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        self._passed_bytes += len(data)

    def usage(self, *, whole: bool) -> Usage:
        """The figures of the answer where they have come by, else an estimate from its size."""
        figures = openai.tail_usage(self._tail) or self._begun
        if figures is not None:
            return reported_usage(figures, "provider" if whole else "partial")
        return Usage(self._job.prompt_tokens, self._completion_estimate(), "estimate" if whole else "partial")

    def _completion_estimate(self) -> int:
        job = self._job
        if job.operation == "embeddings":
            return 0
        if not self._per_token:  # looked for once: this is asked every second
            self._per_token = BYTES_PER_TOKEN_WITH_LOGPROBS if b'"logprobs"' in job.body else BYTES_PER_TOKEN
        tokens = self._passed_bytes // self._per_token
        if job.max_output_tokens is None:
            return tokens
        return min(tokens, job.max_output_tokens * job.choices * job.prompts)


def reported_usage(figures: Figures, source: UsageSource = "provider") -> Usage:
    """The usage that a backend tells of."""
    f = figures
    return Usage(f.prompt, f.completion, source, f.cached, f.written, f.reasoning, odd=f.odd)
