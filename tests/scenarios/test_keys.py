"""Who may call: where a key may stand, from where, until when; and that nothing is open by accident."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.client import HELLO, Answer, ask
from tests.support.processes import KEY, Gateway, Sim, running, simulated, until
from tests.support.starts import SOURCES

QUICK = {**HELLO, "max_tokens": 1}
HERE, ELSEWHERE = "sk-here-0123456789", "sk-elsewhere-0123456789"
DENIED, SIX = "sk-denied-0123456789", "sk-six-0123456789"
DISABLED, EXPIRED, LATER, HASHED = "sk-disabled-012345", "sk-expired-012345", "sk-later-012345", "sk-hashed-012345"
KEYS: list[dict[str, Any]] = [
    {"key": KEY, "name": "Dev Team", "user_id": "dev"},
    {"key": HERE, "allowed_ips": ["192.0.2.1", "127.0.0.0/8"]},
    {"key": ELSEWHERE, "allowed_ips": ["10.0.0.0/8"]},
    {"key": SIX, "allowed_ips": ["2001:db8::/32"]},
    {"key": DENIED, "allowed_ips": ["127.0.0.0/8"], "denied_ips": ["127.0.0.1"]},
    {"key": DISABLED, "enabled": False},
    {"key": EXPIRED, "expires_at": (datetime.now(UTC) - timedelta(minutes=1)).isoformat()},
    {"key": LATER, "expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat()},
    {"key_sha256": "", "name": "by its hash"},
]


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "0") as process:
        yield process


def settings(sim: Sim, **more: Any) -> dict[str, Any]:
    keys = [*KEYS[:-1], {**KEYS[-1], "key_sha256": sha256(HASHED.encode()).hexdigest().upper()}]
    return {"backends": [{"url": sim.url}], "health_check": {"enabled": False}, "api_keys": keys, **more}


@pytest.fixture(scope="module")
def gateway(sim: Sim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), settings(sim)) as process:
        yield process


@pytest.fixture(scope="module")
def behind_a_proxy(sim: Sim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    more = {
        "auth": {"header_names": ["X-Team-Key", "authorization"]},
        "server": {"trusted_proxies": ["127.0.0.0/8", "192.0.2.0/24"]},
    }
    with running(tmp_path_factory.mktemp("proxied"), settings(sim, **more)) as process:
        yield process


Fields = list[tuple[str, str]]
OK: tuple[int, str] = (200, "")
NO_KEY, UNKNOWN = (401, "missing_api_key"), (401, "invalid_api_key")
NOT_HERE = (403, "ip_not_allowed")

CASES: dict[str, tuple[Fields, tuple[int, str]]] = {
    "none": ([], NO_KEY),
    "bearer": ([("Authorization", f"Bearer {KEY}")], OK),
    "bearer in any case": ([("AUTHORIZATION", f"bEaReR {KEY}")], OK),
    "bearer with spaces": ([("Authorization", f"Bearer   {KEY} ")], OK),
    "another scheme": ([("Authorization", f"Basic {KEY}")], NO_KEY),
    "no scheme": ([("Authorization", KEY)], NO_KEY),
    "an empty bearer": ([("Authorization", "Bearer ")], NO_KEY),
    "X-API-Key in any case": ([("x-ApI-kEy", KEY)], OK),
    "the first carrier decides": ([("X-API-Key", KEY), ("Authorization", "Bearer sk-wrong-12345")], UNKNOWN),
    "an unfit first carrier is passed over": ([("Authorization", "Basic abc"), ("X-API-Key", KEY)], OK),
    "a header that carries no keys": ([("X-Team-Key", KEY)], NO_KEY),
    "unknown": ([("Authorization", "Bearer sk-wrong-12345")], UNKNOWN),
    "the beginning of a key": ([("Authorization", f"Bearer {KEY[:-1]}")], UNKNOWN),
    "known by its hash": ([("Authorization", f"Bearer {HASHED}")], OK),
    "disabled": ([("Authorization", f"Bearer {DISABLED}")], (403, "key_disabled")),
    "expired": ([("Authorization", f"Bearer {EXPIRED}")], (403, "key_expired")),
    "not yet expired": ([("Authorization", f"Bearer {LATER}")], OK),
    "allowed here": ([("Authorization", f"Bearer {HERE}")], OK),
    "allowed elsewhere": ([("Authorization", f"Bearer {ELSEWHERE}")], NOT_HERE),
    "denied before allowed": ([("Authorization", f"Bearer {DENIED}")], NOT_HERE),
    "a claim that nobody trusts": (
        [("Authorization", f"Bearer {ELSEWHERE}"), ("X-Forwarded-For", "10.1.2.3")], NOT_HERE),
}  # fmt: skip


def check(answer: Answer, expected: tuple[int, str]) -> None:
    status, code = expected
    assert answer.status == status
    assert answer.header("x-request-id")
    if status != 200:
        assert answer.code == code
        assert answer.header("x-should-retry") == "false"
        assert (answer.header("www-authenticate") == "Bearer") == (status == 401)


@pytest.mark.requirement("A064", "A075", "A076", "A248", "A250", "A251", "A254")
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models"])
@pytest.mark.parametrize("case", CASES)
def test_a_key_lets_in_whom_it_should(gateway: Gateway, sim: Sim, case: str, path: str) -> None:
    headers, expected = CASES[case]
    before = sim.stats()["requests_started"]
    body, method = (None, "GET") if path == "/v1/models" else (QUICK, "POST")
    check(ask(gateway.url, body, path, headers, key=None, method=method), expected)
    assert expected == OK or sim.stats()["requests_started"] == before


PROXIED: dict[str, tuple[Fields, tuple[int, str]]] = {
    "own header": ([("X-Team-Key", KEY)], OK),
    "own header first": ([("Authorization", "Bearer sk-wrong-12345"), ("x-team-key", KEY)], OK),
    "then the bearer": ([("authorization", f"Bearer {KEY}")], OK),
    "X-API-Key is not in the list": ([("X-API-Key", KEY)], NO_KEY),
    "forwarded": ([("X-Team-Key", ELSEWHERE), ("X-Forwarded-For", "10.1.2.3")], OK),
    "forwarded twice": ([("X-Team-Key", ELSEWHERE), ("X-Forwarded-For", "10.1.2.3, 192.0.2.9")], OK),
    "forwarded in two fields": (
        [("X-Team-Key", ELSEWHERE), ("X-Forwarded-For", "10.1.2.3"), ("X-Forwarded-For", "192.0.2.9")], OK),
    "a claim before the proxy's word": (
        [("X-Team-Key", ELSEWHERE), ("X-Forwarded-For", "10.1.2.3, 203.0.113.5")], NOT_HERE),
    "nonsense": ([("X-Team-Key", ELSEWHERE), ("X-Forwarded-For", "10.0.0.0/8")], NOT_HERE),
    "version six": ([("X-Team-Key", SIX), ("X-Forwarded-For", "2001:db8::7")], OK),
    "the proxy itself": ([("X-Team-Key", HERE)], OK),
    "from outside": ([("X-Team-Key", HERE), ("X-Forwarded-For", "203.0.113.5")], NOT_HERE),
}  # fmt: skip


@pytest.mark.requirement("A250", "A254")
@pytest.mark.parametrize("case", PROXIED)
def test_addresses_that_a_trusted_proxy_tells(behind_a_proxy: Gateway, case: str) -> None:
    headers, expected = PROXIED[case]
    check(ask(behind_a_proxy.url, QUICK, headers=headers, key=None), expected)


@pytest.mark.requirement("A252")
def test_names_are_recorded_and_keys_never(gateway: Gateway) -> None:
    answer = ask(gateway.url, QUICK)
    ask(gateway.url, QUICK, key="sk-wrong-0123456789")
    request_id = answer.header("x-request-id")
    (row,) = until(lambda: [r for r in gateway.usage_rows() if r["request_id"] == request_id], "the usage record")
    (line,) = until(lambda: [r for r in gateway.access_lines() if r["request_id"] == request_id], "the access line")
    assert (row["key_name"], row["user_id"]) == (line["key"], line["user"]) == ("Dev Team", "dev")
    written = "".join(
        path.read_text(errors="replace")
        for path in gateway.folder.iterdir()
        if path.is_file() and path.name != "config.yaml"
    )
    assert "Dev Team" in written
    for key in (KEY, "sk-wrong-0123456789", HASHED):
        assert key not in written
    assert "Hello there" not in written, "and no prompts"


def listening(gateway: Gateway) -> set[str]:
    connections = psutil.Process(gateway.popen.pid).net_connections("inet")
    return {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}


@pytest.mark.requirement("A248")
def test_without_keys_it_is_open_to_this_machine_only(tmp_path: Path, sim: Sim) -> None:
    with running(tmp_path, {**settings(sim), "api_keys": [], "listen": ":0"}) as gateway:
        assert listening(gateway) == {"127.0.0.1"}
        assert ask(gateway.url, QUICK, key=None).status == 200
        assert "no keys" in gateway.output


@pytest.mark.requirement("A245")
def test_with_keys_it_listens_to_everybody(tmp_path: Path, sim: Sim) -> None:
    with running(tmp_path, {**settings(sim), "listen": ":0"}) as gateway:
        assert listening(gateway) & {"0.0.0.0", "::"}


def test_without_keys_it_does_not_start_where_others_can_reach_it(tmp_path: Path, sim: Sim) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"listen: 0.0.0.0:0\nbackends: [{{url: '{sim.url}'}}]\n")
    command = [sys.executable, "-m", "zuebee", "run", "--config", str(config)]
    ended = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": SOURCES}, capture_output=True, text=True, timeout=30
    )
    assert ended.returncode == 2
    assert f"{config}:1: listen: " in ended.stderr
    assert "allow_anonymous" in ended.stderr
