"""A reporter that sends each event by itself to an HTTP endpoint."""

import asyncio
import base64
import hmac
from collections.abc import Sequence
from hashlib import sha256
from urllib.parse import urlsplit

import msgspec

from zuebee import __version__
from zuebee.config.settings_billing import ReporterSettings
from zuebee.config.validate_policies import signing_secret
from zuebee.contracts.usage import UsageEvent
from zuebee.http.connect import Origin
from zuebee.http.pool import HttpFailure, HttpPool, Timeouts
from zuebee.lib import clock
from zuebee.usage.outbox import Failed, OutboxEntry, Outcome, attempt_wait_s, judge, masked

# Signatures of deliveries, as Standard Webhooks 1.0 has them (standardwebhooks.com). PURE.


def signature(secrets: Sequence[bytes], event_id: str, at_s: int, body: bytes) -> str:
    """The value of `webhook-signature`: one `v1,BASE64` for each secret, with blanks between them.

    Each is the HMAC-SHA256 of `ID.TIMESTAMP.BODY`. A receiver accepts the message if one of them is right.
    """
    signed = b"%b.%d.%b" % (event_id.encode(), at_s, body)
    return " ".join("v1," + base64.b64encode(hmac.digest(secret, signed, sha256)).decode() for secret in secrets)


MAX_AT_ONCE = 16
MAX_ANSWER_BYTES = 65536
_OWN_HEADERS = frozenset({"connection", "content-length", "host", "transfer-encoding"})


class WebhookSink:
    """One endpoint, over a pool of kept connections. Raises ValueError for a secret that cannot be used."""

    at_once = MAX_AT_ONCE

    def __init__(self, settings: ReporterSettings, proxy_url: str | None) -> None:
        url = settings.url or ""
        origin = Origin(url, timeout_s=settings.timeout_s, ca_file=settings.ca_file, proxy_url=proxy_url)
        self._pool = HttpPool(origin, max_idle=MAX_AT_ONCE, max_connections=MAX_AT_ONCE)
        self._head = _head(url, settings, origin)
        self._secrets = [signing_secret(secret) for secret in settings.secrets]
        self._timeout_s = settings.timeout_s
        self._attempts = max(1, settings.retry)
        self._masked = settings.api_key == "masked"
        self.round_s = (self._timeout_s + attempt_wait_s(self._attempts)) * self._attempts

    async def deliver(self, entries: Sequence[OutboxEntry], *, probe: bool) -> list[Outcome]:
        """One round for one event: up to `retry` attempts one right after the other; as a probe, one.

        No more once the receiver says how long it wants to be left alone.
        """
        (entry,) = entries
        body = self._body(entry)
        attempts = 1 if probe else self._attempts
        for attempt in range(1, attempts + 1):
            outcome = await self._attempt(entry.event_id, body)
            if not isinstance(outcome, Failed) or outcome.retry_after_s is not None or attempt == attempts:
                break
            await asyncio.sleep(attempt_wait_s(attempt))
        return [outcome]

    def _body(self, entry: OutboxEntry) -> bytes:
        if not self._masked:
            return entry.payload.encode()
        event = msgspec.json.decode(entry.payload, type=UsageEvent)
        return msgspec.json.encode(msgspec.structs.replace(event, api_key=masked(event.api_key)))

    async def _attempt(self, event_id: str, body: bytes) -> Outcome:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exchange(event_id, body)
        except TimeoutError:
            return Failed("no answer in time")
        except HttpFailure as failure:
            return Failed(failure.message if failure.kind == "connect" else failure.kind)

    async def _exchange(self, event_id: str, body: bytes) -> Outcome:
        at_s = int(clock.wall_s())
        lines = [f"webhook-id: {event_id}", f"webhook-timestamp: {at_s}"]
        if self._secrets:
            lines.append(f"webhook-signature: {signature(self._secrets, event_id, at_s, body)}")
        lines.append(f"content-length: {len(body)}")
        head = self._head + "\r\n".join(lines).encode() + b"\r\n\r\n"
        timeouts = Timeouts(self._timeout_s, self._timeout_s, self._timeout_s)
        connection = await self._pool.send(head, body, timeouts)
        try:
            retry_after = next((value for name, value in connection.headers if name == b"retry-after"), b"")
            read = 0
            # Read to its end, so that the connection can be kept; a long answer is not worth it.
            while read < MAX_ANSWER_BYTES and (data := await connection.read()):
                read += len(data)
            return judge(connection.status, retry_after.decode("latin-1"), clock.wall_s())
        finally:
            connection.finish()

    async def aclose(self) -> None:
        """Let go of the connections."""
        self._pool.close()


def _head(url: str, settings: ReporterSettings, origin: Origin) -> bytes:
    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    given = {name.lower(): value for name, value in settings.headers.items() if name.lower() not in _OWN_HEADERS}
    fields = {"content-type": "application/json", "user-agent": f"ZueBee/{__version__}", **given}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return b"%b %b%b HTTP/1.1\r\nhost: %b\r\n%b%b" % (
        settings.method.encode(),
        origin.request_prefix,
        target.encode("ascii"),
        origin.authority.encode(),
        lines.encode("latin-1"),
        origin.request_headers,
    )
