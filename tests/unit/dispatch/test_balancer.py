from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zuebee.dispatch.balancer import (
    MAX_COOLDOWNS,
    Health,
    LatencyBased,
    LeastConnections,
    Node,
    RoundRobin,
    Weighted,
    fit,
)


def node(name: str, weight: int = 1, models: tuple[str, ...] = ()) -> Node:
    return Node(name, weight, Health(unhealthy_threshold=3, healthy_threshold=2), models)


def chosen(
    chooser: RoundRobin | Weighted | LeastConnections | LatencyBased, nodes: list[Node], times: int
) -> list[str]:
    return [chooser.choose(nodes, 0.0).name for _ in range(times)]


@pytest.mark.requirement("A140", "A247")
def test_weights_of_five_to_three_give_exactly_that_and_smoothly() -> None:
    names = chosen(Weighted(), [node("a", 5), node("b", 3)], 800)
    assert Counter(names) == {"a": 500, "b": 300}
    for start in range(0, 800, 8):
        assert Counter(names[start : start + 8]) == {"a": 5, "b": 3}
    assert "aaa" not in "".join(names)
    assert "bb" not in "".join(names)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 4))
def test_any_weights_are_kept_exactly_in_each_round(weights: list[int], rounds: int) -> None:
    nodes = [node(str(n), weight) for n, weight in enumerate(weights)]
    names = chosen(Weighted(), nodes, sum(weights) * rounds)
    assert Counter(names) == {str(n): weight * rounds for n, weight in enumerate(weights)}


@pytest.mark.requirement("A136", "A139")
def test_round_robin_gives_equal_shares_in_turn() -> None:
    assert chosen(RoundRobin(), [node("a", 9), node("b"), node("c")], 7) == list("abcabca")


@pytest.mark.requirement("A141")
def test_least_connections_goes_where_fewest_requests_run() -> None:
    a, b = node("a"), node("b")
    chooser = LeastConnections()
    a.load.in_flight, b.load.in_flight = 2, 1
    assert chosen(chooser, [a, b], 5) == ["b"] * 5
    b.load.in_flight = 3
    assert chosen(chooser, [a, b], 5) == ["a"] * 5
    a.load.in_flight = b.load.in_flight = 0
    assert Counter(chosen(chooser, [a, b], 100)) == {"a": 50, "b": 50}


def test_least_connections_minds_the_weight() -> None:
    nodes = [node("a", 3), node("b", 1)]
    chooser = LeastConnections()
    for _ in range(40):
        chooser.choose(nodes, 0.0).load.in_flight += 1
    assert [n.in_flight for n in nodes] == [30, 10]


@pytest.mark.requirement("A142")
def test_latency_prefers_the_faster_backend_and_explores_again() -> None:
    fast, slow = node("fast"), node("slow")
    chooser = LatencyBased()
    fast.observe(0.05, 0.0)
    slow.observe(0.5, 0.0)
    assert {chooser.choose([slow, fast], now_s / 10).name for now_s in range(10)} == {"fast"}
    picked = []
    for second in range(120):  # the fast one is used each second; the slow one recovered, unseen
        picked.append(best := chooser.choose([slow, fast], float(second)))
        best.observe(0.05, float(second))
    assert slow in picked
    assert picked.index(slow) > 5


def test_latency_minds_the_queue() -> None:
    fast, slow = node("fast"), node("slow")
    fast.observe(0.1, 0.0)
    slow.observe(0.2, 0.0)
    fast.load.in_flight = 3
    assert LatencyBased().choose([fast, slow], 0.0) is slow


def test_a_peak_counts_at_once_and_fades() -> None:
    backend = node("a")
    backend.observe(0.1, 0.0)
    backend.observe(2.0, 1.0)
    assert backend.latency(1.0) == 2.0
    backend.observe(0.1, 2.0)
    assert 1.0 < backend.latency(2.0) < 2.0
    assert backend.latency(200.0) < 0.001


@pytest.mark.parametrize(
    ("pattern", "model", "match"),
    [
        ("m", "m", True),
        ("m", "m2", False),
        ("m*", "m2", True),
        ("m*", "m", True),
        ("m*", "om", False),
        ("*", "", True),
        ("a*b", "axb", False),
        ("m", "M", False),
    ],
)
def test_model_patterns(pattern: str, model: str, match: bool) -> None:
    assert node("a", models=(pattern,)).serves(model) is match


def test_without_declared_models_all_are_served() -> None:
    assert node("a").serves("anything")


def test_a_cool_down_belongs_to_one_model_and_ends() -> None:
    backend = node("a")
    backend.cool_down("m", 0.0, 10.0)
    assert backend.cooling_s("m", 4.0) == 6.0
    assert backend.cooling_s("other", 4.0) == 0.0
    assert backend.cooling_s("m", 10.0) == 0.0
    assert backend.cooling_s("m", 4.0) == 0.0


def test_cool_downs_are_bounded() -> None:
    backend = node("a")
    for n in range(10 * MAX_COOLDOWNS):
        backend.cool_down(f"m{n}", 0.0, 10.0)
    assert sum(backend.cooling_s(f"m{n}", 0.0) > 0 for n in range(10 * MAX_COOLDOWNS)) <= MAX_COOLDOWNS


@pytest.mark.requirement("A144")
def test_somebody_is_always_left() -> None:
    a, b, c = nodes = [node("a"), node("b"), node("c")]
    a.health.probe_failed(1.0)
    assert fit(nodes, 0.0) == [b, c]
    for _ in range(5):
        b.health.request_failed(0.0)
        c.health.request_failed(0.0)
    assert fit(nodes, 1.0) == [b, c]  # ejected, but they pass their probes
    b.health.probe_failed(1.0)
    c.health.probe_failed(1.0)
    assert fit(nodes, 1.0) == nodes
    assert fit([a], 1.0) == [a]
