"""Options that several commands share, and where their values meet the workspace."""

from pathlib import Path
from typing import Annotated

import typer

RunsDir = Annotated[
    Path | None,
    typer.Option("--runs-dir", help="Where campaigns live (default: $MOVE37_RUNS, else ./runs).", show_default=False),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="SQLAlchemy URL of the memory (default: $MOVE37_STORE, else move37.db in the runs directory).",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON (stable, documented in docs/json.md).")]
CampaignName = Annotated[
    str | None, typer.Argument(metavar="[CAMPAIGN]", help="Name or id; the latest if not given.", show_default=False)
]
CassetteFile = Annotated[
    Path | None,
    typer.Option(
        "--cassette",
        help="File of recorded exchanges with the model (default: $MOVE37_CASSETTE).",
        show_default=False,
        rich_help_panel="Cassettes",
    ),
]
CassetteModeOption = Annotated[
    str | None,
    typer.Option(
        "--cassette-mode",
        help="record: ask and write down what it lacks; replay: ask nothing; off (default: $MOVE37_CASSETTE_MODE).",
        show_default=False,
        rich_help_panel="Cassettes",
    ),
]
