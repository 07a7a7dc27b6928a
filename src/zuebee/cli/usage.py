"""`zuebee usage`: who used what, and what waits to be reported."""

import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TextIO

import msgspec
import typer

from zuebee.config.check_billing import since_s
from zuebee.kit import clock
from zuebee.kit.timestamps import rfc3339
from zuebee.kit.units import Duration

Open = Callable[[str], AbstractContextManager[Any]]
"""The configuration file -> the store as `UsageDesk`. It is opened late: its libraries take a moment to load."""

GROUPS = ("key", "user", "team", "organisation", "plan", "model", "endpoint", "day", "hour")
FIGURES = (
    "requests", "errors", "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens", "cost_nano"
)  # fmt: skip
DEFAULT_LAST = "30d"
CHART_DAYS = 60

Config = Annotated[str, typer.Option("--config", "-c", help="The configuration file.")]
Key = Annotated[str | None, typer.Option("--key", help="Only this key, by id or name.")]
User = Annotated[str | None, typer.Option("--user", help="Only this user.")]
Team = Annotated[str | None, typer.Option("--team", help="Only this team.")]
Organisation = Annotated[str | None, typer.Option("--organisation", help="Only this organisation.")]
Plan = Annotated[str | None, typer.Option("--plan", help="Only this plan.")]
Model = Annotated[str | None, typer.Option("--model", help="Only this model; `*` at the end matches any rest.")]
Since = Annotated[str | None, typer.Option("--since", help="From this date or RFC 3339 time on (UTC).")]
Until = Annotated[str | None, typer.Option("--until", help="Before this date or RFC 3339 time (UTC).")]
Last = Annotated[str | None, typer.Option("--last", help="The last so much, such as 7d or 12h.  [default: 30d]")]
ReporterName = Annotated[str, typer.Argument(help="The reporter's name.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def commands(open_store: Open) -> typer.Typer:
    """The commands, on the store that `open_store` opens."""
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
        organisation: Organisation = None,
        plan: Plan = None,
        model: Model = None,
        since: Since = None,
        until: Until = None,
        last: Last = None,
        json: Json = False,
        csv_file: Annotated[str | None, typer.Option("--csv", help="Write CSV to this file; `-`: print it.")] = None,
        config: Config = "config.yaml",
    ) -> None:
        """Totals of requests, tokens and cost."""
        if context.invoked_subcommand is not None:
            return
        groups = _groups(by)
        chosen = _chosen(since, until, last, key=key, user=user, team=team, organisation=organisation, plan=plan,
                         model=model)  # fmt: skip
        with open_store(config) as desk:
            found = desk.totals(groups, **chosen)
            if csv_file is not None:
                with _output(csv_file) as file:
                    _write_csv(file, [*groups, *FIGURES], ([*each.group, *_figures(each)] for each in found))
                return
            whole = desk.totals([], **chosen)[0]
            days = [] if json else desk.totals(["day"], **chosen)
            if json:
                _print_json(desk.currency, chosen, groups, found, whole)
            else:
                _print_tables(desk, chosen, groups, found, whole, days)

    _add_export(app, open_store)
    _add_outbox(app, open_store)
    return app


def _add_export(app: typer.Typer, open_store: Open) -> None:
    @app.command()
    def export(
        form: Annotated[Literal["csv", "jsonl"], typer.Option("--format", help="CSV, or one JSON object a line.")] = (
            "csv"
        ),
        output: Annotated[str, typer.Option("--output", "-o", help="File; `-`: print.")] = "-",
        key: Key = None,
        user: User = None,
        team: Team = None,
        organisation: Organisation = None,
        plan: Plan = None,
        model: Model = None,
        since: Since = None,
        until: Until = None,
        last: Last = None,
        config: Config = "config.yaml",
    ) -> None:
        """The records themselves, one by one; all of them unless a time is given."""
        timed = since or until or last
        chosen = _chosen(since, until, last if timed else "", key=key, user=user, team=team, organisation=organisation,
                         plan=plan, model=model)  # fmt: skip
        with open_store(config) as desk, _output(output) as file:
            _export(file, form, desk.columns, desk.rows(**chosen))


def _add_outbox(app: typer.Typer, open_store: Open) -> None:
    @app.command()
    def outbox(json: Json = False, config: Config = "config.yaml") -> None:
        """Reporters, and the events that wait for each of them."""
        with open_store(config) as desk:
            found = desk.outbox()
        if json:
            _say_json(found)
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
        from zuebee.cli import usage_show  # brings rich along, which is slow to import

        columns = ("reporter", "type", "switch", "waiting", "oldest", "parked")
        usage_show.table("Outbox", columns, rows, ("waiting", "oldest", "parked"))

    @app.command()
    def retry(reporter: ReporterName, config: Config = "config.yaml") -> None:
        """Make all events of a reporter due now, parked ones too. It also ends the pause after a 410."""
        with open_store(config) as desk:
            parked = desk.retry(reporter)
        typer.echo(f"all events of {reporter} are due; {parked} were parked")

    @app.command()
    def discard(
        reporter: ReporterName,
        yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
        config: Config = "config.yaml",
    ) -> None:
        """Remove all events that wait for a reporter, for example of one that is no more. The records stay."""
        if not yes:
            typer.confirm(f"Remove all events that wait for {reporter}?", abort=True)
        with open_store(config) as desk:
            typer.echo(f"{desk.discard(reporter)} events removed")


def _groups(by: list[str] | None) -> list[str]:
    groups = list(dict.fromkeys(part.strip() for text in by or ["key"] for part in text.split(",")))
    for name in groups:
        if name not in GROUPS:
            raise typer.BadParameter(f"`{name}` is none of {', '.join(GROUPS)}", param_hint="--by")
    return groups


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
        typer.echo(f"{path}: {error.strerror}", err=True)
        raise typer.Exit(1) from None


def _export(file: TextIO, form: str, columns: Sequence[str], rows: Iterator[dict[str, Any]]) -> None:
    if form == "jsonl":
        for row in rows:
            file.write(msgspec.json.encode(row).decode() + "\n")
    else:
        _write_csv(file, columns, (list(row.values()) for row in rows))


def _write_csv(file: TextIO, header: Sequence[str], rows: Iterator[list[Any]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: Any) -> Any:
    """As it is; a text that a spreadsheet would take for a formula gets a `'` before it, for callers choose names."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _figures(totals: Any) -> list[int]:
    return [getattr(totals, name) for name in FIGURES]


def _say_json(value: Any) -> None:
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def _print_json(currency: str, chosen: dict[str, Any], groups: list[str], found: list[Any], whole: Any) -> None:
    _say_json(
        {
            "currency": currency,
            "since": rfc3339(chosen["since_s"]) if "since_s" in chosen else None,
            "until": rfc3339(chosen["until_s"]) if "until_s" in chosen else None,
            "by": groups,
            "total": dict(zip(FIGURES, _figures(whole), strict=True)),
            "groups": [
                {**dict(zip(groups, each.group, strict=True)), **dict(zip(FIGURES, _figures(each), strict=True))}
                for each in found
            ],
        }
    )


def _print_tables(
    desk: Any, chosen: dict[str, Any], groups: list[str], found: list[Any], whole: Any, days: list[Any]
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
    from zuebee.cli import usage_show

    title = f"Usage {_span(chosen)}"
    usage_show.table(title, [*groups, *numbers], rows, numbers)
    if len(days) > 1:
        bars = [(each.group[0], each.total_tokens) for each in days[-CHART_DAYS:]]
        usage_show.chart("Tokens by day", _with_gaps(bars))


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
