from tests.support.fakes import FakeInference
from zuebee.dispatch.balancer import Backend, Health


def test_a_backend_is_a_node_that_can_be_talked_to() -> None:
    inference = FakeInference([])
    health = Health(unhealthy_threshold=1, healthy_threshold=1)
    backend = Backend("a", "http://a", inference, weight=2, health=health, models=["m*"])
    assert (backend.name, backend.url, backend.weight, backend.in_flight) == ("a", "http://a", 2, 0)
    assert backend.inference is inference
    assert backend.health is health
    assert backend.serves("m1")
    assert not backend.serves("x")
