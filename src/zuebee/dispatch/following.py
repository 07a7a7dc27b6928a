"""What follows the first event of an answer, and what is to be done when it ends."""

from collections.abc import Callable
from contextlib import aclosing

from zuebee.contracts.inference import QUIET, Event, Events


async def follow(rest: Events, over: Callable[[Event], None]) -> Events:
    """The rest of an answer. Begun with a `Quiet`: what was not begun has no end either.

    `over` is told the last event when the answer ends, or its reader leaves.
    """
    event: Event = QUIET
    try:
        async with aclosing(rest) as events:
            yield event
            async for event in events:
                yield event
    finally:
        # Here, because who has taken the last event does not come back for more.
        over(event)


async def begun(events: Events) -> Events:
    """The same, begun."""
    await anext(events)
    return events
