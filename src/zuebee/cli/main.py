"""The command line: `zuebee run`, `check-config`, `sim`, and the commands of the files beside this one."""

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from zuebee import __version__, config
from zuebee.cli import accounts, keys, ledger, plans, usage
from zuebee.config.file import ConfigError, Loaded, load
from zuebee.telemetry import logs

app = typer.Typer(
    name="zuebee",
    help="The gate between applications and large language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(ledger.app, name="ledger")

for _commands in (keys.app, accounts.app, plans.app):
    app.add_typer(_commands)

ConfigOption = Annotated[str, typer.Option("--config", "-c", help="The configuration file.")]

DEMO_PORT = 8000
MISSING = "There is no {path}. Write one (see config.yaml.example), or try: zuebee run --demo"

_log = logging.getLogger("zuebee")


@app.callback(invoke_without_command=True)
def _zuebee(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"zuebee {__version__}")
        raise typer.Exit
    context.obj = _open_store


@contextmanager
def _open_store(path: str, store: str) -> Iterator[Any]:
    """The store of a configuration, or the one that is named, for a command."""
    from zuebee.app.administration import CannotOpen, administration, store_named

    settings = None if store and not Path(path).exists() else _load_or_exit(path).settings
    place = settings.store if settings is not None else config.StoreSettings()
    currency = (settings.billing if settings is not None else config.BillingSettings()).currency
    try:
        with administration(store_named(place, store) if store else place, currency) as opened:
            yield opened
    except CannotOpen as error:
        typer.echo(f"zuebee cannot use the store: {error}", err=True)
        raise typer.Exit(1) from None


def _load_or_exit(path: str) -> Loaded:
    if not Path(path).exists():
        typer.echo(MISSING.format(path=path), err=True)
        raise typer.Exit(2)
    try:
        return load(path, config.environment())
    except ConfigError as error:
        for problem in error.problems:
            typer.echo(problem, err=True)
        raise typer.Exit(2) from None


@contextmanager
def _open_usage(path: str) -> Iterator[Any]:
    """The store of a configuration, for `zuebee usage`."""
    from zuebee.app.usage_desk import CannotRead, usage_desk

    settings = _load_or_exit(path).settings
    try:
        with usage_desk(settings) as desk:
            yield desk
    except CannotRead as error:
        typer.echo(f"zuebee cannot read the usage records: {error}", err=True)
        raise typer.Exit(1) from None


app.add_typer(usage.commands(_open_usage))


@app.command()
def run(
    path: ConfigOption = "config.yaml",
    demo: Annotated[bool, typer.Option("--demo", help="Run with a simulated model server and a fresh key.")] = False,
    port: Annotated[int, typer.Option("--port", help="Port of the demonstration.", min=0, max=65535)] = DEMO_PORT,
) -> None:
    """Serve until SIGTERM or SIGINT. SIGHUP reads the configuration again."""
    from zuebee.app.lifecycle import CannotStart, serve

    try:
        if demo:
            _run_demo(port)
            return
        loaded = _load_or_exit(path)
        try:
            logs.set_up(loaded.settings.log)
        except OSError as error:
            raise CannotStart(str(error)) from None
        for warning in loaded.warnings:
            _log.warning("%s", warning)
        serve(loaded, lambda: load(path, config.environment()), lambda url: _log.info("ready at %s", url))
    except CannotStart as error:
        typer.echo(f"zuebee cannot start: {error}", err=True)
        raise typer.Exit(1) from None


def _run_demo(port: int) -> None:
    from zuebee.app.demo import serve_demo

    logs.set_up(config.LogSettings())
    serve_demo(port, dict(config.environment()), _show_demo)


def _show_demo(url: str, key: str) -> None:
    body = '{"model": "sim-small", "stream": true, "messages": [{"role": "user", "content": "Hello!"}]}'
    typer.echo(
        f"""
ZueBee is ready, with a simulated model server behind it.

  address   {url}/v1
  key       {key}

Try it in another terminal:

curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{body}'

Metrics: {url}/metrics   Usage records: data/demo.db   Stop: Ctrl-C
"""
    )


@app.command("check-config")
def check_config(path: ConfigOption = "config.yaml") -> None:
    """Read the configuration and say what is wrong with it. Exit status 0 if nothing is."""
    loaded = _load_or_exit(path)
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}")
    from zuebee.app.access import check_pipeline

    try:
        check_pipeline(loaded.settings)
    except (ValueError, OSError) as error:
        typer.echo(f"{path}: {error}", err=True)
        raise typer.Exit(2) from None
    backends = ", ".join(backend.url for backend in loaded.settings.backends)
    typer.echo(f"{path} is good: {len(loaded.settings.api_keys)} keys, backends {backends}")


@app.command()
def sim(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.", min=0, max=65535)] = 8001,
    models: Annotated[str, typer.Option(help="Model names, separated by commas.")] = "sim-small,sim-large",
    tokens: Annotated[int, typer.Option(help="Length of an answer.", min=1)] = 64,
    tokens_per_s: Annotated[float, typer.Option(help="Speed of an answer; 0: as fast as it is read.", min=0)] = 50.0,
    first_token_delay_s: Annotated[float, typer.Option(help="Wait before the first token.", min=0)] = 0.0,
) -> None:
    """Run the simulated model server: OpenAI's API, made-up answers, real faults on request (docs/sim.md)."""
    from zuebee.app.loop import run_loop
    from zuebee.sim.server import SimSettings, serve

    settings = SimSettings(
        host=host,
        port=port,
        models=tuple(name.strip() for name in models.split(",") if name.strip()),
        tokens=tokens,
        tokens_per_s=tokens_per_s,
        first_token_delay_s=first_token_delay_s,
    )

    async def serve_until_signal() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(settings, lambda url: typer.echo(f"simulated model server at {url}"), stop)

    try:
        run_loop(serve_until_signal())
    except OSError as error:
        typer.echo(f"zuebee sim cannot start: {error}", err=True)
        raise typer.Exit(1) from None
