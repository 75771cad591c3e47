"""`status`, `lineage`, `show`: reading the memory."""

import json
import sys
from contextlib import closing
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from move37.cli.guard import guarded
from move37.cli.options import AsJson, CampaignName, RunsDir, StoreUrl


class LineageFormat(StrEnum):
    """What `lineage` can write."""

    TREE = "tree"
    JSON = "json"
    DOT = "dot"
    HTML = "html"


def write_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@guarded
def status(
    campaign: CampaignName = None, runs_dir: RunsDir = None, store: StoreUrl = None, as_json: AsJson = False
) -> None:
    """Show what every campaign has done, found and spent."""
    from move37.errors import NotThere
    from move37.views import find_campaign
    from move37.views import status as status_of
    from move37.workspace import Workspace

    workspace = Workspace.find(runs_dir, store)
    try:
        memory = workspace.open()
    except NotThere:
        if campaign is not None:
            raise
        rows = []
    else:
        with closing(memory):
            chosen = [find_campaign(memory, campaign)] if campaign else memory.campaigns()
            rows = [status_of(workspace, memory, c) for c in chosen]
    if as_json:
        write_json(rows)
        return
    from move37.report.status import status_text

    sys.stdout.write(status_text(rows))


@guarded
def lineage(
    campaign: CampaignName = None,
    form: Annotated[
        LineageFormat, typer.Option("--format", "-f", help="tree, json, dot or html.")
    ] = LineageFormat.TREE,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write to this file instead of the terminal.", show_default=False)
    ] = None,
    runs_dir: RunsDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Show who descends from whom, and what each scored."""
    from move37 import views
    from move37.workspace import Workspace

    with closing(Workspace.find(runs_dir, store).open()) as memory:
        chosen = views.find_campaign(memory, campaign)
        if as_json:
            form = LineageFormat.JSON
        if form is LineageFormat.TREE and out is None:
            from move37.report.terminal import print_lineage

            print_lineage(views.lineage(memory, chosen))
            return
        if form is LineageFormat.JSON:
            text = json.dumps(views.lineage(memory, chosen), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        elif form is LineageFormat.DOT:
            from move37.report.dot import lineage_dot

            text = lineage_dot(views.lineage(memory, chosen))
        elif form is LineageFormat.HTML:
            from move37.report.html import lineage_html

            text = lineage_html(memory, chosen)
        else:
            from move37.report.terminal import lineage_text

            text = lineage_text(views.lineage(memory, chosen))
    if out is None:
        sys.stdout.write(text)
    else:
        _write(out, text)


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
