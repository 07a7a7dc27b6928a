"""Where clients connect: HTTP with what operators ask, and gRPC."""

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

from zuebee.app.grpc import build_grpc_server, grpc_tls, listen_grpc
from zuebee.app.loop import room_for_connections
from zuebee.app.parts.backends import BackendsPart
from zuebee.app.parts.base import Change, Part
from zuebee.config.settings import ServerSettings, Settings, TlsSettings
from zuebee.config.validate import listen_address
from zuebee.edge.client import TrustedProxies
from zuebee.edge.cors import Cors
from zuebee.edge.http import HttpEdge
from zuebee.edge.operator import Operator, OperatorPorts, Readiness
from zuebee.edge.pipeline import Pipeline
from zuebee.edge.uploads import Uploads
from zuebee.http.server import HttpServer, ReceiveLimits
from zuebee.lib import clock
from zuebee.lib.networks import parse_networks, within
from zuebee.telemetry.exposition import Exposition
from zuebee.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from zuebee.lib.grpc.server import GrpcServer

_log = logging.getLogger("zuebee")


class ListenersPart(Part):
    """All listeners. New settings change their certificate and where metrics are, all else needs a restart."""

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        backends: BackendsPart,
        metrics: Metrics,
        readiness: Callable[[], Readiness],
    ) -> None:
        server = settings.server
        self._readiness = readiness
        self._tls = tls_context(server.tls)
        self._uploads = Uploads(server.max_unfinished_bodies, server.body_timeout_s)
        exposition = Exposition(metrics.exposition, metrics.format_of, clock.monotonic_s)
        self._operator = Operator(
            pipeline,
            OperatorPorts(
                readiness,
                backends.sizes.sizes,
                backends.count_tokens,
                backends.providers,
                backends.models.cards,
                exposition.text,
            ),
        )
        edge = HttpEdge(
            pipeline,
            self._operator,
            max_body_bytes=server.max_body_size,
            proxies=TrustedProxies(server.trusted_proxies),
            uploads=self._uploads,
            cors=Cors(server.cors.origins, server.cors.max_age_s),
        )
        self._http = HttpServer(
            edge,
            limits=receive_limits(server),
            keep_alive_s=server.keep_alive_s,
            render_error=edge.refuse_unread,
            tls=self._tls,
            is_proxy=proxy_check(server),
        )
        self._grpc = build_grpc_server(settings, pipeline, readiness)

    @property
    def all(self) -> "list[HttpServer | GrpcServer]":
        """Each listener."""
        return [self._http] if self._grpc is None else [self._http, self._grpc]

    @property
    def running_count(self) -> int:
        """Requests being answered."""
        return sum(server.running_count for server in self.all)

    async def listen(self, settings: Settings) -> int:
        """Take connections; answers with the port of HTTP. Raises OSError."""
        port = await listen(self._http, settings)
        if self._grpc is not None:
            _log.info("gRPC on port %d", await listen_grpc(self._grpc, settings))
        return port

    def lend(self, metrics: Metrics) -> None:
        http = self._http
        metrics.lend("zuebee_ready", lambda: [((), float(self._readiness().ready))])
        metrics.lend("zuebee_unfinished_body_bytes", lambda: [((), self._uploads.size)])
        metrics.lend("zuebee_connections", lambda: [((), http.connection_count)])
        metrics.lend("zuebee_connections_displaced_total", lambda: [((), http.table.made_room)])
        metrics.lend("zuebee_connections_refused_total", lambda: [((), http.table.turned_away)])

    def prepare(self, settings: Settings) -> Change:
        tls, metrics = settings.server.tls, settings.metrics
        # Tried on a context of its own: a certificate whose key does not fit would stay in the one in use.
        tls_context(tls)
        grpc_certificate = grpc_tls(tls) if self._grpc is not None else None

        def commit() -> None:
            if self._tls is not None and tls is not None:
                _load_again(self._tls, tls)
            if self._grpc is not None:
                self._grpc.tls = grpc_certificate
            self._operator.show_metrics(metrics.path if metrics.enabled else None, metrics.token)

        return Change(commit)

    async def aclose(self) -> None:
        await asyncio.gather(*(server.close() for server in self.all))


async def listen(server: HttpServer, settings: Settings) -> int:
    """Listen where the settings say; answers with the port. Raises OSError."""
    address = listen_address(settings)
    try:
        return await server.start(address.host, address.port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OSError(f"cannot listen on {settings.listen}: {reason}") from None


MIN_DISCARDED_BYTES = 64 << 20
"""So much of a body that nobody wants is taken at least, so that its sender sees the answer."""


def receive_limits(server: ServerSettings) -> ReceiveLimits:
    """What clients may send, and by when."""
    capacity = min(server.max_connections, room_for_connections(server.max_connections))
    return ReceiveLimits(
        server.header_timeout_s,
        server.body_timeout_s,
        server.body_min_bytes_per_s,
        server.write_timeout_s,
        server.max_headers,
        server.max_header_bytes,
        capacity,
        server.max_connections_per_address,
        max(2 * server.max_body_size, MIN_DISCARDED_BYTES),
    )


def proxy_check(server: ServerSettings) -> Callable[[str], bool] | None:
    """Whether an address is a trusted proxy's, behind which everybody has one address; None: there is none."""
    networks = parse_networks(server.trusted_proxies)
    return (lambda address: within(address, networks)) if networks else None


def tls_context(tls: TlsSettings | None) -> ssl.SSLContext | None:
    """The certificate of the listener; None: it speaks plain HTTP. Raises OSError."""
    if tls is None or not tls.enabled:
        return None
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tls.client_ca_file)
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except ssl.SSLError as error:
        files = ", ".join(filter(None, (tls.cert_file, tls.key_file, tls.client_ca_file)))
        raise OSError(f"{files}: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    modes = {"none": ssl.CERT_NONE, "request": ssl.CERT_OPTIONAL, "require": ssl.CERT_REQUIRED}
    context.verify_mode = modes[tls.client_auth]
    return context


def _load_again(context: ssl.SSLContext, tls: TlsSettings) -> None:
    """Let new connections get the certificate as its files are now. It was read a moment ago, and fitted."""
    try:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    except OSError as error:
        _log.error("the certificate changed while it was read, reload again: %s: %s", tls.cert_file, error)
