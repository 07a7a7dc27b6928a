"""What the pipeline counted. It outlives the pipelines of a process, so that a reload loses nothing."""

from collections import Counter

PIPELINE = "pipeline"
"""Stands for no source in particular: no key, an unknown key, a failure of the whole."""


class AuthCounters:
    """Plain integers, read when somebody asks.

    `decisions`: by source and `allowed`, `denied` or `error`; as source `pipeline` also `missing` and `unknown`.
    `script_failures`: by source and reason. `asked`: questions to a source that were not answered from memory.
    """

    def __init__(self) -> None:
        self.decisions: Counter[tuple[str, str]] = Counter()
        self.script_failures: Counter[tuple[str, str]] = Counter()
        self.asked: Counter[tuple[str]] = Counter()
