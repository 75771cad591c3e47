"""Options that several commands share. Those of a campaign change a key of its configuration; without one, it stays."""

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

Name = Annotated[str | None, typer.Option("--name", help="The campaign's name.", show_default=False)]
Experiments = Annotated[
    int | None,
    typer.Option("--experiments", help="How many experiments, starting programs included.", show_default=False),
]
Parallel = Annotated[int | None, typer.Option("--parallel", help="Experiments in flight at once.", show_default=False)]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of the search.", show_default=False)]
Track = Annotated[str | None, typer.Option("--track", help="What is searched.", show_default=False)]
Tier = Annotated[str | None, typer.Option("--tier", help="How much compute a trial gets.", show_default=False)]
Tasks = Annotated[str | None, typer.Option("--tasks", help="Tasks, separated by commas.", show_default=False)]
TrialSeeds = Annotated[
    str | None, typer.Option("--trial-seeds", help="Training seeds, separated by commas.", show_default=False)
]
Starters = Annotated[
    str | None, typer.Option("--starters", help="Reference programs to start from, by commas.", show_default=False)
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="Model name.", show_default=False, rich_help_panel="Model")
]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", help="OpenAI-compatible endpoint.", show_default=False, rich_help_panel="Model"),
]
BudgetUsd = Annotated[float | None, typer.Option("--budget-usd", help="Stop at this cost.", show_default=False)]
BudgetTokens = Annotated[
    int | None, typer.Option("--budget-tokens", help="Stop after this many tokens.", show_default=False)
]
BudgetMinutes = Annotated[
    float | None, typer.Option("--budget-minutes", help="Stop after this much wall time.", show_default=False)
]
SandboxBackend = Annotated[
    str | None, typer.Option("--sandbox", help="auto, docker, bubblewrap, landlock or process.", show_default=False)
]
Runtime = Annotated[
    str | None, typer.Option("--runtime", help="Container runtime for docker, e.g. runsc.", show_default=False)
]
Gpus = Annotated[
    str | None,
    typer.Option("--gpus", help="GPUs that trials may lease, by index or UUID, by commas.", show_default=False),
]
AcceptUnsafe = Annotated[
    bool, typer.Option("--accept-unsafe", help="Allow a language model's programs in the process sandbox.")
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Vouch for an imported campaign: it goes on as its configuration says, with your keys and its sandbox.",
    ),
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
