"""Logs: one JSON object a line. Never a prompt, an answer or a key."""

import logging
import re
import sys
from logging.handlers import WatchedFileHandler

import msgspec

from zuebee.config.settings import LogSettings
from zuebee.lib.timestamps import rfc3339

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}
_STREAMS = {"stderr": sys.stderr, "stdout": sys.stdout}

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


def set_level(settings: LogSettings) -> None:
    """Say what the settings ask for, from now on."""
    logging.getLogger().setLevel(LEVELS[settings.level])


def set_up(settings: LogSettings) -> None:
    """Send the process log where the settings say. Raises OSError."""
    handler: logging.Handler
    if settings.output in _STREAMS:
        handler = logging.StreamHandler(_STREAMS[settings.output])
    else:
        handler = WatchedFileHandler(settings.output)  # opens a new file where the old one was moved away
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(settings)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a first start is no news either
