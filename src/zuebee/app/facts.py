"""What is known of models, from whoever knows it: the settings, then the servers themselves, then public lists."""

from collections.abc import Callable, Mapping

from zuebee.config import Settings
from zuebee.contracts.models import UNKNOWN, ModelFacts

MAX_REMEMBERED = 10_000
MAX_NAME = 256


class KnownModels:
    """Looks up a model. `told`: what the servers say of theirs just now. `listed`: its context by public lists."""

    def __init__(
        self, settings: Settings, told: Callable[[], Mapping[str, ModelFacts]], listed: Callable[[str], int]
    ) -> None:
        self._own = [
            (entry.model.removesuffix("*"), entry.model.endswith("*"),
             ModelFacts(entry.context_tokens, entry.max_output_tokens))
            for entry in settings.billing.models
        ]  # fmt: skip
        self._told = told
        self._listed = listed
        self._known: dict[str, ModelFacts] = {}
        self._source: Mapping[str, ModelFacts] | None = None

    def of(self, model: str) -> ModelFacts:
        """What is known of a model."""
        told = self._told()
        if told is not self._source:
            self._source = told
            self._known.clear()
        known = self._known.get(model)
        if known is None:
            if len(model) > MAX_NAME:
                return UNKNOWN
            while len(self._known) >= MAX_REMEMBERED:
                del self._known[next(iter(self._known))]
            known = self._known[model] = self._look_up(model, told)
        return known

    def _look_up(self, model: str, told: Mapping[str, ModelFacts]) -> ModelFacts:
        own = next(
            (facts for name, is_prefix, facts in self._own
             if (model.startswith(name) if is_prefix else model == name)), UNKNOWN,
        )  # fmt: skip
        said = told.get(model, UNKNOWN)
        return ModelFacts(own.context or said.context or self._listed(model), own.answer or said.answer)
