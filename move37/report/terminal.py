"""What the terminal shows: tables and trees with rich. Everything that a model wrote is escaped."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from move37.report.text import plain, score
from move37.views import best_of

if TYPE_CHECKING:
    from memory.records import Campaign, Experiment
    from memory.store import Store
    from move37.checks import Check
    from move37.retraining import ExperimentReplay, MetricComparison


def console() -> Console:
    """Standard output; a pipe gets a width that tables fit in."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 110
    return Console(file=sys.stdout, highlight=False, width=width)


def print_best(store: "Store", campaign: "Campaign") -> None:
    """The best lineage from its starting parent, and its gain over every starter with values per seed."""
    out = console()
    experiments = store.experiments(campaign.id)
    best = best_of(experiments)
    if best is None:
        out.print("no experiment was completed: nothing to compare")
        return
    by_id = {e.id: e for e in experiments}
    path = [best]
    while path[-1].parent_id:
        path.append(by_id.get(path[-1].parent_id) or store.experiment(path[-1].parent_id))  # a fork's lie elsewhere
    out.print(f"\n[bold]best lineage[/bold] ({escape(campaign.name)})")
    for depth, experiment in enumerate(reversed(path)):
        out.print(
            f"  {'  ' * depth}{score(experiment.score)}  {escape(experiment.id)}  {escape(plain(experiment.name))}"
            + ("  [dim]starting program[/dim]" if experiment.kind == "starter" else ""),
            soft_wrap=True,
        )
    starters = [e for e in experiments if e.kind == "starter" and e.status == "completed"]
    if campaign.forked_at is not None:
        starters = [e for e in (path[-1], store.experiment(campaign.forked_at)) if e.score is not None]
    out.print(_gains(store, best, list({e.id: e for e in starters}.values())))
    out.print(
        "[dim]Scores are learning-curve scores on selection data: this is what the search saw. A claim needs fresh "
        "seeds and a re-run baseline.[/dim]",
        soft_wrap=True,
    )


def _gains(store: "Store", best: "Experiment", starters: Sequence["Experiment"]) -> Table:
    """A row per task, a column per program: the mean and, in brackets, the value of every seed."""
    programs = [*(s for s in starters if s is not best), best]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("score (per seed)")
    for experiment in programs:
        heading = "best: " if experiment is best else ""
        table.add_column(f"{heading}{escape(plain(experiment.name or experiment.id))}", max_width=28)
    scores = [_per_task(store, experiment) for experiment in programs]
    for task in scores[-1]:
        table.add_row(task, *(_cell(values.get(task, [])) for values in scores))
    table.add_row("score", *(score(experiment.score) for experiment in programs), style="bold")
    gains = [(best.score or 0.0) - (experiment.score or 0.0) for experiment in programs[:-1]]
    table.add_row("gain of the best", *(f"{gain:+.3f}" for gain in gains), "")
    return table


def _per_task(store: "Store", experiment: "Experiment") -> dict[str, list[float]]:
    values: dict[str, list[float]] = {}
    for trial in sorted(store.trials(experiment.id), key=lambda t: (t.task, t.seed)):
        if trial.score is not None:
            values.setdefault(trial.task, []).append(trial.score)
    return values


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{sum(values) / len(values):.3f} ({', '.join(f'{value:.3f}' for value in values)})"


def print_checks(checks: Sequence["Check"]) -> None:
    """`doctor`'s table."""
    marks = {"ok": "[green]ok[/green]", "warning": "[yellow]warning[/yellow]", "missing": "[red]missing[/red]"}
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("what", "", "found", "remedy"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        table.add_row(check.name, marks[check.status], escape(check.detail), escape(check.remedy))
    console().print(table)


def print_replay(result: "ExperimentReplay") -> None:
    """Stored against replayed, metric by metric."""
    out = console()
    table = Table(box=box.SIMPLE_HEAD)
    for heading in ("task", "seed", "metric", "stored", "replayed", ""):
        table.add_column(heading)
    for c in result.comparisons:
        table.add_row(c.task, str(c.seed), c.metric, _number(c.stored), _number(c.replayed), _verdict(c))
    out.print(table)
    for key, (stored, now) in result.environment_differences.items():
        note = "" if key in result.decisive else " (does not excuse a difference)"
        out.print(f"environment: {escape(key)} was {escape(str(stored))}, is {escape(str(now))}{note}", soft_wrap=True)
    if result.identical:
        out.print(f"{escape(result.experiment)}: every repeatable metric is bit-identical")
    elif result.reproduced:
        out.print(
            f"{escape(result.experiment)}: in another environment ({', '.join(result.decisive)}), every metric that is "
            "compared lies within its tolerance",
            soft_wrap=True,
        )


def _verdict(comparison: "MetricComparison") -> str:
    if not comparison.compared:
        return "machine-dependent"
    if comparison.identical:
        return "identical"
    if comparison.tolerance is None:
        return "not compared elsewhere"
    return f"within {comparison.tolerance:g}" if comparison.within else "[red]differs[/red]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.6g}"
