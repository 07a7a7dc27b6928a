"""Stores for commands, as `zuebee run` would have made them: all else works only on one that is there."""

from pathlib import Path

from zuebee.config.load import load_part
from zuebee.config.settings_base import environment
from zuebee.schema.prepare import prepare


def made(place: Path | str) -> str:
    """An empty store: the path of a SQLite file, or a postgresql:// URL."""
    prepare(str(place))
    return str(place)


def made_for(config: Path) -> str:
    """The same, for a configuration file."""
    surroundings = {name: value for name, value in environment().items() if not name.startswith("ZUEBEE_")}
    store = load_part(str(config), surroundings).store
    return made(store.url or store.path)
