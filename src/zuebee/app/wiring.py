"""Settings -> objects. What is plugged into what is decided here and nowhere else."""

import ssl
from collections.abc import Iterable
from functools import partial
from urllib.parse import urlsplit

from zuebee.admission.firewall import OpenFirewall
from zuebee.admission.service import AdmissionService
from zuebee.app.access import AuthState, build_pipeline
from zuebee.app.money import open_billing
from zuebee.auth.service import AuthPipeline, OpenDoor
from zuebee.config import BackendSettings, ProxySettings, RoutingSettings, Settings, TlsSettings
from zuebee.config.check import listen_address
from zuebee.contracts.admission import Recorder
from zuebee.dispatch.fleet import Fleet, Reachable
from zuebee.dispatch.model_list import ModelList
from zuebee.dispatch.service import Dispatcher
from zuebee.edge.address import TrustedProxies
from zuebee.edge.http import HttpEdge
from zuebee.edge.operator import Operator, OperatorPorts, Readiness
from zuebee.edge.pipeline import Pipeline
from zuebee.kit import clock
from zuebee.kit.http_connect import bypasses_proxy
from zuebee.kit.http_server import HttpServer, ReceiveLimits
from zuebee.kit.tasks import Tasks
from zuebee.limits.service import MemoryLimiter
from zuebee.models.catalogue import KINDS
from zuebee.models.estimate import TokenRatios
from zuebee.models.service import BackendInference
from zuebee.telemetry.logs import AccessLog
from zuebee.telemetry.metrics import Metrics

FIXED = (
    "listen", "server", "store", "redis", "usage", "billing", "idempotency", "log", "metrics", "stream", "proxy"
)  # fmt: skip
"""Settings that a running process cannot change."""


class CannotReload(Exception):
    """New settings that differ where a running process cannot follow."""


class Platform:
    """All parts of one process. Made from settings that were checked; `apply` first, then serve."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.draining = False
        self.metrics = Metrics(settings.metrics.max_models)
        self._ratios = TokenRatios()
        self.billing = open_billing(settings)
        self._access_log = None if settings.log.access == "off" else AccessLog(settings.log.access)
        recorders: list[Recorder] = [self.metrics]
        if self._access_log is not None:
            recorders.append(self._access_log)
        self._auth_state = AuthState()
        self._retiring = Tasks()
        self._authenticator = self._make_authenticator(settings)
        self._admission = AdmissionService(
            authenticator=self._authenticator,
            firewall=OpenFirewall(),
            limiter=MemoryLimiter(),
            billing=self.billing,
            recorders=recorders,
            estimate=self._ratios.estimate,
            default_output_tokens=settings.billing.default_output_tokens,
        )
        self._fleet = Fleet(self._make_backend, {kind: fact.health_path for kind, fact in KINDS.items()})
        self._dispatcher = Dispatcher([], RoutingSettings())
        self.pipeline = Pipeline(self._admission, self._dispatcher)
        self._tls = _tls_context(settings.server.tls)
        self.server = self._make_server()
        self._lend_gauges()

    async def apply(self, settings: Settings) -> None:
        """Put settings in force, at once and as a whole. Running requests keep what they began with.

        Raises CannotReload, OSError or ValueError, and then nothing has changed.
        """
        changed = [name for name in FIXED if getattr(settings, name) != getattr(self.settings, name)]
        if changed:
            raise CannotReload(f"{', '.join(changed)} cannot change in a running process; restart it")
        if listen_address(settings) != listen_address(self.settings):
            # Without keys and without a host only the loopback is served, but the socket is bound already.
            raise CannotReload("with the first key, or without the last, `listen` means another address; restart it")
        tls = settings.server.tls
        # Tried on a context of its own: a certificate whose key does not fit would stay in the one in use.
        _tls_context(tls)
        authenticator = self._make_authenticator(settings)
        try:
            backends = await self._fleet.apply(settings.backends, settings.health_check)
        except BaseException:
            await authenticator.aclose()
            raise
        if self._tls is not None and tls is not None:
            self._tls.load_cert_chain(tls.cert_file, tls.key_file)
        self._dispatcher = Dispatcher(backends, settings.routing)
        self.pipeline.inference = self._dispatcher
        # The old sources close once nobody asks them any more.
        self._retiring.spawn(self._authenticator.aclose(), "auth.retire")
        self._authenticator = self._admission.authenticator = authenticator
        self.settings = settings

    async def aclose(self) -> None:
        """Stop probing, and write what waits."""
        await self._fleet.aclose()
        await self._authenticator.aclose()
        await self._retiring.aclose()
        await self.billing.aclose()
        if self._access_log is not None:
            self._access_log.close()

    def readiness(self) -> Readiness:
        """Whether requests can be served."""
        backends = self._dispatcher.backends
        fit = sum(backend.health.fit(clock.monotonic_s()) for backend in backends)
        if self.draining:
            return Readiness(False, "shutting down", fit, len(backends))
        return Readiness(fit > 0, "" if fit else "no backend is fit", fit, len(backends))

    def _make_backend(self, settings: BackendSettings) -> tuple[str, Reachable]:
        name = settings.name or urlsplit(settings.url).netloc
        proxy = _proxy_for(self.settings.proxy, settings.url)
        return name, BackendInference(settings, name, proxy, self.settings.stream.heartbeat_s, self._ratios)

    def _make_authenticator(self, settings: Settings) -> AuthPipeline | OpenDoor:
        if not settings.auth_on:
            return OpenDoor()
        return build_pipeline(settings, self._auth_state, proxy_for=partial(_proxy_for, settings.proxy))

    def _make_server(self) -> HttpServer:
        settings = self.settings
        models = ModelList(self._fleet)
        operator = Operator(
            self.pipeline,
            OperatorPorts(self.readiness, models.cards, self.metrics.exposition),
            metrics_path=settings.metrics.path if settings.metrics.enabled else None,
            metrics_token=settings.metrics.token,
        )
        edge = HttpEdge(
            self.pipeline,
            operator,
            max_body_bytes=settings.server.max_body_size,
            proxies=TrustedProxies(settings.server.trusted_proxies),
        )
        limits = ReceiveLimits(
            settings.server.header_timeout_s,
            settings.server.body_timeout_s,
            settings.server.body_min_bytes_per_s,
            settings.server.write_timeout_s,
            settings.server.max_headers,
            settings.server.max_header_bytes,
            settings.server.max_connections,
        )
        return HttpServer(
            edge,
            limits=limits,
            keep_alive_s=settings.server.keep_alive_s,
            render_error=edge.refuse_unread,
            tls=self._tls,
        )

    def _lend_gauges(self) -> None:
        lend = self.metrics.lend
        lend("zuebee_requests_running", lambda: [((), len(self.pipeline.running))])
        lend("zuebee_connections", lambda: [((), self.server.connection_count)])
        lend("zuebee_backend_healthy", self._healthy)
        lend("zuebee_backend_in_flight", lambda: (((b.name,), b.in_flight) for b in self._dispatcher.backends))
        lend("zuebee_records_dropped_total", self._dropped)
        lend("zuebee_ready", lambda: [((), float(self.readiness().ready))])

    def _healthy(self) -> Iterable[tuple[tuple[str, ...], float]]:
        now_s = clock.monotonic_s()
        return (((b.name,), float(b.health.fit(now_s))) for b in self._dispatcher.backends)

    def _dropped(self) -> Iterable[tuple[tuple[str, ...], float]]:
        yield ("usage",), self.billing.dropped
        if self._access_log is not None:
            yield ("access_log",), self._access_log.dropped


def _proxy_for(proxies: ProxySettings, url: str) -> str | None:
    parts = urlsplit(url)
    if bypasses_proxy(parts.hostname or "", proxies.no_proxy):
        return None
    return proxies.https if parts.scheme == "https" else proxies.http


def _tls_context(tls: TlsSettings | None) -> ssl.SSLContext | None:
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
