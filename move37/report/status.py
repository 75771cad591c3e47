"""`move37 status` for the terminal, without rich: this command is typed often and must answer at once."""

from collections.abc import Sequence
from typing import Any

from move37.report.text import plain, score

_ENTRIES = 5
_HEADINGS = ("campaign", "state", "experiments", "best", "tokens", "cost", "wall")


def status_text(rows: Sequence[dict[str, Any]]) -> str:
    """A line per campaign, columns aligned."""
    if not rows:
        return "no campaign yet: `move37 run` starts one\n"
    table = [_HEADINGS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(_HEADINGS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table]
    return "\n".join([*lines, *_closer(rows[0])]) + "\n"


def _closer(row: dict[str, Any]) -> list[str]:
    """What is known of one campaign alone: what each level of identity did, which published findings preceded gains."""
    lines = []
    if row.get("forked_from"):
        lines.append(f"forked from {plain(row['forked_from'])}")
    for what in ("modes", "models"):
        lines += _arms(what, row.get(what) or {})
    for level in row.get("identity", ()):
        each = 1000 * level["cost_s"] / level["programs"] if level["programs"] else 0.0
        lines.append(
            f"identity {level['level']}: {level['caught']} repeats recognised, {level['programs']} programs looked at, "
            f"{level['keyed']} with a key, {each:.1f} ms each"
        )
    useful = sorted((x for x in row.get("knowledge", ()) if x["measured"]), key=lambda x: (-x["mean_gain"], x["entry"]))
    for entry in useful[:_ENTRIES]:
        lines.append(
            f"shown {entry['entry']}: {entry['shown']} times, {entry['gained']} of {entry['measured']} measured "
            f"gained, {entry['mean_gain']:+.3f} on average"
        )
    if useful:
        lines.append("(that an entry was shown before a gain does not say that it led to it)")
    lines += _learnt(row)
    return ["", *lines] if lines else []


def _learnt(row: dict[str, Any]) -> list[str]:
    """Lessons by how well they are founded, how predictions held, what became of requested ablations."""
    lines = []
    counts = {level: n for level, n in (row.get("lessons") or {}).items() if n}
    if counts:
        lines.append("lessons: " + ", ".join(f"{n} {level}" for level, n in counts.items()))
    found = row.get("calibration")
    if found:
        lines.append(f"predictions: {_held(found)}")
        groups = {**found["by_model"], **found["by_mode"]} if len(found["by_mode"]) > 1 else found["by_model"]
        if len(groups) > 1:
            lines += [f"  {plain(name)}: {_held(one)}" for name, one in groups.items()]
    for one in row.get("ablations", ()):
        lines.append(f"ablation asked for by {plain(one['requested_by'])}: {plain(one['remove'])}: {became(one)}")
    return lines


def _held(one: dict[str, Any]) -> str:
    skill = "" if one["skill"] is None else f", skill against no change {one['skill']:+.2f}"
    return (
        f"direction right in {one['right']} of {one['predictions']} (95 % interval {one['low']:.2f} to "
        f"{one['high']:.2f}), sizes off by {one['mean_absolute_error']:.3f} on average{skill}"
    )


def became(request: dict[str, Any]) -> str:
    """What became of a requested ablation."""
    if request["carried_out_by"] is None:
        return "not carried out"
    if request["difference"] is None:
        return f"{plain(request['carried_out_by'])}, {request['status']}"
    noise = {True: "beyond noise", False: "within noise", None: "noise not known"}[request["beyond_noise"]]
    return f"{plain(request['carried_out_by'])} moved the score by {request['difference']:+.3f} ({noise})"


def _arms(what: str, bandit: dict[str, Any]) -> list[str]:
    """A line per arm of a bandit, the highest mean reward first."""
    arms = sorted(bandit.get("arms", ()), key=lambda arm: (-arm["mean"], arm["name"]))
    lines = [f"{what[:-1]} {plain(x['name'])}: {x['plays']} proposals, mean reward {x['mean']:.3f}" for x in arms]
    if what == "modes" and bandit.get("ablations"):
        lines.append(f"mode ablate: {bandit['ablations']} proposals (a fixed share, which no reward decides)")
    if len(arms) > 1:
        lines.append(f"{what}: estimated regret so far {bandit['regret']:.2f}")
    return lines


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
