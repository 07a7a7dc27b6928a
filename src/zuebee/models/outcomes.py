"""How a job on a backend ended, in the pipeline's words."""

import logging
from typing import Final

from msgspec import Raw

from zuebee.contracts.errors import Refusal
from zuebee.contracts.inference import End, FailureCause, Usage
from zuebee.dialects import openai
from zuebee.kit.http_client import HttpFailure
from zuebee.models.answer_fields import AnswerFields

_log: Final = logging.getLogger("zuebee.models")

_FAILURES: Final[dict[str, tuple[int, str, FailureCause, str]]] = {
    "connect": (503, "backend_unreachable", "connect_failure", "The model server cannot be reached."),
    "overflow": (503, "backend_busy", "overload", "The model server has too many requests."),
    "connect_timeout": (503, "backend_unreachable", "connect_failure", "The model server cannot be reached in time."),
    "first_byte_timeout": (504, "backend_timeout", "timeout", "The model server did not answer in time."),
    "idle_timeout": (504, "backend_stalled", "timeout", "The model server stopped in the middle of its answer."),
    "total_timeout": (504, "backend_timeout", "timeout", "The answer took longer than allowed."),
    "reader_timeout": (408, "client_too_slow", "none", "The answer was taken too slowly."),
    "reset": (502, "backend_broken", "died", "The model server closed the connection."),
    "truncated": (502, "incomplete_answer", "died", "The model server's answer broke off."),
    "ended_early": (502, "incomplete_answer", "broken", "The model server's answer broke off."),
    "malformed": (502, "bad_answer", "broken", "The model server's answer is not valid."),
}

_SENT_ELSEWHERE: Final = frozenset({301, 302, 307, 308})
"""Redirects of a request that nobody acted upon (RFC 9110, section 15.4). They are not followed."""


class Outcomes:
    """The ends of the jobs of one backend."""

    def __init__(self, name: str, url: str) -> None:
        self._name = name
        self._url = url

    def end(
        self, usage: Usage | None, refusal: Refusal | None = None, cause: FailureCause = "none", *, sent: bool = True
    ) -> End:
        """An end of this backend; without a refusal a good one."""
        return End(usage, refusal, cause, sent, self._name, backend_url=self._url)

    def failed(self, failure: HttpFailure, usage: Usage | None = None) -> End:
        """The connection, or what came over it, failed."""
        status, code, cause, message = _FAILURES[failure.kind]
        if cause == "connect_failure" and failure.sent:
            cause = "gone"
        _log.info("%s: %s: %s", self._name, failure.kind, failure.message)
        refusal = Refusal(
            status,
            "timeout_error" if status in (408, 504) else "overloaded_error" if status == 503 else "api_error",
            code,
            message,
            retry_after_s=None if failure.sent else 1.0,
            should_retry=not failure.sent,
        )
        return self.end(usage, refusal, cause, sent=failure.sent)

    def reported(self, error: Raw, usage: Usage | None) -> End:
        """A backend that answered 200 says in the answer that it failed."""
        told = openai.read_told(error)
        if told.status == 401:
            return self._refuses_us(usage)
        refusal = Refusal(
            told.status or 502,
            "invalid_request_error" if 400 <= told.status < 500 else "api_error",
            told.code or "backend_error",
            told.message or openai.NO_MESSAGE,
            told=told.shown,
        )
        return self.end(usage, refusal, "none" if 400 <= told.status < 500 else "overload")

    def _refuses_us(self, usage: Usage | None) -> End:
        _log.error("%s refuses the gateway's own key: check api_key of this backend", self._name)
        refusal = Refusal(502, "api_error", "backend_refused_key", "The model server refuses the gateway's key.")
        return self.end(usage, refusal, "unwelcome")

    def unfit(self, status: int, fields: AnswerFields, body: bytes) -> End | None:
        """What must not reach a client: redirects, pages, and the backend's opinion of the gateway's own key.

        What calls itself a page and begins as an answer does is an answer.
        """
        if status == 401:
            return self._refuses_us(None)
        page = status < 300 and fields.is_page and not body.lstrip().startswith(b"{")
        if 300 <= status < 400 or page:
            failure = HttpFailure("malformed", f"status {status}, not an answer of a model server")
            end = self.failed(failure, Usage(0, 0, "estimate"))  # whoever said that did no work
            if status in _SENT_ELSEWHERE:
                end.cause = "unwelcome"
            return end
        return None
