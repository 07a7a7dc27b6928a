"""What happened, for tests to compare with: counters, the last requests, and an account of every answer."""

import base64
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs

import msgspec

from zuebee.sim.base import Reply, SimRequest, error_reply, json_reply
from zuebee.sim.wire import FAULTS, Armed, FaultBook, FaultError

MAX_ACCOUNTS = 100_000
MAX_RECORDED_BYTES = 64 * 1024 * 1024


class Stats(msgspec.Struct):
    """Counters since the start or the last reset; the calls of `/_sim` themselves count nowhere.

    Every request that started is finished, aborted by the peer, ended by a fault, or still running.
    """

    connections_accepted: int = 0
    connections_open: int = 0
    requests_started: int = 0
    requests_finished: int = 0
    requests_aborted: int = 0
    requests_faulted: int = 0
    streams_open: int = 0
    streams_aborted: int = 0
    events_sent: int = 0
    tokens_sent: int = 0
    prompt_tokens: int = 0


class Account(msgspec.Struct):
    """What one answer of the model delivered."""

    id: str
    """The id of the answer: it ends with the `x-request-id` of the request, if it had one."""
    request_id: str | None
    connection: int
    path: str
    stream: bool
    """Whether a stream was asked for, and nothing was wrong with that."""
    status: int
    fault: str
    prompt_tokens: int
    """0 when the status is not 200: the model never saw the prompt."""
    completion_tokens: int = 0
    """Tokens written to the connection; those that the peer never read count as well."""
    events: int = 0
    ended: str = "running"
    """`running`, `complete`, `aborted` (the peer left) or `fault`."""


class Observer:
    """Keeps the counters, the last requests and the accounts, each within a bound."""

    def __init__(self, keep_requests: int) -> None:
        self.stats = Stats()
        self._requests: deque[SimRequest] = deque()
        self._recorded_bytes = 0
        self._keep_requests = keep_requests
        self._accounts: deque[Account] = deque(maxlen=MAX_ACCOUNTS)

    def connected(self) -> None:
        """Count a new connection."""
        self.stats.connections_accepted += 1
        self.stats.connections_open += 1

    def disconnected(self) -> None:
        """Count the end of a connection."""
        self.stats.connections_open -= 1

    def uncount(self) -> None:
        """Take back a connection that turns out to carry control calls."""
        self.stats.connections_accepted = max(0, self.stats.connections_accepted - 1)
        self.stats.connections_open -= 1

    def record(self, request: SimRequest) -> None:
        """Remember a request, and forget the oldest ones over the bounds."""
        self._requests.append(request)
        self._recorded_bytes += len(request.body)
        while len(self._requests) > self._keep_requests or self._recorded_bytes > MAX_RECORDED_BYTES:
            self._recorded_bytes -= len(self._requests.popleft().body)

    def begin(self, account: Account) -> None:
        """Open the account of a request."""
        self._accounts.append(account)
        self.stats.requests_started += 1
        self.stats.streams_open += account.stream
        self.stats.prompt_tokens += account.prompt_tokens

    def sent(self, account: Account, events: int, tokens: int) -> None:
        """Count what has been written."""
        account.events += events
        account.completion_tokens += tokens
        self.stats.events_sent += events
        self.stats.tokens_sent += tokens

    def end(self, account: Account, ended: str) -> None:
        """Close the account: `complete`, `aborted` or `fault`."""
        account.ended = ended
        self.stats.streams_open -= account.stream
        if ended == "complete":
            self.stats.requests_finished += 1
        elif ended == "aborted":
            self.stats.requests_aborted += 1
            self.stats.streams_aborted += account.stream
        else:
            self.stats.requests_faulted += 1

    def requests(self) -> list[dict[str, Any]]:
        """Return the last requests, oldest first, as `GET /_sim/requests` shows them."""
        return [
            {
                "method": request.method,
                "target": request.target.decode("latin-1"),
                "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in request.headers],
                "body_base64": base64.b64encode(request.body).decode(),
                "connection": request.connection,
            }
            for request in self._requests
        ]

    def accounts(self, request_id: str | None) -> Iterator[Account]:
        """Return the accounts, oldest first, of one request id if it is given."""
        return (account for account in self._accounts if request_id in (None, account.request_id))

    def reset(self) -> None:
        """Forget everything but what is open now; requests that run on are counted when they end."""
        open_now = Stats(connections_open=self.stats.connections_open, streams_open=self.stats.streams_open)
        self.stats = open_now
        self._requests.clear()
        self._recorded_bytes = 0
        self._accounts.clear()


# The endpoints under `/_sim`: arm faults, and see what happened.


class Control:
    """Answers the calls under `/_sim`."""

    def __init__(self, observer: Observer, faults: FaultBook, refuse: Callable[[float], None]) -> None:
        self._observer, self._faults, self._refuse = observer, faults, refuse

    def answer(self, request: SimRequest) -> Reply:
        """Return the reply to a call; an unknown one is answered 404 with the list of those that exist."""
        calls: dict[tuple[str, str], Callable[[SimRequest], Reply]] = {
            ("GET", "/_sim/stats"): lambda _: json_reply(self._observer.stats),
            ("GET", "/_sim/requests"): lambda _: json_reply(self._observer.requests()),
            ("GET", "/_sim/account"): self._account,
            ("POST", "/_sim/reset"): self._reset,
            ("GET", "/_sim/faults"): lambda _: json_reply({"armed": self._faults.list(), "known": FAULTS}),
            ("POST", "/_sim/faults"): self._arm,
            ("DELETE", "/_sim/faults"): self._disarm,
        }
        call = calls.get((request.method, request.path))
        if call is None:
            known = ", ".join(f"{method} {path}" for method, path in calls)
            return error_reply(404, f"There is no such call. There are: {known}.")
        return call(request)

    def _account(self, request: SimRequest) -> Reply:
        query = parse_qs(request.target.partition(b"?")[2].decode("latin-1"))
        wanted = query.get("request_id", [None])[0]
        return json_reply(list(self._observer.accounts(wanted)))

    def _reset(self, request: SimRequest) -> Reply:
        self._observer.reset()
        return json_reply({})

    def _arm(self, request: SimRequest) -> Reply:
        try:
            armed = msgspec.json.decode(request.body, type=Armed)
            if not armed.name:
                raise FaultError("`fault` is missing")
            if armed.name == "refuse":
                self._refuse(1.0 if armed.for_s is None else armed.for_s)
            else:
                self._faults.arm(armed)
        except (msgspec.DecodeError, FaultError) as error:
            return error_reply(400, str(error))
        return json_reply({"armed": self._faults.list()})

    def _disarm(self, request: SimRequest) -> Reply:
        self._faults.clear()
        return json_reply({"armed": []})
