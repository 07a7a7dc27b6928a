"""Every setting: its type, its default and what it means.

A settings object is immutable; a reload makes a new one. YAML names are LLMProxy's (`timeout: 3s`), attribute
names carry the unit (`timeout_s`). `file.py` turns a file into `Settings`.
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import UNSET, Meta, field

from zuebee.config.settings_auth import ApiKeySettings, AuthSettings, FirewallSettings
from zuebee.config.settings_base import RELOAD, RESTART, RateLimitSettings, RedisSettings, Section, seconds
from zuebee.config.settings_billing import (
    BillingSettings,
    DisconnectSettings,
    IdempotencySettings,
    StoreSettings,
    UsageSettings,
)
from zuebee.http.connect import bypasses_proxy, port_of
from zuebee.lib.units import Duration, Size, Timeout

Restartable = Literal["timeout", "broken", "5xx"]
"""What may be sent again although a backend may have begun to work on it."""


class TlsSettings(Section, frozen=True, kw_only=True):
    """HTTPS on the listener (TLS 1.2 or newer)."""

    enabled: Annotated[bool, Meta(description="Serve HTTPS instead of HTTP.")] = True
    cert_file: Annotated[str, Meta(description="PEM certificate chain; read again on reload.")]
    key_file: Annotated[str, Meta(description="PEM private key; read again on reload.")]
    client_ca_file: Annotated[str | None, Meta(description="PEM authorities for client certificates.")] = None
    client_auth: Annotated[
        Literal["none", "request", "require"], Meta(description="Whether clients must show a certificate.")
    ] = "none"


class CorsSettings(Section, frozen=True, kw_only=True):
    """Which web pages may call the gateway from a browser (CORS); none, unless they are named."""

    origins: Annotated[
        list[str],
        Meta(description="Such as `https://chat.example.com`, `https://*.example.com`; `*` alone: every page."),
    ] = []
    max_age_s: Annotated[
        Timeout, Meta(description="How long a browser may remember what it was told before it sends.")
    ] = field(name="max_age", default=seconds(600))


class ServerSettings(Section, frozen=True, kw_only=True):
    """What clients touch: limits on what may be received, and by when."""

    tls: Annotated[TlsSettings | None, Meta(description="HTTPS; absent means plain HTTP.")] = None
    header_timeout_s: Annotated[
        Timeout, Meta(description="From the first byte (or the connection) to the end of the headers.")
    ] = field(name="header_timeout", default=seconds(10))
    body_timeout_s: Annotated[
        Timeout, Meta(description="To the end of the body from its beginning, and from its last byte that came.")
    ] = field(name="body_timeout", default=seconds(30))
    body_min_bytes_per_s: Annotated[
        int,
        Meta(ge=1, description="A body gets one more second for each of so many bytes, `body_timeout` ahead at most."),
    ] = 500
    keep_alive_s: Annotated[Timeout, Meta(description="How long an idle client connection is kept.")] = field(
        name="keep_alive", default=seconds(75)
    )
    write_timeout_s: Annotated[Timeout, Meta(description="A client that takes nothing for this long is cut off.")] = (
        field(name="write_timeout", default=seconds(30))
    )
    max_headers: Annotated[int, Meta(ge=1, description="More header fields than this: 431.")] = 100
    max_header_bytes: Annotated[Size, Meta(description="More bytes of headers than this: 431.")] = Size(61440)
    max_body_size: Annotated[Size, Meta(description="A larger request body: 413.")] = Size(32 << 20)
    max_unfinished_bodies: Annotated[
        Size,
        Meta(
            description="Bytes of bodies that are not all here yet, a quarter of them for each key; more has to wait."
        ),
    ] = Size(128 << 20)
    max_connections: Annotated[
        int, Meta(ge=1, description="Client connections in all; for one more the oldest idle one is closed.")
    ] = 10000
    max_connections_per_address: Annotated[
        int, Meta(ge=1, description="Of them, those of one address or one /64 of IPv6; `trusted_proxies` are left out.")
    ] = 7500
    trusted_proxies: Annotated[
        list[str],
        Meta(description="Addresses or CIDR ranges whose X-Forwarded-For is believed."),
    ] = []
    cors: Annotated[CorsSettings, Meta(description="Web pages that call the gateway from a browser.")] = CorsSettings()
    allow_anonymous: Annotated[
        bool, Meta(description="Permit serving without keys on an address that others can reach.")
    ] = False


class GrpcSettings(Section, frozen=True, kw_only=True):
    """The gRPC API (docs/grpc.md). It keeps the limits and the certificate of `server`."""

    enabled: Annotated[bool, Meta(description="Its own switch.")] = True
    listen: Annotated[str, Meta(description="`host:port`, as the other `listen`.")] = ":50052"
    max_message_size: Annotated[
        Size, Meta(description="A larger request is refused, as one above server.max_body_size is.")
    ] = Size(4 << 20)
    default_model: Annotated[str, Meta(description="Model of requests that name none; empty: they are refused.")] = ""
    reflection: Annotated[bool, Meta(description="Tell clients what services and messages there are.")] = True


class BackendSettings(Section, frozen=True, kw_only=True):
    """One model server."""

    url: Annotated[
        str,
        Meta(
            description="Base URL, http or https, as OpenAI's SDKs take it: `/chat/completions` is appended, and `/v1` "
            "before it where no version is in it. A query goes along with each request."
        ),
    ]
    name: Annotated[str | None, Meta(description="Name in logs and errors; default: the URL's host and port.")] = None
    type: Annotated[
        Literal["openai", "vllm", "tgi", "ollama"], Meta(description="Kind of server; sets the health path.")
    ] = "openai"
    weight: Annotated[int, Meta(ge=1, le=1000, description="Share of traffic under weighted round robin.")] = 1
    models: Annotated[
        list[str], Meta(description="Models it serves; `*` at the end matches any rest. Empty: all.")
    ] = []
    api_key: Annotated[str | None, Meta(description="The backend's own key, sent as a bearer token.")] = None
    headers: Annotated[dict[str, str], Meta(description="Headers added to each request.")] = {}
    forward_headers: Annotated[
        list[str], Meta(description="Further client headers to pass on, besides the built-in allow-list.")
    ] = []
    include_usage: Annotated[
        Literal["auto", "always", "never"],
        Meta(description="Ask for usage in streams: auto stops asking when the server refuses the option."),
    ] = "auto"
    max_tokens_field: Annotated[
        Literal["auto", "max_tokens", "max_completion_tokens"],
        Meta(
            description="Where a budget bounds a chat answer and its caller does not, the bound is written here; "
            "auto: `max_completion_tokens` for OpenAI's and Azure's own addresses, else `max_tokens`."
        ),
    ] = "auto"
    health_path: Annotated[str | None, Meta(description="Overrides the health path of its kind.")] = None
    connect_timeout_s: Annotated[Timeout, Meta(description="To open a connection, TLS included.")] = field(
        name="connect_timeout", default=seconds(5)
    )
    first_byte_timeout_s: Annotated[
        Timeout,
        Meta(
            description="Of a stream: from the request sent to its first event. A whole answer comes when all of it "
            "is made: it has `timeout`."
        ),
    ] = field(name="first_byte_timeout", default=seconds(60))
    idle_timeout_s: Annotated[Timeout, Meta(description="The longest silence inside an answer.")] = field(
        name="idle_timeout", default=seconds(60)
    )
    timeout_s: Annotated[Timeout, Meta(description="For one whole exchange.")] = field(
        name="timeout", default=seconds(600)
    )
    retry_started_on: Annotated[
        tuple[Restartable, ...],
        Meta(
            description="What is sent again though it may have been begun: after silence (`timeout`), a lost "
            "connection or an answer that is none (`broken`), an answer of 500 and above (`5xx`). **Each such try may "
            "be one more generation to pay.**"
        ),
    ] = ()
    max_idle_connections: Annotated[int, Meta(ge=0, description="Idle connections kept for reuse.")] = field(
        name="max_idle_conns", default=256
    )
    max_connections: Annotated[int, Meta(ge=1, description="Connections in use at once; more are refused.")] = 10000
    max_in_flight: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Requests it answers at once; more wait in `routing.queue`. Default: no bound, no queue."),
    ] = None
    identity_headers: Annotated[
        bool, Meta(description="Tell it in `x-zuebee-*` headers on whose behalf a request comes; never the key.")
    ] = False
    ca_file: Annotated[str | None, Meta(description="PEM authorities to trust for https, instead of the system's.")] = (
        None
    )


class RetrySettings(Section, frozen=True, kw_only=True):
    """Second tries. Only before the first byte went to the client, and only within the budget."""

    enabled: Annotated[bool, Meta(description="Off: the first failure is the answer.")] = True
    max_retries: Annotated[int, Meta(ge=0, le=10, description="Tries after the first one.")] = 3
    initial_wait_s: Annotated[Duration, Meta(description="Upper bound of the first wait (full jitter).")] = field(
        name="initial_wait", default=seconds(1)
    )
    max_wait_s: Annotated[Duration, Meta(description="No wait is longer, unless the server names one.")] = field(
        name="max_wait", default=seconds(10)
    )
    multiplier: Annotated[float, Meta(ge=1, description="Growth of the bound from wait to wait.")] = 2.0
    retry_on: Annotated[
        tuple[Literal["connect_failure", "timeout", "5xx", "429"], ...],
        Meta(
            description="What is worth another try. Of what a backend may have begun only what its "
            "`backends[].retry_started_on` names."
        ),
    ] = ("connect_failure", "timeout", "5xx", "429")
    budget_percent: Annotated[
        int, Meta(ge=0, le=100, description="Retries at once, as a share of running requests (at least 3).")
    ] = 20


class FallbackSettings(Section, frozen=True, kw_only=True):
    """Where requests of one backend go when it cannot serve them."""

    primary: Annotated[str, Meta(description="URL of the backend that is tried first.")]
    fallback: Annotated[list[str], Meta(description="URLs tried after it, in order.")]
    models: Annotated[list[str], Meta(description="Only for these models; empty: all.")] = []


class QueueSettings(Section, frozen=True, kw_only=True):
    """Where requests wait when all backends that could serve them have `max_in_flight`."""

    max_length: Annotated[int, Meta(ge=0, le=100000, description="Waiting requests; more are answered 503.")] = 1000
    timeout_s: Annotated[Timeout, Meta(description="A request that waited for this long is answered 503.")] = field(
        name="timeout", default=seconds(10)
    )


class RoutingSettings(Section, frozen=True, kw_only=True):
    """Which backend gets a request."""

    load_balance: Annotated[
        Literal["weighted", "round_robin", "least_connections", "latency_based"],
        Meta(description="weighted: smooth weighted round robin; latency_based: peak EWMA of the first byte."),
    ] = "weighted"
    retry: Annotated[RetrySettings, Meta(description="Second tries.")] = RetrySettings()
    queue: Annotated[QueueSettings, Meta(description="Waiting for a backend.")] = QueueSettings()
    fallback: Annotated[list[FallbackSettings], Meta(description="Fixed orders of backends.")] = []


class HealthCheckSettings(Section, frozen=True, kw_only=True):
    """Active probes. Passive ejection (5 failures in a row) is always on."""

    enabled: Annotated[bool, Meta(description="Probe the backends.")] = True
    interval_s: Annotated[Timeout, Meta(description="Between probes of one backend (20 % jitter).")] = field(
        name="interval", default=seconds(10)
    )
    timeout_s: Annotated[Timeout, Meta(description="For one probe.")] = field(name="timeout", default=seconds(3))
    path: Annotated[str | None, Meta(description="Path of the probe for all backends; default: by kind.")] = None
    method: Annotated[Literal["GET", "HEAD"], Meta(description="Method of the probe.")] = "GET"
    expected_status: Annotated[
        Annotated[int, Meta(ge=100, le=599)] | None, Meta(description="The healthy status; default: any 2xx.")
    ] = None
    unhealthy_threshold: Annotated[int, Meta(ge=1, description="Failed probes in a row that take it out.")] = 3
    healthy_threshold: Annotated[int, Meta(ge=1, description="Good probes in a row that bring it back.")] = 2


class LogSettings(Section, frozen=True, kw_only=True):
    """What is said about running requests. Never a prompt, an answer or a key."""

    level: Annotated[
        Literal["debug", "info", "warn", "error"], Meta(description="Of the process log.", extra=RELOAD)
    ] = "info"
    format: Annotated[Literal["text", "json"], Meta(description="Of the process log.")] = "text"
    output: Annotated[str, Meta(description="Process log: `stderr`, `stdout` or a file.")] = "stderr"
    access: Annotated[
        str, Meta(description="Access log, one JSON line a request: `stdout`, `stderr`, `off` or a file.")
    ] = "stdout"


class MetricsSettings(Section, frozen=True, kw_only=True):
    """Prometheus metrics."""

    enabled: Annotated[bool, Meta(description="Serve them.")] = True
    path: Annotated[str, Meta(pattern="^/", description="Where.")] = "/metrics"
    token: Annotated[
        Annotated[str, Meta(min_length=8)] | None, Meta(description="Bearer token that readers must show.")
    ] = None
    max_models: Annotated[
        int, Meta(ge=1, description="Model names that get a label of their own; the rest: other.")
    ] = 100
    max_accounts: Annotated[
        int,
        Meta(ge=0, le=10000, description="Budgets, and organizations with their plans, that get labels of their own."),
    ] = 100


class StreamSettings(Section, frozen=True, kw_only=True):
    """Event streams."""

    keepalive_interval_s: Annotated[
        Duration,
        Meta(description="A comment is sent after this much silence, so that idle timers do not cut; 0: never."),
    ] = field(name="keepalive_interval", default=seconds(15))
    max_event_size: Annotated[
        Size,
        Meta(
            description="How much of one event (a generated picture, say) is held to be read. A larger one passes as "
            "it comes, and where nothing else tells of its tokens they are estimated by its size.",
        ),
    ] = Size(8 << 20)


class ShutdownSettings(Section, frozen=True, kw_only=True):
    """What SIGTERM does. A second signal skips what is left of both."""

    grace_s: Annotated[
        Duration, Meta(description="Readiness fails at once, but connections are taken for this long.")
    ] = field(name="grace", default=seconds(5))
    drain_s: Annotated[Duration, Meta(description="Then running requests may take this long to finish.")] = field(
        name="drain", default=seconds(30)
    )


class ProxySettings(Section, frozen=True, kw_only=True):
    """Forward proxies for backends, from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."""

    http: Annotated[str | None, Meta(description="For http backends.")] = None
    https: Annotated[str | None, Meta(description="For https backends (CONNECT).")] = None
    no_proxy: Annotated[list[str], Meta(description="Hosts, domain suffixes or CIDR ranges reached directly.")] = []

    def of(self, url: str) -> str | None:
        """The proxy on the way to a URL; None: it is reached directly. Raises ValueError for what is no URL."""
        parts = urlsplit(url)
        proxy = {"http": self.http, "https": self.https}.get(parts.scheme)
        return None if bypasses_proxy(parts.hostname or "", self.no_proxy, port_of(parts)) else proxy


class Settings(Section, frozen=True, kw_only=True):
    """The whole configuration."""

    listen: Annotated[
        str,
        Meta(
            description="`host:port`. Without a host: all addresses when keys are set, else loopback only.",
            extra=RESTART,
        ),
    ] = ":8000"
    server: Annotated[ServerSettings, Meta(description="Listener.", extra=RESTART)] = ServerSettings()
    grpc: Annotated[GrpcSettings | None, Meta(description="The gRPC API; absent: not served.", extra=RESTART)] = None
    backends: Annotated[list[BackendSettings], Meta(min_length=1, description="The model servers.", extra=RELOAD)]
    routing: Annotated[RoutingSettings, Meta(description="Balancing, retries, fallbacks.", extra=RELOAD)] = (
        RoutingSettings()
    )
    health_check: Annotated[HealthCheckSettings, Meta(description="Active probes.", extra=RELOAD)] = (
        HealthCheckSettings()
    )
    auth: Annotated[AuthSettings, Meta(description="Who may call.", extra=RELOAD)] = AuthSettings()
    api_keys: Annotated[list[ApiKeySettings], Meta(description="The keys of the file.", extra=RELOAD)] = []
    rate_limit: Annotated[RateLimitSettings, Meta(description="How fast.", extra=RELOAD)] = RateLimitSettings()
    redis: Annotated[RedisSettings | None, Meta(description="The Redis of limits and caches.", extra=RESTART)] = None
    firewall: Annotated[FirewallSettings, Meta(description="What may not even be asked.", extra=RELOAD)] = (
        FirewallSettings()
    )
    store: Annotated[StoreSettings, Meta(description="Keys, accounts, ledger, usage records.", extra=RESTART)] = (
        StoreSettings()
    )
    billing: Annotated[BillingSettings, Meta(description="Prices and holds.", extra=RESTART)] = BillingSettings()
    idempotency: Annotated[IdempotencySettings, Meta(description="Repeated requests.", extra=RESTART)] = (
        IdempotencySettings()
    )
    on_disconnect: Annotated[
        list[DisconnectSettings],
        Meta(description="When the caller leaves; the first entry that fits the model counts.", extra=RELOAD),
    ] = []
    usage: Annotated[UsageSettings, Meta(description="Usage records.", extra=RESTART)] = UsageSettings()
    log: Annotated[LogSettings, Meta(description="Logs.", extra=RESTART)] = LogSettings()
    metrics: Annotated[MetricsSettings, Meta(description="Metrics.", extra=RELOAD)] = MetricsSettings()
    stream: Annotated[StreamSettings, Meta(description="Event streams.", extra=RESTART)] = StreamSettings()
    shutdown: Annotated[ShutdownSettings, Meta(description="Graceful stop.", extra=RELOAD)] = ShutdownSettings()
    proxy: Annotated[ProxySettings, Meta(description="Forward proxies.", extra=RESTART)] = ProxySettings()

    @property
    def auth_on(self) -> bool:
        """Whether callers need a key: as written, else exactly when there are keys or a pipeline."""
        return bool(self.api_keys or self.auth.pipeline) if self.auth.enabled is UNSET else bool(self.auth.enabled)
