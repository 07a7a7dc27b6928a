"""The proxies to compare and the model server behind them: where they are found, how they are started."""

import hashlib
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from bench import trees
from bench.services import BENCH, Service, Unusable, free_port, render
from zuebee import __version__ as zuebee_version

PLAIN = "zuebee-plain"
KEY = "sk-bench-6f1d0c7a9be84352"
_VENV_BIN = BENCH.parent / ".cache" / "bench" / "venv" / "bin"
_MODULE_DIRECTORIES = ("/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules")
_MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")  # in the order in which nginx must load them


def upstream(directory: Path) -> Service:
    """Build the model server: nginx with Lua."""
    port = free_port()
    config = render("upstream.conf", directory, port=port, modules=_lua_modules())
    return _nginx("upstream", config, port, directory)


def nginx(directory: Path, upstream_port: int) -> Service:
    port = free_port()
    config = render("nginx.conf", directory, port=port, upstream_port=upstream_port)
    return _nginx("nginx", config, port, directory)


def zuebee(directory: Path, upstream_port: int) -> Service:
    return _zuebee("zuebee", trees.chosen(), directory, upstream_port)


def zuebee_plain(directory: Path, upstream_port: int) -> Service:
    return _zuebee(PLAIN, trees.PLAIN, directory, upstream_port)


def zuebee_of(tree: Path, directory: Path, upstream_port: int) -> Service:
    """ZueBee from any folder that has one."""
    return _zuebee("zuebee", tree, directory, upstream_port)


def _zuebee(name: str, tree: Path, directory: Path, upstream_port: int) -> Service:
    """ZueBee from this tree, with files of its own: two may run side by side."""
    own = directory / name
    own.mkdir()
    port = free_port()
    config = render("zuebee.yaml", own, port=port, upstream_port=upstream_port)
    environment = {"PYTHONPATH": str(tree)}
    _prepaid_key(own, config, environment)
    command = [sys.executable, "-m", "zuebee", "run", "--config", str(config)]
    return Service(name, command, port, "/health/readiness", environment)


def _prepaid_key(directory: Path, config: Path, environment: Mapping[str, str]) -> None:
    """A key of the store, with limits, that spends from the prepaid account of its organization."""
    orders = (
        ["accounts", "create", "organization", "bench"],
        ["accounts", "set-budget", "organization", "bench", "--prepaid"],
        ["accounts", "top-up", "organization", "bench", "1000000"],
        ["keys", "create", "--name", "bench", "--organization", "bench", "--limit", "requests_per_minute=100000000",
         "--limit", "max_concurrent=10000"],
    )  # fmt: skip
    # Commands speak to a store that is there: `run` makes it, and this is how.
    make = f"from zuebee.schema.prepare import prepare; prepare({str(directory / 'usage.db')!r})"
    commands = [["-c", make], *(["-m", "zuebee", *order, "--config", str(config)] for order in orders)]
    for command in commands:
        done = subprocess.run(
            [sys.executable, *command],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Unusable(f"{' '.join(command[1:4])}: {done.stderr[-300:]}")
    # All proxies are asked with one key, so this one takes the place of the random one.
    with sqlite3.connect(directory / "usage.db") as store:
        store.execute("UPDATE keys SET digest = ?", (hashlib.sha256(KEY.encode()).hexdigest(),))
    store.close()


def envoy(directory: Path, upstream_port: int) -> Service:
    program = find("envoy")
    port = free_port()
    config = render("envoy.yaml", directory, port=port, upstream_port=upstream_port)
    command = [program, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
    return Service("envoy", command, port, "/health")


def litellm(directory: Path, upstream_port: int) -> Service:
    program = find("litellm")
    port = free_port()
    config = render("litellm.yaml", directory, upstream_port=upstream_port, key=KEY)
    command = [
        program,
        "--config",
        str(config),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--num_workers",
        "1",
    ]
    # Its price list comes from the package instead of from the Internet.
    return Service("litellm", command, port, "/health/liveliness", {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}, 90.0)


PEERS: dict[str, Callable[[Path, int], Service]] = {
    "nginx": nginx,
    "zuebee": zuebee,
    PLAIN: zuebee_plain,
    "envoy": envoy,
    "litellm": litellm,
}
DEFAULT = tuple(name for name in PEERS if name != PLAIN)
"""Who is measured where nobody is named."""


def version(name: str) -> str:
    """Return the version that a program states, or an empty text if it states none; of ZueBee also its kind."""
    if name in ("zuebee", PLAIN):
        return f"{zuebee_version} ({trees.kind(trees.PLAIN if name == PLAIN else trees.chosen())})"
    command = [find(name), "-v" if name == "nginx" else "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    number = re.search(r"\d+\.\d+\.\d+", result.stdout + result.stderr)
    return number[0] if number else ""


def find(name: str) -> str:
    """Return where a program is, on PATH or from install_peers.sh, or raise `Unusable`."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", str(_VENV_BIN)])
    if program := shutil.which(name, path=path):
        return program
    raise Unusable(f"{name} is not installed (see bench/README.md)")


def _nginx(name: str, config: Path, port: int, directory: Path) -> Service:
    command = [find("nginx"), "-p", str(directory), "-e", "stderr", "-c", str(config)]
    return Service(name, command, port, "/health")


def _lua_modules() -> str:
    for directory in map(Path, _MODULE_DIRECTORIES):
        if all((directory / module).exists() for module in _MODULES):
            return "\n".join(f"load_module {directory / module};" for module in _MODULES)
    raise Unusable("nginx's Lua module is not installed (Debian: libnginx-mod-http-lua)")
