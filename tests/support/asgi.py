"""One request to an ASGI application, without a server: what is sent to it, and what it sends."""

from typing import Any

from zuebee.contracts.inference import Headers


class AsgiRequest:
    """A request in parts. After the call: `status`, `headers` and `body` of the answer."""

    def __init__(
        self, method: str = "POST", path: str = "/v1/chat/completions", *parts: bytes, headers: Headers | None = None
    ) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": b"",
            "headers": headers or [],
            "client": ("10.0.0.1", 1234),
        }
        self.sent: list[dict[str, Any]] = []
        self.received = 0
        self._parts = parts or (b"",)

    async def receive(self) -> dict[str, Any]:
        self.received += 1
        part = self._parts[self.received - 1]
        return {"type": "http.request", "body": part, "more_body": self.received < len(self._parts)}

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        """The status of the answer."""
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The header fields of the answer."""
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        """The body of the answer; fails if it did not end, or ended twice."""
        parts = self.sent[1:]
        assert [part["more_body"] for part in parts] == [True] * (len(parts) - 1) + [False]
        return b"".join(part["body"] for part in parts)
