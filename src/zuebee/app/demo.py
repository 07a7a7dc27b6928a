"""`zuebee run --demo`: the platform with a simulated model server behind it, in one process."""

import secrets
from collections.abc import Callable

from zuebee.app.lifecycle import CannotStart, Process
from zuebee.app.loop import run_loop
from zuebee.config.load import Loaded, loads
from zuebee.sim.server import SimSettings
from zuebee.sim.server import start as start_sim

DEMO_CONFIG = """
listen: "127.0.0.1:{port}"
backends:
  - url: "{backend}"
    name: simulated
auth:
  enabled: true
api_keys:
  - key: "{key}"
    name: demo
usage:
  path: "data/demo.db"
log:
  access: data/demo-access.log
shutdown:
  grace: 0s
"""


def serve_demo(port: int, environ: dict[str, str], on_ready: Callable[[str, str], None]) -> None:
    """Run the demonstration until it is told to stop; `on_ready` gets its address and its key. Raises CannotStart."""
    key = "sk-zuebee-" + secrets.token_urlsafe(24)

    async def main() -> None:
        sim = await start_sim(SimSettings())
        try:
            text = DEMO_CONFIG.format(port=port, backend=sim.url, key=key)

            def load() -> Loaded:
                return loads(text, "demo", environ, lambda _: True)

            try:
                process = Process(load().settings, load)
            except (OSError, ValueError) as error:
                raise CannotStart(str(error)) from None
            await process.run(lambda url: on_ready(url, key))
        finally:
            await sim.close()

    run_loop(main())
