"""`move37 show`: one experiment for the terminal."""

import difflib
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.syntax import Syntax
from rich.text import Text

from move37.report.status import became
from move37.report.terminal import console
from move37.report.text import STYLES, plain, score

_BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Sections:
    """Which parts were asked for."""

    code: bool = False
    diff: bool = False
    curves: bool = False
    exchanges: bool = False
    analysis: bool = False


def print_experiment(data: dict[str, Any], parent_source: str | None, sections: Sections) -> None:
    """The summary, then the parts that were asked for."""
    out = console()
    _summary(out, data)
    if sections.code:
        _code(out, data)
    if sections.diff:
        _diff(out, data, parent_source)
    if sections.curves:
        _curves(out, data)
    if sections.analysis:
        _analysis(out, data)
    if sections.exchanges:
        _exchanges(out, data)


def _line(out: Console, label: str, value: object) -> None:
    if value not in (None, "", []):
        out.print(f"[dim]{label:>10}[/dim]  {escape(plain(value))}", soft_wrap=True)


def _summary(out: Console, data: dict[str, Any]) -> None:
    style = STYLES[data["status"]]
    out.print(f"[bold]{escape(data['id'])}[/bold]  {escape(plain(data['name']))}  [{style}]{data['status']}[/{style}]")
    gain = ""
    if data["score"] is not None and data["parent_score"] is not None:
        gain = f" ({data['score'] - data['parent_score']:+.3f} against its parent)"
    _line(out, "score", score(data["score"]) + gain)
    if data["status"] != "completed":
        _line(out, "reason", f"{data['reason']}: {data['message']}")
    _line(out, "parent", data["parent"])
    _line(out, "exemplars", ", ".join(data["exemplars"]))
    hypothesis = data["hypothesis"] or {}
    for key in ("change", "mechanism", "design", "refuted_by"):
        _line(out, key.replace("_", " "), hypothesis.get(key))
    predictions = hypothesis.get("predictions") or []
    _line(out, "predicted", ", ".join(f"{p['task']} {p['direction']} {p['size']:.2f}" for p in predictions))
    for attempt in data["attempts"]:
        failures = [v for v in attempt["verdicts"] if not v["passed"]]
        verdict = f"{failures[0]['gate']}: {failures[0]['message']}" if failures else attempt["outcome"] or "open"
        _line(out, f"attempt {attempt['number']}", f"{attempt['origin']}, {verdict}")
    for trial in data["trials"]:
        accuracy = trial["metrics"].get("accuracy")
        detail = f"accuracy {accuracy:.3f}" if accuracy is not None else f"{trial['reason']}: {trial['message']}"
        _line(out, "trial", f"{trial['task']}, seed {trial['seed']}: score {score(trial['score'])}, {detail}")
    _learnt(out, data)


def _learnt(out: Console, data: dict[str, Any]) -> None:
    """The lesson and how well it is founded; the ablation that was asked for, and the one that this is."""
    lesson = data["lesson"]
    if lesson:
        state = f"retired by {lesson['retired_by']}" if lesson["retired_by"] else lesson["level"]
        _line(out, "lesson", f"[{state}] {lesson['claim']}")
        if lesson["idea_kept"] != "yes":
            _line(out, "idea kept", f"{lesson['idea_kept']}, after repairs")
        for one in lesson["evidence"]:
            _line(out, one["stance"], f"{one['experiment']}, {one['note']}")
    if data["ablation"]:
        _line(out, "asked for", f"taking away {data['ablation']['remove']}: {became(data['ablation'])}")
    _line(out, "answers", data["answers"])


def _code(out: Console, data: dict[str, Any]) -> None:
    out.rule("program")
    if data["program"] is None:
        out.print("no program was stored")
        return
    if out.is_terminal:
        out.print(Syntax(plain(data["program"]), "python", line_numbers=True, theme="ansi_dark"))
    else:
        out.out(plain(data["program"]), highlight=False)


def _diff(out: Console, data: dict[str, Any], parent_source: str | None) -> None:
    out.rule("difference to the parent")
    if parent_source is None or data["program"] is None:
        out.print("no parent's program to compare with")
        return
    lines = difflib.unified_diff(
        parent_source.splitlines(), data["program"].splitlines(), data["parent"], data["id"], lineterm=""
    )
    for line in lines:
        style = "green" if line.startswith("+") else "red" if line.startswith("-") else ""
        out.print(Text(plain(line), style=style), soft_wrap=True)


def _curves(out: Console, data: dict[str, Any]) -> None:
    out.rule("learning curves: accuracy at 10, 25, 50 and 100 % of the training budget")
    for trial in data["trials"]:
        points = [float(point["accuracy"]) for point in trial["curve"]]
        bars = "".join(_BLOCKS[min(8, max(0, round(8 * point)))] for point in points)
        values = "  ".join(f"{point:.3f}" for point in points)
        out.print(f"{trial['task']:>20} seed {trial['seed']}  {bars}  {values}", soft_wrap=True)


def _analysis(out: Console, data: dict[str, Any]) -> None:
    out.rule("analysis")
    analysis = data["analysis"]
    if analysis is None:
        out.print("none")
        return
    _line(out, "summary", analysis["summary"])
    _line(out, "held", analysis.get("prediction_held"))
    if lesson := analysis.get("lesson"):  # an imported analysis may be a summary alone
        _line(out, "lesson", f"{lesson['claim']} (effect {lesson['effect']:+.3f})")
    _line(out, "next", analysis.get("next_test"))
    _line(out, "idea kept", analysis.get("idea_kept"))
    for stated in analysis.get("evidence") or []:
        _line(out, "stated", f"{stated['stance']} the lesson of {stated['lesson']}: {stated['note']}")


def _exchanges(out: Console, data: dict[str, Any]) -> None:
    for exchange in data["exchanges"]:
        tokens = exchange["usage"]["prompt_tokens"] + exchange["usage"]["completion_tokens"]
        out.rule(f"{exchange['role']}, attempt {exchange['attempt']}, {escape(exchange['model'])}, {tokens} tokens")
        for message in exchange["messages"]:
            out.print(f"[bold]{escape(message['role'])}[/bold]")
            out.out(plain(message["content"]), highlight=False)
        out.print("[bold]reply[/bold]")
        out.out(plain(exchange["text"]), highlight=False)
