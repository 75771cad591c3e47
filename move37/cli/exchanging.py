"""`export` and `import`: a campaign as a file, and back; published lineages of others.

`import` is a group whose plain form (`move37 import FILE`) needs no word more: what is not a subcommand is a file.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from move37.cli.guard import guarded, long_running
from move37.cli.inspecting import write_json
from move37.cli.options import AsJson, RunsDir, StoreUrl

if TYPE_CHECKING:
    from memory.archive.reading import Imported

_ARCHIVE = "archive"


class ImportGroup(TyperGroup):
    """`import FILE` is `import archive FILE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What begins with neither a subcommand nor a question for help is an archive."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [_ARCHIVE, *args]
        return super().parse_args(ctx, args)


import_app = typer.Typer(
    cls=ImportGroup,
    help="Bring in a campaign: `move37 import FILE`, or a published lineage: `move37 import asi-arch TREE.json`.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class _Progress:
    """A line on stderr now and then, once it has taken a while."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._next = time.monotonic() + 2.0

    def __call__(self, table: str, rows: int) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + 2.0
            sys.stderr.write(f"{self._doing} {table}: {rows:,} rows\n")


@contextmanager
def _explained() -> Iterator[None]:
    """A bad file is the user's to mend, like a bad flag."""
    from memory.archive.errors import ArchiveError
    from move37.errors import ConfigError

    try:
        yield
    except ArchiveError as error:
        raise ConfigError(str(error)) from error


@guarded
def export(
    campaign: Annotated[str, typer.Argument(metavar="CAMPAIGN", help="Name or id.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The file (default: CAMPAIGN.move37.zip here).", show_default=False),
    ] = None,
    with_origins: Annotated[
        bool, typer.Option("--with-origins", help="Include the campaigns that it was forked from.")
    ] = False,
    parquet: Annotated[
        bool, typer.Option("--parquet/--no-parquet", help="Add Parquet files of experiments and trials.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    runs_dir: RunsDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Write everything about a campaign to one file, which `move37 import` reads."""
    long_running()
    from memory.archive.writing import export_from
    from move37 import __version__
    from move37.errors import ConfigError
    from move37.views import find_campaign
    from move37.workspace import Workspace

    with closing(Workspace.find(runs_dir, store).open()) as memory, _explained():
        found = find_campaign(memory, campaign)
        path = out or Path(f"{found.name}.move37.zip")
        if path.exists() and not force:
            raise ConfigError(f"{path} is there already. Name another file with --out, or replace it with --force.")
        done = export_from(
            memory,
            found.id,
            path,
            written_by=__version__,
            with_origins=with_origins,
            with_parquet=parquet,
            on_progress=_Progress("writing"),
        )
    if as_json:
        result = asdict(done) | {"path": str(done.path), "campaign": found.name}
        write_json(result)
        return
    sys.stdout.write(
        f"wrote {done.path}: {done.rows['experiments']:,} experiments, {sum(done.rows.values()):,} rows, "
        f"{done.programs:,} programs, {done.bytes:,} bytes\nsha256 {done.sha256}\n"
    )
    if done.requires:
        sys.stderr.write(
            f"it builds on {', '.join(done.requires)}, which a store has to hold before it imports this file; "
            "--with-origins includes it\n"
        )


@import_app.command(_ARCHIVE)
@guarded
def import_archive(
    file: Annotated[Path, typer.Argument(help="What `move37 export` wrote.", show_default=False)],
    max_gib: Annotated[int, typer.Option("--max-gib", min=1, help="Read no archive that inflates to more.")] = 16,
    runs_dir: RunsDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Bring an exported campaign into the memory, whole or not at all. The word `archive` may be left out."""
    long_running()
    from memory.archive.container import Limits
    from memory.archive.reading import import_into
    from move37.workspace import Workspace

    workspace = Workspace.find(runs_dir, store)
    with closing(workspace.open(create=True)) as memory, _explained():
        done = import_into(
            memory,
            file,
            limits=Limits(total=max_gib * 2**30),
            on_progress=_Progress("importing"),
            on_new=workspace.mark_brought,
        )
    _say(done, as_json=as_json)


@import_app.command("asi-arch")
@guarded
def import_asi_arch(
    tree: Annotated[Path, typer.Argument(metavar="TREE.json", help="The published tree.", show_default=False)],
    gallery: Annotated[
        Path | None, typer.Argument(metavar="[GALLERY.json]", help="The published programs.", show_default=False)
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What the campaign is to be called.")] = "asi-arch",
    runs_dir: RunsDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Bring ASI-Arch's published lineage into the memory, as a read-only campaign (docs/asi-arch.md)."""
    long_running()
    from memory.asi_arch import import_into
    from move37.workspace import Workspace

    with closing(Workspace.find(runs_dir, store).open(create=True)) as memory, _explained():
        done = import_into(memory, tree, gallery, name=name, on_progress=_Progress("importing"))
    _say(done, as_json=as_json)


def _say(done: "Imported", *, as_json: bool) -> None:
    for warning in done.warnings:
        sys.stderr.write(f"move37: warning: {warning}\n")
    if done.kept:
        sys.stderr.write(
            f"move37: warning: {done.kept} keys or vectors were in this memory already with another content, which "
            "was kept\n"
        )
    if as_json:
        write_json(asdict(done))
        return
    new = [one for one in done.campaigns if one not in done.already_there]
    lines = [f"{one}: already there, nothing changed\n" for one in done.already_there]
    if new:
        lines.append(f"imported {', '.join(new)}: {done.rows['experiments']:,} experiments\n")
    sys.stdout.write("".join(lines))
