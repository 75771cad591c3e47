"""What a study found, as a Markdown table that reads well on a terminal too."""

from collections.abc import Sequence

from evaluator.statistics import Interval
from move37.study import Effect, Study


def study_table(study: Study, found: Sequence[Effect]) -> str:
    """Arms against the reference, with intervals, and what must be known to read them."""
    if not found:
        return "No seed has been finished by every arm yet: nothing can be compared."
    seeds, reference = len(found[0].scores), study.arms[0].name
    rows = [
        f"| arm | best score [95 %] | minus {reference} [95 %] | effect size | p (Holm) | best so far, mean "
        "| completed | repeats | tokens | trained s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in found:
        cells = [
            one.arm,
            _interval(one.level),
            "control" if one.difference is None else _interval(one.difference, signed=True),
            "" if one.size is None else f"{one.size:+.2f}",
            "" if one.p is None else f"{one.p:.3f}",
            f"{one.area:.3f}",
            f"{one.completed:.0%}",
            f"{one.duplicates:.0%}",
            f"{one.tokens:,.0f}",
            f"{one.device_s:,.0f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    goal = study.config.objective
    notes = [
        f"{seeds} seeds of {study.config.experiments} experiments each, the starters included; "
        f"tier {goal.tier}, {', '.join(goal.tasks)}, trained with seeds {', '.join(map(str, goal.seeds))}.",
        "Differences are paired by seed; effect size: mean over spread of the paired differences (Hedges' correction).",
        "A campaign's best score is the best of many noisy ones: too high in every arm, comparable between them.",
    ]
    spent = [one.tokens for one in found]
    if max(spent) > 1.1 * max(min(spent), 1.0):
        notes.append("The arms had equal numbers of experiments and not of tokens: see the column.")
    if seeds < len(study.seeds):
        notes.append(f"Not finished: {seeds} of {len(study.seeds)} seeds are done by every arm.")
    return "\n".join([*rows, "", *notes])


def _interval(interval: Interval, *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    middle = f"{interval.estimate:{sign}.3f}"
    if interval.low is None or interval.high is None:
        return middle
    return f"{middle} [{interval.low:{sign}.3f}, {interval.high:{sign}.3f}]"
