"""One backend: what the balancer knows of it, and how to talk to it."""

from collections.abc import Sequence

from zuebee.config import Repeated
from zuebee.contracts.inference import Inference
from zuebee.dispatch.balancer import Node
from zuebee.dispatch.health import Health
from zuebee.dispatch.queue import Load


class Backend(Node):
    """A node that can be talked to. `repeat`: what it may be sent again though it may have begun it."""

    def __init__(
        self,
        name: str,
        url: str,
        inference: Inference,
        *,
        weight: int,
        health: Health,
        models: Sequence[str],
        load: Load | None = None,
        repeat: Sequence[Repeated] = (),
    ) -> None:
        super().__init__(name, weight, health, models, load)
        self.url = url
        self.inference = inference
        self.repeat = tuple(repeat)
