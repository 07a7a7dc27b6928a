"""The command line: `zuebee run`, `check-config`, `sim`, and the commands of the files beside this one."""

import asyncio
import logging
import signal
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from zuebee import __version__
from zuebee.cli import accounts, keys, ledger, options, plans, usage
from zuebee.cli.place import FAILED, MISUSED, chosen, give_up
from zuebee.config.load import ConfigError, Loaded, load
from zuebee.config.settings import LogSettings
from zuebee.config.settings_base import environment
from zuebee.config.settings_billing import StoreSettings
from zuebee.telemetry import logs

COMPLETE = "_ZUEBEE_COMPLETE"
"""The variable with which a shell asks for completions, as typer derives it from the name."""


class _Root(TyperGroup):
    """`--json` is `--format json`, and `--organisation` another spelling, for all commands at once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The arguments, with the short form written out, as far as they are options."""
        end = args.index("--") if "--" in args else len(args)
        front = ["--format=json" if each == "--json" else options.option(each) for each in args[:end]]
        return super().parse_args(ctx, [*front, *args[end:]])

    def invoke(self, ctx: Any) -> Any:
        """Run a command; of a choice that was not met, the nearest one is named."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = options.mended(error.message)
            raise

    def main(self, *args: Any, **named: Any) -> Any:
        """Run a command, or answer a shell that completes one."""
        if COMPLETE in environment():
            from typer._completion_classes import completion_init

            completion_init()
        return super().main(*args, **named)


app = typer.Typer(
    name="zuebee",
    cls=_Root,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="A gateway between applications and large language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(ledger.app, name="ledger")

for _commands in (keys.app, accounts.app, plans.app, usage.app):
    app.add_typer(_commands)

ConfigOption = Annotated[str, typer.Option("--config", "-c", help="The configuration file.")]

DEMO_PORT = 8000
CHECK_WITHIN_S = 10.0
MISSING = "There is no {path}. Write one (see config.yaml.example), or try: zuebee run --demo"

_log = logging.getLogger("zuebee")


@app.callback(invoke_without_command=True)
def _zuebee(
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and exit.")] = False,
) -> None:
    if version:
        typer.echo(f"zuebee {__version__}")
        raise typer.Exit


def _load_or_exit(path: str) -> Loaded:
    if not Path(path).exists():
        give_up(MISSING.format(path=path), MISUSED)
    try:
        return load(path, environment())
    except ConfigError as error:
        give_up("\n".join(error.problems), MISUSED)


@app.command()
def run(
    path: ConfigOption = "config.yaml",
    demo: Annotated[bool, typer.Option("--demo", help="Run with a simulated model server and a fresh key.")] = False,
    port: Annotated[int, typer.Option("--port", help="Port of the demo.", min=0, max=65535)] = DEMO_PORT,
) -> None:
    """Serve until SIGTERM or SIGINT. SIGHUP, or `zuebee reload`, reads the configuration again."""
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
        for warning in [*loaded.warnings, *_left_behind(loaded)]:
            _log.warning("%s", warning)
        serve(loaded, lambda: load(path, environment()), lambda url: _ready(url, loaded.settings.store), path)
    except CannotStart as error:
        give_up(f"zuebee cannot start: {error}", FAILED)


def _ready(url: str, store: StoreSettings) -> None:
    from zuebee.app.connect import store_place

    _log.info("store: %s", store_place(store))
    _log.info("ready at %s", url)


def _left_behind(loaded: Loaded) -> list[str]:
    """Warnings about a store where it was before. Raises CannotStart."""
    from zuebee.app.connect import left_behind
    from zuebee.app.lifecycle import CannotStart

    try:
        return left_behind(loaded.as_written, loaded.settings.store)
    except OSError as error:
        raise CannotStart(str(error)) from None


def _run_demo(port: int) -> None:
    from zuebee.app.demo import serve_demo

    logs.set_up(LogSettings())
    serve_demo(port, dict(environment()), _show_demo)


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
    """Check the configuration and print what is wrong. Exit status 0 if nothing is wrong."""
    loaded = _load_or_exit(path)
    for warning in loaded.warnings:
        typer.echo(f"warning: {warning}")
    from zuebee.app.auth import check_pipeline
    from zuebee.app.connect import store_place

    try:
        check_pipeline(loaded.settings)
        store = store_place(loaded.settings.store)
    except (ValueError, OSError) as error:
        give_up(f"{path}: {error}", MISUSED)
    backends = ", ".join(backend.url for backend in loaded.settings.backends)
    typer.echo(f"{path} is valid: {len(loaded.settings.api_keys)} keys, backends {backends}")
    typer.echo(f"store: {store}")
    _compare(path, loaded.settings.store)


def _compare(path: str, store: StoreSettings) -> None:
    """Say what the server that runs on this store would do with the file."""
    from zuebee.app.control import NoAnswer, NobodyThere, Order, ask_server, control_path

    try:
        report = ask_server(control_path(store), Order("check", str(Path(path).resolve())), CHECK_WITHIN_S)
    except NobodyThere:
        return
    except NoAnswer as error:
        typer.echo(f"warning: the server that runs on this store: {error}")
        return
    if report.restart:
        typer.echo(f"the running server (pid {report.pid}) needs a restart for {', '.join(report.restart)}")
    elif report.refused:
        typer.echo(f"warning: the running server (pid {report.pid}) would refuse it: {report.refused}")
    else:
        typer.echo(f"the running server (pid {report.pid}) would accept it: zuebee reload --config {path}")


@app.command()
def reload(
    path: ConfigOption = "config.yaml",
    timeout_s: Annotated[
        float, typer.Option("--timeout", help="How long to wait for the server, in seconds.", min=0.1, max=3600)
    ] = 60.0,
) -> None:
    """Reload the configuration of the running server. Exit status 0 if it took effect, else 1 with the reason."""
    from zuebee.app.control import NoAnswer, NobodyThere, Order, ask_server, control_path

    here = chosen(path, None, spool=True)
    door = control_path(here.store)
    try:
        report = ask_server(door, Order("reload", str(Path(path).resolve())), timeout_s)
    except NobodyThere:
        give_up(f"No server runs with {path}: no server listens at {door}.", FAILED)
    except NoAnswer as error:
        give_up(f"zuebee reload: {error}", FAILED)
    if report.refused:
        give_up(f"not reloaded, the old configuration stays in force (pid {report.pid}): {report.refused}", FAILED)
    for warning in report.warnings:
        typer.echo(f"warning: {warning}")
    typer.echo(f"{path} is in force (pid {report.pid})")


@app.command()
def completion(
    shell: Annotated[Literal["bash", "zsh", "fish"], typer.Argument(help="bash, zsh or fish.")],
) -> None:
    """Print the shell script that completes commands and options (docs/cli.md says where to put it)."""
    from typer._completion_shared import get_completion_script

    typer.echo(get_completion_script(prog_name="zuebee", complete_var=COMPLETE, shell=shell))


@app.command()
def sim(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes any free one.", min=0, max=65535)] = 8001,
    models: Annotated[str, typer.Option(help="Model names, separated by commas.")] = "sim-small,sim-large",
    tokens: Annotated[int, typer.Option(help="Tokens of an answer.", min=1)] = 64,
    tokens_per_s: Annotated[
        float, typer.Option(help="Tokens a second of an answer; 0: as fast as the client reads.", min=0)
    ] = 50.0,
    first_token_delay_s: Annotated[float, typer.Option(help="Wait before the first token.", min=0)] = 0.0,
    max_model_tokens: Annotated[int, typer.Option(help="Most tokens of prompt and answer together.", min=1)] = 131_072,
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
        max_model_tokens=max_model_tokens,
    )

    async def serve_until_signal() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await serve(settings, lambda url: typer.echo(f"simulated model server at {url}"), stop)

    try:
        run_loop(serve_until_signal())
    except OSError as error:
        give_up(f"zuebee sim cannot start: {error}", FAILED)
