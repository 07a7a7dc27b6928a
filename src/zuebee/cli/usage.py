"""`zuebee usage`: who used what, and what waits to be reported."""

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TextIO

import msgspec
import typer

from zuebee.cli import show
from zuebee.cli.options import spelled
from zuebee.cli.place import MISUSED, ConfigOption, StoreOption, give_up, open_usage
from zuebee.cli.show import Form, FormOption
from zuebee.config.validate_policies import since_s
from zuebee.lib import clock
from zuebee.lib.timestamps import rfc3339
from zuebee.lib.units import Duration

GROUPS = ("key", "user", "team", "organization", "plan", "model", "endpoint", "day", "hour")
FIGURES = (
    "requests", "errors", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cost_nano"
)  # fmt: skip
DEFAULT_LAST = "30d"
CHART_DAYS = 60
COUNTED = 1000
"""Rows of an export between two looks at the clock."""

Key = Annotated[str | None, typer.Option("--key", help="Only this key, by id or name.")]
User = Annotated[str | None, typer.Option("--user", help="Only this user.")]
Team = Annotated[str | None, typer.Option("--team", help="Only this team.")]
Organization = Annotated[str | None, typer.Option("--organization", help="Only this organization.")]
Plan = Annotated[str | None, typer.Option("--plan", help="Only this plan.")]
Model = Annotated[str | None, typer.Option("--model", help="Only this model; `*` at the end matches any rest.")]
Since = Annotated[str | None, typer.Option("--since", help="From this date or RFC 3339 time on (UTC).")]
Until = Annotated[str | None, typer.Option("--until", help="Before this date or RFC 3339 time (UTC).")]
Last = Annotated[
    str | None, typer.Option("--last", help="Only this much time until now, such as 7d or 12h.  [default: 30d]")
]
ReporterName = Annotated[str, typer.Argument(help="The reporter's name.")]

app = typer.Typer(name="usage", help="Who used what, and what waits to be reported.")


@app.callback(invoke_without_command=True)
def usage(
    context: typer.Context,
    by: Annotated[
        list[str] | None, typer.Option("--by", help=f"Group by {', '.join(GROUPS)}; repeatable.  [default: key]")
    ] = None,
    key: Key = None,
    user: User = None,
    team: Team = None,
    organization: Organization = None,
    plan: Plan = None,
    model: Model = None,
    since: Since = None,
    until: Until = None,
    last: Last = None,
    form: FormOption = "table",
    csv_file: Annotated[str | None, typer.Option("--csv", help="Write CSV to this file; `-`: print it.")] = None,
    config: ConfigOption = "config.yaml",
    store: StoreOption = None,
) -> None:
    """Show totals of requests, tokens and cost."""
    if context.invoked_subcommand is not None:
        _nothing_before(context)
        return
    groups = _groups(by)
    chosen = _chosen(since, until, last, key=key, user=user, team=team, organization=organization, plan=plan,
                     model=model)  # fmt: skip
    with open_usage(config, store, form) as desk:
        found = desk.totals(groups, **chosen)
        if csv_file is not None:
            with _output(csv_file) as file:
                header = [*groups, *FIGURES, "currency"]
                _write_csv(file, header, ([*each.group, *_figures(each), desk.currency] for each in found))
            return
        whole = desk.totals([], **chosen)[0]
        if form == "json":
            _print_json(desk.currency, chosen, groups, found, whole)
        else:
            _print_tables(desk, chosen, groups, found, whole, form)


def _nothing_before(context: typer.Context) -> None:
    """Refuse options that stand before a subcommand: they would be without effect, `--store` among them."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            give_up(f"{parameter.opts[0]} stands behind `{context.invoked_subcommand}`, not before it", MISUSED)


@app.command()
def export(
    form: Annotated[
        Literal["csv", "jsonl", "json"],
        typer.Option("--format", "-o", help="CSV, one JSON object in each line (jsonl), or one JSON document."),
    ] = "csv",
    output: Annotated[str, typer.Option("--output", help="File to write; `-`: standard output.")] = "-",
    key: Key = None,
    user: User = None,
    team: Team = None,
    organization: Organization = None,
    plan: Plan = None,
    model: Model = None,
    since: Since = None,
    until: Until = None,
    last: Last = None,
    config: ConfigOption = "config.yaml",
    store: StoreOption = None,
) -> None:
    """Export single usage records; all of them unless a time is given."""
    timed = since or until or last
    chosen = _chosen(since, until, last if timed else "", key=key, user=user, team=team, organization=organization,
                     plan=plan, model=model)  # fmt: skip
    with open_usage(config, store, "table" if form == "csv" else "json") as desk, _output(output) as file:
        _export(file, form, desk.columns, _counted(desk.rows(**chosen)))


@app.command()
def outbox(form: FormOption = "table", config: ConfigOption = "config.yaml", store: StoreOption = None) -> None:
    """Show the reporters and the events that wait for each of them."""
    with open_usage(config, store, form) as desk:
        found = desk.outbox()
    if form == "json":
        show.as_json({"items": found})
        return
    rows = [
        (
            each["reporter"],
            each["type"] or "not configured",
            "on" if each["enabled"] else "off",
            f"{each['waiting']:,}",
            "-" if each["oldest_s"] is None else str(timedelta(seconds=int(each["oldest_s"]))),
            f"{each['parked']:,}",
        )
        for each in found
    ]
    columns = ("reporter", "type", "switch", "waiting", "oldest", "parked")
    show.as_table("Outbox", columns, rows, form=form, numbers=columns[3:], less=("type", "switch"))


@app.command()
def retry(
    reporter: ReporterName,
    form: FormOption = "table",
    config: ConfigOption = "config.yaml",
    store: StoreOption = None,
) -> None:
    """Deliver all events of a reporter now, also parked ones. This also resumes a reporter paused by a 410."""
    with open_usage(config, store, form) as desk:
        parked = desk.retry(reporter)
    if form == "json":
        show.as_json({"reporter": reporter, "parked": parked})
    else:
        typer.echo(f"all events of {reporter} are due; {parked} were parked")


@app.command()
def discard(
    reporter: ReporterName,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    form: FormOption = "table",
    config: ConfigOption = "config.yaml",
    store: StoreOption = None,
) -> None:
    """Remove all events that wait for a reporter, such as one you removed. The usage records stay."""
    with open_usage(config, store, form) as desk:
        if not yes:
            typer.confirm(f"Remove all events that wait for {reporter}?", abort=True, err=True)
        removed = desk.discard(reporter)
    if form == "json":
        show.as_json({"reporter": reporter, "removed": removed})
    else:
        typer.echo(f"{removed} events removed")


def _groups(by: list[str] | None) -> list[str]:
    try:
        return list(dict.fromkeys(spelled(part.strip(), GROUPS) for text in by or ["key"] for part in text.split(",")))
    except typer.BadParameter as error:
        error.param_hint = "--by"
        raise


def _chosen(since: str | None, until: str | None, last: str | None, **equal: str | None) -> dict[str, Any]:
    """The filter; without a time, the last 30 days."""
    chosen: dict[str, Any] = {name: value for name, value in equal.items() if value is not None}
    for name, text in (("since", since), ("until", until)):
        if text is not None:
            try:
                chosen[f"{name}_s"] = since_s(text)
            except ValueError as error:
                raise typer.BadParameter(str(error), param_hint=f"--{name}") from None
    if last and since is not None:
        raise typer.BadParameter("cannot be combined with --since", param_hint="--last")
    if last or (last is None and since is None and until is None):
        try:
            chosen["since_s"] = clock.wall_s() - Duration.parse(last or DEFAULT_LAST)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--last") from None
    return chosen


@contextmanager
def _output(path: str) -> Iterator[TextIO]:
    if path == "-":
        yield sys.stdout
        return
    try:
        with open(path, "w", encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        give_up(f"{path}: {error.strerror}")


def _counted(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same, while a terminal is told how many there were."""
    progress = show.Progress("exporting")
    try:
        for number, row in enumerate(rows, 1):
            if number % COUNTED == 0:
                progress(f"{number:,} records")
            yield row
    finally:
        progress.end()


def _export(file: TextIO, form: str, columns: Sequence[str], rows: Iterator[dict[str, Any]]) -> None:
    if form == "csv":
        _write_csv(file, columns, (list(row.values()) for row in rows))
        return
    before, between, after = ("", "", "") if form == "jsonl" else ('{"items": [\n', ",", "]}\n")
    file.write(before)
    for number, row in enumerate(rows):
        file.write((between if number else "") + msgspec.json.encode(row).decode() + "\n")
    file.write(after)


def _write_csv(file: TextIO, header: Sequence[str], rows: Iterator[list[Any]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    """As it is; a text that a spreadsheet would take for a formula gets a `'` before it, for callers choose names."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _figures(totals: Any) -> list[int]:
    return [getattr(totals, name) for name in FIGURES]


def _print_json(currency: str, chosen: dict[str, Any], groups: list[str], found: list[Any], whole: Any) -> None:
    show.as_json(
        {
            "currency": currency,
            "since": rfc3339(chosen["since_s"]) if "since_s" in chosen else None,
            "until": rfc3339(chosen["until_s"]) if "until_s" in chosen else None,
            "by": groups,
            "total": dict(zip(FIGURES, _figures(whole), strict=True)),
            "items": [
                {**dict(zip(groups, each.group, strict=True)), **dict(zip(FIGURES, _figures(each), strict=True))}
                for each in found
            ],
        }
    )


def _print_tables(
    desk: Any, chosen: dict[str, Any], groups: list[str], found: list[Any], whole: Any, form: Form
) -> None:
    numbers = ("requests", "errors", "tokens in", "tokens out", "cost")
    rows = [
        (*(text or "-" for text in each.group), f"{each.requests:,}", f"{each.errors:,}", f"{each.prompt_tokens:,}",
         f"{each.completion_tokens:,}", f"{desk.money(each.cost_nano)} {desk.currency}")
        for each in found
    ]  # fmt: skip
    if len(found) > 1:
        blank = [""] * (len(groups) - 1)
        rows.append(
            ("total", *blank, f"{whole.requests:,}", f"{whole.errors:,}", f"{whole.prompt_tokens:,}",
             f"{whole.completion_tokens:,}", f"{desk.money(whole.cost_nano)} {desk.currency}")
        )  # fmt: skip
    show.as_table(
        f"Usage {_span(chosen)}", [*groups, *numbers], rows, form=form, numbers=numbers, less=("errors", "tokens in")
    )
    days = desk.totals(["day"], **chosen) if sys.stdout.isatty() else []
    if len(days) > 1:
        show.chart("Tokens by day", _with_gaps([(each.group[0], each.total_tokens) for each in days[-CHART_DAYS:]]))


def _with_gaps(bars: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """With the days on which there was nothing."""
    known = dict(bars)
    day, last = (datetime.fromisoformat(bars[0][0]), datetime.fromisoformat(bars[-1][0]))
    whole = []
    while day <= last:
        name = day.strftime("%Y-%m-%d")
        whole.append((name, known.get(name, 0)))
        day += timedelta(days=1)
    return whole[-CHART_DAYS:]


def _span(chosen: dict[str, Any]) -> str:
    parts = [
        f"{word} {datetime.fromtimestamp(chosen[name], UTC):%Y-%m-%d %H:%M}"
        for word, name in (("since", "since_s"), ("until", "until_s"))
        if name in chosen
    ]
    return " ".join([*parts, "(UTC)"]) if parts else "of all time"
