"""What `move37 gates`, `evaluate` and `tasks` show in a terminal. Everything that came out of a program is escaped."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from evaluator.profile import CostReport
from evaluator.statistics import Interval
from move37.evaluating import Comparison, Evaluation
from move37.ladder import Climb
from move37.report.terminal import console
from move37.report.text import plain


def print_ladder(climbed: Climb, out: Console | None = None) -> None:
    """One line per gate, then what was noticed, then the verdict in a sentence."""
    out = out or console()
    table = Table(box=None, show_header=False, padding=(0, 1))
    for verdict in climbed.verdicts:
        sign, style = ("passed", "green") if verdict.passed else (verdict.reason, "red")
        where = f"line {verdict.line}: " if verdict.line is not None and not verdict.passed else ""
        table.add_row(verdict.gate, f"[{style}]{escape(sign)}[/{style}]", escape(where + plain(verdict.message)))
    out.print(table)
    for warning in climbed.warnings:
        out.print(f"[yellow]warning[/yellow] {escape(plain(warning))}")
    failure = climbed.failure
    if failure is None:
        out.print("[green]accepted[/green]")
    else:
        out.print(f"[red]rejected[/red] by gate {failure.gate}: {escape(failure.reason)}")


def print_evaluation(evaluation: Evaluation) -> None:
    """Cost, scores with intervals, and the references; the ladder has been shown while it was climbed."""
    out = console()
    if isinstance(evaluation.cost, CostReport):
        out.print(_cost_table(evaluation.cost))
    elif isinstance(evaluation.cost, str):
        out.print(f"[yellow]cost not measured[/yellow]: {escape(plain(evaluation.cost))}")
    failed = evaluation.failed_trial
    if failed is not None:
        out.print(
            f"[red]failed[/red] on {escape(failed.task)}, seed {failed.seed}: {escape(failed.outcome.reason)}: "
            f"{escape(plain(failed.outcome.message))}"
        )
        return
    if evaluation.scores:
        out.print(_score_table(evaluation))
    if evaluation.comparisons:
        out.print(_comparison_table(evaluation.comparisons))
    for note in evaluation.notes:
        out.print(f"[bright_black]note: {escape(plain(note))}[/bright_black]")
    if evaluation.scores:
        out.print(
            "[bright_black]Scores are on selection data and a few seeds: an inspection, not a claim.[/bright_black]"
        )


def interval_text(interval: Interval) -> str:
    """`0.123 [0.100, 0.150]`; the estimate alone where one value gives no interval."""
    if interval.low is None or interval.high is None:
        return f"{interval.estimate:.3f}"
    return f"{interval.estimate:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _score_table(evaluation: Evaluation) -> Table:
    question = evaluation.question
    confidence = next(iter(evaluation.scores.values())).confidence
    table = Table(title="score: mean over the learning curve", box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("task", f"mean [{confidence:.0%} interval]", "per seed", "at the end", "train tokens/s"):
        table.add_column(column)
    ranking = question.ranking()
    for task, interval in evaluation.scores.items():
        rows = [t for t in evaluation.trials if t.program == "program" and t.task == task]
        seeds = ", ".join(f"{score:.3f}" for score in evaluation.per_seed("program", task).values())
        ends = ", ".join(_end(row.outcome.metrics) for row in rows)
        speed = sum(row.outcome.metrics.get("train_tokens_per_s", 0.0) for row in rows) / max(1, len(rows))
        name = task if task in ranking else f"{task} (reported only)"
        table.add_row(escape(name), interval_text(interval), seeds, ends, f"{speed:,.0f}")
    if evaluation.composite is not None:
        table.add_row("all ranking tasks", interval_text(evaluation.composite), "", "", "", style="bold")
    return table


def _end(metrics: Mapping[str, float]) -> str:
    if "bits_per_byte" in metrics:
        return f"{metrics['bits_per_byte']:.3f} bpb"
    return f"{metrics.get('accuracy', float('nan')):.2f}"


def _comparison_table(comparisons: Sequence[Comparison]) -> Table:
    detectable = comparisons[0].detectable
    title = "against the references (same seeds, same data)"
    if detectable is not None:
        title += f"; differences below {detectable:.3f} are seed noise at this number of seeds"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("reference", "its score", "difference [interval]", "beyond noise"):
        table.add_column(column)
    words = {None: "unknown", True: "yes", False: "no"}
    for one in comparisons:
        table.add_row(one.reference, f"{one.score:.3f}", _signed(one.difference), words[one.beyond_noise])
    return table


def _signed(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return f"{interval.estimate:+.3f}"
    return f"{interval.estimate:+.3f} [{interval.low:+.3f}, {interval.high:+.3f}]"


def _cost_table(cost: CostReport) -> Table:
    table = Table(title="cost, as the sandbox reports it", box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
    for name, value in _cost_rows(cost):
        table.add_row(name, escape(value))
    return table


def _cost_rows(cost: CostReport) -> list[tuple[str, str]]:
    state, inference, training = cost.state, cost.inference, cost.training
    held = f"{'at least ' if state.at_least else ''}{state.floats:,} numbers per sequence over all layers"
    grown = f"{'at least ' if state.at_least else ''}{state.growth:.2f} times as many at twice the length"
    return [
        (
            "parameters",
            f"{cost.parameters:,}, {cost.mixer_parameters:,} of them the program's; {cost.reached_parameters:,} are "
            f"reached by a gradient, {cost.active_parameters:,} active per token; {size(cost.parameter_bytes)}",
        ),
        ("FLOPs per token", f"{inference.flops_per_token:,.0f} forward, {training.flops_per_token:,.0f} training"),
        ("growth with length L", f"L^{cost.length_exponent:.2f}"),
        (
            "memory traffic per token",
            f"{size(inference.bytes_per_token)} unfused, {inference.intensity:.2f} FLOPs per byte; "
            f"{size(cost.saved_bytes_per_token)} kept for the backward pass",
        ),
        ("effective state", f"{held}; {grown}"),
        *(
            (
                name,
                f"{cost.tokens / run.seconds:,.0f} tokens/s ± {50 * run.spread:.0f} %; roofline "
                f"{1e3 * run.predicted_s:.1f} ms a batch, measured {1e3 * run.seconds:.1f} ms",
            )
            for name, run in (("inference", inference), ("training", training))
        ),
        (
            "the machine",
            f"{cost.roofline.peak_flops_per_s / 1e9:.0f} GFLOP/s, {cost.roofline.bandwidth_bytes_per_s / 1e9:.0f} GB/s "
            f"({cost.device}, {cost.threads} thread(s)); batch {cost.batch}, L = {cost.length}",
        ),
        ("memory of one training step", f"{size(cost.memory_rise_bytes)} more at the peak"),
    ]


def size(count: float) -> str:
    """Bytes with a unit."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def print_tasks(rows: Sequence[Mapping[str, Any]]) -> None:
    """The tasks of a track: what each asks for, and its size at every tier."""
    out = console()
    table = Table(box=box.SIMPLE_HEAD)
    names = list(dict.fromkeys(tier["tier"] for row in rows for tier in row["tiers"]))
    for column in ("task", "asks for", "measure", "chance", *names):
        table.add_column(column, justify="right" if column in names else "left")
    for row in rows:
        steps = {tier["tier"]: f"{tier['steps']}{'' if tier['ranks'] else '*'}" for tier in row["tiers"]}
        measure = row["measure"].replace("_", " ")
        cells = (steps.get(name, "") for name in names)
        table.add_row(row["name"], escape(row["title"]), measure, f"{row['chance']:.3f}", *cells)
    out.print(table)
    out.print("Training steps per tier; * trained and reported there, but never selected on.\n")
    out.print("Another size: --tasks NAME:AXIS=VALUE[:AXIS=VALUE...]. Axes:")
    for row in rows:
        axes = "; ".join(f"{axis}: {what}" for axis, what in row["axes"].items())
        out.print(f"  [bold]{row['name']}[/bold]  {escape(axes)}")
