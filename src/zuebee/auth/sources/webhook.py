"""Keys known to a service of yours. Only a 2xx answer with a JSON object can admit."""

from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from zuebee.auth.lookups import MAX_VALUE_BYTES, UnreadableAnswer, read_object, said_no
from zuebee.auth.records import NOT_ADMITTED, Data
from zuebee.contracts.errors import Refusal
from zuebee.contracts.keys import Credential
from zuebee.http.connect import Origin
from zuebee.http.pool import Connection, HttpPool, Timeouts
from zuebee.lib import clock

UNKNOWN_HERE = frozenset({401, 404})
DENIED = 403
MAX_CONNECTIONS = 32
_encode = msgspec.json.encode


class WebhookLookup:
    """Asks with `{"api_key", "timestamp"}`. Redirects are never followed: whoever answers elsewhere is not trusted.

    `script_decides`: what a 2xx answer says is left to a script.
    """

    def __init__(
        self,
        url: str,
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
        proxy_url: str | None = None,
        script_decides: bool = False,
    ) -> None:
        parts = urlsplit(url)
        self._origin = Origin(url, timeout_s=timeout_s, proxy_url=proxy_url)
        self._timeouts = Timeouts(timeout_s, timeout_s, timeout_s)
        self._script_decides = script_decides
        self._pool: HttpPool | None = None
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        lines = {"accept": "application/json", "accept-encoding": "identity", "content-type": "application/json"}
        lines |= {name.lower(): value for name, value in (headers or {}).items()}
        self._head = (
            method.encode() + b" " + self._origin.request_prefix + target.encode() + b" HTTP/1.1\r\nhost: "
            + self._origin.authority.encode() + b"\r\n" + self._origin.request_headers
            + b"".join(f"{name}: {value}\r\n".encode() for name, value in lines.items())
        )  # fmt: skip

    async def look(self, presented: Credential) -> Data | Refusal | None:
        assert presented.key is not None
        body = _encode({"api_key": presented.key.decode("ascii"), "timestamp": int(clock.wall_s())})
        if self._pool is None:
            self._pool = HttpPool(self._origin, max_idle=MAX_CONNECTIONS, max_connections=MAX_CONNECTIONS)
        head = self._head + b"content-length: %d\r\n\r\n" % len(body)
        connection = await self._pool.send(head, body, self._timeouts)
        try:
            text = await _whole(connection)
        finally:
            connection.finish()
        status = connection.status
        if status in UNKNOWN_HERE:
            return None
        if status == DENIED:
            return NOT_ADMITTED
        if not 200 <= status < 300:
            raise UnreadableAnswer(f"the webhook answered {status}")
        data = read_object(text)
        if data is None:
            return None
        if not self._script_decides and (refusal := said_no(data)) is not None:
            return refusal
        return {**data, "_http_status": status}

    async def aclose(self) -> None:
        if self._pool is not None:
            self._pool.close()


async def _whole(connection: Connection) -> bytes:
    parts: list[bytes] = []
    length = 0
    while part := await connection.read():
        parts.append(part)
        length += len(part)
        if length > MAX_VALUE_BYTES:
            raise UnreadableAnswer("the answer is too long")
    return b"".join(parts)
