"""What is spent: the store, the ledger, prices, idempotency records, and who is told."""

from typing import Annotated, Literal

from msgspec import Meta, field

from zuebee.config.settings_base import RELOAD, Section, seconds
from zuebee.lib.units import Duration, Size, Timeout


class StoreSettings(Section, frozen=True, kw_only=True):
    """Where keys, accounts, the ledger and usage records live."""

    path: Annotated[
        str, Meta(description="SQLite file, for one process; ZueBee creates its folder if it is missing.")
    ] = "data/zuebee.db"
    url: Annotated[
        str | None, Meta(description="postgresql:// URL, for one or many processes; then `path` is not used.")
    ] = None
    spool_path: Annotated[
        str, Meta(description="File for settlements while PostgreSQL does not answer; each process needs its own.")
    ] = "data/spool.jsonl"
    commit_interval_s: Annotated[
        Duration,
        Meta(description="How long the usage record of a request without budgets may wait until it is written."),
    ] = field(name="commit_interval", default=seconds(0.05))
    timeout_s: Annotated[Timeout, Meta(description="Longest time for one transaction.")] = field(
        name="timeout", default=seconds(5)
    )


class PriceSettings(Section, frozen=True, kw_only=True):
    """An own price, in the currency of `billing`; it comes before the built-in ones."""

    model: Annotated[str, Meta(min_length=1, description="Model name; `*` at the end matches any rest.")]
    since: Annotated[str, Meta(description="RFC 3339 time or date from which on the price applies.")] = "1970-01-01"
    input_per_million: Annotated[str, Meta(description="Decimal price of a million prompt tokens.")]
    output_per_million: Annotated[str, Meta(description="Decimal price of a million completion tokens.")] = "0"
    cached_input_per_million: Annotated[
        str | None, Meta(description="Price of prompt tokens that the server had in its cache; default: as input.")
    ] = None
    cache_write_per_million: Annotated[
        str | None, Meta(description="Price of prompt tokens that the server put into its cache; default: as input.")
    ] = None
    reasoning_per_million: Annotated[
        str | None, Meta(description="Price of reasoning tokens in the completion; default: as output.")
    ] = None


class ModelLimitSettings(Section, frozen=True, kw_only=True):
    """What is known of a model; it comes before what its servers say. The first entry that fits counts."""

    model: Annotated[str, Meta(min_length=1, description="Model name; `*` at the end matches any rest.")]
    context_tokens: Annotated[
        int, Meta(ge=0, description="Most tokens of prompt and answer together; 0: not known.")
    ] = 0
    max_output_tokens: Annotated[int, Meta(ge=0, description="Most tokens of an answer; 0: not known.")] = 0


class BillingSettings(Section, frozen=True, kw_only=True):
    """What requests cost, and what is held back for them while they run."""

    currency: Annotated[
        str,
        Meta(
            pattern="^[A-Z]{3}$",
            description="ISO 4217 code of all prices and budgets; that of the store, once it has one.",
        ),
    ] = "USD"
    prices: Annotated[list[PriceSettings], Meta(description="Own prices.", extra=RELOAD)] = []
    built_in_prices: Annotated[
        bool, Meta(description="Use the built-in list prices of public models.", extra=RELOAD)
    ] = True
    margin_percent: Annotated[
        int, Meta(ge=-100, le=10000, description="Percentage added to built-in prices.", extra=RELOAD)
    ] = 0
    unknown_price: Annotated[
        Literal["deny", "cap", "allow"],
        Meta(
            description="Requests for a model without a price, by keys with money budgets: refused (deny), charged as "
            "`cap`, or free (allow).",
            extra=RELOAD,
        ),
    ] = "deny"
    cap: Annotated[PriceSettings | None, Meta(description="The price under `unknown_price: cap`.", extra=RELOAD)] = None
    default_output_tokens: Annotated[
        int, Meta(ge=1, description="Tokens that token limits count for an answer whose request has no `max_tokens`.")
    ] = 1024
    max_output_tokens: Annotated[
        int,
        Meta(
            ge=1,
            description="Tokens that budgets hold for such an answer, and its limit, if the model's own limit is not "
            "known.",
        ),
    ] = 16384
    models: Annotated[
        list[ModelLimitSettings], Meta(description="How long prompts and answers of a model can be.")
    ] = []
    reserve_wait_s: Annotated[
        Duration,
        Meta(
            description="How long a request waits until other requests release what they hold of its budget; then it "
            "is refused."
        ),
    ] = field(name="reserve_wait", default=seconds(2))
    on_exhausted: Annotated[
        Literal["cut", "finish"],
        Meta(
            description="When a budget is exhausted during a stream: end it with an error event (cut), or finish it "
            "on overdraft."
        ),
    ] = "cut"
    renew_interval_s: Annotated[
        Timeout, Meta(description="How often ZueBee renews the holds of running requests and checks their keys again.")
    ] = field(name="renew_interval", default=seconds(1))
    hold_ttl_s: Annotated[Timeout, Meta(description="A hold that is not renewed for this long expires.")] = field(
        name="hold_ttl", default=seconds(30)
    )


class IdempotencySettings(Section, frozen=True, kw_only=True):
    """Answers that are stored for requests with an `Idempotency-Key`."""

    enabled: Annotated[bool, Meta(description="Off: ZueBee ignores the header.")] = True
    retention_s: Annotated[Timeout, Meta(description="How long an answer is kept.")] = field(
        name="retention", default=seconds(86400)
    )
    max_answer_size: Annotated[
        Size, Meta(description="Larger answers are not kept, and repetitions of their requests are refused.")
    ] = Size(4 << 20)


class DisconnectSettings(Section, frozen=True, kw_only=True):
    """What becomes of an answer whose reader has left."""

    models: Annotated[
        list[str], Meta(description="The models that this applies to; `*` at the end matches any rest. Empty: all.")
    ] = []
    policy: Annotated[
        Literal["cancel", "drain", "detach"],
        Meta(
            description="cancel: stop the backend; drain: read on up to `max_time` and `max_bytes`; detach: read to "
            "the end."
        ),
    ] = "cancel"
    max_s: Annotated[Timeout, Meta(description="With `drain`: read on for at most this long.")] = field(
        name="max_time", default=seconds(30)
    )
    max_bytes: Annotated[Size, Meta(description="With `drain`: read at most this much.")] = Size(1 << 20)


class ReporterDatabaseSettings(Section, frozen=True, kw_only=True):
    """A table that gets one row for each record; it is made when missing."""

    driver: Annotated[Literal["mysql", "postgres", "sqlite"], Meta(description="Kind of database.")]
    dsn: Annotated[
        str,
        Meta(
            min_length=1,
            description="A URL, Go's form `user:pass@tcp(host:3306)/db`, or `host=... dbname=...`; for SQLite a path.",
        ),
    ]
    table: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,62}(\.[A-Za-z_][A-Za-z0-9_]{0,62})?$",
            description="Table, or `schema.table`.",
        ),
    ] = "usage_records"


class ReporterSettings(Section, frozen=True, kw_only=True):
    """Someone who is told of each record, at least once."""

    name: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$",
            description="Its name in logs, metrics and the outbox. Do not change it while events wait: they belong to "
            "the name.",
        ),
    ]
    type: Annotated[
        Literal["webhook", "database", "builtin"],
        Meta(description="Where records go; builtin: only to the store, so nothing is delivered."),
    ]
    enabled: Annotated[bool, Meta(description="Its own switch.")] = True
    url: Annotated[str | None, Meta(description="URL of the webhook.")] = None
    timeout_s: Annotated[Timeout, Meta(description="Longest time for one delivery.")] = field(
        name="timeout", default=seconds(3)
    )
    retry: Annotated[
        int,
        Meta(ge=0, le=10, description="Attempts in each round, one right after the other; 0 counts as 1."),
    ] = 1
    method: Annotated[Literal["POST", "PUT"], Meta(description="Method of the webhook.")] = "POST"
    headers: Annotated[dict[str, str], Meta(description="Headers of the webhook.")] = {}
    ca_file: Annotated[
        str | None, Meta(description="PEM file of the CAs to trust for https, instead of the system's.")
    ] = None
    secrets: Annotated[
        list[str],
        Meta(
            max_length=4,
            description="Sign deliveries (Standard Webhooks): `whsec_` and base64 of 24 to 64 bytes; two to rotate.",
        ),
    ] = []
    api_key: Annotated[
        Literal["id", "masked"],
        Meta(
            description="The value of `api_key` in events: the key's id, or only the ends of the id. ZueBee does not "
            "know the key itself."
        ),
    ] = "id"
    database: Annotated[ReporterDatabaseSettings | None, Meta(description="For type database.")] = None


class UsageSettings(Section, frozen=True, kw_only=True):
    """The usage records: one row for each request, in the store."""

    enabled: Annotated[
        bool, Meta(description="Off: nothing is sent to reporters; the store still keeps the records.")
    ] = True
    retention_days: Annotated[
        int, Meta(ge=0, description="Records that are older are removed once a day; 0: they are kept for ever.")
    ] = 0
    outbox_capacity: Annotated[int, Meta(ge=1000, description="Most undelivered events; see on_outbox_full.")] = (
        5_000_000
    )
    on_outbox_full: Annotated[
        Literal["refuse", "drop"],
        Meta(
            description="When the outbox is full: refuse requests of keys with budgets (503), or drop (lose) events "
            "and count them."
        ),
    ] = "refuse"
    drain_s: Annotated[
        Duration,
        Meta(description="How long ZueBee still delivers due events while it stops; the rest stays in the outbox."),
    ] = field(name="drain", default=seconds(5))
    reporters: Annotated[list[ReporterSettings], Meta(description="Where each record is sent.", extra=RELOAD)] = []
