"""What a user can name is in the docs, and what the docs link to is there."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import pytest
import typer

from tests.support import surface
from tests.support.pages import anchors, section
from tests.support.source import ROOT, Source, tracked_files

PAGES = [name for name in tracked_files() if name.endswith(".md")]
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
ANCHOR = re.compile(r"\]\((?!https?://|mailto:)([^)#\s]*)#([^)\s]+)\)")
LINK = re.compile(r"\]\((?!https?://|mailto:|#)([^)#\s]+)")


def undocumented(names: Iterable[str], text: str) -> list[str]:
    """Names that do not stand, whole, in a code span or code block of the text."""
    code = "\n".join(CODE.findall(text))
    return [name for name in names if not re.search(rf"(?<![\w./-]){re.escape(name)}(?![\w/-])", code)]


def docs() -> str:
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in PAGES)


@dataclass(frozen=True)
class Surface:
    """One kind of thing that a user can name, where the code names it and where the docs should."""

    kind: str
    module: str
    names: Callable[[], list[str]]
    page: str


SURFACES = [
    Surface("setting", "zuebee.config.settings", surface.setting_paths, "docs/configuration.md"),
    Surface("metric", "zuebee.telemetry.metrics", surface.metric_names, "docs/metrics.md"),
    Surface("route", "zuebee.edge.http", surface.routes, "docs/api.md"),
    Surface("flag", "zuebee.cli", surface.commands_and_flags, "docs/cli.md"),
]


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(SURFACES[0], marks=pytest.mark.requirement("A328")),
        pytest.param(SURFACES[1], marks=pytest.mark.requirement("A352")),
        pytest.param(SURFACES[2], marks=pytest.mark.requirement("A327")),
        SURFACES[3],
    ],
    ids=lambda part: part.kind,
)
def test_all_that_a_user_can_name_is_documented(part: Surface) -> None:
    names = part.names()
    assert names, f"tests/support/surface.py finds no {part.kind} in {part.module}; teach it the new shape."
    missing = undocumented(names, docs())
    assert not missing, f"Describe it in {part.page}, in backticks."


def test_links_inside_the_repository_lead_somewhere() -> None:
    broken = [
        f"{page}: {target}"
        for page in PAGES
        for target in LINK.findall((ROOT / page).read_text(encoding="utf-8"))
        if not (ROOT / Path(page).parent / target).exists()
    ]
    assert not broken, "Mend the link, or write what it promises."


def test_links_to_headings_lead_to_one() -> None:
    broken = [
        f"{page}: {target}#{anchor}"
        for page in PAGES
        for target, anchor in ANCHOR.findall((ROOT / page).read_text(encoding="utf-8"))
        if anchor not in anchors((ROOT / Path(page).parent / target if target else ROOT / page).read_text())
    ]
    assert not broken, "Name the heading as GitHub does: lower case, dashes for blanks, no punctuation."


def test_headings_are_spelled_as_github_does() -> None:
    assert anchors("# What survives\n\n## `server`, and more\n") == {"what-survives", "server-and-more"}


def test_an_undocumented_name_is_seen() -> None:
    text = "Set `server.port` to 1, see\n```\nGET /health/live\n```\nand server.host."
    assert undocumented(["server.port", "/health/live"], text) == []
    assert undocumented(["server.host", "port", "/health"], text) == ["server.host", "port", "/health"]


def test_settings_are_found_at_every_depth() -> None:
    class Leaf(msgspec.Struct):
        url_text: str = msgspec.field(name="url")
        weight: Annotated[int, msgspec.Meta(ge=1)] = 1

    class Root(msgspec.Struct):
        backends: list[Leaf]
        tls: Leaf | None = None
        models: dict[str, Leaf] = {}

    expected = ["backends", "backends[].url", "backends[].weight", "tls", "tls.url", "tls.weight"]
    assert surface.setting_paths(Root) == [*expected, "models", "models.*.url", "models.*.weight"]


def test_metrics_routes_and_flags_are_found() -> None:
    metrics = Source("m.py", "METRICS = {'hits_total': Description('counter', ('by',), 'Hits.')}\n")
    assert surface.metric_names(metrics) == ["hits_total"]
    table = Source("h.py", "ROUTES: tuple = (Route('/health', health), Route('/v1/models', models))\n")
    assert surface.routes(table) == ["/health", "/v1/models"]
    app = typer.Typer()
    app.command("run")(_run)
    app.command("check")(_run)
    assert {"zuebee run", "zuebee check", "--port"} <= set(surface.commands_and_flags(app))


def _run(port: int = 1) -> None:
    """A command for the test above; typer asks for one."""


def test_every_page_can_be_found() -> None:
    more = section((ROOT / "README.md").read_text(encoding="utf-8"), "More")
    unlinked = [name for name in PAGES if re.fullmatch(r"docs/[^/]+", name) and f"]({name})" not in more]
    assert not unlinked, "Link it from the README, under `More`."
    architecture = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    decisions = sorted(Path(name).name for name in PAGES if name.startswith("docs/decisions/"))
    assert [name for name in decisions if f"](decisions/{name})" not in architecture] == []
    assert [int(name[:4]) for name in decisions] == list(range(1, len(decisions) + 1)), "Number them without gaps."
