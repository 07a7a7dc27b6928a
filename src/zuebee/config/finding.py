"""PURE. What checks of a configuration answer with."""

from typing import NamedTuple

from zuebee.kit.yaml_tree import Path


class Finding(NamedTuple):
    """One thing to say about the setting at a path."""

    path: Path
    message: str
    fatal: bool = True
