"""How one backend is spoken to in the dialect of a job: a request's body, where it goes, and what an answer says.

In the backend's own dialect what passes stays byte for byte (`Lane`); else it is translated (`models/translated.py`).
"""

from typing import Final

from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import Job
from zuebee.dialects import openai
from zuebee.dialects.meter import Meter
from zuebee.dialects.openai import Bound, Told, write_fields
from zuebee.dialects.openai_errors import as_openai_error
from zuebee.dialects.openai_stream import StreamMeter
from zuebee.dialects.openai_usage import TokenCounts

MAX_HELD_BYTES: Final = 1 << 20
"""More of a whole answer than this passes as it comes."""


class NotSaid(Exception):
    """A job that cannot be said in the backend's dialect; `refusal` tells its client why."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Lane:
    """OpenAI's dialect on both sides: bodies pass as they came. `names`: what the backend calls a model."""

    def __init__(
        self, names: dict[str, str], *, translates: bool = False, max_held_bytes: int = MAX_HELD_BYTES
    ) -> None:
        self.translates: Final = translates
        self.max_held_bytes: Final = max_held_bytes
        self._names: Final = names

    def asks_usage(self, job: Job) -> bool:
        """Whether the body asks for usage in its stream by itself, or the dialect has it in all of them."""
        return job.stream_usage

    def path(self, job: Job) -> str:
        """The path of the request, as the gateway knows it."""
        return job.path

    def query(self, job: Job) -> bytes:
        """What stands behind `?`."""
        return job.query

    def body(self, job: Job, *, usage: bool, bound: Bound | None) -> bytes:
        """The body of the request. `usage`: a stream is to end with it. Raises NotSaid."""
        model = self._names.get(job.model, job.model) if self._names else job.model
        if model == job.asked_model:
            return write_fields(job.body, job.places, usage=usage, bound=bound)
        return write_fields(job.body, job.places, usage=usage, bound=bound, model=model)

    def meter(self, job: Job, max_event_bytes: int) -> Meter:
        """What watches the answer's stream, and gives what its client is to see of it."""
        several = job.choices > 1 or job.prompts > 1
        return StreamMeter(hide_usage=not job.stream_usage, several=several, max_event_bytes=max_event_bytes)

    def usage(self, job: Job, answer: bytes) -> TokenCounts | None:
        """The tokens that a whole answer reports. Raises InvalidJsonAnswer."""
        return openai.answer_usage(answer)

    def error_in(self, answer: bytes) -> Told | None:
        """What went wrong, where an answer of status 200 says so."""
        error = openai.answer_error(answer)
        return None if error is None else openai.read_told(error)

    def text_bytes(self, job: Job, answer: bytes) -> int:
        """How many bytes of text are in it."""
        return openai.answer_text_bytes(answer)

    def answer(self, job: Job, answer: bytes) -> bytes:
        """A whole answer as its client is to see it. Raises InvalidJsonAnswer."""
        return answer

    def error(self, job: Job, status: int, answer: bytes) -> bytes | None:
        """An error answer as its client can read it; None: as it came."""
        return as_openai_error(answer, status)

    def warnings(self, job: Job) -> bytes:
        """What of the request was left out, for a header of the answer."""
        return b""
