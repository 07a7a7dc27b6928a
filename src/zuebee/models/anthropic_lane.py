"""How a backend is spoken to that speaks Anthropic's dialect, in that dialect."""

from zuebee.contracts.inference import Job
from zuebee.dialects.anthropic.answers import answer_error, answer_text_bytes, answer_usage
from zuebee.dialects.anthropic.errors import is_error, read_error, render_error
from zuebee.dialects.anthropic.meter import AnthropicMeter
from zuebee.dialects.meter import Meter
from zuebee.dialects.openai import Told
from zuebee.dialects.openai_usage import TokenCounts
from zuebee.models.lanes import Lane


class AnthropicLane(Lane):
    """Anthropic's dialect on both sides: bodies pass as they came."""

    def asks_usage(self, job: Job) -> bool:
        return True

    def meter(self, job: Job, max_event_bytes: int) -> Meter:
        return AnthropicMeter(max_event_bytes=max_event_bytes)

    def usage(self, job: Job, answer: bytes) -> TokenCounts | None:
        return answer_usage(answer)

    def error_in(self, answer: bytes) -> Told | None:
        return answer_error(answer)

    def text_bytes(self, job: Job, answer: bytes) -> int:
        return answer_text_bytes(answer)

    def error(self, job: Job, status: int, answer: bytes) -> bytes | None:
        if is_error(answer):
            return None
        return render_error(read_error(status, answer), job.request_id)
