"""The endpoints under `/_sim`: arm faults, and see what happened."""

from collections.abc import Callable
from urllib.parse import parse_qs

import msgspec

from zuebee.sim.faults import FAULTS, Armed, FaultBook, FaultError
from zuebee.sim.messages import Reply, Request, error_reply, json_reply
from zuebee.sim.observe import Observer


class Control:
    """Answers the calls under `/_sim`."""

    def __init__(self, observer: Observer, faults: FaultBook, refuse: Callable[[float], None]) -> None:
        self._observer, self._faults, self._refuse = observer, faults, refuse

    def answer(self, request: Request) -> Reply:
        """Return the reply to a call; an unknown one is answered 404 with the list of those that exist."""
        calls: dict[tuple[str, str], Callable[[Request], Reply]] = {
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

    def _account(self, request: Request) -> Reply:
        query = parse_qs(request.target.partition(b"?")[2].decode("latin-1"))
        wanted = query.get("request_id", [None])[0]
        return json_reply(list(self._observer.accounts(wanted)))

    def _reset(self, request: Request) -> Reply:
        self._observer.reset()
        return json_reply({})

    def _arm(self, request: Request) -> Reply:
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

    def _disarm(self, request: Request) -> Reply:
        self._faults.clear()
        return json_reply({"armed": []})
