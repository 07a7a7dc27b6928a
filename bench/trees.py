"""Which ZueBee is run: what `make compiled` made of these sources, or the sources as they are."""

import functools
import sysconfig
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
PLAIN = _ROOT / "src"
COMPILED = _ROOT / ".cache" / "compiled"


@functools.cache
def chosen() -> Path:
    """The folder to put on PYTHONPATH: the compiled tree while it is that of the sources, or else the sources.

    Decided once, so that all processes of one run are of one kind.
    """
    return COMPILED if is_fresh(COMPILED, PLAIN) else PLAIN


def kind(tree: Path) -> str:
    """What to call a tree beside its version."""
    return "plain Python" if tree == PLAIN else "compiled"


def is_fresh(compiled: Path, sources: Path) -> bool:
    """Whether the compiled tree is there, for this Python, and younger than every file of the sources.

    The Makefile writes the stamp; its time is that at which the compilation began.
    """
    stamp = compiled / ".done"
    if not stamp.exists() or not any((compiled / "zuebee").rglob("*" + sysconfig.get_config_var("EXT_SUFFIX"))):
        return False
    made_ns = stamp.stat().st_mtime_ns
    return all(file.stat().st_mtime_ns <= made_ns for file in _files(sources))


def _files(sources: Path) -> Iterator[Path]:
    """What goes into the wheel, so neither bytecode nor what an older installation left."""
    for file in (sources / "zuebee").rglob("*"):
        if file.is_file() and file.parent.name != "__pycache__":
            yield file
