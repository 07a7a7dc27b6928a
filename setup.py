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
from setuptools.modified import newer_group

BUILD = Path(".cache/build")  # nothing lands among the sources
CORES = os.cpu_count() or 1


def modules() -> list[str]:
    """The modules to compile: all of the packages but those excluded, and some of others."""
    listed: dict[str, list[str]] = tomllib.loads(Path("pyproject.toml").read_text())["tool"]["zuebee"]["compiled"]
    found = [f"{package}/{file.name}" for package in listed["packages"] for file in Path("src", package).glob("*.py")]
    wanted = {each for each in found if not each.endswith("/__init__.py")} - set(listed["exclude"])
    return sorted(wanted | set(listed["modules"]))


def compiled() -> list[Extension]:
    """What mypyc makes of the listed modules, all in one call: modules of one call know each other's types."""
    from mypyc.build import mypycify  # needed here only: who compiles nothing need not have it

    paths = [f"--cache-dir={BUILD / 'mypy'}", *(f"src/{module}" for module in modules())]
    # One library from a C file for each module: all cores compile, and it runs as fast as one from a single C file.
    extensions = mypycify(paths, opt_level="2", debug_level="0", target_dir=str(BUILD / "c"), multi_file=True)
    for extension in extensions:
        # mypyc asks for -Werror, and gcc 12 has warnings for its C. Hidden functions call one another directly.
        extension.extra_compile_args = [*extension.extra_compile_args, "-Wno-error", "-fvisibility=hidden"]
    return extensions


class BuildWhatChanged(build_ext):
    """Compiles the C files of one library side by side, as setuptools does libraries, and only where it must."""

    def build_extensions(self) -> None:
        compile_always = self.compiler.compile

        def compile_changed(sources: list[str], **options: Any) -> list[str]:
            headers = [str(file) for folder in options["include_dirs"] for file in Path(folder).rglob("*.h")]

            def compile_one(source: str) -> str:
                (name,) = self.compiler.object_filenames([source], output_dir=options["output_dir"])
                # mypyc leaves a file alone that it would write as it is.
                if newer_group([source, "setup.py", *headers], name):
                    compile_always([source], **options)
                return str(name)

            with ThreadPoolExecutor(CORES) as pool:
                return [*pool.map(compile_one, sources)]

        self.compiler.compile = compile_changed
        super().build_extensions()


wanted = os.environ.get("ZUEBEE_COMPILE") == "1"
BUILD.mkdir(parents=True, exist_ok=True)
setup(
    # Not for metadata, which pip asks for first, and not for an editable install: that would put them into src/.
    ext_modules=compiled() if wanted and "bdist_wheel" in sys.argv else [],
    cmdclass={"build_ext": BuildWhatChanged},
    options={
        "egg_info": {"egg_base": str(BUILD)},
        "build": {"build_base": str(BUILD)},
        "build_ext": {"parallel": CORES},
    },
)
