"""Who gets the next request: shares, load, speed, models; and one connection for many requests."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.client import HELLO, Client, ask
from tests.support.processes import Gateway, Sim, running, simulated, until

QUICK = {**HELLO, "max_tokens": 1}
HELD = {**HELLO, "stream": True, "sim": {"fault": "hang", "after_events": 1}}


@pytest.fixture(scope="module")
def sims(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sim, Sim]]:
    folder = tmp_path_factory.mktemp("sims")
    with simulated(folder / "a", "--tokens-per-s", "0") as one, simulated(folder / "b", "--tokens-per-s", "0") as other:
        yield one, other


@pytest.fixture(autouse=True)
def _fresh(sims: tuple[Sim, Sim]) -> None:
    for sim in sims:
        sim.control("DELETE", "/_sim/faults")
        sim.control("POST", "/_sim/reset")


@contextmanager
def balanced(folder: Path, sims: tuple[Sim, Sim], strategy: str, *each: dict[str, Any]) -> Iterator[Gateway]:
    """A gateway before both servers; `each`: further settings of each of them."""
    more = each or ({}, {})
    config = {
        "backends": [{"url": sim.url, **settings} for sim, settings in zip(sims, more, strict=True)],
        "routing": {"load_balance": strategy},
        "health_check": {"enabled": False},
    }
    with running(folder, config) as gateway:
        yield gateway


def shares(sims: tuple[Sim, Sim]) -> list[int]:
    return [sim.stats()["requests_started"] for sim in sims]


def load(gateway: Gateway, count: int, workers: int = 1) -> None:
    """So many requests, on connections that are kept."""

    def work(mine: int) -> None:
        with Client(gateway.url) as client:
            assert {client.ask(QUICK).status for _ in range(mine)} == {200}

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, [count // workers] * workers))


@pytest.mark.requirement("A136", "A140", "A247")
def test_weights_of_five_and_three_are_shares_of_five_and_three(tmp_path: Path, sims: tuple[Sim, Sim]) -> None:
    with balanced(tmp_path, sims, "weighted", {"weight": 5}, {"weight": 3}) as gateway:
        load(gateway, 8)
        assert shares(sims) == [5, 3], "smoothly: right in every eight"
        load(gateway, 792, workers=4)
    assert shares(sims) == [500, 300]


@pytest.mark.requirement("A139", "A145", "A268")
def test_equal_turns_on_one_connection_each(tmp_path: Path, sims: tuple[Sim, Sim]) -> None:
    with balanced(tmp_path, sims, "round_robin", {"weight": 9}, {"weight": 1}) as gateway:
        load(gateway, 60)
        assert shares(sims) == [30, 30], "weights do not count here"
        requests = [sim.control("GET", "/_sim/requests") for sim in sims]
    for seen in requests:
        assert len({request["connection"] for request in seen}) == 1


@pytest.mark.requirement("A132", "A141")
def test_a_stream_counts_as_load_until_its_end(tmp_path: Path, sims: tuple[Sim, Sim]) -> None:
    with balanced(tmp_path, sims, "least_connections") as gateway:
        with Client(gateway.url) as holder:
            holder.open(HELD).event()
            busy = shares(sims).index(1)
            load(gateway, 20)
            assert shares(sims)[busy] == 1
            assert shares(sims)[1 - busy] == 20
        until(lambda: sims[busy].stats()["streams_open"] == 0, "the end of the stream")
        gauge = f'zuebee_backend_in_flight{{backend="{sims[busy].url[7:]}"}}'
        until(lambda: gateway.metrics()[gauge] == 0, "the stream counts no more")
        load(gateway, 20)
    assert shares(sims)[busy] == 11


@pytest.mark.alone
@pytest.mark.requirement("A142")
def test_the_faster_server_is_preferred_and_the_slower_not_forgotten(tmp_path: Path, sims: tuple[Sim, Sim]) -> None:
    slow = {**QUICK, "sim": {"first_token_delay_s": 0.05}}
    with balanced(tmp_path, sims, "latency_based") as gateway:
        sims[1].fault("hang", for_s=0.1)
        load(gateway, 60, workers=2)
        fast_share, slow_share = shares(sims)
        assert ask(gateway.url, slow).status == 200
    assert slow_share >= 1
    assert fast_share >= 45


@pytest.mark.requirement("A045", "A135")
def test_models_go_where_they_are_served(tmp_path: Path, sims: tuple[Sim, Sim]) -> None:
    declared = ({"models": ["sim-small"]}, {"models": ["sim-l*"]})
    with balanced(tmp_path, sims, "weighted", *declared) as gateway:
        for model, expected in (("sim-small", [1, 0]), ("sim-large", [1, 1]), ("sim-large", [1, 2])):
            assert ask(gateway.url, {**QUICK, "model": model}).status == 200
            assert shares(sims) == expected
        unknown = ask(gateway.url, {**QUICK, "model": "gpt-4o"})
        assert (unknown.status, unknown.code) == (404, "model_not_found")
        lost = ask(gateway.url, QUICK, "/v1/nowhere")
        assert (lost.status, lost.code) == (404, "unknown_path")
        assert shares(sims) == [1, 2], "neither of them was asked"
        models = ask(gateway.url, None, "/v1/models", method="GET").json["data"]
    assert [model["id"] for model in models] == ["sim-small", "sim-large"]
