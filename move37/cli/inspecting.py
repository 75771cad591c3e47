"""`status`, `lineage`, `show`: reading the memory."""

import json
import sys
from contextlib import closing
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from move37.cli.guard import guarded
from move37.cli.options import AsJson, CampaignName, RunsDir, StoreUrl

if TYPE_CHECKING:
    from memory.lineage import Forest
    from memory.records import Campaign
    from memory.store import Store
    from move37.report.lineage import Line


class LineageFormat(StrEnum):
    """What `lineage` can write."""

    TREE = "tree"
    JSON = "json"
    DOT = "dot"
    GRAPHML = "graphml"
    MERMAID = "mermaid"
    HTML = "html"


_TREE_LINES = 200  # shown of a tree unless another limit is asked for
_PATH_STEPS = 40


def write_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@guarded
def status(
    campaign: CampaignName = None, runs_dir: RunsDir = None, store: StoreUrl = None, as_json: AsJson = False
) -> None:
    """Show what every campaign has done, found and spent; of one, what was recognised and shown as well."""
    from move37.errors import NotThere
    from move37.views import closer, find_campaign
    from move37.views import status as status_of
    from move37.workspace import Workspace

    workspace = Workspace.find(runs_dir, store)
    try:
        if campaign is None:
            with closing(workspace.overview()) as overview:
                rows = [status_of(workspace, overview, c) for c in overview.campaigns()]
        else:
            with closing(workspace.open()) as memory:
                chosen = find_campaign(memory, campaign)
                rows = [status_of(workspace, memory, chosen) | closer(memory, chosen)]
    except NotThere:
        if campaign is not None:
            raise
        rows = []
    if as_json:
        write_json(rows)
        return
    from move37.report.status import status_text

    sys.stdout.write(status_text(rows))


@guarded
def lineage(
    campaign: CampaignName = None,
    of: Annotated[
        str | None,
        typer.Option("--of", metavar="EXPERIMENT", help="Its path from the root, with gains.", show_default=False),
    ] = None,
    ancestors: Annotated[bool, typer.Option("--ancestors", help="With --of: what it comes from.")] = False,
    descendants: Annotated[bool, typer.Option("--descendants", help="With --of: what came of it.")] = False,
    siblings: Annotated[bool, typer.Option("--siblings", help="With --of: others of the same parent.")] = False,
    common: Annotated[
        tuple[str, str] | None,
        typer.Option("--common", metavar="A B", help="Where two experiments part, and the ways there."),
    ] = None,
    summary: Annotated[bool, typer.Option("--summary", help="The lineage in figures.")] = False,
    depth: Annotated[
        int | None, typer.Option("--depth", min=0, help="Levels below the topmost shown.", show_default=False)
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            min=0,
            help="At most so many: the best and what leads to them; 0 for all (a tree has 200, a path 40).",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        LineageFormat, typer.Option("--format", "-f", help="tree, json, dot, graphml, mermaid or html.")
    ] = LineageFormat.TREE,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write to this file instead of the terminal.", show_default=False)
    ] = None,
    runs_dir: RunsDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show who descends from whom, and what each scored: all of a campaign, or what one experiment has to do with."""
    from move37.workspace import Workspace

    relations = frozenset(
        name
        for name, wanted in {"ancestors": ancestors, "descendants": descendants, "siblings": siblings}.items()
        if wanted
    )
    form = LineageFormat.JSON if as_json else form
    question = _Question(campaign, of, relations, common, summary, depth, limit, form)
    _check(question)
    with closing(Workspace.find(runs_dir, store).open()) as memory:
        answer = _answer(memory, question)
    if isinstance(answer, list) and out is None:
        from move37.report.lineage import print_lines

        print_lines(answer)
        return
    if isinstance(answer, list):
        from move37.report.lineage import text_of

        answer = text_of(answer)
    elif not isinstance(answer, str):
        answer = json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if out is None:
        sys.stdout.write(answer)
    else:
        _write(out, answer)


@dataclass(frozen=True)
class _Question:
    """What `lineage` was asked."""

    campaign: str | None
    of: str | None
    relations: frozenset[str]
    common: tuple[str, str] | None
    summary: bool
    depth: int | None
    limit: int | None
    form: LineageFormat


def _check(question: _Question) -> None:
    from move37.errors import ConfigError

    if question.relations and question.of is None:
        flags = " ".join(f"--{relation}" for relation in sorted(question.relations))
        raise ConfigError(f"{flags} needs --of EXPERIMENT: whose?")
    if question.common and (question.of or question.summary):
        raise ConfigError("--common stands alone: leave out --of and --summary")
    if question.summary and question.relations:
        raise ConfigError("--summary counts a whole lineage, or with --of one experiment and its descendants")
    if question.summary and question.form not in {LineageFormat.TREE, LineageFormat.JSON}:
        raise ConfigError(f"--summary is text or JSON; {question.form} draws a lineage. Leave one of them out")
    if question.summary and (question.depth is not None or question.limit is not None):
        raise ConfigError("--summary counts everything: leave out --depth and --limit")
    if question.depth is not None and _is_report(question):
        raise ConfigError("--depth cuts trees and drawings; a path is cut with --limit")


def _is_report(question: _Question) -> bool:
    """Whether the answer is a path or two, with figures, and not a drawing."""
    path = question.common is not None or (question.of is not None and not question.relations)
    return path and question.form in {LineageFormat.TREE, LineageFormat.JSON}


def _answer(memory: "Store", question: _Question) -> "dict[str, Any] | str | list[Line]":
    """JSON data, lines for the terminal, or the text of a drawing."""
    from memory.lineage import Forest
    from move37 import views
    from move37.report import lineage as lines
    from move37.tracing import Tracer, summary_json

    tracer = Tracer(memory)
    asked = [question.of] if question.of else list(question.common or ())
    campaigns = _campaigns(memory, question.campaign, asked)
    campaign = campaigns[0]
    forest = tracer.forest(*campaigns) if asked else Forest(memory.experiments(campaign.id))
    as_json = question.form is LineageFormat.JSON
    if question.summary:
        if question.of:  # a tree of its own
            forest = Forest(
                one if one.id != question.of else replace(one, parent_id=None) for one in forest.walk(question.of)
            )
        figures = summary_json(campaign, forest.summary())
        return figures if as_json else lines.summary_lines(figures)
    if _is_report(question):
        steps = _PATH_STEPS if question.limit is None and not as_json else question.limit or None
        if question.common:
            report = tracer.common_report(campaign, forest, *question.common, steps)
            return report if as_json else lines.common_lines(report)
        report = tracer.path_report(campaign, forest, asked[0], steps)
        return report if as_json else lines.path_lines(report)
    chosen = _chosen(forest, question)
    return _drawn(memory, campaign, forest, chosen, question, views.lineage_of(campaign, forest, chosen))


def _campaigns(memory: "Store", name: str | None, experiment_ids: list[str]) -> "list[Campaign]":
    """The campaign asked for; of experiments asked for, theirs."""
    from move37 import views
    from move37.errors import NotThere

    if not experiment_ids:
        return [views.find_campaign(memory, name)]
    found = []
    for experiment_id in experiment_ids:
        one = views.find_experiment(memory, experiment_id)
        if one is None:
            raise NotThere(f"there is no experiment '{experiment_id}'. `move37 lineage` lists the ids.")
        found.append(memory.campaign(one.campaign_id))
    if name is not None and views.find_campaign(memory, name).id not in {campaign.id for campaign in found}:
        raise NotThere(f"'{' and '.join(experiment_ids)}' belong to {found[0].name}, not to {name}. Leave {name} out.")
    return list({campaign.id: campaign for campaign in found}.values())


def _chosen(forest: "Forest", question: _Question) -> set[str] | None:
    """The ids that are drawn; None for all."""
    if question.common:
        ancestor = forest.common_ancestor(*question.common)
        above = forest.depth(ancestor.id) if ancestor else 0
        return {one.id for end in question.common for one in forest.path(end)[above:]}
    if question.of is None:
        return None
    chosen = {question.of}
    if not question.relations or "ancestors" in question.relations:
        chosen |= {one.id for one in forest.ancestors(question.of)}
    if "descendants" in question.relations:
        chosen |= {one.id for one in forest.descendants(question.of)}
    if "siblings" in question.relations:
        parent = forest.parent(question.of)
        chosen |= {one.id for one in forest.siblings(question.of)} | ({parent.id} if parent else set())
    return chosen


def _drawn(
    memory: "Store",
    campaign: "Campaign",
    forest: "Forest",
    chosen: set[str] | None,
    question: _Question,
    data: dict[str, Any],
) -> "dict[str, Any] | str | list[Line]":
    from move37.report.pruning import prune

    limit = question.limit or None
    if question.form is LineageFormat.TREE and question.limit is None:
        limit = _TREE_LINES
    pruned = prune(forest, chosen, depth=question.depth, limit=limit)
    if question.form is LineageFormat.TREE:
        from move37.report.lineage import tree_lines

        return tree_lines(data, pruned)
    shown = {one.id for one in pruned.experiments}
    data |= {"nodes": [node for node in data["nodes"] if node["id"] in shown], "left_out": pruned.left_out}
    match question.form:
        case LineageFormat.DOT:
            from move37.report.dot import lineage_dot

            return lineage_dot(data)
        case LineageFormat.GRAPHML:
            from move37.report.graphml import lineage_graphml

            return lineage_graphml(data)
        case LineageFormat.MERMAID:
            from move37.report.mermaid import lineage_mermaid

            return lineage_mermaid(data)
        case LineageFormat.HTML:
            from move37.report.html import lineage_html

            return lineage_html(memory, campaign, forest, shown)
    return data


def _write(out: Path, text: str) -> None:
    from move37.errors import ConfigError

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error
    sys.stderr.write(f"wrote {out}\n")


@guarded
def show(
    experiment: Annotated[str, typer.Argument(help="An experiment's id, as `lineage` shows it.")],
    code: Annotated[bool, typer.Option("--code", help="The program.")] = False,
    diff: Annotated[bool, typer.Option("--diff", help="What changed against the parent's program.")] = False,
    curves: Annotated[bool, typer.Option("--curves", help="Learning curves per task and seed.")] = False,
    exchanges: Annotated[bool, typer.Option("--exchanges", help="Every prompt and reply.")] = False,
    analysis: Annotated[bool, typer.Option("--analysis", help="What the analyst said.")] = False,
    runs_dir: RunsDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show everything about one experiment."""
    from move37 import views
    from move37.errors import NotThere
    from move37.workspace import Workspace

    with closing(Workspace.find(runs_dir, store).open()) as memory:
        found = views.find_experiment(memory, experiment)
        if found is None:
            raise NotThere(f"there is no experiment '{experiment}'. `move37 lineage` lists the ids.")
        data = views.show(memory, found)
        parent_source = None
        if found.parent_id is not None:
            parent = memory.experiment(found.parent_id)
            parent_source = memory.program(parent.program_sha256).source if parent.program_sha256 else None
    if as_json:
        write_json(data)
        return
    from move37.report.experiment import Sections, print_experiment

    print_experiment(data, parent_source, Sections(code, diff, curves, exchanges, analysis))
