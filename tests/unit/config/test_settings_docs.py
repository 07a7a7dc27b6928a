"""The documentation of the configuration says what the code does."""

import re
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from tests.support.pages import make_docs
from zuebee.config.load import loads
from zuebee.config.restart import section_in, settings_of
from zuebee.config.settings import Settings
from zuebee.config.settings_base import RELOAD, RESTART
from zuebee.config.validate import listen_address
from zuebee.config.yaml import Mapping, Node, Sequence, parse, strip

ROOT = Path(__file__).parent.parent.parent.parent
PAGE = ROOT / "docs" / "configuration.md"
EXAMPLE = (ROOT / "config.yaml.example").read_text()
VARIABLES = {
    **dict.fromkeys(("BACKEND_KEY", "TEAM_KEY", "METRICS_TOKEN"), "a-long-enough-value"),
    "WAREHOUSE_DSN": "user:password@tcp(127.0.0.1:3306)/usage",
    "KEYS_DSN": "postgresql://127.0.0.1/keys",
    "STORE_URL": "postgresql://127.0.0.1/zuebee",
    "PARTNER_SECRET": "f3b1c7d2a9e84605b1d3f7c2e8a94d60",
    "WEBHOOK_SECRET": "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldY",
}


def sections(kind: Any = Settings, path: str = "") -> dict[Any, list[set[str]]]:
    """For each kind of section: wherever it may stand, the paths of its settings there, `[]` for entries of lists."""
    found: dict[Any, list[set[str]]] = {}
    own = set()
    for each in msgspec.structs.fields(kind):
        bare, _ = strip(each.type)
        here = f"{path}.{each.encode_name}".lstrip(".")
        inner, suffix = (get_args(bare)[0], "[]") if get_origin(bare) is list else (bare, "")
        inner = strip(inner)[0]
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            for other, places in sections(inner, here + suffix).items():
                found.setdefault(other, []).extend(places)
        else:
            own.add(here)
    found.setdefault(kind, []).append(own)
    return found


def written_keys(node: Node, path: str = "") -> set[str]:
    if isinstance(node, Mapping):
        children = {f"{path}.{key}".lstrip("."): child for key, child in node.items.items()}
        return set().union(*(written_keys(child, name) for name, child in children.items())) | set(children)
    if isinstance(node, Sequence):
        return {path}.union(*(written_keys(child, path + "[]") for child in node.items))
    return {path}


def test_the_reference_is_that_of_the_code() -> None:
    text = PAGE.read_text()
    assert text == make_docs().configuration(text), "run `python scripts/make_docs.py`"


def test_the_reference_notices_a_change() -> None:
    module = make_docs()
    text = PAGE.read_text()
    assert module.configuration(text.replace("| `listen` | text", "| `lisen` | text")) == text
    with pytest.raises(ValueError, match="no line"):
        module.configuration("# A page without a reference\n")


def test_the_page_says_what_a_reload_cannot_change() -> None:
    said = PAGE.read_text().partition("## Reload")[2].partition("\n## ")[0]
    listed = set(re.findall(r"`([a-z_]+)`", said.partition("cannot change while it runs")[2]))
    fixed = [each for each in settings_of(Settings) if each.change == RESTART["change"]]
    assert listed == {each.name for each in fixed}
    for section in fixed:
        kind, _ = section_in(section.field)
        for each in settings_of(kind, section.change) if kind is not None else ():
            if each.change == RELOAD["change"]:
                assert f"`{section.name}.{each.name}`" in said or f"`{each.name}`" in said


def test_the_reference_says_what_a_change_of_a_setting_needs() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    needs = {row[0].strip("| `"): row[3] for row in rows if len(row) == 5}
    assert needs["server"] == needs["server.cors.origins"] == needs["billing.hold_ttl"] == "a restart"
    assert needs["backends"] == needs["billing.prices[].model"] == needs["log.level"] == "a reload"
    assert needs["rate_limit.storage"] == "a restart with Redis"
    assert needs["billing"] == "see below"


def test_every_yaml_on_the_page_can_be_used() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        environ = {"OPENAI_API_KEY": "sk-backend", "DEV_TEAM_KEY": "sk-a-real-key-0001"}
        loads(block, "page", environ, lambda path: True)


@pytest.mark.requirement("A271")
def test_the_example_starts_unedited_and_only_for_this_machine() -> None:
    loaded = loads(EXAMPLE, "example", {}, lambda path: False)
    assert listen_address(loaded.settings) == ("127.0.0.1", 8000)
    assert len(loaded.warnings) == 1
    assert loaded.settings == Settings(backends=loaded.settings.backends)


def test_the_example_shows_every_setting_and_true_defaults() -> None:
    text = re.sub(r"^#(?!#)", "", EXAMPLE, flags=re.MULTILINE)
    loaded = loads(text, "example", VARIABLES, lambda path: True)
    tree, _ = parse(text, "example")
    unused = {f"api_keys[].{name}" for name in ("last_reset_at", "created_at", "updated_at")}
    unused.add("auth.pipeline[].jwt.jwks_file")  # or jwks_url, not both
    written = written_keys(tree)
    for kind, places in sections().items():
        missing = [sorted(place - unused - written) for place in places]
        assert [] in missing, f"{kind.__name__} is nowhere shown whole"
    found, default = loaded.settings, Settings(backends=[])
    assert msgspec.structs.replace(found.server, tls=None) == default.server
    assert msgspec.structs.replace(found.usage, reporters=[]) == default.usage
    assert msgspec.structs.replace(found.routing, fallback=[]) == default.routing
    scopes = [name for name in found.rate_limit.__struct_fields__ if name.startswith(("per_", "every", "anonymous"))]
    assert msgspec.structs.replace(found.rate_limit, **dict.fromkeys(scopes)) == default.rate_limit
    assert msgspec.structs.replace(found.billing, prices=[], cap=None, models=[]) == default.billing
    assert msgspec.structs.replace(found.store, url=None) == default.store
    assert msgspec.structs.replace(found.metrics, token=None) == default.metrics
    assert msgspec.structs.replace(found.health_check, path=None, expected_status=None) == default.health_check
    assert (found.log, found.stream, found.shutdown) == (default.log, default.stream, default.shutdown)
    assert found.auth.header_names == default.auth.header_names
    plain, other = loaded.settings.backends
    told = {"name", "type", "models", "api_key", "headers", "health_path", "ca_file", "url", "max_in_flight"}
    for each in msgspec.structs.fields(type(plain)):
        assert each.name in told or getattr(plain, each.name) == getattr(other, each.name)
