"""What is known of a model, whoever serves it."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias


class ModelFacts(NamedTuple):
    """In tokens; 0: not known. `context`: prompt and answer together. `answer`: the longest answer."""

    context: int = 0
    answer: int = 0


UNKNOWN = ModelFacts()

FactsOf: TypeAlias = Callable[[str], ModelFacts]
"""What is known of the model of that name; `UNKNOWN` of one that nobody knows."""
