"""Who may call: keys, the pipeline of sources that know them, the firewall before it."""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType, field

from zuebee.config.settings_base import MAX_NUMBER, LimitSettings, Section, seconds
from zuebee.lib.patterns import is_clear, is_open, stem_of
from zuebee.lib.units import Duration, Size, Timeout

MAX_QUOTA = 1 << 62
"""What an account of the ledger can be granted."""


class ScriptSettings(Section, frozen=True, kw_only=True):
    """A decision in Lua, in a sandbox (docs/auth.md)."""

    enabled: Annotated[bool, Meta(description="Off: the decision is made without the script.")] = True
    script: Annotated[str, Meta(description="The Lua source.")] = ""
    path: Annotated[str | None, Meta(description="A file with the Lua source; it is used instead of `script`.")] = None
    timeout_s: Annotated[Timeout, Meta(description="A script that runs longer denies the request.")] = field(
        name="timeout", default=seconds(0.1)
    )
    max_memory: Annotated[
        Size, Meta(description="A script that needs more memory denies the request; at least 2MB.")
    ] = Size(10 << 20)
    max_instructions: Annotated[
        int, Meta(ge=1000, description="A script that runs more instructions denies the request.")
    ] = 1_000_000


class RedisSourceSettings(Section, frozen=True, kw_only=True):
    """Keys in Redis: a hash with fields, or a JSON object as a string."""

    addr: Annotated[str, Meta(description="`host:port`, or a redis:// or rediss:// URL.")] = "127.0.0.1:6379"
    password: Annotated[str, Meta(description="Password.")] = ""
    db: Annotated[int, Meta(ge=0, description="Database number.")] = 0
    key_pattern: Annotated[
        str,
        Meta(
            description="Name of a key's entry; `{api_key}` stands for the key, `{key_sha256}` for its SHA-256 in hex."
        ),
    ] = "llmproxy:key:{api_key}"
    timeout_s: Annotated[Timeout, Meta(description="Longest time for one lookup.")] = field(
        name="timeout", default=seconds(2)
    )


class DatabaseSourceSettings(Section, frozen=True, kw_only=True):
    """Keys in a table of PostgreSQL, MySQL, MariaDB or SQLite."""

    driver: Annotated[Literal["mysql", "postgres", "sqlite"], Meta(description="Kind of database.")]
    dsn: Annotated[str, Meta(description="A URL, or Go's form `user:pass@tcp(host:3306)/db`; for SQLite a path.")]
    table: Annotated[str, Meta(description="Table.")] = "api_keys"
    key_column: Annotated[str, Meta(description="Column with the key.")] = "api_key"
    key_form: Annotated[
        Literal["plain", "sha256"], Meta(description="sha256: the column holds the key's SHA-256 in hex.")
    ] = "plain"
    fields: Annotated[list[str], Meta(description="Columns to read; empty: all.")] = []
    timeout_s: Annotated[Timeout, Meta(description="Longest time for one lookup.")] = field(
        name="timeout", default=seconds(2)
    )


class WebhookSourceSettings(Section, frozen=True, kw_only=True):
    """Keys known to a service of yours: it is asked with a JSON POST, and only a 2xx answer can admit."""

    url: Annotated[str, Meta(description="URL of the service.")]
    method: Annotated[Literal["POST", "PUT"], Meta(description="Method.")] = "POST"
    timeout_s: Annotated[Timeout, Meta(description="Longest time for one lookup.")] = field(
        name="timeout", default=seconds(5)
    )
    headers: Annotated[dict[str, str], Meta(description="Headers added to each request to the service.")] = {}


class GrpcTlsSettings(Section, frozen=True, kw_only=True):
    """TLS to a gRPC service."""

    enabled: Annotated[bool, Meta(description="Off: without encryption.")] = True
    ca_file: Annotated[str | None, Meta(description="PEM file of the CAs to trust, instead of the system's.")] = None
    cert_file: Annotated[str | None, Meta(description="PEM certificate of ZueBee as a client (mTLS).")] = None
    key_file: Annotated[str | None, Meta(description="PEM private key of that certificate.")] = None
    server_name: Annotated[
        str | None, Meta(description="Name that the service's certificate must have; default: the host.")
    ] = None


class BillingSourceSettings(Section, frozen=True, kw_only=True):
    """Keys known to a billing service of yours: it is asked over gRPC (proto/auth/auth.proto)."""

    addr: Annotated[str, Meta(description="`host:port`.")]
    method: Annotated[str, Meta(description="Full name of the method.")] = "/auth.AuthService/ValidateKey"
    timeout_s: Annotated[Timeout, Meta(description="Longest time for one lookup.")] = field(
        name="timeout", default=seconds(2)
    )
    tls: Annotated[
        GrpcTlsSettings | None, Meta(description="TLS; with `cert_file` mutual TLS; absent: without encryption.")
    ] = None
    headers: Annotated[dict[str, str], Meta(description="Metadata added to each call of the service.")] = {}
    check_balance: Annotated[
        bool, Meta(description="Refuse keys whose `balance` is 0 or missing. Off: for services without balances.")
    ] = True


class JwtSettings(Section, frozen=True, kw_only=True):
    """Bearer tokens signed by an issuer of yours (docs/signatures.md). Only asymmetric algorithms."""

    issuer: Annotated[str, Meta(min_length=1, description="The `iss` that a token must have.")]
    audience: Annotated[str, Meta(min_length=1, description="The `aud` that a token must have.")]
    jwks_file: Annotated[str | None, Meta(description="File with the issuer's keys (JWKS).")] = None
    jwks_url: Annotated[
        str | None, Meta(description="Or the URL where the issuer publishes them: https, or http on this machine.")
    ] = None
    jwks_ca_file: Annotated[str | None, Meta(description="CA certificates for that URL, instead of the system's.")] = (
        None
    )
    jwks_cache_s: Annotated[Timeout, Meta(description="How long fetched keys are used.")] = field(
        name="jwks_cache", default=seconds(300)
    )
    algorithms: Annotated[
        tuple[Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"], ...],
        Meta(min_length=1, description="Accepted signature algorithms."),
    ] = ("RS256", "ES256", "EdDSA")
    leeway_s: Annotated[Duration, Meta(description="How far the issuer's clock may be off.")] = field(
        name="leeway", default=seconds(60)
    )
    user_claim: Annotated[str, Meta(description="Claim with the user.")] = "sub"
    name_claim: Annotated[str, Meta(description="Claim with a name to show.")] = "name"
    team_claim: Annotated[str, Meta(description="Claim with the team.")] = "team"
    organization_claim: Annotated[str, Meta(description="Claim with the organization.")] = "organization"
    plan_claim: Annotated[str, Meta(description="Claim with the name of a plan of the store.")] = "plan"


class SignatureClientSettings(Section, frozen=True, kw_only=True):
    """An enterprise client that signs its requests (docs/signatures.md)."""

    client_id: Annotated[str, Meta(min_length=1, description="The id that the client sends as X-Client-Id.")]
    secrets: Annotated[
        list[str], Meta(min_length=1, description="Shared secrets of at least 32 characters; two while rotating.")
    ]
    name: Annotated[str, Meta(description="Name in usage records.")] = ""
    user_id: Annotated[str, Meta(description="User in usage records.")] = ""
    require_key: Annotated[
        str,
        Meta(
            description="Id (`key_...`) of an API key that the client must send as well; empty: the signature is "
            "enough."
        ),
    ] = ""


class SourceSettings(Section, frozen=True, kw_only=True):
    """One step of the auth pipeline."""

    name: Annotated[str, Meta(description="Name in logs and metrics; default: its type.")] = ""
    type: Annotated[
        Literal["file", "store", "redis", "database", "webhook", "billing", "lua", "jwt", "signature"],
        Meta(description="file: `api_keys`; store: keys made with `zuebee keys`; lua: the script alone decides."),
    ]
    enabled: Annotated[bool, Meta(description="A disabled source is never asked.")] = True
    redis: Annotated[RedisSourceSettings | None, Meta(description="For type redis.")] = None
    database: Annotated[DatabaseSourceSettings | None, Meta(description="For type database.")] = None
    webhook: Annotated[WebhookSourceSettings | None, Meta(description="For type webhook.")] = None
    billing: Annotated[BillingSourceSettings | None, Meta(description="For type billing.")] = None
    jwt: Annotated[JwtSettings | None, Meta(description="For type jwt.")] = None
    clients: Annotated[list[SignatureClientSettings], Meta(description="For type signature.")] = []
    script: Annotated[
        ScriptSettings | None,
        Meta(
            description="A script that decides about what this source found (with redis, database, webhook, billing: "
            "instead of its status)."
        ),
    ] = None


class AuthSettings(Section, frozen=True, kw_only=True):
    """Who may call."""

    enabled: Annotated[bool | UnsetType, Meta(description="Default: on when there are keys or a pipeline.")] = UNSET
    header_names: Annotated[
        tuple[str, ...], Meta(min_length=1, description="Headers that may carry the key, in this order.")
    ] = ("Authorization", "X-API-Key")
    mode: Annotated[
        Literal["first_match", "all"],
        Meta(
            description="first_match: the first source that knows the key decides; all: every source that knows the "
            "key must admit it."
        ),
    ] = "first_match"
    pipeline: Annotated[
        list[SourceSettings], Meta(description="Sources in the order they are asked. Empty: file, then store.")
    ] = []
    script: Annotated[
        ScriptSettings | None,
        Meta(description="A script that makes the final decision about callers that the sources admit."),
    ] = None
    timeout_s: Annotated[
        Timeout, Meta(description="Longest time for the whole pipeline; after it the request is refused.")
    ] = field(name="timeout", default=seconds(10))
    cache_s: Annotated[
        Duration,
        Meta(
            description="How long ZueBee reuses a source's answer, and so how long a revoked key may still work; 0: "
            "never. With two times "
            "`billing.renew_interval` at most 5s."
        ),
    ] = field(name="cache", default=seconds(2))
    cache_redis: Annotated[
        bool,
        Meta(description="Share answers of redis, database, webhook and billing sources between processes in `redis`."),
    ] = False
    cache_secret: Annotated[
        str, Meta(description="At least 32 characters, the same in all processes; needed for `cache_redis`.")
    ] = ""


class FirewallRuleSettings(Section, frozen=True, kw_only=True):
    """One rule; every condition that is given must hold. Patterns are RE2."""

    name: Annotated[
        str, Meta(pattern="^[a-zA-Z0-9_.-]{1,64}$", description="Its name in refusals and metrics; it must be unique.")
    ]
    enabled: Annotated[bool, Meta(description="Its own switch.")] = True
    mode: Annotated[
        Literal["block", "count"], Meta(description="block: refuse matching requests; count: only count them.")
    ] = "block"
    action: Annotated[
        Literal["deny", "allow"],
        Meta(description="deny: refuse matching requests; allow: skip all later checks of the firewall."),
    ] = "deny"
    methods: Annotated[list[str], Meta(description="HTTP methods that match.")] = []
    paths: Annotated[list[str], Meta(description="Patterns, one of which must match the whole path.")] = []
    addresses: Annotated[list[str], Meta(description="Addresses or CIDR ranges that the caller is in.")] = []
    not_addresses: Annotated[list[str], Meta(description="Addresses or CIDR ranges that the caller is not in.")] = []
    header: Annotated[
        str,
        Meta(
            description="Header in which `pattern` is searched; `*`: any header. Without a pattern: the header must "
            "be present."
        ),
    ] = ""
    query: Annotated[bool, Meta(description="Search `pattern` in the query of the URL.")] = False
    body: Annotated[bool, Meta(description="Search `pattern` in the body. No built-in rule does.")] = False
    pattern: Annotated[str, Meta(description="The pattern to search for.")] = ""
    status: Annotated[int, Meta(ge=400, le=499, description="Status of the refusal.")] = 403


class FirewallSettings(Section, frozen=True, kw_only=True):
    """What may not even be asked (docs/firewall.md). It never has an opinion about what a prompt says."""

    enabled: Annotated[bool, Meta(description="Off: nothing is checked.")] = True
    mode: Annotated[Literal["block", "count"], Meta(description="count: nothing is refused, only counted.")] = "block"
    default_rules: Annotated[bool, Meta(description="Apply the built-in rules.")] = True
    denied_addresses: Annotated[list[str], Meta(description="Addresses or CIDR ranges that may not call.")] = []
    allowed_addresses: Annotated[list[str], Meta(description="Only these may call; empty: all.")] = []
    rules: Annotated[
        list[FirewallRuleSettings], Meta(description="Your own rules; the first that matches counts.")
    ] = []
    max_headers: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Requests with more different header fields are refused.")
    ] = None
    max_header_bytes: Annotated[
        Annotated[int, Meta(ge=1)] | None,
        Meta(description="Requests with more bytes of header names and values are refused."),
    ] = None
    max_body_size: Annotated[
        Size | None,
        Meta(description="Larger bodies are refused; must be less than server.max_body_size to have an effect."),
    ] = None
    content_types: Annotated[
        tuple[str, ...],
        Meta(description="Accepted content types; a request without a content type is accepted, too. Empty: any."),
    ] = ("application/json", "application/x-www-form-urlencoded")
    max_choices: Annotated[int, Meta(ge=1, description="Largest `n` (and `best_of`) of a request.")] = 128
    max_output_tokens: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Largest `max_tokens` of a request.")
    ] = None
    max_images: Annotated[Annotated[int, Meta(ge=0)] | None, Meta(description="Most images in a request.")] = None


class ApiKeySettings(Section, frozen=True, kw_only=True):
    """One key of the file."""

    key: Annotated[
        Annotated[str, Meta(min_length=8)] | None,
        Meta(description="The key; ZueBee keeps only its SHA-256 in memory."),
    ] = None
    key_sha256: Annotated[
        Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")] | None,
        Meta(description="The key's SHA-256 in hex, instead of the key."),
    ] = None
    name: Annotated[str, Meta(description="Name in usage records and logs.")] = ""
    user_id: Annotated[str, Meta(description="User in usage records; default: the name.")] = ""
    enabled: Annotated[bool, Meta(description="A disabled key is refused.")] = True
    status: Annotated[
        Literal["active", "disabled", "expired", "quota_exceeded"],
        Meta(description="A key with another status than active is refused."),
    ] = "active"
    allowed_ips: Annotated[
        list[str], Meta(description="Addresses or CIDR ranges from which the key may be used; empty: any.")
    ] = []
    denied_ips: Annotated[
        list[str], Meta(description="Addresses or CIDR ranges from which the key is refused, even if they are allowed.")
    ] = []
    expires_at: Annotated[str | None, Meta(description="RFC 3339 time from which the key is refused.")] = None
    total_quota: Annotated[
        int, Meta(ge=0, le=MAX_QUOTA, description="Tokens the key may use in a period; 0: no limit.")
    ] = 0
    used_quota: Annotated[
        int, Meta(ge=0, le=MAX_NUMBER, description="Tokens that were used before ZueBee began to count.")
    ] = 0
    quota_reset_period: Annotated[
        Literal["daily", "weekly", "monthly", "never"], Meta(description="When the quota starts again from zero (UTC).")
    ] = "never"
    requests_per_minute: Annotated[
        Annotated[int, Meta(ge=1)] | None, Meta(description="Overrides rate_limit.per_key.")
    ] = None
    max_concurrent: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="Overrides rate_limit.per_key.")] = (
        None
    )
    limits: Annotated[LimitSettings | None, Meta(description="Limits of this key, instead of rate_limit.per_key.")] = (
        None
    )
    team_id: Annotated[str, Meta(description="Team in usage records and limits.")] = ""
    organization_id: Annotated[str, Meta(description="Organization in usage records and limits.")] = ""
    priority: Annotated[Literal["low", "normal", "high"], Meta(description="Priority class of its requests.")] = (
        "normal"
    )
    models: Annotated[
        list[str], Meta(description="Models it may use; `*` at the end matches any rest. Empty: all.")
    ] = []
    endpoints: Annotated[list[str], Meta(description="Paths it may use, such as /v1/embeddings; empty: all.")] = []
    last_reset_at: Annotated[str | None, Meta(description="Accepted because LLMProxy's files have it; not used.")] = (
        None
    )
    created_at: Annotated[str | None, Meta(description="Accepted because LLMProxy's files have it; not used.")] = None
    updated_at: Annotated[str | None, Meta(description="Accepted because LLMProxy's files have it; not used.")] = None


def mistake_in_pattern(field: str, pattern: str) -> str | None:
    """What is wrong with one of `models` or `endpoints`, so that it could never be what is meant."""
    if not is_clear(pattern):
        return f"`*` may stand only at the end, not as in `{pattern}`"
    reaches = pattern.startswith("/v1/") or (is_open(pattern) and "/v1/".startswith(stem_of(pattern)))
    if field == "endpoints" and not reaches:
        # The other spellings of an endpoint (`/embeddings`) are the same endpoint, under its one name.
        return f"expected a path that begins with `/v1/`, such as `/v1/embeddings`, not `{pattern}`"
    return None
