"""Imports go downward only, and rooms are strangers: the contracts of import-linter in pyproject.toml."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.house.rules import EVERYWHERE, HOMES
from tests.support.source import PACKAGE, ROOT

LINTER = Path(sys.executable).with_name("lint-imports")


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(root / "src")}
    command = [str(LINTER), "--no-cache", "--no-logo", "--config", str(root / "pyproject.toml")]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


def test_every_import_keeps_the_contracts() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, f"{result.stdout}{result.stderr}\nMove what both need down to contracts or lib."


@pytest.fixture
def empty_house(tmp_path: Path) -> Path:
    """A package with a room for every name in the contracts, and nothing in them."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    contracts = project()["tool"]["importlinter"]["contracts"]
    floors = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    for room in [name for floor in floors for name in floor.split(" | ")]:
        directory = tmp_path / PACKAGE / room
        directory.mkdir(parents=True)
        (directory / "__init__.py").touch()
    (tmp_path / PACKAGE / "__init__.py").touch()
    (tmp_path / PACKAGE / "auth" / "service.py").touch()
    return tmp_path


def test_an_empty_house_keeps_the_contracts(empty_house: Path) -> None:
    result = lint(empty_house)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("file", "imports"),
    [
        pytest.param("edge/pipeline.py", "zuebee.auth", id="a room imports a room"),
        pytest.param("lib/clock.py", "zuebee.config", id="a floor imports the one above"),
        pytest.param("cli/run.py", "zuebee.auth.service", id="a service is imported by another than app"),
        pytest.param("cellar/wine.py", "json", id="a room stands on no floor"),
    ],
)
def test_the_contracts_see_a_breach(empty_house: Path, file: str, imports: str) -> None:
    intruder = empty_house / PACKAGE / file
    intruder.parent.mkdir(exist_ok=True)
    (intruder.parent / "__init__.py").touch()
    intruder.write_text(f"import {imports}\n")
    result = lint(empty_house)
    assert result.returncode == 1
    assert file.split("/")[0] in result.stdout


MODULES = {
    "backports-zstd": "backports",
    "google-re2": "re2",
    "googleapis-common-protos": "google",
    "grpcio": "grpc",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "protobuf": "google",
    "pyjwt": "jwt",
    "pyyaml": "yaml",
}
"""What is imported under another name than it is installed under."""


def module_of(requirement: str) -> str:
    """The module that a requirement (`name[extra,...]>=1.0; marker`) brings."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None, requirement
    name = found[0].lower()
    return MODULES.get(name, name.replace("-", "_"))


@pytest.mark.parametrize(
    ("requirement", "module"),
    [
        ("rich>=15", "rich"),
        ("psycopg[binary]>=3.3", "psycopg"),
        ("pyjwt[crypto]>=2", "jwt"),
        ("google-re2>=1.1", "re2"),
        ("a-b[c,d] ~= 1; python_version < '3.12'", "a_b"),
    ],
)
def test_a_requirement_is_known_by_its_module(requirement: str, module: str) -> None:
    assert module_of(requirement) == module


def test_every_dependency_has_a_home() -> None:
    named = {module_of(requirement) for requirement in project()["project"]["dependencies"]}
    assert named <= HOMES.keys() | EVERYWHERE, "Name the file that may import it in HOMES of tests/house/rules.py."


def test_nothing_has_a_home_that_is_not_installed() -> None:
    named = {module_of(requirement) for requirement in project()["project"]["dependencies"]}
    assert HOMES.keys() - {"sqlite3"} <= named, "Take it from HOMES, or add it to the dependencies."
