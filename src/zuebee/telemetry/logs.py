"""Logs: one JSON object a line. Never a prompt, an answer or a key."""

import logging
import os
import re
import sys

import msgspec

from zuebee.config import LogSettings
from zuebee.contracts.admission import Settlement
from zuebee.kit.batch_writer import BatchWriter
from zuebee.kit.timestamps import rfc3339

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_STREAMS = {"stderr": sys.stderr, "stdout": sys.stdout}

FLUSH_INTERVAL_S = 0.1
MAX_WAITING_LINES = 100_000
MAX_TEXT = 200

_SECRET = re.compile(r"\b(sk-|Bearer\s+)[A-Za-z0-9._~+/=-]{6,}")


def redact(text: str) -> str:
    """The text with what looks like a key made unreadable."""
    return _SECRET.sub(r"\1***", text)


class JsonFormatter(logging.Formatter):
    """A record of the process log as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        if record.exc_info:
            entry["trace"] = redact(self.formatException(record.exc_info))
        return msgspec.json.encode(entry).decode()


class TextFormatter(logging.Formatter):
    """A record of the process log as a line for people."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{rfc3339(record.created)} {record.levelname:<7} {redact(record.getMessage())}"
        return f"{line}\n{redact(self.formatException(record.exc_info))}" if record.exc_info else line


def set_up(settings: LogSettings) -> None:
    """Send the process log where the settings say. Raises OSError."""
    handler: logging.Handler
    if settings.output in _STREAMS:
        handler = logging.StreamHandler(_STREAMS[settings.output])
    else:
        handler = logging.FileHandler(settings.output)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[settings.level])
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a first start is no news either


class AccessLog:
    """A `Recorder` that writes a line for each request, in a thread of its own; lines are dropped, never waited for."""

    def __init__(self, target: str) -> None:
        self._fd = {"stdout": 1, "stderr": 2}.get(target)
        self._own = self._fd is None
        if self._fd is None:
            self._fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        self._writer: BatchWriter[Settlement] = BatchWriter(
            "access-log", self._write, interval_s=FLUSH_INTERVAL_S, max_items=MAX_WAITING_LINES
        )

    def record(self, settlement: Settlement) -> None:
        """See `Recorder.record`."""
        self._writer.put(settlement)

    @property
    def dropped(self) -> int:
        """Lines that could not be written."""
        return self._writer.dropped

    def close(self) -> None:
        """Write what waits, briefly."""
        self._writer.close(2.0)
        if self._own and self._fd is not None:
            os.close(self._fd)

    def _write(self, batch: list[Settlement]) -> None:
        data = memoryview(b"".join(map(access_line, batch)))
        assert self._fd is not None
        while data:
            data = data[os.write(self._fd, data) :]


class AccessEntry(msgspec.Struct):
    """What the access log says of one request."""

    time: str
    request_id: str
    client_request_id: str
    key: str
    user: str
    team: str
    organisation: str
    plan: str
    priority: str
    address: str
    method: str
    path: str
    model: str
    stream: bool
    status: int
    ending: str
    code: str
    backend: str
    attempts: int
    prompt_tokens: int | None
    completion_tokens: int | None
    tokens: int | None
    cost_nano: int
    usage_source: str | None
    request_bytes: int
    response_bytes: int
    duration_ms: float
    first_token_ms: float | None


_encode = msgspec.json.Encoder().encode


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
        principal.organisation_id,
        principal.plan,
        principal.priority,
        settlement.address,
        settlement.method,
        settlement.route,
        settlement.model[:MAX_TEXT],
        settlement.stream,
        settlement.status,
        settlement.ending,
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
