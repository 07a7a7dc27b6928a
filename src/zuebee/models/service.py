"""One backend as an `Inference`: sends the client's bytes, passes the answer on as it comes, reads the usage.

The body goes out as it came, but for `stream_options.include_usage` in streams, and for a bound of the answer where a
budget asks for one.
"""

from typing import Final

from zuebee.config.providers import PROVIDERS
from zuebee.config.settings import BackendSettings
from zuebee.contracts.inference import Job, Reply, begin
from zuebee.dialects.sse import MAX_EVENT_BYTES
from zuebee.http.connect import Origin
from zuebee.http.pool import Connection, HttpFailure, HttpPool, Timeouts
from zuebee.models.added_fields import REFUSED, Bounds
from zuebee.models.answer import Outcomes, WholeAnswers, read_body
from zuebee.models.estimate import PromptSizes
from zuebee.models.header_policy import BaseUrl, RequestHead
from zuebee.models.lanes import MAX_HELD_BYTES, NotSaid
from zuebee.models.streams import Streams
from zuebee.models.translated import lanes_of, translate

MAX_OWN_REQUESTS: Final = 4
"""Probes and lists of models at once."""


def key_header(settings: BackendSettings) -> dict[str, str]:
    """The header field that carries the backend's key."""
    if not settings.api_key:
        return {}
    name = PROVIDERS[settings.type].key_header
    return {name: f"Bearer {settings.api_key}" if name == "authorization" else settings.api_key}


class BackendInference:
    """Runs jobs on one backend over a pool of kept connections."""

    def __init__(
        self,
        settings: BackendSettings,
        name: str,
        proxy_url: str | None,
        quiet_s: float,
        sizes: PromptSizes,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        origin = Origin(
            settings.url, timeout_s=settings.connect_timeout_s, ca_file=settings.ca_file, proxy_url=proxy_url
        )
        self.name = name
        url = BaseUrl(settings.url).shown  # in records and logs
        self._pool = HttpPool(origin, max_idle=settings.max_idle_connections, max_connections=settings.max_connections)
        # Of its own, for a probe that finds no connection left says nothing of the server.
        self._probes = HttpPool(origin, max_idle=1, max_connections=MAX_OWN_REQUESTS)
        self._head = RequestHead(
            settings.url,
            headers={**key_header(settings), **settings.headers},
            defaults=PROVIDERS[settings.type].headers,
            forward_headers=[*settings.forward_headers, *PROVIDERS[settings.type].forwarded],
            authority=origin.authority,
            request_prefix=origin.request_prefix,
            proxy_lines=origin.request_headers,
            identity_headers=settings.identity_headers,
            timeout_s=settings.timeout_s,
        )
        self._timeouts = Timeouts(settings.first_byte_timeout_s, settings.idle_timeout_s, settings.timeout_s)
        # The first byte of a whole answer comes when all of it is made, however long that takes.
        self._whole_timeouts = Timeouts(settings.timeout_s, settings.idle_timeout_s, settings.timeout_s)
        self._outcomes = Outcomes(name, url)
        self._whole_answers = WholeAnswers(name, url, self._outcomes, sizes)
        self._bounds = Bounds(settings)
        self._lanes = lanes_of(settings)
        self._streams = Streams(
            name,
            url,
            self._pool,
            self._head,
            self._timeouts,
            self._outcomes,
            self._whole_answers,
            sizes,
            self._bounds,
            include_usage=settings.include_usage,
            quiet_s=quiet_s,
            max_event_bytes=max_event_bytes,
        )

    async def get(self, path: str, method: str, timeout_s: float, max_bytes: int = MAX_HELD_BYTES) -> tuple[int, bytes]:
        """Status and body of a small request of the gateway's own (probes, model lists). Raises HttpFailure."""
        timeouts = Timeouts(timeout_s, timeout_s, timeout_s)
        connection = await self._probes.send(self._head.get(path, method), b"", timeouts, is_head=method == "HEAD")
        try:
            return connection.status, await read_body(connection, max_bytes)
        finally:
            connection.finish()

    def close(self) -> None:
        """Let go of the idle connections; running jobs finish."""
        self._pool.close()
        self._probes.close()

    async def run(self, job: Job) -> Reply:
        lane = self._lanes[job.dialect]
        if lane.translates and (refusal := await translate(job)) is not None:
            return self._outcomes.end(None, refusal, sent=False), None
        if job.stream:
            return await begin(self._streams.run(job, lane))
        connection: Connection | None = None
        try:
            sent = lane.body(job, usage=False, bound=self._bounds.of(job))
            head = self._head.post(job, len(sent), lane.path(job), lane.query(job))
            connection = await self._pool.send(head, sent, self._whole_timeouts, request=job)
            body = connection.take_whole()
            if job.answer_bound and connection.status in REFUSED:
                refused = body if body is not None else await read_body(connection, MAX_HELD_BYTES)
                connection.finish()
                connection = None
                other = self._bounds.another(job, refused)
                sent = lane.body(job, usage=False, bound=other)
                head = self._head.post(job, len(sent), lane.path(job), lane.query(job))
                connection = await self._pool.send(head, sent, self._whole_timeouts, request=job)
                body = connection.take_whole()
            if body is None:
                body = await read_body(connection, lane.max_held_bytes)
                if connection.status < 400 and (not connection.complete or connection.buffered_bytes):
                    if lane.translates:
                        raise HttpFailure("malformed", "too long to be translated")
                    long, connection = connection, None
                    return await begin(self._streams.long_answer(job, long, body))
            return self._whole_answers.read(job, connection, body, lane), None
        except NotSaid as unsaid:
            return self._outcomes.end(None, unsaid.refusal, sent=False), None
        except HttpFailure as failure:
            return self._outcomes.failed(failure), None
        finally:
            if connection is not None:
                connection.finish()
