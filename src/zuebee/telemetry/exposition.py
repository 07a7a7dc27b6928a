"""The metrics as text for whoever asks, however often.

Making it takes milliseconds, in which nobody else is served. So those who ask meanwhile share one text, which is made
after they asked, and between two there is time for everybody else: who asks without pause waits.
"""

import asyncio
from collections import deque
from collections.abc import Callable

REST = 4.0
"""After a text was made, no other is for so many times as long."""
MAX_FORMATS = 4
"""So many are waited for at once; whoever wants yet another gets the plain one."""


class Exposition:
    """`render` makes the text for an Accept value, `format_of` tells its content type."""

    def __init__(
        self,
        render: Callable[[str], tuple[bytes, str]],
        format_of: Callable[[str], str],
        clock: Callable[[], float],
    ) -> None:
        self._render = render
        self._format_of = format_of
        self._clock = clock
        self._wanted: dict[str, asyncio.Future[tuple[bytes, str]]] = {}
        self._line: deque[tuple[str, str]] = deque()
        self._rests_until_s = 0.0

    async def text(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, as they are now or in a moment."""
        kind = self._format_of(accept)
        if kind not in self._wanted and len(self._wanted) >= MAX_FORMATS:
            accept = ""  # a caller may name versions without end
            kind = self._format_of(accept)
        wanted = self._wanted.get(kind)
        if wanted is None:
            loop = asyncio.get_running_loop()
            wanted = self._wanted[kind] = loop.create_future()
            self._line.append((kind, accept))
            if len(self._line) == 1:
                self._serve_soon(loop)
        return await asyncio.shield(wanted)  # who leaves takes nothing from the others

    def _serve_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(max(0.0, self._rests_until_s - self._clock()), self._serve, loop)

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        kind, accept = self._line.popleft()
        wanted = self._wanted.pop(kind)
        begun_s = self._clock()
        try:
            wanted.set_result(self._render(accept))
        except Exception as error:
            wanted.set_exception(error)
        ended_s = self._clock()
        self._rests_until_s = ended_s + REST * (ended_s - begun_s)
        if self._line:
            self._serve_soon(loop)
