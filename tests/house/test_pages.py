"""The tables of the documentation say what the code does, and its examples are valid."""

import ast
import json
import re
import sqlite3
import tomllib
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest

from tests.support.codes import error_codes, places_of_codes
from tests.support.pages import blocks, make_docs, page, section, table
from tests.support.source import ROOT, Source, nodes, package_files
from tests.support.surface import metric_names
from zuebee.config.load import loads
from zuebee.contracts.admission import Settlement, TerminationReason
from zuebee.contracts.inference import UsageSource
from zuebee.dispatch.balancer import CHOOSERS
from zuebee.edge.http import ROUTES
from zuebee.models import header_policy
from zuebee.schema.prepare import prepare
from zuebee.telemetry.access_log import access_line

METRICS = page("docs/metrics.md")
API = page("docs/api.md")


def firsts(rows: list[list[str]]) -> list[str]:
    return [row[0] for row in rows]


# --- docs/api.md ---


def test_every_error_code_is_explained_and_no_other() -> None:
    rows = table(API, "Code")
    assert sorted(firsts(rows)) == sorted(error_codes()), "Bring the table of docs/api.md in line with the code."
    assert all(row[1].isdigit() and len(row) == 4 for row in rows)


def test_error_codes_are_found_wherever_they_stand() -> None:
    text = """
class Refusal:
    status: int
    code: str
LARGE = "too_large"
def bad(message, *, code="bad_one"): ...
def refuse(self, status, code): ...
TABLE = {"x": (503, "in_a_table", "text")}
def act(self, late):
    Refusal(413, LARGE)
    bad("no", code="by_name")
    self.refuse(400, "by_place")
    self.code = "" if late else "assigned"
    Refusal(502, found or "as_a_default")
    elsewhere("not_a_code")
"""
    found = error_codes([Source("src/zuebee/room/file.py", text)])
    assert found == {"too_large", "bad_one", "in_a_table", "by_name", "by_place", "assigned", "as_a_default"}


WRITTEN_TWICE = {
    "invalid_api_key": "`zuebee keys test` says it as well, without a server",
    "invalid_signature": "of a request, of its body, and of a payment's webhook: three messages",
    "request_too_large": "Anthropic has the same word for the type of that error",
    "quota_exceeded": "operators can choose it for what a source of keys answers",
}


def test_an_error_code_is_written_in_one_module() -> None:
    """A new one needs three places: its definition, its test, its line in docs/api.md."""
    places = places_of_codes(error_codes())
    assert {code for code, modules in places.items() if len(modules) != 1} == set(WRITTEN_TWICE), places


def test_a_code_that_is_written_twice_is_seen() -> None:
    sources = [Source(f"src/zuebee/room/{name}.py", 'CODE = "bad_one"\n') for name in ("a", "b")]
    assert places_of_codes(["bad_one"], sources) == {"bad_one": ["room/a.py", "room/b.py"]}


def test_a_metric_is_written_where_it_is_described_and_where_it_is_counted() -> None:
    """A new one needs these two and its test; `make docs` writes its line of docs/metrics.md."""
    written = Counter(
        node.value
        for source in package_files()
        for node in nodes(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    assert {name for name in metric_names() if written[name] > 2} == set()


def test_every_route_stands_in_the_table_with_its_other_spellings() -> None:
    rows = {row[1]: row for row in table(API, "Method")}
    assert {route.path: (route.method, set(route.aliases)) for route in ROUTES} == {
        path: (row[0], set(filter(None, row[2].split(", ")))) for path, row in rows.items()
    }


@pytest.mark.parametrize("name", ["docs/api.md", "docs/security.md"])
def test_the_headers_that_pass_are_named(name: str) -> None:
    names = {field.decode() for field in header_policy._UPSTREAM} | {header_policy._UPSTREAM_PREFIX.decode() + "*"}
    assert all(f"`{field}`" in page(name) for field in names)


# --- docs/metrics.md ---


@pytest.mark.requirement("A352")
def test_the_table_of_metrics_is_that_of_the_code() -> None:
    assert make_docs().metrics(METRICS) == METRICS, "Run `make docs`."


def test_every_field_of_the_access_log_is_explained() -> None:
    line = json.loads(access_line(Settlement("id", "POST", "/", "", 0.0)))
    assert firsts(table(METRICS, "Field")) == list(line)


@pytest.mark.parametrize(("name", "heading"), [("usage_records", "Column"), ("usage_days", "Total")])
def test_every_column_of_the_usage_records_is_explained(name: str, heading: str, tmp_path: Path) -> None:
    prepare(str(tmp_path / "usage.db"))
    connection = sqlite3.connect(tmp_path / "usage.db")
    columns = [row[1] for row in connection.execute(f"PRAGMA table_xinfo({name})")]
    connection.close()
    assert firsts(table(METRICS, heading)) == columns


def test_endings_and_sources_of_usage_are_explained() -> None:
    assert sorted(firsts(table(METRICS, "termination_reason"))) == sorted(get_args(TerminationReason))
    assert sorted(firsts(table(METRICS, "usage_source"))) == sorted(get_args(UsageSource))


# --- the guides ---


@pytest.mark.requirement("A350")
def test_the_configuration_for_opencode_is_valid_and_names_the_model_that_vllm_serves() -> None:
    guide = page("docs/opencode.md")
    (text,) = blocks(guide, "json")
    config = json.loads(text)
    ((name, provider),) = config["provider"].items()
    assert provider["npm"] == "@ai-sdk/openai-compatible"
    assert provider["options"]["baseURL"].endswith("/v1")
    assert provider["options"]["apiKey"].startswith("{env:")
    (model,) = provider["models"]
    assert config["model"] == config["small_model"] == f"{name}/{model}"
    assert re.findall(r"--served-model-name (\S+)", guide)[0] == model


@pytest.mark.requirement("A349")
@pytest.mark.parametrize("name", ["README.md", "docs/opencode.md", "docs/backends.md"])
def test_vllm_is_started_with_flags_that_it_has(name: str) -> None:
    text = page(name)
    commands = [block for lang in ("sh", "bash") for block in blocks(text, lang) if block.startswith("vllm serve")]
    assert commands
    for command in commands:
        assert "--enable-auto-tool-choice" in command
        assert "--tool-call-parser hermes" in command
        assert "--return-detailed-tokens" not in command
    assert "--return-detailed-tokens" in text, "Say that this flag does not exist; people come with it."


@pytest.mark.parametrize("name", ["README.md", "docs/opencode.md", "docs/backends.md", "docs/providers.md"])
def test_every_configuration_in_the_guides_can_be_used(name: str) -> None:
    found = blocks(page(name), "yaml")
    assert found
    for block in found:
        environ = {"TEAM_KEY": "sk-a-real-key-0001"}
        environ |= {f"{provider}_API_KEY": "sk-backend-1" for provider in ("OPENAI", "ANTHROPIC", "GEMINI")}
        assert loads(block, name, environ, lambda path: True).settings.backends


@pytest.mark.requirement("A353")
def test_the_four_questions_are_answered() -> None:
    faq = page("docs/faq.md")
    assert "include_usage" in section(faq, "Why is there no usage in the answer?")
    delivery = section(faq, "What happens if webhook delivery fails?")
    assert all(word in delivery for word in ("outbox", "zuebee usage retry", "twice"))
    assert "/metrics" in section(faq, "How do I view the metrics?")
    strategies = section(faq, "Which load balancing strategies are there?")
    assert all(f"`{name}`" in strategies for name in CHOOSERS)


@pytest.mark.requirement("A355", "A356", "A357")
def test_licence_contribution_and_support_are_there() -> None:
    readme = page("README.md")
    assert page("LICENSE").startswith("MIT License")
    assert tomllib.loads(page("pyproject.toml"))["project"]["license"]["text"] == "MIT"
    for target in ("LICENSE", "CONTRIBUTING.md", "CONTRIBUTORS.md"):
        assert f"]({target})" in readme
        assert (ROOT / target).is_file()
    assert "Powered by ZueBee" in readme
    assert "issues" in section(readme, "Support and contribute")
    assert "discussions" in section(readme, "Support and contribute")


@pytest.mark.requirement("A344")
def test_the_readme_has_three_steps_to_run_it_locally() -> None:
    steps = next(block for block in blocks(page("README.md"), "sh") if "make install" in block)
    assert [line.split()[0] for line in steps.splitlines()] == ["make", "python3", "."]
    assert steps.rstrip().endswith(".venv/bin/zuebee run --config config.yaml")
