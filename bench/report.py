"""Figures as text: tables, bars held or missed, JSON."""

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.measure import Summary

_NOISE_SHARE = 0.1


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows under a head, first column to the left, figures to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for name, *figures in [head, ["-" * width for width in widths], *rows]:
        cells = [cell.rjust(width) for cell, width in zip(figures, widths[1:], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells]))
    return "\n".join(lines) + "\n"


def bar(what: str, figure: float | None, limit: float, unit: str = "") -> str:
    """Say whether a figure holds its bar."""
    if figure is None:
        return f"not measured  {what}"
    verdict = "held" if figure <= limit else "MISSED"
    return f"{verdict:<12}  {what}: {figure:.3g}{unit}, at most {limit:.3g}{unit}"


def noise(others_share: float) -> str:
    """Warn if others were at work on the proxy's core."""
    if others_share < _NOISE_SHARE:
        return ""
    return f"Other programs took up to {others_share:.0%} of the proxy's core: trust the figures only roughly.\n"


def cost_table(results: Mapping[str, Mapping[str, Summary]]) -> str:
    """CPU time per unit, the spread of the rounds, the ratio to nginx, and how many writes an event took."""
    head = ["CPU µs per", "request", "", "x nginx", "paced chunk", "", "x nginx", "writes"]
    head += ["burst chunk", "", "x nginx", "writes", "failed"]
    rows = []
    for name, kinds in results.items():
        request, burst, paced = kinds["request"], kinds["burst_chunk"], kinds["paced_chunk"]
        figures = [*_cost(request), *_cost(paced), _writes(paced), *_cost(burst), _writes(burst)]
        rows.append([name, *figures, str(sum(summary.failed for summary in kinds.values()))])
    summaries = [summary for kinds in results.values() for summary in kinds.values()]
    others = max((summary.others_share for summary in summaries), default=0.0)
    return table(head, rows) + noise(others)


def cost_bars(results: Mapping[str, Mapping[str, Summary]]) -> str:
    """Say which bars ZueBee's cost holds."""
    if "zuebee" not in results:
        return ""
    zuebee, other = results["zuebee"], results.get("litellm")
    lines = [
        bar("CPU per request, x nginx", zuebee["request"].ratio, 6.5),
        bar("CPU per paced chunk, x nginx", zuebee["paced_chunk"].ratio, 1.4),
        bar("CPU per burst chunk, x nginx", zuebee["burst_chunk"].ratio, 1.4),
    ]
    for kind in zuebee:
        ratio = zuebee[kind].cpu_us / other[kind].cpu_us if other else None
        lines.append(bar(f"CPU per {kind.replace('_', ' ')}, x LiteLLM", ratio, 1 / 60))
    return "\n".join(lines)


def write_json(path: Path, record: Mapping[str, object]) -> None:
    """Write a record of the measurement and of the machine it was made on."""
    machine = {"kernel": platform.release(), "processor": _processor(), "python": platform.python_version()}
    path.write_text(json.dumps({"machine": machine, **record}, indent=2, ensure_ascii=False) + "\n")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown")


def _cost(summary: Summary) -> list[str]:
    ratio = "" if summary.ratio is None else f"{summary.ratio:.2f}"
    spread = f"({_short(summary.cpu_us_lowest)}-{_short(summary.cpu_us_highest)})"
    return [_short(summary.cpu_us), spread, ratio]


def _writes(summary: Summary) -> str:
    return f"{summary.writes:.2f}" if summary.writes > 0.1 else "?"


def _short(cost_us: float) -> str:
    return f"{cost_us:.1f}" if cost_us < 100 else f"{cost_us:.0f}"
