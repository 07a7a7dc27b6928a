"""A fresh clone needs nothing but Python and make."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.source import ROOT

pytestmark = pytest.mark.proof


def make(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as a newcomer's shell would: outside any virtual environment, with nothing to type at."""
    ours = ("VIRTUAL_ENV", "PYTHONPATH", "MAKEFLAGS", "MAKELEVEL", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        ["make", *arguments],
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("fresh") / "zuebee"
    subprocess.run(["git", "clone", "--quiet", ROOT, directory], check=True)
    return directory


@pytest.mark.requirement("A324")
def test_install_gives_the_console_script(clone: Path) -> None:
    result = make(clone, "install")
    assert result.returncode == 0, result.stderr
    script = subprocess.run([clone / ".venv/bin/zuebee", "--help"], capture_output=True, text=True, check=False)
    assert script.returncode == 0, script.stderr


def test_a_second_install_does_nothing(clone: Path) -> None:
    make(clone, "install")
    started_s = time.monotonic()
    assert make(clone, "install").returncode == 0
    assert time.monotonic() - started_s < 1


def test_a_missing_python_is_named(clone: Path, tmp_path: Path) -> None:
    result = make(clone, "install", f"VENV={tmp_path / 'venv'}", "PYTHON=python2.5")
    assert result.returncode != 0
    assert "Python 3.11 or newer" in result.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.requirement("A322")
def test_make_alone_lists_every_target(clone: Path) -> None:
    listed = make(clone).stdout
    for target in (
        "run",
        "install",
        "test",
        "check",
        "bench",
        "compiled",
        "wheel",
        "proof",
        "vllm",
        "requirements",
        "lock",
        "help",
    ):
        assert f"make {target} " in listed
