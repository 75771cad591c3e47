"""`diff`: two programs, and what their measurements say."""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated

import typer

from move37.cli.guard import guarded
from move37.cli.inspecting import write_json
from move37.cli.options import AsJson, RunsDir, StoreUrl

Program = Annotated[str, typer.Argument(help="An experiment's id, or a file.", show_default=False)]


@guarded
def diff(
    a: Program,
    b: Program,
    structural: Annotated[bool, typer.Option("--structural", help="Which components came, went, moved.")] = False,
    textual: Annotated[bool, typer.Option("--textual", help="The unified diff.")] = False,
    runs_dir: RunsDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Compare two programs: scores with intervals, structure, text (both unless one is asked for).

    What exists as a file is read as one, everything else is an experiment's id.
    """
    from move37.differing import difference, experiment_side, file_side
    from move37.workspace import Workspace

    with ExitStack() as stack:
        memory = None
        sides = []
        for name in (a, b):
            if _is_file(name):
                sides.append(file_side(Path(name)))
                continue
            memory = memory or stack.enter_context(closing(Workspace.find(runs_dir, store).open()))
            sides.append(experiment_side(memory, name))
        both = structural == textual
        data = difference(memory, *sides, structural=structural or both, textual=textual or both)
    if as_json:
        write_json(data)
        return
    from move37.report.difference import difference_lines
    from move37.report.lineage import print_lines

    print_lines(difference_lines(data))


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # no file can have such a name
        return False
