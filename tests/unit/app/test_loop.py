"""How a process ends: with its own status, whatever signals come late."""

import subprocess
import sys

import pytest

LATE = """
import asyncio, os, signal, subprocess
from zuebee.app.loop import run_loop

async def main():
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # One signal after the other, for as long as there is a process, the last while the interpreter takes itself down.
    signals = f"exec >/dev/null 2>&1; while kill -{late} {{os.getpid()}}; do sleep 0.001; done"
    subprocess.Popen(["sh", "-c", signals])
    await stop.wait()

{run}
raise SystemExit(7)
"""
OURS = "run_loop(main())"
CLOSED_ONLY = "import uvloop; uvloop.run(main())"


@pytest.mark.parametrize("late", ["TERM", "INT"])
def test_signals_that_come_after_the_end_do_not_change_the_status(late: str) -> None:
    assert _status(OURS, late) == 7


def test_without_that_they_would() -> None:
    # Whether a signal meets the end is a matter of a millisecond.
    assert any(_status(CLOSED_ONLY, "TERM") == -15 for _ in range(30))


def _status(run: str, late: str) -> int:
    script = LATE.format(run=run, late=late)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=20).returncode
