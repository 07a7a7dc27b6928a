"""One line of JSON for each request."""

import os
from typing import Final

import msgspec

from zuebee.contracts.admission import Settlement
from zuebee.lib.batch_writer import BatchWriter
from zuebee.lib.timestamps import rfc3339
from zuebee.telemetry.access_entry import AccessEntry

FLUSH_INTERVAL_S: Final = 0.1
MAX_WAITING_LINES: Final = 100_000
MAX_TEXT: Final = 200


class AccessLog:
    """A `Recorder` that writes a line for each request, in a thread of its own; lines are dropped, never waited for."""

    def __init__(self, target: str) -> None:
        self._fd = {"stdout": 1, "stderr": 2}.get(target)
        self._own = self._fd is None
        self._target = target
        if self._fd is None:
            self._fd = _open(target)
        self._writer: BatchWriter[Settlement] = BatchWriter(
            "access-log", self._write, interval_s=FLUSH_INTERVAL_S, max_items=MAX_WAITING_LINES
        )

    def record(self, settlement: Settlement) -> None:
        self._writer.put(settlement)

    @property
    def dropped(self) -> int:
        """Lines that could not be written."""
        return self._writer.dropped

    def reopen(self) -> None:
        """Write to the file of its name from now on: the old one may have been moved away. Raises OSError."""
        if self._own and self._fd is not None:
            new = _open(self._target)
            os.dup2(new, self._fd, inheritable=False)  # at once, also for the thread that writes
            os.close(new)

    def close(self) -> None:
        """Write what waits, briefly."""
        self._writer.close(2.0)
        if self._own and self._fd is not None:
            os.close(self._fd)

    def _write(self, batch: list[Settlement]) -> None:
        data = b"".join([access_line(each) for each in batch])
        assert self._fd is not None
        written_bytes = os.write(self._fd, data)
        while written_bytes < len(data):
            written_bytes += os.write(self._fd, data[written_bytes:])


def _open(target: str) -> int:
    return os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)


_encode: Final = msgspec.json.Encoder().encode


def access_line(settlement: Settlement) -> bytes:
    """One request as a line of JSON."""
    usage = settlement.usage
    principal = settlement.principal
    first_token_s = settlement.first_token_s
    entry = AccessEntry(
        rfc3339(settlement.at_s),
        settlement.request_id,
        settlement.client_request_id[:MAX_TEXT],
        principal.name,
        principal.user_id,
        principal.team_id,
        principal.organization_id,
        principal.plan,
        principal.priority,
        settlement.address,
        settlement.method,
        settlement.route,
        settlement.model[:MAX_TEXT],
        settlement.stream,
        settlement.status,
        settlement.termination_reason,
        settlement.code,
        settlement.backend,
        settlement.attempts,
        None if usage is None else usage.prompt_tokens,
        None if usage is None else usage.completion_tokens,
        None if usage is None else usage.prompt_tokens + usage.completion_tokens,
        settlement.cost_nano,
        None if usage is None else usage.source,
        settlement.request_bytes,
        settlement.response_bytes,
        int(settlement.duration_s * 1e6 + 0.5) / 1000,  # `round(x, 3)` takes as long as half the line
        None if first_token_s < 0 else int(first_token_s * 1e6 + 0.5) / 1000,
    )
    return _encode(entry) + b"\n"
