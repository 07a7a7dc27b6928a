"""What is written into requests to one backend, and taken back where it refuses: a wish for usage, a bound."""

from typing import Final
from urllib.parse import urlsplit

from zuebee.config.settings import BackendSettings
from zuebee.contracts.inference import Job
from zuebee.dialects.openai import Bound, BoundField
from zuebee.lib import clock

ASK_AGAIN_S = 600.0
_WORD = b"stream_options"


class UsageOption:
    """`include_usage`: `always`, `never`, or `auto`, which stops asking for a while where the server refuses."""

    def __init__(self, include_usage: str) -> None:
        self._never = include_usage == "never"
        self._auto = include_usage == "auto"
        self._again_s = 0.0

    def asks(self, *, asked: bool) -> bool:
        """Whether to add the option to a job: not where it `asked` by itself."""
        if self._never or asked:
            return False
        return not self._again_s or clock.monotonic_s() >= self._again_s

    def may_be_refused(self, status: int, answer: bytes) -> bool:
        """Whether an answer may be about the option: then the same job is to be tried without."""
        return self._auto and status in (400, 422) and _WORD in answer

    def taken_without(self, job: Job) -> bool:
        """The same job was accepted without the option: stop asking for a while. Whether that is so.

        What a caller wrote may make a server speak of the option, too: that says nothing of other jobs.
        """
        if _WORD in job.body or "stream_options" in (job.places or {}):
            return False
        self._again_s = clock.monotonic_s() + ASK_AGAIN_S
        return True


# How one backend is told how long an answer may be, where a budget bounds it and the caller does not.

REFUSED: Final = (400, 422)
_ONLY_THE_NEW_NAME: Final = (".openai.com", ".azure.com")
"""OpenAI's reasoning models refuse `max_tokens`; other servers know it at least as well."""


class Bounds:
    """The bounds of the answers of one backend, as it takes them."""

    def __init__(self, settings: BackendSettings) -> None:
        host = f".{urlsplit(settings.url).hostname or ''}"
        auto: BoundField = "max_completion_tokens" if host.endswith(_ONLY_THE_NEW_NAME) else "max_tokens"
        self._chat: BoundField = auto if settings.max_tokens_field == "auto" else settings.max_tokens_field

    def of(self, job: Job) -> Bound | None:
        """What is to be written into the body; None: nothing."""
        if not job.answer_bound:
            return None
        return Bound(self._chat if job.operation == "chat" else "max_tokens", job.answer_bound)

    def another(self, job: Job, answer: bytes) -> Bound | None:
        """The same for one more try, when the first was refused with `answer`: by the other name, if the backend asks
        for that, else nothing, for it may have found the bound longer than its context.
        """
        if job.operation == "chat" and self._chat == "max_tokens" and b"max_completion_tokens" in answer:
            return Bound("max_completion_tokens", job.answer_bound)
        job.answer_bound = 0
        return None
