"""A log of what may happen to each of many requests: the same is said once in a while, with how often it was."""

import logging
from typing import Final

from zuebee.lib import clock

EVERY_S: Final = 10.0
MAX_KNOWN: Final = 100


class Seldom:
    """Writes to `log`. The same line comes again only after `every_s`; then it says how often it was left out."""

    def __init__(self, log: logging.Logger, every_s: float = EVERY_S) -> None:
        self._log = log
        self._every_s = every_s
        self._known: dict[str, tuple[float, int]] = {}

    def error(self, message: str, *arguments: object) -> None:
        """As `logging.Logger.error`."""
        self._say(logging.ERROR, message % arguments)

    def warning(self, message: str, *arguments: object) -> None:
        """As `logging.Logger.warning`."""
        self._say(logging.WARNING, message % arguments)

    def _say(self, level: int, line: str) -> None:
        now_s = clock.monotonic_s()
        said_at_s, left_out = self._known.get(line, (float("-inf"), 0))
        if now_s - said_at_s < self._every_s:
            self._known[line] = said_at_s, left_out + 1
            return
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[line] = now_s, 0
        if left_out:
            self._log.log(level, "%s (and %d times more since the last such line)", line, left_out)
        else:
            self._log.log(level, "%s", line)
