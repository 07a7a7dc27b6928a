"""PURE. How one backend is told how long an answer may be, where a budget bounds it and the caller does not."""

from typing import Final
from urllib.parse import urlsplit

from zuebee.config import BackendSettings
from zuebee.contracts.inference import Job
from zuebee.dialects.openai_bound import Bound, BoundField

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
