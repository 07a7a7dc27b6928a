"""PURE. The statements of the ledger on PostgreSQL: each does its work for any number of rows."""

from zuebee.billing import records
from zuebee.billing.operations import FLOATS

NOW = "extract(epoch FROM clock_timestamp())::float8"

BEGIN_OWNER = f"INSERT INTO ledger_owners (name, started_at_s, seen_at_s) VALUES (%s, {NOW}, {NOW}) RETURNING id"
END_OWNER = f"UPDATE ledger_owners SET ended_at_s = {NOW} WHERE id = %s"

OPEN_BALANCES = (
    "INSERT INTO ledger_balances (account, unit, period, starts_at_s)"
    " SELECT * FROM unnest(%s::text[], %s::text[], %s::text[], %s::float8[]) ON CONFLICT DO NOTHING"
)
FIND_BALANCES = (
    "SELECT b.account, b.starts_at_s, b.id FROM ledger_balances b"
    " JOIN unnest(%s::text[], %s::float8[]) AS w(account, starts_at_s) USING (account, starts_at_s)"
)
OPEN_PATHS = "INSERT INTO ledger_paths (balances) SELECT * FROM unnest(%s::text[]) ON CONFLICT DO NOTHING"
FIND_PATHS = "SELECT balances, id FROM ledger_paths WHERE balances = ANY(%s::text[])"

# The row of the owner serialises its transactions: whoever has it knows how the one before ended.
LOCK_OWNER = f"SELECT applied, {NOW} FROM ledger_owners WHERE id = %s FOR UPDATE"
# Fails unless it is ours, has not done this batch, and its clock is where we think. A division by zero is the one way
# to end a transaction without another trip that needs nothing to be installed.
LOCK_OWNER_AS_KNOWN = f"""
SELECT 1 / count(*), {NOW} FROM (
    SELECT FROM ledger_owners WHERE id = %s AND applied < %s AND abs({NOW} - %s) < %s FOR UPDATE) AS o
"""
# Always in the order of ids, so that transactions wait for one another in one direction. What these holds are held
# in comes from `ledger_entries`, whose rows never change.
LOCK_BALANCES = """
SELECT id, account, unit, period, starts_at_s, granted, held, used, overdraft, limited, changes
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
    ON b.id = t.id AND b.limited = t.limited AND b.granted - b.used - b.held >= t.least
) + (
    SELECT count(*) FROM ledger_holds h JOIN unnest(%s::text[], %s::int8[], %s::int8[]) AS t(hold, tokens, cost)
    ON h.hold = t.hold AND h.tokens = t.tokens AND h.cost_nano = t.cost
) = %s)::int
"""
# Read after the lock: every resolution of a hold has its balances locked.
FIND_HOLDS = """
SELECT h.hold, h.path, p.balances, h.tokens, h.cost_nano, h.owner, h.expires_at_s, h.record, h.progress_tokens,
    h.progress_cost_nano
FROM ledger_holds h JOIN ledger_paths p ON p.id = h.path WHERE h.hold = ANY(%s::text[])
"""
FIND_ENTRIES = """
SELECT e.hold, e.kind, e.path, p.balances, e.tokens, e.cost_nano, e.owner
FROM ledger_entries e JOIN ledger_paths p ON p.id = e.path WHERE e.hold = ANY(%s::text[]) ORDER BY e.id
"""
LAST_BATCH = "SELECT sequence, hash FROM ledger_batches WHERE owner = %s ORDER BY sequence DESC LIMIT 1"

ADD_TO_BALANCES = """
UPDATE ledger_balances b SET granted = b.granted + d.granted, held = b.held + d.held, used = b.used + d.used,
    overdraft = b.overdraft + d.overdraft, limited = b.limited + d.limited, changes = b.changes + d.changes
FROM unnest(%s::int8[], %s::int8[], %s::int8[], %s::int8[], %s::int8[], %s::int8[], %s::int8[])
    AS d(id, granted, held, used, overdraft, limited, changes) WHERE b.id = d.id
"""
EXTEND_HOLDS = """
UPDATE ledger_holds h SET tokens = h.tokens + d.tokens, cost_nano = h.cost_nano + d.cost_nano
FROM (SELECT hold, sum(tokens)::int8 AS tokens, sum(cost_nano)::int8 AS cost_nano
    FROM unnest(%s::text[], %s::int8[], %s::int8[]) AS x(hold, tokens, cost_nano) GROUP BY hold) AS d
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
# Whoever writes is alive, whatever others thought.
APPLIED = f"UPDATE ledger_owners SET applied = greatest(applied, %s), seen_at_s = {NOW}, ended_at_s = 0 WHERE id = %s"
APPLIED_FOR_ANOTHER = "UPDATE ledger_owners SET applied = greatest(applied, %s) WHERE id = %s"

EXPIRED = f"""
SELECT h.hold, o.ended_at_s > 0 FROM ledger_holds h JOIN ledger_owners o ON o.id = h.owner
WHERE h.expires_at_s <= {NOW} OR (h.owner <> %s AND o.ended_at_s > 0) ORDER BY h.expires_at_s LIMIT %s
"""
BALANCES = """
SELECT id, account, unit, period, starts_at_s, granted, held, used, overdraft, limited, changes
FROM ledger_balances WHERE id = ANY(%s::int8[])
"""
END_SILENT_OWNERS = f"UPDATE ledger_owners SET ended_at_s = seen_at_s WHERE ended_at_s = 0 AND seen_at_s < {NOW} - %s"
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
        "expires_at_s": "float8", "record": "text",
    },
)  # fmt: skip
_RECORD = {name: _TYPES.get(name, "text") for name in records.COLUMNS}
ADD_RECORDS = insert("usage_records", _RECORD)
# With events: place of the record (from 1), id of the event, reporter. Records get their ids here rather than by
# default, for nobody promises in which order RETURNING would tell of them.
ADD_RECORDS_WITH_EVENTS = f"""
WITH r AS (
    SELECT nextval((SELECT pg_get_serial_sequence('usage_records', 'id'))::regclass) AS id, given.*
    FROM unnest({", ".join(f"%s::{kind}[]" for kind in _RECORD.values())}) WITH ORDINALITY
    AS given({", ".join(_RECORD)}, place)
), kept AS (
    INSERT INTO usage_records (id, {", ".join(_RECORD)}) SELECT id, {", ".join(_RECORD)} FROM r ORDER BY place
)
INSERT INTO usage_outbox (event_id, reporter, record, currency, created_at_s, due_at_s)
SELECT e.event_id, e.reporter, r.id, %s::text, r.at_s, r.at_s
FROM unnest(%s::int8[], %s::text[], %s::text[]) WITH ORDINALITY AS e(place, event_id, reporter, nth)
JOIN r ON r.place = e.place ORDER BY e.nth
"""
