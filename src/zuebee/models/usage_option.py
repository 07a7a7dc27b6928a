"""Whether the streams of one backend are asked for their usage (`stream_options`), which some servers refuse."""

from zuebee.contracts.inference import Job
from zuebee.kit import clock

ASK_AGAIN_S = 600.0
_WORD = b"stream_options"


class UsageOption:
    """`include_usage`: `always`, `never`, or `auto`, which stops asking for a while where the server refuses."""

    def __init__(self, include_usage: str) -> None:
        self._never = include_usage == "never"
        self._auto = include_usage == "auto"
        self._again_s = 0.0

    def asks(self, job: Job) -> bool:
        """Whether to add the option to a job: not where the caller has it."""
        if self._never or job.stream_usage:
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
