"""Settings -> objects. What is plugged into what is decided here and nowhere else."""

import asyncio
import logging
import os
import ssl
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec

from zuebee.accounts.principals import StoreSource
from zuebee.admission.service import AdmissionService
from zuebee.app.auth import AuthState, build_pipeline, needs_store, warn_of_unasked_keys
from zuebee.app.connect import prepare_store, store_database
from zuebee.app.grpc import build_grpc_server, grpc_tls
from zuebee.app.loop import room_for_connections
from zuebee.app.parts import (
    build_firewall,
    build_limiter,
    build_reporting,
    lend_budgets,
    lend_limits,
    lend_reporting,
    open_answers,
    open_billing,
    same_limiter,
)
from zuebee.app.watches import BooksWatch, KnownModels, StoreWatch
from zuebee.auth.service import AuthPipeline, OpenDoor
from zuebee.billing.list_prices import ListPrices
from zuebee.billing.pricing import PriceBook
from zuebee.config.settings import BackendSettings, RoutingSettings, ServerSettings, Settings, TlsSettings
from zuebee.config.validate import listen_address
from zuebee.contracts.admission import Recorder
from zuebee.dispatch.pool import Fleet, ModelList, Reachable
from zuebee.dispatch.service import Dispatcher
from zuebee.dispatch.waiting import Turns
from zuebee.edge.client import TrustedProxies
from zuebee.edge.cors import Cors
from zuebee.edge.http import HttpEdge
from zuebee.edge.idempotency import Replays
from zuebee.edge.operator import Operator, OperatorPorts, Readiness
from zuebee.edge.pipeline import Pipeline
from zuebee.edge.uploads import Uploads
from zuebee.http.server import HttpServer, ReceiveLimits
from zuebee.lib import clock
from zuebee.lib.networks import parse_networks, within
from zuebee.lib.tasks import Tasks
from zuebee.models.catalogue import KINDS
from zuebee.models.estimate import PromptSizes
from zuebee.models.service import BackendInference
from zuebee.schema.currency import OtherCurrency
from zuebee.telemetry import logs
from zuebee.telemetry.access_log import AccessLog
from zuebee.telemetry.exposition import Exposition
from zuebee.telemetry.metrics import PRIORITIES, Metrics
from zuebee.usage.service import Reporter

# Which settings a running process cannot change.

FIXED: Final = (
    "listen", "grpc", "server", "store", "redis", "usage", "billing", "idempotency", "log", "stream", "proxy"
)  # fmt: skip
"""What it is built on."""

MOVABLE: Final = frozenset(
    {
        "billing.prices", "billing.built_in_prices", "billing.margin_percent", "billing.unknown_price", "billing.cap",
        "log.level", "usage.reporters",
    }
)  # fmt: skip
"""Except for these, which take effect with the next request."""


def fixed_changes(old: Settings, new: Settings) -> list[str]:
    """The names of the settings that differ and need a restart, as files have them (`store.path`)."""
    return [
        name
        for section in FIXED
        for name in _differences(section, getattr(old, section), getattr(new, section))
        if name not in MOVABLE
    ]


def _differences(name: str, old: Any, new: Any) -> list[str]:
    if old == new:
        return []
    if not isinstance(old, msgspec.Struct) or type(old) is not type(new):
        return [name]
    return [
        deeper
        for field in msgspec.structs.fields(old)
        for deeper in _differences(f"{name}.{field.encode_name}", getattr(old, field.name), getattr(new, field.name))
    ]


if TYPE_CHECKING:
    from zuebee.lib.grpc.server import GrpcServer

MODELS_EVERY_S = 30.0
PATIENCE_S = 0.05
"""Most bodies come right behind their head, and a place in Redis takes a call."""


class CannotReload(Exception):
    """New settings that differ where a running process cannot follow: `restart` names them."""

    def __init__(self, reason: str, restart: list[str]) -> None:
        super().__init__(reason)
        self.restart = restart


class Platform:
    """All parts of one process. Made from settings that were checked; `apply` first, then serve."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.draining = False
        self.metrics = Metrics(settings.metrics.max_models, settings.metrics.max_accounts)
        self._sizes = PromptSizes()
        self._fleet = Fleet(self._make_backend, {kind: fact.health_path for kind, fact in KINDS.items()})
        self._models = ModelList(self._fleet)
        self._firewall_counts: dict[tuple[str, str], int] = {}
        prepare_store(settings.store, said=logging.getLogger("zuebee").info)
        self._database = store_database(settings.store)
        self._keys = StoreSource(self._database, currency=settings.billing.currency)
        self.books = BooksWatch(self._database)
        self.reporting, self._reporting_plan = build_reporting(settings)
        self._list_prices = ListPrices()
        self.billing = open_billing(settings, self.reporting, self._list_prices, self._database)
        self.limiter = build_limiter(settings)
        self._access_log = None if settings.log.access == "off" else AccessLog(settings.log.access)
        recorders: list[Recorder] = [self.metrics]
        if self._access_log is not None:
            recorders.append(self._access_log)
        self._auth_state = AuthState()
        self._retiring = Tasks()
        self._authenticator = self._make_authenticator(settings)
        self._admission = AdmissionService(
            authenticator=self._authenticator,
            firewall=build_firewall(settings, self._firewall_counts),
            limiter=self.limiter,
            billing=self.billing,
            recorders=recorders,
            sizes=self._sizes.sizes,
            facts=KnownModels(settings, lambda: self._models.facts, self._listed_context).of,
            served=lambda model: self._models.serves(model),
            default_output_tokens=settings.billing.default_output_tokens,
            max_output_tokens=settings.billing.max_output_tokens,
        )
        self.store_watch = StoreWatch(self._keys.has_keys, lambda: self.billing.trouble)
        self._turns = Turns(settings.routing.queue)
        self._dispatcher = Dispatcher([], RoutingSettings(), self._turns)
        self._answers = open_answers(settings)
        replays = None if self._answers is None else Replays(self._answers)
        self.pipeline = Pipeline(self._admission, self._dispatcher, replays, settings.stream.heartbeat_s)
        if settings.rate_limit.storage == "redis":
            self.pipeline.patience_s = PATIENCE_S
        self._tls = tls_context(settings.server.tls)
        self.uploads = Uploads(settings.server.max_unfinished_bodies, settings.server.body_timeout_s)
        self.server = self._make_server()
        self.grpc_server = build_grpc_server(settings, self.pipeline, self.readiness)
        self._lend_gauges()

    async def apply(self, settings: Settings) -> None:
        """Put settings in force, at once and as a whole. Running requests keep what they began with.

        Raises CannotReload, OSError or ValueError, and then nothing has changed.
        """
        self.check(settings)
        if self._answers is not None:
            self._answers.start()
        firewall = build_firewall(settings, self._firewall_counts)
        tls = settings.server.tls
        # Tried on a context of its own: a certificate whose key does not fit would stay in the one in use.
        tls_context(tls)
        grpc_certificate = grpc_tls(tls) if self.grpc_server is not None else None
        reporters = self._reporting_plan.of(settings)
        authenticator = self._make_authenticator(settings)
        made: list[Reporter] = []
        try:
            made = self.reporting.make(reporters)
            backends = await self._fleet.apply(settings.backends, settings.health_check)
        except BaseException:
            await authenticator.aclose()
            for reporter in made:
                await reporter.aclose()
            raise
        if self._tls is not None and tls is not None:
            self._tls.load_cert_chain(tls.cert_file, tls.key_file)
        if self.grpc_server is not None:
            self.grpc_server.tls = grpc_certificate
        self._dispatcher = Dispatcher(backends, settings.routing, self._turns)
        self._turns.apply(settings.routing.queue)
        self.pipeline.inference = self._dispatcher
        self.pipeline.departures.rules = settings.client_gone
        # The old sources close once nobody asks them any more.
        self._retiring.spawn(self._authenticator.aclose(), "auth.retire")
        self._authenticator = self._admission.authenticator = authenticator
        self._admission.firewall = firewall
        self.limiter.apply(settings.rate_limit)
        self.billing.prices = PriceBook(settings.billing, self._list_prices.find)
        self.reporting.change(reporters, made)
        logs.set_level(settings.log)
        metrics = settings.metrics
        self.metrics.bound(metrics.max_models, metrics.max_accounts)
        self._budget_gauges.limit = metrics.max_accounts
        self._operator.show_metrics(metrics.path if metrics.enabled else None, metrics.token)
        self.settings = settings
        await self.read_prices()
        await warn_of_unasked_keys(settings, self._keys)

    def check(self, settings: Settings) -> None:
        """Whether these settings could be put in force. Raises CannotReload."""
        ours, theirs = self.settings.billing.currency, settings.billing.currency
        if theirs != ours:
            other = OtherCurrency(ours, theirs, "a running server keeps its currency")
            raise CannotReload(str(other), ["billing.currency"])
        changed = fixed_changes(self.settings, settings)
        if changed:
            raise CannotReload(f"{', '.join(changed)} cannot change in a running process; restart it", changed)
        if listen_address(settings) != listen_address(self.settings):
            # Without keys and without a host only the loopback is served, but the socket is bound already.
            reason = "with the first key, or without the last, `listen` means another address; restart it"
            raise CannotReload(reason, ["listen"])
        if not same_limiter(settings, self.settings):
            reason = "rate_limit.storage and processes cannot change in a running process; restart it"
            raise CannotReload(reason, ["rate_limit.storage", "rate_limit.processes"])

    def reopen_logs(self) -> None:
        """Write to new files where the old ones were moved away."""
        if self._access_log is not None:
            self._access_log.reopen()

    @property
    def servers(self) -> "list[HttpServer | GrpcServer]":
        """All listeners."""
        return [self.server] if self.grpc_server is None else [self.server, self.grpc_server]

    @property
    def running_count(self) -> int:
        """Requests being answered."""
        return sum(server.running_count for server in self.servers)

    async def read_prices(self) -> None:
        """Read the list prices beforehand: the first request need not wait for them."""
        if self.settings.billing.built_in_prices:
            await asyncio.get_running_loop().run_in_executor(None, self._list_prices.load)

    async def watch_models(self) -> None:
        """Ask the servers now and then what they know of their models, for those who ask for the answers' length."""
        while True:
            if self.settings.health_check.enabled:
                await self._models.cards()
            await asyncio.sleep(MODELS_EVERY_S)

    def _listed_context(self, model: str) -> int:
        return self._list_prices.context(model) if self.settings.billing.built_in_prices else 0

    async def aclose(self) -> None:
        """Stop probing, and write what waits."""
        await self.pipeline.tasks.aclose()
        await self._fleet.aclose()
        if self.pipeline.replays is not None and self._answers is not None:
            await self.pipeline.replays.aclose()
            await self._answers.aclose()
        await self._authenticator.aclose()
        await self._retiring.aclose()
        await self.limiter.aclose()
        await self.billing.aclose()
        await self.reporting.aclose()
        self._database.close()
        if self._access_log is not None:
            self._access_log.close()

    def readiness(self) -> Readiness:
        """Whether requests can be served."""
        backends = self._dispatcher.backends
        fit = sum(backend.health.fit(clock.monotonic_s()) for backend in backends)
        if self.draining:
            return Readiness(False, "shutting down", fit, len(backends))
        # Those that failed in requests are tried all the same where there is no other one.
        if all(backend.health.probed_down for backend in backends):
            return Readiness(False, "no backend answers its probes", fit, len(backends))
        watch = self.store_watch
        if watch.trouble and needs_store(self.settings, has_keys=watch.has_keys):
            return Readiness(False, f"the store cannot be used: {watch.trouble}", fit, len(backends))
        # Policy decides meanwhile (`when_down`), so requests are served.
        return Readiness(True, "limits without Redis" if self.limiter.degraded else "", fit, len(backends))

    def _make_backend(self, settings: BackendSettings) -> tuple[str, Reachable]:
        name = settings.name or urlsplit(settings.url).netloc
        proxy = self.settings.proxy.of(settings.url)
        stream = self.settings.stream
        return name, BackendInference(settings, name, proxy, stream.heartbeat_s, self._sizes, stream.max_event_size)

    def _make_authenticator(self, settings: Settings) -> AuthPipeline | OpenDoor:
        if not settings.auth_on:
            return OpenDoor()
        return build_pipeline(
            settings,
            self._auth_state,
            store_source=self._keys,
            proxy_for=settings.proxy.of,
            finish=self._keys.entitle,
        )

    def _make_server(self) -> HttpServer:
        settings = self.settings
        exposition = Exposition(self.metrics.exposition, self.metrics.format_of, clock.monotonic_s)
        self._operator = Operator(self.pipeline, OperatorPorts(self.readiness, self._models.cards, exposition.text))
        edge = HttpEdge(
            self.pipeline,
            self._operator,
            max_body_bytes=settings.server.max_body_size,
            proxies=TrustedProxies(settings.server.trusted_proxies),
            uploads=self.uploads,
            cors=Cors(settings.server.cors.origins, settings.server.cors.max_age_s),
        )
        return HttpServer(
            edge,
            limits=receive_limits(settings.server),
            keep_alive_s=settings.server.keep_alive_s,
            render_error=edge.refuse_unread,
            tls=self._tls,
            is_proxy=proxy_check(settings.server),
        )

    def _lend_gauges(self) -> None:
        lend = self.metrics.lend
        lend("zuebee_requests_running", lambda: [((), len(self.pipeline.running))])
        counted = self._auth_state.counters
        lend("zuebee_auth_decisions_total", lambda: list(counted.decisions.items()))
        lend("zuebee_script_failures_total", lambda: list(counted.script_failures.items()))
        lend("zuebee_unfinished_body_bytes", lambda: [((), self.uploads.size)])
        lend("zuebee_connections", lambda: [((), self.server.connection_count)])
        lend("zuebee_connections_displaced_total", lambda: [((), self.server.table.made_room)])
        lend("zuebee_connections_refused_total", lambda: [((), self.server.table.turned_away)])
        lend("zuebee_backend_healthy", self._healthy)
        lend("zuebee_backend_in_flight", lambda: (((b.name,), b.in_flight) for b in self._dispatcher.backends))
        lend("zuebee_records_dropped_total", self._dropped)
        lend("zuebee_requests_detached", lambda: [((), self.pipeline.departures.running)])
        replays, answers = self.pipeline.replays, self._answers
        if replays is not None and answers is not None:
            lend("zuebee_idempotent_requests_total", lambda: (((what,), n) for what, n in replays.counts.items()))
            lend("zuebee_idempotency_failures_total", lambda: [((), answers.failures)])
        lend("zuebee_firewall_matches_total", self._firewall_counts.items)
        lend("zuebee_source_refusals_total", self._auth_state.tokens.refused.items)
        lend("zuebee_store_up", lambda: [((), float(not self.store_watch.trouble))])
        lend("zuebee_ready", lambda: [((), float(self.readiness().ready))])
        lend("zuebee_priority_running", self._running_by_priority)
        lend("zuebee_queue_depth", self._turns.depths)
        waits = self._turns.waits
        self.metrics.lend_histograms("zuebee_queue_wait_seconds", lambda: (((p,), h) for p, h in waits.items()))
        lend_limits(self.limiter, self.metrics)
        lend_reporting(self.reporting, self.metrics)
        self._budget_gauges = lend_budgets(self.billing.balances, self.metrics, self.settings.metrics.max_accounts)
        lend("zuebee_billing_currency_info", lambda: [((self.settings.billing.currency,), 1)])
        lend("zuebee_holds_open", lambda: [((), self.billing.holds_open())])
        lend("zuebee_hold_oldest_seconds", lambda: [((), self.billing.oldest_hold_s())])
        lend("zuebee_ledger_operations_total", self._operations)
        lend("zuebee_ledger_commits_total", lambda: [((), self.billing.commits)])
        lend("zuebee_ledger_commit_seconds_total", lambda: [((), self.billing.commit_s)])
        lend("zuebee_journal_damaged_total", lambda: [((), self.billing.damaged)])
        lend("zuebee_budgets_read_at_seconds", lambda: [((), self.billing.balances_at_s)])
        lend("zuebee_ledger_imbalance", lambda: [((), self.books.violations)])
        lend("zuebee_ledger_checked_at_seconds", lambda: [((), self.books.checked_at_s)])
        lend("zuebee_ledger_checks_failed_total", lambda: [((), self.books.failures)])

    def _healthy(self) -> Iterable[tuple[tuple[str, ...], float]]:
        now_s = clock.monotonic_s()
        return (((b.name,), float(b.health.fit(now_s))) for b in self._dispatcher.backends)

    def _running_by_priority(self) -> Iterable[tuple[tuple[str, ...], float]]:
        counts: Counter[str] = Counter(exchange.settlement.principal.priority for exchange in self.pipeline.running)
        return (((priority,), counts[priority]) for priority in PRIORITIES)

    def _operations(self) -> Iterable[tuple[tuple[str, ...], float]]:
        yield ("reserve",), self.billing.reserved
        yield ("short",), self.billing.short

    def _dropped(self) -> Iterable[tuple[tuple[str, ...], float]]:
        yield ("usage",), self.billing.dropped
        if self._access_log is not None:
            yield ("access_log",), self._access_log.dropped


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
