"""The wheel: plain Python, or with its hot path compiled by mypyc where the environment says `ZUEBEE_COMPILE=1`.

Everything else about the package stands in pyproject.toml, also which modules are compiled. Their sources go into
the wheel all the same, beside what was compiled of them.
"""

import os
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

BUILD = Path(".cache/build")  # nothing lands among the sources
CORES = os.cpu_count() or 1
SHAPES: dict[str, dict[str, bool]] = {
    "1": {"multi_file": True},  # one library from one C file a module, which all cores work on
    "whole": {},  # one library from one C file: gcc alone takes two minutes for it
    "separate": {"separate": True},  # one library a module
}


def compiled(shape: str) -> list[Extension]:
    """What mypyc makes of the listed modules, all in one call: modules of one call know each other's types."""
    from mypyc.build import mypycify  # needed here only: who compiles nothing need not have it

    modules: list[str] = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["zuebee"]["compiled"]
    paths = [f"--cache-dir={BUILD / 'mypy'}", *(f"src/{module}" for module in modules)]
    extensions = mypycify(paths, opt_level="2", debug_level="0", target_dir=str(BUILD / "c"), **SHAPES[shape])
    for extension in extensions:
        # mypyc asks for -Werror, and gcc 12 has warnings for its C. Hidden functions call one another directly.
        extension.extra_compile_args = [*extension.extra_compile_args, "-Wno-error", "-fvisibility=hidden"]
    return extensions


class BuildOnAllCores(build_ext):
    """Compiles the C files of one library side by side; setuptools by itself only does so with libraries."""

    def build_extensions(self) -> None:
        one_by_one = self.compiler.compile

        def side_by_side(sources: list[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(CORES) as pool:
                objects = pool.map(lambda source: one_by_one([source], **options), sources)
                return [name for names in objects for name in names]

        self.compiler.compile = side_by_side
        super().build_extensions()


shape = os.environ.get("ZUEBEE_COMPILE", "0")
BUILD.mkdir(parents=True, exist_ok=True)
setup(
    # Not for metadata, which pip asks for first, and not for an editable install: that would put them into src/.
    ext_modules=compiled(shape) if shape != "0" and "bdist_wheel" in sys.argv else [],
    cmdclass={"build_ext": BuildOnAllCores},
    options={
        "egg_info": {"egg_base": str(BUILD)},
        "build": {"build_base": str(BUILD)},
        "build_ext": {"parallel": CORES},
    },
)
