"""The documentation of the configuration says what the code does."""

import re
from pathlib import Path
from typing import Any, get_args, get_origin

import msgspec
import pytest

from tests.support.pages import make_docs
from zuebee.app.wiring import FIXED
from zuebee.config import Settings
from zuebee.config.check import listen_address
from zuebee.config.file import loads
from zuebee.kit.struct_tree import strip
from zuebee.kit.yaml_tree import Mapping, Node, Sequence, parse

ROOT = Path(__file__).parent.parent.parent.parent
PAGE = ROOT / "docs" / "configuration.md"
EXAMPLE = (ROOT / "config.yaml.example").read_text()
VARIABLES = dict.fromkeys(("BACKEND_KEY", "TEAM_KEY", "WAREHOUSE_DSN", "METRICS_TOKEN"), "a-long-enough-value")


def known_keys(kind: Any = Settings, path: str = "") -> set[str]:
    """The path of every setting, `[]` for entries of lists."""
    keys: set[str] = set()
    for each in msgspec.structs.fields(kind):
        bare, _ = strip(each.type)
        here = f"{path}.{each.encode_name}".lstrip(".")
        inner, suffix = (strip(get_args(bare)[0])[0], "[]") if get_origin(bare) is list else (bare, "")
        if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
            keys |= known_keys(inner, here + suffix)
        else:
            keys.add(here)
    return keys


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
    assert set(re.findall(r"`([a-z_]+)`", said)) == set(FIXED)


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
    assert known_keys() - unused <= written_keys(tree)
    found, default = loaded.settings, Settings(backends=[])
    assert msgspec.structs.replace(found.server, tls=None) == default.server
    assert msgspec.structs.replace(found.usage, reporters=[]) == default.usage
    assert msgspec.structs.replace(found.routing, fallback=[]) == default.routing
    assert msgspec.structs.replace(found.rate_limit, per_key=None) == default.rate_limit
    assert msgspec.structs.replace(found.metrics, token=None) == default.metrics
    assert msgspec.structs.replace(found.health_check, path=None, expected_status=None) == default.health_check
    assert (found.log, found.stream, found.shutdown) == (default.log, default.stream, default.shutdown)
    assert found.auth.header_names == default.auth.header_names
    plain, other = loaded.settings.backends
    told = {"name", "type", "models", "api_key", "headers", "health_path", "ca_file", "url"}
    for each in msgspec.structs.fields(type(plain)):
        assert each.name in told or getattr(plain, each.name) == getattr(other, each.name)
