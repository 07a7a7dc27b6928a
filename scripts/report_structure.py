"""What the package is made of: files, lines, who reads whom, circles, and the files that a chat completion enters.

Run with `python scripts/report_structure.py` from the top of the repository; `--trace` also sends a request through a
demonstration server and tells which files ran for it. `make structure` writes the same into docs/structure.md.
"""

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "zuebee"
SMALL_LINES = 80
LARGE_LINES = 500
TRACED = 3
"""Requests that are traced: what runs for each of them is the way of a request, not the work of a timer."""

Graph = Mapping[str, set[str]]


@dataclass(frozen=True)
class Module:
    """`path` inside the package (`edge/http.py`), its lines, and the modules that it imports, now or later."""

    path: str
    lines: int
    reads: frozenset[str]


def modules() -> dict[str, Module]:
    """Every module of the package but what is generated, by path."""
    files = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
    files = {inside: path for inside, path in files.items() if not inside.endswith(("_pb2.py", "_pb2_grpc.py"))}
    found = {}
    for inside, path in files.items():
        text = path.read_text(encoding="utf-8")
        reads = {name for name in _imported(ast.parse(text)) if name in files and name != inside}
        found[inside] = Module(inside, text.count("\n"), frozenset(reads))
    return found


def _imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inside = list(_files(f"{node.module}.{alias.name}"))
                yield from inside if any((PACKAGE / name).is_file() for name in inside) else _files(node.module)


def _files(name: str) -> tuple[str, ...]:
    """The files that a dotted name may stand for."""
    if name.partition(".")[0] != "zuebee":
        return ()
    inside = name.removeprefix("zuebee").removeprefix(".").replace(".", "/")
    return (f"{inside}.py", f"{inside}/__init__.py") if inside else ("__init__.py",)


def readers(all_modules: Mapping[str, Module]) -> dict[str, set[str]]:
    """For each module those that import it."""
    found: dict[str, set[str]] = {path: set() for path in all_modules}
    for module in all_modules.values():
        for read in module.reads:
            found[read].add(module.path)
    return found


def room(path: str) -> str:
    """The folder of a module."""
    return path.rpartition("/")[0]


def only_for_a_sibling(all_modules: Mapping[str, Module]) -> dict[str, str]:
    """Modules that one other reads and nobody else, which stands beside it: that one, by module."""
    found = {}
    for path, who in readers(all_modules).items():
        if len(who) == 1 and not path.endswith("__init__.py"):
            (reader,) = who
            if room(reader) == room(path):
                found[path] = reader
    return found


def circles(graph: Graph) -> list[set[str]]:
    """The groups of modules that import one another in a circle (Tarjan's strongly connected components)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        number[node] = low[node] = len(number)
        stack.append(node)
        for other in graph[node]:
            if other not in number:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], number[other])
        if low[node] == number[node]:
            group = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(group) > 1:
                found.append(group)

    for node in graph:
        if node not in number:
            visit(node)
    return found


def report(all_modules: Mapping[str, Module], traced: int | None = None) -> list[str]:
    """The figures, a line each."""
    graph = {path: set(module.reads) for path, module in all_modules.items()}
    large = sorted(path for path, module in all_modules.items() if module.lines > LARGE_LINES)
    lines = [
        f"{len(all_modules)} files, {sum(module.lines for module in all_modules.values()):,} lines",
        f"{len(only_for_a_sibling(all_modules))} modules with one reader, which stands beside them",
        f"{len(circles(graph))} circles of imports",
        f"{len(large)} files of more than {LARGE_LINES} lines" + (f": {', '.join(large)}" if large else ""),
    ]
    if traced is not None:
        lines.append(f"{traced} files run for a chat completion")
    return lines


# --- which files run for a request ---

_WATCHED = """
import json, runpy, sys, threading
watched = [None]
def profile(frame, event, argument):
    if watched[0] is not None:
        watched[0].add(frame.f_code.co_filename)
def obey():
    for line in sys.stdin:
        if line.strip() == "on":
            watched[0] = set()
        else:
            files, watched[0] = watched[0], None
            print(json.dumps(sorted(files)), file=sys.stderr, flush=True)
threading.Thread(target=obey, daemon=True).start()
threading.setprofile(profile)
sys.setprofile(profile)
sys.argv = ["zuebee", "run", "--demo", "--port", "0"]
runpy.run_module("zuebee", run_name="__main__", alter_sys=True)
"""


def traced_files(folder: Path) -> set[str]:
    """The files of the package that run for a chat completion in a demonstration server, which works in `folder`."""
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    process = subprocess.Popen(
        [sys.executable, "-c", _WATCHED], cwd=folder, env=environment, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        told = ""
        while "curl " not in told:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the server did not start: {process.stderr.read()}")
            told += line
        address, key = re.findall(r"address +(http://\S+)", told)[0], re.findall(r"key +(sk-\S+)", told)[0]
        _ask(address, key)
        rounds = []
        for _ in range(TRACED):
            process.stdin.write("on\n")
            process.stdin.flush()
            _ask(address, key)
            process.stdin.write("off\n")
            process.stdin.flush()
            rounds.append({name for name in json.loads(_json_line(process.stderr)) if name.startswith(str(PACKAGE))})
    finally:
        process.terminate()
        process.communicate(timeout=30)
    files = {Path(name).relative_to(PACKAGE).as_posix() for name in set.intersection(*rounds)}
    return {name for name in files if not name.startswith("sim/")}


def _json_line(stream: Iterator[str]) -> str:
    return next(line for line in stream if line.startswith("["))


def _ask(address: str, key: str) -> None:
    body = {"model": "sim-small", "messages": [{"role": "user", "content": "Hello"}]}
    request = urllib.request.Request(
        f"{address}/chat/completions", json.dumps(body).encode(),
        {"authorization": f"Bearer {key}", "content-type": "application/json"},
    )  # fmt: skip
    with urllib.request.urlopen(request, timeout=30) as answer:
        answer.read()


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--trace", action="store_true", help="also trace a chat completion")
    parser.add_argument("--list", action="store_true", help="name the modules with one reader, and the traced files")
    options = parser.parse_args()
    found, traced = modules(), None
    if options.trace:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            traced = traced_files(Path(folder))
    print("\n".join(report(found, None if traced is None else len(traced))))
    if options.list:
        for path, reader in sorted(only_for_a_sibling(found).items()):
            print(f"  {path} ({found[path].lines} lines) is read by {reader}")
        for path in sorted(traced or ()):
            print(f"  runs: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
