"""What the gateway needs to ask others (passwords, headers, shared secrets) is in no log, metric, table or event."""

import base64
import hashlib
import hmac
import json
import re
import secrets
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from tests.support.databases import postgres_database, postgres_login
from tests.support.key_stores import webhook
from tests.support.processes import KEY, Gateway, running, simulated
from tests.support.raw_http import CHAT, Answer, ask, chat, eventually, request
from tests.support.receivers import Inbox, inbox
from tests.support.redis_server import redis_server

DATABASE_PASSWORD = "canary-database-password-31f7"
REDIS_PASSWORD = "canary-redis-password-b20c"
HOOK_HEADER = "canary-source-header-77e1"
CACHE_SECRET = "canary-cache-secret-" + secrets.token_hex(16)
SIGNATURE_SECRET = "canary-signature-secret-" + secrets.token_hex(16)
UNKNOWN = "canary-unknown-key-"
IDEMPOTENCY_KEY = "canary-idempotency-2d51"
PROMPT = "canary-prompt-9a44"
SECRETS = (DATABASE_PASSWORD, REDIS_PASSWORD, HOOK_HEADER, CACHE_SECRET, SIGNATURE_SECRET, UNKNOWN, KEY)
BODY = json.dumps({**chat(12, stream=False), "messages": [{"role": "user", "content": PROMPT}]}).encode()


def by(user: str, url: str) -> str:
    parts = urlsplit(url)
    return f"postgresql://{user}:{DATABASE_PASSWORD}@{parts.hostname}:{parts.port or 5432}{parts.path}"


def signed() -> bytes:
    digest, timestamp, nonce = hashlib.sha256(BODY).hexdigest(), str(int(time.time())), secrets.token_hex(16)
    text = "\n".join(["v1", "acme", "POST", CHAT, timestamp, nonce, digest])
    mark = base64.b64encode(hmac.digest(SIGNATURE_SECRET.encode(), text.encode(), "sha256")).decode()
    fields = {"x_timestamp": timestamp, "x_nonce": nonce, "x_content_sha256": digest, "x_signature": f"v1={mark}"}
    return re.sub(rb"authorization: [^\r]*\r\n", b"", request(BODY, CHAT, x_client_id="acme", **fields))


def unknown(number: int) -> bytes:
    return request(BODY, CHAT, authorization=f"Bearer {UNKNOWN}{number}")


def tables_of(url: str) -> dict[str, bytes]:
    """All rows of all tables of a store; bytes as they are."""
    with psycopg.connect(url) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        found = {}
        for (name,) in names:
            rows = connection.execute(f'SELECT * FROM "{name}"'.encode()).fetchall()
            cells = (cell for row in rows for cell in row)
            found[str(name)] = b"\n".join(cell if isinstance(cell, bytes) else str(cell).encode() for cell in cells)
        return found


def written(gateway: Gateway, store: str, box: Inbox) -> dict[str, bytes]:
    """All that a gateway writes down and tells others, by where."""
    paths = (path for path in gateway.folder.rglob("*") if path.is_file() and path.name != "config.yaml")
    files = {path.name: path.read_bytes() for path in paths}
    with box.lock:
        events = {"events": json.dumps([box.got, box.headers]).encode()}
    return {**files, **tables_of(store), **events, "metrics": gateway.get("/metrics")[1]}


def asking(hook: str, dsn: str, redis_port: int) -> dict[str, Any]:
    """Sources that all need a secret, and a cache that does."""
    pipeline = [
        {"type": "signature", "clients": [{"client_id": "acme", "secrets": [SIGNATURE_SECRET]}]},
        {"type": "file"},
        {"type": "webhook", "webhook": {"url": hook, "headers": {"X-Token": HOOK_HEADER}}},
        {"type": "database", "database": {"driver": "postgres", "dsn": dsn}},
        {"type": "redis", "redis": {"addr": f"127.0.0.1:{redis_port}", "password": REDIS_PASSWORD}},
    ]
    return {
        "auth": {"pipeline": pipeline, "cache_redis": True, "cache_secret": CACHE_SECRET},
        "redis": {"url": f"redis://:{REDIS_PASSWORD}@127.0.0.1:{redis_port}/0"},
    }


async def test_no_secret_of_a_source_is_written_down(tmp_path: Path) -> None:
    statuses = [404]

    async def answer(path: str, body: bytes) -> tuple[int, bytes]:
        return statuses[-1], b"{}"

    with (
        inbox() as box,
        redis_server(tmp_path) as redis,
        postgres_login(DATABASE_PASSWORD) as user,
        postgres_database() as source,
        postgres_database() as store,
        simulated(tmp_path / "sim") as sim,
    ):
        redis.client().config_set("requirepass", REDIS_PASSWORD)
        with psycopg.connect(source, autocommit=True) as connection:
            connection.execute("CREATE TABLE api_keys (api_key text PRIMARY KEY)")
        async with webhook(answer) as hook:
            config = {
                **asking(hook, by(user, source), redis.port),
                "backends": [{"url": sim.url}],
                "store": {"url": by(user, store)},
                "log": {"level": "debug", "format": "json", "access": str(tmp_path / "gateway" / "access.log")},
                "usage": {"reporters": [{"name": "hook", "type": "webhook", "url": box.url}]},
            }
            with running(tmp_path / "gateway", config) as gateway:
                answers: list[Answer] = []

                async def meets(data: bytes, status: int) -> Answer:
                    answers.append(await ask(gateway.port, data))
                    assert answers[-1].status == status, answers[-1]
                    return answers[-1]

                first = await meets(request(BODY, CHAT, idempotency_key=IDEMPOTENCY_KEY), 200)
                completion = json.loads(first.body)["choices"][0]["message"]["content"]
                await meets(signed(), 200)
                await meets(unknown(1), 401)  # all sources were asked and know nothing
                redis.kill()
                await meets(unknown(2), 503)
                with psycopg.connect(source, autocommit=True) as connection:
                    connection.execute("DROP TABLE api_keys")
                await meets(unknown(3), 503)
                statuses.append(500)
                await meets(unknown(4), 503)
                await eventually(lambda: len(box.got) >= 2, "the reporter is told")
                places = written(gateway, store, box)
                output = gateway.output
            for failed in ("redis", "database", "webhook"):
                assert f"key source {failed} failed" in output
            # The search finds what may be there.
            for name in ("usage_records", "events", "access.log", "metrics"):
                assert b"sim-small" in places[name], name
            assert len(places["kept_answers"]) > 200, "an answer is kept"
            for canary in (*SECRETS, PROMPT, IDEMPOTENCY_KEY, completion[:24]):
                found = [name for name, data in places.items() if canary.encode() in data]
                assert not found, f"{canary} is in {found}"
            for canary in SECRETS:
                assert not [one for one in answers if canary.encode() in one.body], canary
