"""Budgets, burn rate, priorities and reservations, as a running gateway shows them."""

from collections.abc import Iterator

import pytest

from tests.support.client import HELLO, ask
from tests.support.processes import KEY, Sim, running, simulated, until

QUOTA = 1_000_000


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with simulated(tmp_path_factory.mktemp("sim"), "--tokens-per-s", "0") as process:
        yield process


@pytest.mark.requirement("A081", "A104", "A302", "A303", "A304", "A305", "A309")
def test_what_a_request_leaves_in_the_figures(tmp_path_factory: pytest.TempPathFactory, sim: Sim) -> None:
    folder = tmp_path_factory.mktemp("gateway")
    config = {
        "backends": [{"url": sim.url}],
        "health_check": {"enabled": False},
        "api_keys": [{"key": KEY, "name": "test", "user_id": "alice", "total_quota": QUOTA}],
        "billing": {"prices": [{"model": "sim-*", "input_per_million": "1000000", "output_per_million": "1000000"}]},
    }
    with running(folder, config) as gateway:
        usage = ask(gateway.url, {**HELLO, "max_tokens": 5}).json["usage"]
        tokens = usage["total_tokens"]

        def found() -> dict[str, float]:
            return {name: value for name, value in gateway.metrics().items() if name.startswith("zuebee_budget_rem")}

        remaining = until(found, "a budget shows", 15)
        assert list(remaining.values()) == [QUOTA - tokens], "a fresh budget, less what was used"
        (name,) = remaining
        assert 'unit="tokens"' in name
        figures = gateway.metrics()
        assert figures['zuebee_budgets{scope="key",state="ok",unit="tokens"}'] == 1
        assert figures['zuebee_priority_requests_total{priority="normal"}'] == 1
        assert figures['zuebee_priority_running{priority="normal"}'] == 0
        assert figures['zuebee_tokens_out_total{model="sim-small",priority="normal"}'] == usage["completion_tokens"]
        assert figures['zuebee_cost_total{model="sim-small",priority="normal"}'] == tokens
        assert 0 < figures['zuebee_burn_tokens_per_minute{organization="",plan=""}'] <= tokens
        assert 0 < figures['zuebee_burn_cost_per_hour{organization="",plan=""}'] <= 60 * tokens
        assert figures["zuebee_holds_open"] == 0
        assert figures['zuebee_ledger_operations_total{operation="reserve"}'] == 1
        assert gateway.total("zuebee_auth_decisions_total") >= 1
        (line,) = until(gateway.access_lines, "an access line")
        assert (line["tokens"], line["cost_nano"], line["priority"]) == (tokens, tokens * 1_000_000_000, "normal")
        assert (line["team"], line["organization"], line["plan"]) == ("", "", "")
