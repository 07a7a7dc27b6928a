"""PURE. An invoice for people: one HTML page without scripts, fit to be printed."""

from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from typing import Any

from zuebee.accounts.schemas import show_amount

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 3rem auto; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; width: 100%; margin: 2rem 0 }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid #ddd }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
tfoot td { font-weight: 600; border-bottom: none }
"""


def invoice_page(invoice: Mapping[str, Any]) -> str:
    """The page. All that comes from a user is escaped."""
    number = str(invoice["number"])
    title = escape(f"Invoice {number}" if number else "Invoice (preview)")
    currency = str(invoice["currency"])
    lines = "\n".join(_line(line, currency) for line in invoice["lines"])
    total = escape(f"{show_amount(invoice['total_nano'], currency)} {currency}")
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>
<body>
<h1>{title}</h1>
<p>For <b>{escape(str(invoice["organization_name"]))}</b> ({escape(str(invoice["organization_id"]))})<br>
Period {_day(invoice["starts_at_s"])} to {_day(invoice["ends_at_s"] - 1)} (UTC)<br>
Made on {_day(invoice["created_at_s"])}</p>
<table>
<thead><tr><th>User</th><th>Model</th><th class="n">Requests</th><th class="n">Prompt tokens</th>
<th class="n">Completion tokens</th><th class="n">Amount</th></tr></thead>
<tbody>
{lines}
</tbody>
<tfoot><tr><td colspan="5">Total</td><td class="n">{total}</td></tr></tfoot>
</table>
</body>
</html>
"""


def _line(line: Mapping[str, Any], currency: str) -> str:
    late = f" ({line['late_of']})" if line.get("late_of") else ""
    texts = "".join(f"<td>{escape(text)}</td>" for text in (line["user_id"] or "-", f"{line['model'] or '-'}{late}"))
    counts = "".join(f'<td class="n">{line[name]}</td>' for name in ("requests", "prompt_tokens", "completion_tokens"))
    return f'<tr>{texts}{counts}<td class="n">{escape(show_amount(line["cost_nano"], currency))}</td></tr>'


def _day(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).date().isoformat()
