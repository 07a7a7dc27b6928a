"""The page that says what stands where: `make structure` writes it, a house test compares it."""

import ast
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.support.pages import report_structure
from tests.support.source import PACKAGE, ROOT, package_files

PAGE = "docs/structure.md"

# What stands outside the package. The package describes itself: each line is a module's own first sentence.
PLACES = {
    ".ci": "what continuous integration runs",
    "bench": "what one request and one streamed chunk cost, beside other proxies",
    "deploy": "Prometheus and Grafana set-ups",
    "docs": "how it works, how to configure and watch it; `decisions/` says why it is as it is",
    "proto": "the gRPC APIs: what clients speak, and what a billing service is asked",
    "scripts": "helpers for trying it out, such as serving a real vLLM",
    "src": "the package `zuebee`, below",
    "tests": "`unit` asks one room at a time, `scenarios` starts real processes, `simulation` plays any order of calls "
    "against the ledger, `proofs` kills, cuts power and asks a real vLLM, `house` keeps the rules",
}

_HEAD = """\
# What stands where

Written by `make structure` from the tree and from the first sentence of each module; change those.
"""


def render() -> str:
    """The whole page."""
    places = "\n".join(f"* `{name}/`: {meaning}" for name, meaning in PLACES.items())
    return f"{_HEAD}\n{places}\n\n```\n{PACKAGE}/\n" + "\n".join(_package_lines()) + "\n```\n"


def _package_lines() -> Iterator[str]:
    """Files of the package first, then its rooms, each with its files below it."""
    sources = {source.inside: source for source in package_files()}
    for path in sorted(sources, key=lambda path: (path.count("/") > 0, path)):
        room, _, name = path.rpartition("/")
        depth = "    " * (room.count("/") + 1 if room else 0)
        meaning = first_sentence(sources[path].tree)
        if name != "__init__.py":
            yield f"  {depth}{name:<{30 - len(depth)}}{meaning}".rstrip()
        elif room:
            yield f"  {depth[4:]}{room.rpartition('/')[2] + '/':<{34 - len(depth)}}{meaning}".rstrip()


def first_sentence(tree: ast.Module) -> str:
    """The first line of a module's docstring, without its full stop; purity, where claimed, at the end."""
    line = (ast.get_docstring(tree) or "").partition("\n")[0]
    sentence = re.sub(r"\s*\bPURE\b\.?\s*", "", line).rstrip(".")
    return f"{sentence} (pure)" if sentence != line.rstrip(".") else sentence


def figures() -> str:
    """How large it is, and which files run for a request: measured when the page is written."""
    script = report_structure()
    with tempfile.TemporaryDirectory() as folder:
        traced = script.traced_files(Path(folder))
    lines = "\n".join(f"* {line}" for line in script.report(script.modules(), len(traced)))
    names = ", ".join(f"`{name}`" for name in sorted(traced))
    return f"""
## Figures

`python scripts/report_structure.py --trace` tells them, `--list` with the names. When this page was last written:

{lines}: {names}
"""


if __name__ == "__main__":
    (ROOT / PAGE).parent.mkdir(exist_ok=True)
    (ROOT / PAGE).write_text(render() + figures(), encoding="utf-8")
