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
PromptsDir = Annotated[
    Path | None,
    typer.Option(
        "--prompts", metavar="DIR", help="Directory of prompt templates over the packaged ones.", show_default=False
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON (stable, documented in docs/json.md).")]
CampaignName = Annotated[
    str | None, typer.Argument(metavar="[CAMPAIGN]", help="Name or id; the latest if not given.", show_default=False)
]
