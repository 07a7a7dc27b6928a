"""PURE. The statements of the ledger on PostgreSQL: each does its work for any number of rows."""

from zuebee.contracts.usage import HEAD
from zuebee.ledger import usage_rows

FLOATS = ("at_s", "duration_ms", "first_token_ms")

NOW = "extract(epoch FROM clock_timestamp())::float8"

# Not in a store that counts in another currency by now; the lock keeps it from changing meanwhile.
BEGIN_OWNER = f"""
INSERT INTO ledger_owners (name, started_at_s, seen_at_s, currency) SELECT %(name)s, {NOW}, {NOW}, %(currency)s
WHERE coalesce((SELECT value FROM store_facts WHERE name = 'currency' FOR SHARE), %(currency)s) = %(currency)s
RETURNING id
"""
FIND_CURRENCY = "SELECT value FROM store_facts WHERE name = 'currency'"
END_OWNER = f"UPDATE ledger_owners SET ended_at_s = {NOW} WHERE id = %s"

OPEN_BALANCES = (
    "INSERT INTO ledger_balances (account, unit, period, starts_at_s)"
    " SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::int8[]) ON CONFLICT DO NOTHING"
)
FIND_BALANCES = (
    "SELECT b.account, b.starts_at_s, b.id FROM ledger_balances b"
    " JOIN unnest(%s::text[], %s::int8[]) AS w(account, starts_at_s) USING (account, starts_at_s)"
)
OPEN_PATHS = "INSERT INTO ledger_paths (balances) SELECT * FROM unnest(%s::text[]) ON CONFLICT DO NOTHING"
FIND_PATHS = "SELECT balances, id FROM ledger_paths WHERE balances = ANY(%s::text[])"

# The row of the owner serialises its transactions: whoever has it knows how the one before ended.
# A store without money that takes over another currency writes that to all owners: who has slept meanwhile is none.
LOCK_OWNER = f"SELECT applied, {NOW} FROM ledger_owners WHERE id = %s AND currency IN ('', %s) FOR UPDATE"
# Fails unless it is ours, has not done this batch, and its clock is where we think. A division by zero is the one way
# to end a transaction without another trip that needs nothing to be installed.
LOCK_OWNER_AS_KNOWN = f"""
SELECT 1 / count(*), {NOW} FROM (
    SELECT FROM ledger_owners
    WHERE id = %s AND currency IN ('', %s) AND applied < %s AND abs({NOW} - %s) < %s FOR UPDATE) AS o
"""
# Always in the order of ids, so that transactions wait for one another in one direction. What these holds are held
# in comes from `ledger_entries`, whose rows never change.
LOCK_BALANCES = """
SELECT id, account, unit, period, starts_at_s, granted, held, used, overdraft, limited, changes, owed, apart
FROM ledger_balances WHERE id = ANY(%s::int8[] || ARRAY(
    SELECT unnest(string_to_array(p.balances, ','))::int8 FROM ledger_paths p
    WHERE p.id IN (SELECT e.path FROM ledger_entries e WHERE e.hold = ANY(%s::text[]) AND e.step = 0)))
ORDER BY id FOR UPDATE
"""
# After the lock: fails unless all balances have these limits and at least so much left, and all holds are open and hold
# so much.
CHECK_TERMS = """
SELECT 1 / ((
    SELECT count(*) FROM ledger_balances b JOIN unnest(%s::int8[], %s::int8[], %s::int8[]) AS t(id, limited, least)
    ON b.id = t.id AND b.limited = t.limited AND b.granted - b.used - b.held - b.owed >= t.least
) + (
    SELECT count(*) FROM ledger_holds h JOIN unnest(%s::text[], %s::int8[], %s::int8[]) AS t(hold, tokens, cost)
    ON h.hold = t.hold AND h.tokens = t.tokens AND h.cost_nano = t.cost
) = %s)::int
"""
# Read after the lock: every resolution of a hold has its balances locked.
FIND_HOLDS = """
SELECT h.hold, h.path, p.balances, h.tokens, h.cost_nano, h.owner, h.expires_at_s, h.record, h.progress_tokens,
    h.progress_cost_nano, h.owed_tokens, h.owed_cost_nano
FROM ledger_holds h JOIN ledger_paths p ON p.id = h.path WHERE h.hold = ANY(%s::text[])
"""
FIND_ENTRIES = """
SELECT e.hold, e.kind, e.path, p.balances, e.tokens, e.cost_nano, e.owner
FROM ledger_entries e JOIN ledger_paths p ON p.id = e.path WHERE e.hold = ANY(%s::text[]) ORDER BY e.id
"""
LAST_BATCH = "SELECT sequence, hash FROM ledger_batches WHERE owner = %s ORDER BY sequence DESC LIMIT 1"

ADD_TO_BALANCES = """
UPDATE ledger_balances b SET granted = b.granted + d.granted, held = b.held + d.held, used = b.used + d.used,
    overdraft = b.overdraft + d.overdraft, limited = b.limited + d.limited, changes = b.changes + d.changes,
    owed = b.owed + d.owed, apart = b.apart + d.apart
FROM unnest(%s::int8[], %s::int8[], %s::int8[], %s::int8[], %s::int8[], %s::int8[], %s::int8[], %s::int8[], %s::int8[])
    AS d(id, granted, held, used, overdraft, limited, changes, owed, apart) WHERE b.id = d.id
"""
EXTEND_HOLDS = """
UPDATE ledger_holds h SET tokens = h.tokens + d.tokens, cost_nano = h.cost_nano + d.cost_nano,
    owed_tokens = d.owed_tokens, owed_cost_nano = d.owed_cost_nano
FROM (SELECT hold, sum(tokens)::int8 AS tokens, sum(cost_nano)::int8 AS cost_nano,
        min(owed_tokens) AS owed_tokens, min(owed_cost_nano) AS owed_cost_nano
    FROM unnest(%s::text[], %s::int8[], %s::int8[], %s::int8[], %s::int8[])
        AS x(hold, tokens, cost_nano, owed_tokens, owed_cost_nano) GROUP BY hold) AS d
WHERE h.hold = d.hold
"""
END_HOLDS = "DELETE FROM ledger_holds WHERE hold = ANY(%s::text[])"
RENEW_HOLDS = f"""
UPDATE ledger_holds h SET expires_at_s = {NOW} + %s::float8,
    progress_tokens = greatest(h.progress_tokens, d.tokens), progress_cost_nano = greatest(h.progress_cost_nano, d.cost)
FROM (SELECT * FROM unnest(%s::text[], %s::int8[], %s::int8[]) AS x(hold, tokens, cost) ORDER BY hold) AS d
WHERE h.hold = d.hold
"""
ADD_TO_DAYS = """
INSERT INTO usage_days AS t (key_id, day, requests, prompt_tokens, completion_tokens, cost_nano)
SELECT * FROM unnest(%s::text[], %s::int4[], %s::int8[], %s::int8[], %s::int8[], %s::int8[])
ON CONFLICT (key_id, day) DO UPDATE SET requests = t.requests + excluded.requests,
    prompt_tokens = t.prompt_tokens + excluded.prompt_tokens,
    completion_tokens = t.completion_tokens + excluded.completion_tokens, cost_nano = t.cost_nano + excluded.cost_nano
"""
ADD_TO_UNBILLED = """
INSERT INTO unbilled_usage AS t (organization_id, month, user_id, model, requests, prompt_tokens, cached_tokens,
    completion_tokens, cost_nano, currency)
SELECT x.*, %s::text FROM unnest(%s::text[], %s::int8[], %s::text[], %s::text[], %s::int8[], %s::int8[], %s::int8[],
    %s::int8[], %s::int8[]) AS x
ON CONFLICT (organization_id, month, user_id, model, currency) DO UPDATE SET requests = t.requests + excluded.requests,
    prompt_tokens = t.prompt_tokens + excluded.prompt_tokens, cached_tokens = t.cached_tokens + excluded.cached_tokens,
    completion_tokens = t.completion_tokens + excluded.completion_tokens, cost_nano = t.cost_nano + excluded.cost_nano
"""
UNBILLED_NAMES = "SELECT DISTINCT model FROM unbilled_usage WHERE organization_id = %s AND month = %s LIMIT %s"
# Whoever writes is alive, whatever others thought.
APPLIED = f"UPDATE ledger_owners SET applied = greatest(applied, %s), seen_at_s = {NOW}, ended_at_s = 0 WHERE id = %s"
APPLIED_FOR_ANOTHER = "UPDATE ledger_owners SET applied = greatest(applied, %s) WHERE id = %s"

# Whoever finds them takes them, for as long as is said: several processes share the work, and none waits for another.
EXPIRED = f"""
WITH due AS (
    SELECT h.hold, o.ended_at_s > 0 AS is_ownerless FROM ledger_holds h JOIN ledger_owners o ON o.id = h.owner
    WHERE (h.expires_at_s <= {NOW} OR (h.owner <> %s AND o.ended_at_s > 0)) AND abs({NOW} - h.swept_at_s) > %s
    ORDER BY h.expires_at_s LIMIT %s FOR UPDATE OF h SKIP LOCKED)
UPDATE ledger_holds h SET swept_at_s = {NOW} FROM due WHERE h.hold = due.hold RETURNING h.hold, due.is_ownerless
"""
BALANCES = """
SELECT id, account, unit, period, starts_at_s, granted, held, used, overdraft, limited, changes, owed, apart
FROM ledger_balances WHERE id = ANY(%s::int8[])
"""
# Ends owners that gave no sign of life for so long, and notes how far their chains have come, and that of one more.
END_SILENT_OWNERS = f"""
WITH ended AS (
    UPDATE ledger_owners SET ended_at_s = seen_at_s WHERE ended_at_s = 0 AND seen_at_s < {NOW} - %s RETURNING id)
INSERT INTO counters AS c (name, value)
SELECT '{HEAD}' || o.id, b.sequence FROM (SELECT id FROM ended UNION SELECT %s::int8) AS o CROSS JOIN LATERAL (
    SELECT sequence FROM ledger_batches WHERE owner = o.id ORDER BY sequence DESC LIMIT 1) AS b ORDER BY o.id
ON CONFLICT (name) DO UPDATE SET value = excluded.value WHERE c.value < excluded.value
"""
FORGET_RECORDS = f"""
DELETE FROM usage_records WHERE id IN (
    SELECT r.id FROM usage_records r
    WHERE r.at_s < {NOW} - %s::float8 AND NOT EXISTS (SELECT FROM usage_outbox o WHERE o.record = r.id)
    ORDER BY r.id LIMIT %s)
"""

_INTEGERS = ("status", "attempts", "prompt_tokens", "completion_tokens", "cached_tokens", "cost_nano")
_TYPES = {"is_stream": "bool", **dict.fromkeys(FLOATS, "float8"), **dict.fromkeys(_INTEGERS, "int8")}


def insert(table: str, columns: dict[str, str]) -> str:
    """Rows given as one array for each column, in the order of the arrays."""
    arrays = ", ".join(f"%s::{kind}[]" for kind in columns.values())
    return f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({arrays})"


ADD_ENTRIES = insert(
    "ledger_entries",
    {
        "batch": "int8", "kind": "text", "hold": "text", "step": "int4", "path": "int8", "tokens": "int8",
        "cost_nano": "int8", "released_tokens": "int8", "released_cost_nano": "int8", "owner": "int8",
        "at_s": "float8",
    },
)  # fmt: skip
ADD_BATCH = "INSERT INTO ledger_batches (owner, sequence, entries, hash) VALUES (%s, %s, %s, %s)"
ADD_HOLDS = insert(
    "ledger_holds",
    {
        "hold": "text", "path": "int8", "tokens": "int8", "cost_nano": "int8", "owner": "int8",
        "expires_at_s": "float8", "record": "text", "owed_tokens": "int8", "owed_cost_nano": "int8",
    },
)  # fmt: skip
_RECORD = {name: _TYPES.get(name, "text") for name in usage_rows.COLUMNS}
_ARRAYS = ", ".join(f"%s::{kind}[]" for kind in _RECORD.values())
# Both begin with the currency.
ADD_RECORDS = f"""
INSERT INTO usage_records ({", ".join(_RECORD)}, currency) SELECT x.*, %s::text FROM unnest({_ARRAYS}) AS x
"""
# With events: place of the record (from 1), id of the event, reporter. Records get their ids here rather than by
# default, for nobody promises in which order RETURNING would tell of them.
ADD_RECORDS_WITH_EVENTS = f"""
WITH c AS (
    SELECT %s::text AS currency
), r AS (
    SELECT nextval((SELECT pg_get_serial_sequence('usage_records', 'id'))::regclass) AS id, given.*
    FROM unnest({_ARRAYS}) WITH ORDINALITY
    AS given({", ".join(_RECORD)}, place)
), kept AS (
    INSERT INTO usage_records (id, {", ".join(_RECORD)}, currency)
    SELECT id, {", ".join(_RECORD)}, c.currency FROM r, c ORDER BY place
)
INSERT INTO usage_outbox (event_id, reporter, record, currency, created_at_s, due_at_s)
SELECT e.event_id, e.reporter, r.id, c.currency, r.at_s, r.at_s
FROM c, unnest(%s::int8[], %s::text[], %s::text[]) WITH ORDINALITY AS e(place, event_id, reporter, nth)
JOIN r ON r.place = e.place ORDER BY e.nth
"""
