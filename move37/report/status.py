"""`move37 status` for the terminal, without rich: this command is typed often and must answer at once."""

from collections.abc import Sequence
from typing import Any

from move37.report.text import plain, score

_HEADINGS = ("campaign", "state", "experiments", "best", "tokens", "cost", "wall")


def status_text(rows: Sequence[dict[str, Any]]) -> str:
    """A line per campaign, columns aligned."""
    if not rows:
        return "no campaign yet: `move37 run` starts one\n"
    table = [_HEADINGS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(_HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join(lines) + "\n"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    counts, spent = row["experiments"], row["spent"]
    others = ", ".join(f"{counts[k]} {k}" for k in ("rejected", "duplicate", "failed", "open") if counts[k])
    state = row["state"] if row["state"] == "finished" else f"{row['state']} {row['stopped_because'] or ''}".strip()
    return (
        plain(row["name"]),
        plain(state),
        f"{counts['total']}/{counts['planned']}" + (f" ({others})" if others else ""),
        f"{score(row['best']['score'])} {row['best']['id'] or ''}".strip(),
        f"{spent['tokens']:,}",
        "unknown" if spent["cost_usd"] is None else f"${spent['cost_usd']:.2f}",
        f"{spent['wall_s'] / 60:.1f} min",
    )
