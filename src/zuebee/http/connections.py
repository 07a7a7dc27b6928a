"""Who may be connected, what they may send and by when, the words for who breaks it, and whose turn it is."""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

from zuebee.lib.networks import parse_address

# Whose turn it is when clients send more than one request at once.

AT_ONCE: Final = 4
"""So many are let through in one round of the event loop: the rest of a round is for everybody else."""


class Turnstile:
    """Lets those who have more to do pass a few at a time, in the order in which they came."""

    def __init__(self) -> None:
        self._line: deque[asyncio.Future[None]] = deque()

    def enter(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """Stand in line; what is returned is done when it is one's turn, in a later round of the loop."""
        turn = loop.create_future()
        self._line.append(turn)
        if len(self._line) == 1:
            loop.call_soon(self._open, loop)
        return turn

    def _open(self, loop: asyncio.AbstractEventLoop) -> None:
        line = self._line
        passed = 0
        while line and passed < AT_ONCE:
            turn = line.popleft()
            if not turn.done():  # else whoever waited has left
                turn.set_result(None)
                passed += 1
        if line:
            loop.call_soon(self._open, loop)


Fault = tuple[int, str, str]
"""Status, code and message for a client that broke a rule."""

INVALID_HTTP = (400, "invalid_http", "The request is not valid HTTP/1.1.")
INVALID_HOST = (400, "invalid_host", "The Host header field is missing, repeated or not valid.")
INVALID_TARGET = (400, "invalid_target", "The request target is not valid, or not of this Host.")
URI_TOO_LONG = (414, "uri_too_long", "The request target is too long.")
HEADERS_TOO_LARGE = (431, "headers_too_large", "The request has too many or too large header fields.")
OVERDUE = (408, "request_timeout", "The request took too long to arrive.")
UNKNOWN_CODING = (501, "unsupported_transfer_encoding", "Of transfer encodings, only chunked is known here.")
UNKNOWN_METHOD = (501, "unsupported_method", "CONNECT is not answered here.")
UNKNOWN_VERSION = (505, "unsupported_http_version", "Only HTTP/1.0 and HTTP/1.1 are spoken here.")

RenderError = Callable[[int, str, str, str], tuple[list[tuple[bytes, bytes]], bytes]]
"""(status, code, message, peer) -> headers and body of an error answer. `peer` is the client's address, or empty where
the application already has the request and answers for it."""


MAX_HELD_BYTES: Final = 32 << 20
"""All connections together hold no more of heads that are not whole and of requests whose turn has not come."""


class ReceiveLimits(NamedTuple):
    """What a client may send, and by when."""

    header_timeout_s: float
    body_timeout_s: float
    body_min_bytes_per_s: int
    write_timeout_s: float
    max_headers: int
    max_header_bytes: int
    max_connections: int
    max_connections_per_address: int
    max_discarded_bytes: int
    # At the end of a connection whose client still sends: by when it must be over, with how much silence, and how
    # soon once the listener stops.
    linger_s: float = 30.0
    quiet_s: float = 5.0
    hurried_s: float = 1.0


class Refused(Exception):
    """A request that is not worth reading on."""


def _nothing() -> None:
    """Nobody listens."""


class Phase:
    """What all connections of a server know of its life, and of one another.

    `date`: the Date of the answers that begin now. `turns`: for clients that send several requests at once.
    `held_bytes`: what all have sent of requests that are not looked at yet; `relieve` is called when it is too much.
    """

    def __init__(self) -> None:
        self.draining = False
        self.running = 0
        self.date = b""
        self.turns = Turnstile()
        self.held_bytes = 0
        self.relieve: Callable[[], None] = _nothing


# Who may be connected: so many in all, so many from one address, and who goes first when there is no room.
#
# To make room for who comes, one is closed whose client has nothing to lose: the end of a connection whose answer was
# given, then the oldest that has sent no whole head yet, then the one that waits longest for its next request. One with
# a request or an answer on its way is never closed for another.

LOOK_EVERY_S: Final = 25e-6
"""For each connection. Only so often all are looked at, to line up those that could go: 10,000 four times a second."""

LINGERING: Final = -2e9
"""Begins the keys of those whose answer was given."""
FRESH: Final = -1e9
"""Begins the keys of those that have sent no whole head, or not the next one."""
KEPT: Final = -5e8
"""All keys of those that wait for their next request are above."""


class Guest(Protocol):
    """One connection, or one that is still being made."""

    @property
    def held_bytes(self) -> int:
        """What it has sent of requests that are not looked at yet."""
        ...

    def idle_key(self) -> float:
        """When it became idle, less `LINGERING` or `FRESH`; infinite for who must stay.

        Who has the smallest goes first. The same as long as nothing happens there.
        """
        ...

    def give_way(self) -> None:
        """Close at once."""
        ...

    def drop_held(self) -> None:
        """Give up what was received and not looked at, and with it the connection, if need be after its answer."""
        ...


class Crowd:
    """Those who share a bound. Who came and may have sent nothing yet stands in a line of its own, in that order."""

    __slots__ = ("_fresh", "_line", "_looked_s", "members")

    def __init__(self) -> None:
        self.members: set[Guest] = set()
        self._fresh: deque[Guest] = deque()
        self._line: deque[tuple[float, Guest]] = deque()
        self._looked_s = -math.inf

    def add(self, guest: Guest) -> None:
        """One more."""
        self.members.add(guest)
        self._fresh.append(guest)
        self._tidy()

    def discard(self, guest: Guest) -> None:
        """One less."""
        self.members.discard(guest)
        self._tidy()

    def _tidy(self) -> None:
        """Let go of those who are gone, or not fresh any more, once they are the most of a line."""
        most, members = 2 * len(self.members) + 64, self.members
        if len(self._fresh) > most:
            self._fresh = deque([one for one in self._fresh if one in members and one.idle_key() < KEPT])
        if len(self._line) > most:
            self._line = deque([one for one in self._line if one[1] in members])

    def first_to_go(self, now_s: float) -> Guest | None:
        """Take out the one who can go best; None if nobody can."""
        if now_s - self._looked_s >= LOOK_EVERY_S * len(self.members):
            self._looked_s = now_s
            idle = [(guest.idle_key(), guest) for guest in self.members]
            self._line = deque(sorted([one for one in idle if one[0] != math.inf], key=_first))
        if (guest := self._next_in_line(FRESH)) is not None:
            return guest
        while self._fresh:
            guest = self._fresh.popleft()
            if guest in self.members and guest.idle_key() < KEPT:
                self.members.discard(guest)
                return guest
        return self._next_in_line(math.inf)

    def _next_in_line(self, below: float) -> Guest | None:
        line = self._line
        while line and line[0][0] < below:
            key, guest = line.popleft()
            if guest in self.members and guest.idle_key() == key:
                self.members.discard(guest)
                return guest
        return None


def _first(one: tuple[float, Guest]) -> float:
    return one[0]


class ConnectionTable:
    """All connections of a listener. `counts_address`: whether an address is one client's, and not a proxy's.

    `made_room` and `turned_away` count those that were closed for others, and those that found no room.
    """

    def __init__(
        self, max_guests: int, max_of_address: int, counts_address: Callable[[str], bool], phase: Phase
    ) -> None:
        self.made_room = 0
        self.turned_away = 0
        self._all = Crowd()
        self._of_address: dict[str, Crowd] = {}
        self._max_guests = max_guests
        self._max_of_address = max_of_address
        self._counts_address = counts_address
        self._phase = phase

    @property
    def guests(self) -> list[Guest]:
        """All who are connected, in no order."""
        return list(self._all.members)

    def __len__(self) -> int:
        return len(self._all.members)

    def enter(self, guest: Guest, address: str, now_s: float) -> bool:
        """Take one in, if need be in another's place; False if there is no room."""
        name = name_of(address)
        own: Crowd | None = None
        if name and self._counts_address(address):
            own = self._of_address.get(name)
            if own is None:
                own = self._of_address[name] = Crowd()
            if len(own.members) >= self._max_of_address and not self._make_room(own, now_s):
                self.turned_away += 1
                return False
        if len(self._all.members) >= self._max_guests and not self._make_room(self._all, now_s):
            self.turned_away += 1
            self._forget_empty(name)
            return False
        self._all.add(guest)
        if own is not None:
            own.add(guest)
            self._of_address[name] = own
        return True

    def make_room(self, now_s: float) -> bool:
        """Close the one who can go best, for want of something that all connections share."""
        return self._make_room(self._all, now_s)

    def leave(self, guest: Guest, address: str) -> None:
        """One is gone. Whoever never entered may leave, too."""
        self._all.discard(guest)
        name = name_of(address)
        own = self._of_address.get(name)
        if own is not None:
            own.discard(guest)
            self._forget_empty(name)

    def relieve(self) -> None:
        """Too much is held of requests that were not looked at: those that hold most drop theirs."""
        holding = [guest for guest in self._all.members if guest.held_bytes]
        for guest in sorted(holding, key=_held, reverse=True):
            if self._phase.held_bytes <= MAX_HELD_BYTES // 2:
                break
            guest.drop_held()

    def _make_room(self, crowd: Crowd, now_s: float) -> bool:
        guest = crowd.first_to_go(now_s)
        if guest is None:
            return False
        self._all.discard(guest)
        self.made_room += 1
        guest.give_way()
        return True

    def _forget_empty(self, name: str) -> None:
        own = self._of_address.get(name)
        if own is not None and not own.members:
            del self._of_address[name]


def _held(guest: Guest) -> int:
    return guest.held_bytes


def name_of(address: str) -> str:
    """By what an address is counted: one of IPv6 by its first 64 bits, of which one client has them all."""
    if ":" not in address:
        return address
    parsed = parse_address(address.partition("%")[0])
    if parsed is None or parsed.version == 4:
        return address if parsed is None else str(parsed)
    return parsed.exploded[:19]
