"""Every setting: its type, its default and what it means.

A settings object is immutable; a reload makes a new one. YAML names are LLMProxy's (`timeout: 3s`), attribute
names carry the unit (`timeout_s`). `file.py` turns a file into `Settings`.
"""

from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import UNSET, Meta, field

from zuebee.config.providers import ProviderName, Spoken
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
    client_ca_file: Annotated[str | None, Meta(description="PEM file of the CAs that sign client certificates.")] = None
    client_auth: Annotated[
        Literal["none", "request", "require"],
        Meta(description="Whether to ask clients for a certificate: `require` refuses clients without one."),
    ] = "none"


class CorsSettings(Section, frozen=True, kw_only=True):
    """Which web pages may call the gateway from a browser (CORS); none, unless they are named."""

    origins: Annotated[
        list[str],
        Meta(
            description="Allowed origins, such as `https://chat.example.com` or `https://*.example.com`; `*` alone: "
            "every page."
        ),
    ] = []
    max_age_s: Annotated[
        Timeout, Meta(description="How long a browser may cache the answer to a preflight request.")
    ] = field(name="max_age", default=seconds(600))


class ServerSettings(Section, frozen=True, kw_only=True):
    """What clients touch: limits on what may be received, and by when."""

    tls: Annotated[TlsSettings | None, Meta(description="HTTPS; absent means plain HTTP.")] = None
    header_timeout_s: Annotated[
        Timeout, Meta(description="Longest time from the first byte (or the connection) to the end of the headers.")
    ] = field(name="header_timeout", default=seconds(10))
    body_timeout_s: Annotated[
        Timeout,
        Meta(description="Longest time to receive a body, and longest pause within one; see body_min_bytes_per_s."),
    ] = field(name="body_timeout", default=seconds(30))
    body_min_bytes_per_s: Annotated[
        int,
        Meta(
            ge=1,
            description="Least speed of a large body: for each so many bytes it gets one more second, at most "
            "`body_timeout` ahead.",
        ),
    ] = 500
    keep_alive_s: Annotated[Timeout, Meta(description="How long an idle client connection is kept.")] = field(
        name="keep_alive", default=seconds(75)
    )
    write_timeout_s: Annotated[
        Timeout, Meta(description="ZueBee closes a connection whose client reads nothing for this long.")
    ] = field(name="write_timeout", default=seconds(30))
    max_headers: Annotated[int, Meta(ge=1, description="Requests with more header fields are refused with 431.")] = 100
    max_header_bytes: Annotated[Size, Meta(description="Requests with more bytes of headers are refused with 431.")] = (
        Size(61440)
    )
    max_body_size: Annotated[Size, Meta(description="Larger request bodies are refused with 413.")] = Size(32 << 20)
    max_unfinished_bodies: Annotated[
        Size,
        Meta(
            description="Memory for bodies that are still being received, a quarter of it for each key; further "
            "bodies wait."
        ),
    ] = Size(128 << 20)
    max_connections: Annotated[
        int, Meta(ge=1, description="Most client connections; for a further one ZueBee closes the oldest idle one.")
    ] = 10000
    max_connections_per_address: Annotated[
        int,
        Meta(
            ge=1,
            description="Most connections of one address (IPv6: one /64); addresses in `trusted_proxies` are exempt.",
        ),
    ] = 7500
    trusted_proxies: Annotated[
        list[str],
        Meta(description="Addresses or CIDR ranges of proxies whose X-Forwarded-For header ZueBee trusts."),
    ] = []
    cors: Annotated[CorsSettings, Meta(description="Which web pages may call the gateway from a browser.")] = (
        CorsSettings()
    )
    allow_anonymous: Annotated[
        bool, Meta(description="Permit serving without keys on an address that others can reach.")
    ] = False


class GrpcSettings(Section, frozen=True, kw_only=True):
    """The gRPC API (docs/grpc.md). It keeps the limits and the certificate of `server`."""

    enabled: Annotated[bool, Meta(description="Its own switch.")] = True
    listen: Annotated[
        str, Meta(description="`host:port` of the gRPC listener, with the same rules as the top-level `listen`.")
    ] = ":50052"
    max_message_size: Annotated[
        Size, Meta(description="Larger requests are refused, and so are those above server.max_body_size.")
    ] = Size(4 << 20)
    default_model: Annotated[
        str, Meta(description="The model for requests that name none; empty: such requests are refused.")
    ] = ""
    reflection: Annotated[
        bool, Meta(description="Serve gRPC reflection, with which clients find services and messages.")
    ] = True


class BackendSettings(Section, frozen=True, kw_only=True):
    """One model server."""

    url: Annotated[
        str,
        Meta(
            description="Base URL, http or https, as OpenAI's SDKs take it: `/chat/completions` is appended, and `/v1` "
            "before it if the URL has no version. Its query is sent with each request. Default: that of a provider's "
            "`type`."
        ),
    ]
    name: Annotated[str | None, Meta(description="Its name in logs and errors; default: the URL's host and port.")] = (
        None
    )
    type: Annotated[
        ProviderName,
        Meta(
            description="Kind of server or name of its provider: address, dialect, header of the key, health path. "
            "Any server with an API like OpenAI's is `openai`."
        ),
    ] = "openai"
    dialects: Annotated[
        tuple[Spoken, ...],
        Meta(
            description="Dialects that it speaks, if not those of its type. Requests in one of them pass byte for "
            "byte; others are translated into the first."
        ),
    ] = ()
    weight: Annotated[
        int,
        Meta(
            ge=1, le=1000, description="Its share of traffic with `load_balance: weighted`, relative to other backends."
        ),
    ] = 1
    models: Annotated[
        list[str], Meta(description="Models it serves; `*` at the end matches any rest. Empty: all.")
    ] = []
    model_names: Annotated[
        dict[str, str], Meta(description="What the backend itself calls a model, by the name that clients use.")
    ] = {}
    api_key: Annotated[
        str | None,
        Meta(
            description="The backend's own API key, which ZueBee sends as its `type` wants it: mostly a bearer token."
        ),
    ] = None
    headers: Annotated[dict[str, str], Meta(description="Headers added to each request.")] = {}
    forward_headers: Annotated[
        list[str], Meta(description="Client headers to pass on to the backend, in addition to the built-in list.")
    ] = []
    include_usage: Annotated[
        Literal["auto", "always", "never"],
        Meta(description="Whether to ask for usage in streams; auto: until the server refuses the option."),
    ] = "auto"
    max_tokens_field: Annotated[
        Literal["auto", "max_tokens", "max_completion_tokens"],
        Meta(
            description="If a budget limits an answer and the request has no limit, ZueBee writes the limit into this "
            "field; "
            "auto: `max_completion_tokens` for OpenAI's and Azure's own addresses, else `max_tokens`."
        ),
    ] = "auto"
    health_path: Annotated[
        str | None, Meta(description="Path of health probes, instead of the default of its `type`.")
    ] = None
    connect_timeout_s: Annotated[Timeout, Meta(description="Longest time to open a connection, including TLS.")] = (
        field(name="connect_timeout", default=seconds(5))
    )
    first_byte_timeout_s: Annotated[
        Timeout,
        Meta(
            description="Longest time from sending a streamed request to its first event. Answers that are not "
            "streamed have `timeout`."
        ),
    ] = field(name="first_byte_timeout", default=seconds(60))
    idle_timeout_s: Annotated[Timeout, Meta(description="Longest pause within an answer.")] = field(
        name="idle_timeout", default=seconds(60)
    )
    timeout_s: Annotated[Timeout, Meta(description="Longest time for one whole request and answer.")] = field(
        name="timeout", default=seconds(600)
    )
    retry_started_on: Annotated[
        tuple[Restartable, ...],
        Meta(
            description="Failures after which a request is retried although the backend may have begun the work: "
            "a timeout (`timeout`), a lost connection or an invalid answer (`broken`), a status of 500 and above "
            "(`5xx`). **Each such retry may be one more generation to pay.**"
        ),
    ] = ()
    max_idle_connections: Annotated[int, Meta(ge=0, description="How many idle connections are kept for reuse.")] = (
        field(name="max_idle_conns", default=256)
    )
    max_connections: Annotated[
        int,
        Meta(
            ge=1, description="Most connections in use at once; further requests go to other backends or are refused."
        ),
    ] = 10000
    max_in_flight: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(
            description="Most requests that it gets at once; further ones wait in `routing.queue`. Default: no bound, "
            "no queue."
        ),
    ] = None
    identity_headers: Annotated[
        bool, Meta(description="Send `x-zuebee-*` headers that say on whose behalf a request comes; never the key.")
    ] = False
    ca_file: Annotated[
        str | None, Meta(description="PEM file of the CAs to trust for https, instead of the system's.")
    ] = None


class RetrySettings(Section, frozen=True, kw_only=True):
    """Second tries. Only before the first byte went to the client, and only within the budget."""

    enabled: Annotated[bool, Meta(description="Off: ZueBee never retries, and the caller gets the first failure.")] = (
        True
    )
    max_retries: Annotated[int, Meta(ge=0, le=10, description="Most retries after the first try.")] = 3
    initial_wait_s: Annotated[
        Duration, Meta(description="Upper bound of the first wait; the wait itself is random (full jitter).")
    ] = field(name="initial_wait", default=seconds(1))
    max_wait_s: Annotated[Duration, Meta(description="Longest wait, unless the server asks for a longer one.")] = field(
        name="max_wait", default=seconds(10)
    )
    multiplier: Annotated[float, Meta(ge=1, description="Factor by which the upper bound grows from wait to wait.")] = (
        2.0
    )
    retry_on: Annotated[
        tuple[Literal["connect_failure", "timeout", "5xx", "429"], ...],
        Meta(
            description="Failures that are retried. If the backend may have begun the work, also "
            "`backends[].retry_started_on` must name the failure."
        ),
    ] = ("connect_failure", "timeout", "5xx", "429")
    budget_percent: Annotated[
        int,
        Meta(ge=0, le=100, description="Most retries at once, as a percentage of running requests (but at least 3)."),
    ] = 20


class FallbackSettings(Section, frozen=True, kw_only=True):
    """Where requests of one backend go when it cannot serve them."""

    primary: Annotated[str, Meta(description="URL of the backend that is tried first.")]
    fallback: Annotated[list[str], Meta(description="URLs of the backends that are tried after it, in this order.")]
    models: Annotated[list[str], Meta(description="The models that this applies to; empty: all.")] = []


class QueueSettings(Section, frozen=True, kw_only=True):
    """Where requests wait when all backends that could serve them have `max_in_flight`."""

    max_length: Annotated[
        int, Meta(ge=0, le=100000, description="Most waiting requests; further ones are refused with 503.")
    ] = 1000
    timeout_s: Annotated[Timeout, Meta(description="A request that has waited for this long is refused with 503.")] = (
        field(name="timeout", default=seconds(10))
    )


class RoutingSettings(Section, frozen=True, kw_only=True):
    """Which backend gets a request."""

    load_balance: Annotated[
        Literal["weighted", "round_robin", "least_connections", "latency_based"],
        Meta(description="weighted: smooth weighted round robin; latency_based: peak EWMA of the first byte."),
    ] = "weighted"
    retry: Annotated[RetrySettings, Meta(description="When and how often ZueBee retries a failed request.")] = (
        RetrySettings()
    )
    queue: Annotated[QueueSettings, Meta(description="Where requests wait while all backends are busy.")] = (
        QueueSettings()
    )
    fallback: Annotated[list[FallbackSettings], Meta(description="Fixed orders in which backends are tried.")] = []
    aliases: Annotated[
        dict[str, str],
        Meta(
            description="Other names of models, and the model that each stands for: rights, limits, prices and records "
            "speak of that one."
        ),
    ] = {}


class HealthCheckSettings(Section, frozen=True, kw_only=True):
    """Active probes. Passive ejection (5 failures in a row) is always on."""

    enabled: Annotated[bool, Meta(description="Probe the backends.")] = True
    interval_s: Annotated[Timeout, Meta(description="Time between probes of one backend (20 % jitter).")] = field(
        name="interval", default=seconds(10)
    )
    timeout_s: Annotated[Timeout, Meta(description="Longest time for one probe.")] = field(
        name="timeout", default=seconds(3)
    )
    path: Annotated[str | None, Meta(description="Path of the probe for all backends; default: by `type`.")] = None
    method: Annotated[Literal["GET", "HEAD"], Meta(description="Method of the probe.")] = "GET"
    expected_status: Annotated[
        Annotated[int, Meta(ge=100, le=599)] | None,
        Meta(description="The status that counts as healthy; default: any 2xx."),
    ] = None
    unhealthy_threshold: Annotated[
        int, Meta(ge=1, description="After this many failed probes in a row a backend counts as unhealthy.")
    ] = 3
    healthy_threshold: Annotated[
        int, Meta(ge=1, description="After this many successful probes in a row it counts as healthy again.")
    ] = 2


class LogSettings(Section, frozen=True, kw_only=True):
    """What is said about running requests. Never a prompt, an answer or a key."""

    level: Annotated[
        Literal["debug", "info", "warn", "error"],
        Meta(description="Least level of messages in the process log.", extra=RELOAD),
    ] = "info"
    format: Annotated[Literal["text", "json"], Meta(description="Form of the process log.")] = "text"
    output: Annotated[str, Meta(description="Process log: `stderr`, `stdout` or a file.")] = "stderr"
    access: Annotated[
        str, Meta(description="Access log, one JSON line a request: `stdout`, `stderr`, `off` or a file.")
    ] = "stdout"


class MetricsSettings(Section, frozen=True, kw_only=True):
    """Prometheus metrics."""

    enabled: Annotated[bool, Meta(description="Serve metrics.")] = True
    path: Annotated[str, Meta(pattern="^/", description="Path at which the metrics are served.")] = "/metrics"
    token: Annotated[
        Annotated[str, Meta(min_length=8)] | None,
        Meta(description="Bearer token that is needed to read the metrics; absent: none is needed."),
    ] = None
    max_models: Annotated[
        int, Meta(ge=1, description="Most model names that get their own label; all further ones share `other`.")
    ] = 100
    max_accounts: Annotated[
        int,
        Meta(
            ge=0,
            le=10000,
            description="Most budgets, and most organizations with their plans, that get their own labels.",
        ),
    ] = 100


class StreamSettings(Section, frozen=True, kw_only=True):
    """Event streams."""

    keepalive_interval_s: Annotated[
        Duration,
        Meta(
            description="After this long without an event ZueBee sends a comment, so that no idle timeout closes the "
            "stream; 0: never."
        ),
    ] = field(name="keepalive_interval", default=seconds(15))
    max_event_size: Annotated[
        Size,
        Meta(
            description="Largest event (such as a generated picture) that ZueBee buffers and reads. A larger one is "
            "passed "
            "on as it comes; if nothing else reports its tokens, they are estimated from its size.",
        ),
    ] = Size(8 << 20)


class ShutdownSettings(Section, frozen=True, kw_only=True):
    """What SIGTERM does. A second signal skips what is left of both."""

    grace_s: Annotated[
        Duration, Meta(description="For this long after SIGTERM, `/health` fails but ZueBee still accepts connections.")
    ] = field(name="grace", default=seconds(5))
    drain_s: Annotated[Duration, Meta(description="After that, running requests may take this long to finish.")] = (
        field(name="drain", default=seconds(30))
    )


class ProxySettings(Section, frozen=True, kw_only=True):
    """Forward proxies for backends, from HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY."""

    http: Annotated[str | None, Meta(description="Proxy for http backends.")] = None
    https: Annotated[str | None, Meta(description="Proxy for https backends (CONNECT).")] = None
    no_proxy: Annotated[
        list[str], Meta(description="Hosts, domain suffixes or CIDR ranges that are reached without a proxy.")
    ] = []

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
    server: Annotated[
        ServerSettings, Meta(description="Settings of the listener: TLS, limits, timeouts.", extra=RESTART)
    ] = ServerSettings()
    grpc: Annotated[GrpcSettings | None, Meta(description="The gRPC API; absent: not served.", extra=RESTART)] = None
    backends: Annotated[list[BackendSettings], Meta(min_length=1, description="The model servers.", extra=RELOAD)]
    routing: Annotated[
        RoutingSettings, Meta(description="Load balancing, retries, queue, fallbacks.", extra=RELOAD)
    ] = RoutingSettings()
    health_check: Annotated[HealthCheckSettings, Meta(description="Health probes of the backends.", extra=RELOAD)] = (
        HealthCheckSettings()
    )
    auth: Annotated[AuthSettings, Meta(description="Who may call.", extra=RELOAD)] = AuthSettings()
    api_keys: Annotated[list[ApiKeySettings], Meta(description="API keys in this file.", extra=RELOAD)] = []
    rate_limit: Annotated[RateLimitSettings, Meta(description="Rate limits of requests and tokens.", extra=RELOAD)] = (
        RateLimitSettings()
    )
    redis: Annotated[
        RedisSettings | None, Meta(description="The Redis for shared limits and caches.", extra=RESTART)
    ] = None
    firewall: Annotated[
        FirewallSettings,
        Meta(description="Rules that refuse requests before anything else is done with them.", extra=RELOAD),
    ] = FirewallSettings()
    store: Annotated[
        StoreSettings, Meta(description="Where keys, accounts, the ledger and usage records are stored.", extra=RESTART)
    ] = StoreSettings()
    billing: Annotated[
        BillingSettings, Meta(description="Prices, and how costs are held in budgets.", extra=RESTART)
    ] = BillingSettings()
    idempotency: Annotated[
        IdempotencySettings,
        Meta(description="How repeated requests with an `Idempotency-Key` are answered.", extra=RESTART),
    ] = IdempotencySettings()
    on_disconnect: Annotated[
        list[DisconnectSettings],
        Meta(
            description="What to do when the client disconnects; the first entry that matches the model counts.",
            extra=RELOAD,
        ),
    ] = []
    usage: Annotated[UsageSettings, Meta(description="Usage records and who gets them.", extra=RESTART)] = (
        UsageSettings()
    )
    log: Annotated[LogSettings, Meta(description="Logs.", extra=RESTART)] = LogSettings()
    metrics: Annotated[MetricsSettings, Meta(description="Metrics.", extra=RELOAD)] = MetricsSettings()
    stream: Annotated[StreamSettings, Meta(description="Event streams.", extra=RESTART)] = StreamSettings()
    shutdown: Annotated[ShutdownSettings, Meta(description="How ZueBee stops.", extra=RELOAD)] = ShutdownSettings()
    proxy: Annotated[ProxySettings, Meta(description="Forward proxies.", extra=RESTART)] = ProxySettings()

    @property
    def auth_on(self) -> bool:
        """Whether callers need a key: as written, else exactly when there are keys or a pipeline."""
        return bool(self.api_keys or self.auth.pipeline) if self.auth.enabled is UNSET else bool(self.auth.enabled)
