"""Clients that sign, and holders of an issuer's tokens, at a real gateway: who is let in, and who is not."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.support import tokens
from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from tests.support.raw_http import CHAT, Answer, ask, chat, request
from tests.support.servers import need_program
from tests.support.token_attacks import ATTACKS
from zuebee.auth.signatures import Signed, canonical, fits

PAGE = (Path(__file__).parents[2] / "docs" / "signatures.md").read_text()
SECRET, OLD = secrets.token_hex(32), secrets.token_urlsafe(32)
STRICT_SECRET = secrets.token_hex(24)
BOUND_KEY = "sk-bound-" + secrets.token_hex(8)
BOUND_ID = "key_" + hashlib.sha256(BOUND_KEY.encode()).hexdigest()[:16]
BODY = json.dumps(chat(3, stream=False)).encode()


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "0") as process:
        yield process


def settings(sim: Sim, jwks: Path, *clients: dict[str, Any]) -> dict[str, Any]:
    both = clients or (
        {"client_id": "acme", "secrets": [SECRET, OLD], "name": "ACME"},
        {"client_id": "strict", "secrets": [STRICT_SECRET], "require_key": BOUND_ID},
    )
    jwt = {"issuer": tokens.ISSUER, "audience": tokens.AUDIENCE, "algorithms": list(tokens.ALGORITHMS)}
    pipeline = [
        {"name": "partners", "type": "signature", "clients": list(both)},
        {"name": "portal", "type": "jwt", "jwt": {**jwt, "jwks_file": str(jwks)}},
        {"type": "file"},
    ]
    return {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "api_keys": [{"key": KEY, "name": "test"}, {"key": BOUND_KEY, "name": "bound"}],
        "auth": {"pipeline": pipeline},
        "rate_limit": {"abuse": {"max_failures": 100_000}},
    }


@pytest.fixture(scope="module")
def jwks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("issuer") / "jwks.json"
    path.write_bytes(tokens.jwks())
    return path


@pytest.fixture(scope="module")
def gateway(sim: Sim, jwks: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), settings(sim, jwks)) as process:
        yield process


def signed(
    secret: str = SECRET,
    *,
    client: str = "acme",
    skew_s: float = 0,
    body: bytes = BODY,
    sent: bytes | None = None,
    path: str = CHAT,
    key: str = "",
    **fields: str,
) -> bytes:
    """A request signed by the page's words alone; `sent` goes out in the place of `body`."""
    digest = hashlib.sha256(body).hexdigest()
    timestamp, nonce = str(int(time.time() + skew_s)), secrets.token_hex(16)
    text = "\n".join(["v1", client, "POST", path, timestamp, nonce, digest])
    signature = base64.b64encode(hmac.digest(secret.encode(), text.encode(), "sha256")).decode()
    headers = {
        "x_client_id": client,
        "x_timestamp": timestamp,
        "x_nonce": nonce,
        "x_content_sha256": digest,
        "x_signature": f"v1={signature}",
        **({"x_api_key": key} if key else {}),
        **fields,
    }
    whole = request(body if sent is None else sent, path, **headers)
    return re.sub(rb"authorization: [^\r]*\r\n", b"", whole)


async def status(gateway: Gateway, data: bytes) -> tuple[int, str]:
    answer = await ask(gateway.port, data)
    return answer.status, answer.error["code"] if answer.status != 200 else ""


REFUSED = (401, "invalid_signature")


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert len(found) == 1
    return str(found[0])


@pytest.mark.requirement("A058")
def test_the_vectors_of_the_page_are_right() -> None:
    rows = dict(re.findall(r"^\| ([^|]+?) \| (.*?) \|$", PAGE.split("### Test vectors")[1], re.MULTILINE))
    cells = {name.strip("` "): [cell.strip(" `") for cell in row.split(" | ")] for name, row in rows.items()}
    (secret,) = re.findall(r"The secret is `(.*?)`", PAGE)
    for column in (0, 1):
        one = {name: row[column] for name, row in cells.items() if len(row) == 2}
        path, _, query = one["path and query"].encode().partition(b"?")
        assert one["body's SHA-256"] == hashlib.sha256(one["body"].removeprefix("none").encode()).hexdigest()
        parts = Signed(one["client id"], one["timestamp"], one["nonce"], one["body's SHA-256"], ())
        text = canonical(one["method"], path, query, parts)
        signature = one["X-Signature"].removeprefix("v1=").encode()
        assert fits([secret], text, [signature])
        made = [need_program("openssl", "openssl"), "dgst", "-sha256", "-hmac", secret, "-binary"]
        assert base64.b64encode(subprocess.run(made, input=text, capture_output=True, check=True).stdout) == signature


@pytest.mark.requirement("A055", "A058")
@pytest.mark.parametrize("language", ["python", "bash"])
def test_the_clients_of_the_page_get_an_answer(gateway: Gateway, language: str) -> None:
    need_program("curl", "curl")
    need_program("openssl", "openssl")
    command = [sys.executable, "-c"] if language == "python" else ["bash", "-c"]
    assert len(block(language).splitlines()) <= 15
    for secret, good in ((SECRET, True), (OLD, True), ("x" + SECRET[1:], False)):
        environ = {**os.environ, "GATEWAY": gateway.url, "MODEL": "sim-small", "ACME_SECRET": secret}
        done = subprocess.run(
            [*command, block(language)], env=environ, capture_output=True, text=True, timeout=30, check=False
        )
        assert ("chat.completion" in done.stdout) is good, done.stderr
        assert ("401" in done.stderr or "invalid_signature" in done.stdout) is not good


@pytest.mark.requirement("A055", "A058")
async def test_what_was_not_signed_so_is_refused(gateway: Gateway) -> None:
    """G19."""
    good = signed()
    assert await status(gateway, good) == (200, "")
    assert await status(gateway, good) == REFUSED, "sent again"
    assert await status(gateway, signed(sent=BODY.replace(b"Hello", b"Adieu"))) == REFUSED
    assert await status(gateway, signed(path=CHAT + "?a=%20b&a=1")) == (200, "")
    moved = signed(path=CHAT + "?a=1").replace(b"?a=1 ", b"?a=2 ")
    assert await status(gateway, moved) == REFUSED
    assert await status(gateway, signed(OLD)) == (200, "")
    assert await status(gateway, signed(client="nobody")) == REFUSED
    assert await status(gateway, signed("")) == REFUSED
    assert await status(gateway, signed(x_signature="v1=")) == REFUSED
    for skew_s, expected in ((-295, (200, "")), (295, (200, "")), (-305, REFUSED), (305, REFUSED)):
        assert await status(gateway, signed(skew_s=skew_s)) == expected, skew_s
    none = re.sub(rb"authorization: [^\r]*\r\n", b"", request(BODY))
    assert (await status(gateway, none))[0] == 401, "neither signed nor with a key"
    assert await status(gateway, request(BODY)) == (200, ""), "a key alone still is a key"


async def test_of_many_copies_sent_at_once_one_is_let_in(gateway: Gateway) -> None:
    copy = signed()
    found = await asyncio.gather(*[status(gateway, copy) for _ in range(20)])
    assert sorted(found) == [(200, ""), *[REFUSED] * 19]


@pytest.mark.requirement("A059")
async def test_a_client_that_must_show_both(gateway: Gateway) -> None:
    strict = {"secret": STRICT_SECRET, "client": "strict"}
    assert await status(gateway, signed(**strict, key=BOUND_KEY)) == (200, "")
    assert await status(gateway, signed(**strict)) == REFUSED
    assert await status(gateway, signed(**strict, key=KEY)) == REFUSED
    for fields in ({"authorization": f"Bearer {BOUND_KEY}"}, {"authorization": "", "x_api_key": BOUND_KEY}):
        assert await status(gateway, request(BODY, **fields)) == REFUSED, "the key alone"
    until(lambda: any(line["key_name"] == "bound" for line in gateway.usage_rows()), "its record is the key's")


async def test_who_signed_is_on_record(gateway: Gateway) -> None:
    answer = await ask(gateway.port, signed())
    digest = hashlib.sha256(b"acme").hexdigest()[:16]
    row = until(
        lambda: [row for row in gateway.usage_rows() if row["request_id"] == answer.headers["x-request-id"]], "its row"
    )[0]
    assert (row["key_id"], row["key_name"], row["user_id"]) == (f"sig_{digest}", "ACME", "ACME")


async def read(gateway: Gateway, token: bytes) -> Answer:
    return await ask(gateway.port, request(BODY, authorization=f"Bearer {token.decode('latin-1')}"))


@pytest.mark.requirement("A057")
@pytest.mark.parametrize("alg", tokens.ALGORITHMS)
async def test_tokens_are_let_in(gateway: Gateway, alg: str) -> None:
    answer = await read(gateway, tokens.token(alg, sub=f"user of {alg}"))
    assert answer.status == 200
    row = until(
        lambda: [row for row in gateway.usage_rows() if row["request_id"] == answer.headers["x-request-id"]], "its row"
    )[0]
    known = (row["user_id"], row["key_name"], row["team_id"], row["organization_id"], row["plan"])
    assert known == (f"user of {alg}", "Ada", "research", "acme", "gold")


@pytest.mark.requirement("A057")
async def test_forged_tokens_are_not(gateway: Gateway, sim: Sim) -> None:
    """G12: all that a header can carry and the clock does not mend, with one and the same answer."""
    later = ("not yet valid", "from the future")
    sent = {
        name: text
        for name, text in ATTACKS.items()
        if name not in later and re.fullmatch(rb"[!-~]([ -~]*[!-~])?", text) and len(text) < 50_000
    }
    assert len(sent) > 300
    before = sim.stats()["requests_started"]
    bodies: set[bytes] = set()
    for name, text in sent.items():
        for carrier in ({"authorization": f"Bearer {text.decode()}"}, {"x_api_key": text.decode()}):
            answer = await ask(gateway.port, request(BODY, **{"authorization": "", **carrier}))
            assert answer.status == 401, name
            bodies.add(answer.body)
    codes = {json.loads(body)["error"]["code"] for body in bodies}
    assert codes <= {"invalid_token", "invalid_api_key", "missing_api_key"}
    assert len(bodies) == len(codes)
    assert sim.stats()["requests_started"] == before


def test_keys_that_the_issuer_publishes_are_fetched(sim: Sim, jwks: Path, tmp_path: Path) -> None:
    asked: list[str] = []

    class Issuer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            data = tokens.jwks()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Issuer)
    Thread(target=server.serve_forever, daemon=True).start()
    config = settings(sim, jwks)
    jwt = config["auth"]["pipeline"][1]["jwt"]
    jwt.pop("jwks_file")
    jwt["jwks_url"] = f"http://127.0.0.1:{server.server_port}/jwks.json"
    try:
        with running(tmp_path, config) as gateway:
            for _ in range(3):
                assert asyncio.run(read(gateway, tokens.token("RS256"))).status == 200
            for _ in range(50):
                assert asyncio.run(read(gateway, ATTACKS["unknown kid, rightly signed"])).status == 401
            assert asked == ["/jwks.json"]
            server.shutdown()
            server.server_close()
            assert asyncio.run(read(gateway, tokens.token("ES256"))).status == 200
    finally:
        server.server_close()


def test_a_secret_that_is_rotated(sim: Sim, jwks: Path, tmp_path: Path) -> None:
    def clients(*each: str) -> dict[str, Any]:
        return settings(sim, jwks, {"client_id": "acme", "secrets": list(each)})

    with running(tmp_path, clients(SECRET)) as gateway:
        replayed = signed(SECRET)
        assert asyncio.run(status(gateway, replayed)) == (200, "")
        for secret_list, old_works, new_works in (((OLD, SECRET), True, True), ((OLD,), False, True)):
            gateway.write_config(clients(*secret_list))
            reloads = gateway.output.count("configuration reloaded")
            gateway.send_signal(signal.SIGHUP)
            until(lambda reloads=reloads: gateway.output.count("configuration reloaded") > reloads, "reloaded")
            assert (asyncio.run(status(gateway, signed(SECRET)))[0] == 200) is old_works
            assert (asyncio.run(status(gateway, signed(OLD)))[0] == 200) is new_works
            assert asyncio.run(status(gateway, replayed)) == REFUSED, "a reload forgets no nonce"


@pytest.mark.requirement("A055")
def test_a_process_that_was_killed_left_its_nonces_to_the_next(sim: Sim, jwks: Path, tmp_path: Path) -> None:
    captured = [signed(SECRET, skew_s=skew_s) for skew_s in (-250, 0, 250)]
    with running(tmp_path, settings(sim, jwks)) as gateway:
        assert [asyncio.run(status(gateway, each)) for each in captured] == [(200, "")] * 3
        gateway.send_signal(signal.SIGKILL)
        gateway.wait()
    with running(tmp_path, settings(sim, jwks)) as gateway:
        assert [asyncio.run(status(gateway, each)) for each in captured] == [REFUSED] * 3
        assert asyncio.run(status(gateway, signed(SECRET, skew_s=-250))) == (200, ""), "nobody else is refused"
    for each in tmp_path.rglob("*nonces*"):
        assert each.stat().st_mode & 0o077 == 0
        each.unlink()
    with running(tmp_path, settings(sim, jwks)) as gateway:
        assert asyncio.run(status(gateway, captured[1])) == (200, ""), "the control: without them it is let in"
