"""Limits by class, where the plan says which class a request has: real commands beside a real gateway."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import HELLO, Answer, ask
from tests.support.commands import ask_here
from tests.support.databases import redis_url
from tests.support.processes import Gateway, running, simulated, until

FREE, MOST = 2, 5
QUICK = {**HELLO, "max_tokens": 4}


@pytest.fixture(params=["memory", "redis"])
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    shared = redis_url() if request.param == "redis" else nullcontext(None)
    with simulated(tmp_path / "sim", "--tokens-per-s", "0") as sim, shared as place:
        limits = {"low": {"requests_per_minute": FREE}, "high": {"requests_per_minute": MOST}}
        config: dict[str, Any] = {
            "backends": [{"url": sim.url}],
            "auth": {"enabled": True},
            "api_keys": None,
            "rate_limit": {"storage": request.param, "per_priority": limits},
        }
        if place is not None:
            config["redis"] = {"url": place[0], "prefix": place[1]}
        with running(tmp_path / "gateway", config) as process:
            yield process


def zuebee(gateway: Gateway, *command: str) -> Any:
    return ask_here(gateway.folder, *command, "--config", str(gateway.config_path))


def of_class(answer: Answer) -> bool:
    """Whether the limit of a class refused it, and said so with an honest wait."""
    if answer.status == 200:
        return False
    assert (answer.status, answer.code) == (429, "rate_limit_exceeded")
    assert "requests of this priority class" in answer.json["error"]["message"]
    assert 0 < int(answer.header("retry-after") or 0) <= 61
    return True


@pytest.mark.requirement("A083")
def test_the_class_of_a_plan_has_limits_of_its_own(gateway: Gateway) -> None:
    for plan, priority in (("free", "low"), ("pro", "high")):
        zuebee(gateway, "plans", "create", plan, "--priority", priority)
        zuebee(gateway, "accounts", "create", "organization", f"of-{plan}", "--plan", plan)
    free, other = (zuebee(gateway, "keys", "create", "--organization", "of-free")["key"] for _ in range(2))
    # A key cannot raise itself above the plan of its organization.
    proud = zuebee(gateway, "keys", "create", "--organization", "of-free", "--priority", "high")["key"]
    pro = zuebee(gateway, "keys", "create", "--organization", "of-pro")["key"]
    plain = zuebee(gateway, "keys", "create")["key"]

    def refused(key: str, fields: dict[str, str] | None = None) -> bool:
        return of_class(ask(gateway.url, QUICK, key=key, headers=(fields or {}).items()))

    assert [refused(key) for key in (free, other, proud, free)] == [False, False, True, True], "one bucket for a class"
    assert [refused(pro) for _ in range(MOST)] == [False] * MOST, "the high class has its own"
    assert refused(pro)
    assert refused(plain, {"x-priority": "low"}), "who steps down stands with the low ones"
    assert [refused(plain) for _ in range(MOST + 1)] == [False] * (MOST + 1), "the normal class has no limit"
    assert refused(free, {"x-priority": "high"}), "nobody steps up"

    zuebee(gateway, "plans", "update", "free", "--priority", "normal")
    until(lambda: not refused(free), "the change holds", 5.0)
