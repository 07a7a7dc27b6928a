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
    "reset": (502, "backend_broken", "broken", "The model server closed the connection."),
    "truncated": (502, "incomplete_answer", "broken", "The model server's answer broke off."),
    "malformed": (502, "bad_answer", "broken", "The model server's answer is not valid."),
}


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
        _log.info("%s: %s: %s", self._name, failure.kind, failure.message)
        refusal = Refusal(
            status,
            "timeout_error" if status == 504 else "overloaded_error" if status == 503 else "api_error",
            code,
            message,
            retry_after_s=None if failure.sent else 1.0,
            should_retry=not failure.sent,
        )
        return self.end(usage, refusal, cause, sent=failure.sent)

    def reported(self, error: Raw, usage: Usage | None) -> End:
        """A backend that answered 200 says in the answer that it failed."""
        status, code, message = openai.read_error(error)
        refusal = Refusal(
            status or 502,
            "invalid_request_error" if 400 <= status < 500 else "api_error",
            code or "backend_error",
            message or "The model server reported an error.",
        )
        return self.end(usage, refusal, "none" if 400 <= status < 500 else "overload")

    def unfit(self, status: int, fields: AnswerFields) -> End | None:
        """What must not reach a client: redirects, pages, and the backend's opinion of the gateway's own key."""
        if status == 401:
            _log.error("%s refuses the gateway's own key: check api_key of this backend", self._name)
            refusal = Refusal(502, "api_error", "backend_refused_key", "The model server refuses the gateway's key.")
            return self.end(None, refusal, "unwelcome")
        if 300 <= status < 400 or (status < 300 and b"text/html" in fields.content_type):
            return self.failed(HttpFailure("malformed", f"status {status}, not an answer of a model server"))
        return None
