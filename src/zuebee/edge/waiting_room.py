"""Answers while the process waits for what it cannot start without: it lives, it is not ready, and why."""

import itertools

from zuebee.contracts.admission import Caller
from zuebee.contracts.errors import STORE_UNAVAILABLE, Refusal
from zuebee.contracts.inference import Headers
from zuebee.edge.asgi import AsgiClient, Receive, Scope, Send
from zuebee.edge.operator import LIVE, READY, Readiness, tell_health
from zuebee.edge.replies import error_reply


class WaitingRoom:
    """An ASGI application. `reason`: what is waited for."""

    def __init__(self, reason: str, backends: int) -> None:
        self.reason = reason
        self._backends = backends
        self._ids = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["path"]
        caller = Caller(scope["method"], path, {}, "")
        client = AsgiClient(scope, caller, receive, send, f"req_waiting_{next(self._ids):08x}", 0)
        if path in LIVE or path in READY:
            await tell_health(client, None if path in LIVE else Readiness(False, self.reason, 0, self._backends))
        else:
            await client.refuse(STORE_UNAVAILABLE)

    def refuse_unread(self, status: int, code: str, message: str, peer: str) -> tuple[Headers, bytes]:
        """See `HttpEdge.refuse_unread`; nobody counts here."""
        refusal = Refusal(status, "invalid_request_error", code, message)
        _, headers, body = error_reply(refusal, f"req_waiting_{next(self._ids):08x}")
        return [field for field in headers if field[0] != b"content-length"], body
