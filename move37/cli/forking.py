"""`fork`: a new campaign that goes on from an experiment."""

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from move37.cli.guard import guarded
from move37.cli.options import AsJson, PromptsDir, RunsDir, StoreUrl
from move37.cli.running import MinutesOption, TokensOption, UsdOption, go


@guarded
def fork(
    experiment: Annotated[str, typer.Argument(help="The finished experiment to go on from, by id.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="TOML file over the origin's configuration; flags override it.", show_default=False
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="The fork's name.", show_default="ORIGIN-fork-N")] = None,
    experiments: Annotated[
        int | None, typer.Option("--experiments", help="How many new experiments.", show_default="as the origin")
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of the search.", show_default="the origin's")] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", help="Experiments in flight at once.", show_default="as the origin")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Another model's name.", show_default=False)] = None,
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="Another OpenAI-compatible endpoint.", show_default=False)
    ] = None,
    budget_usd: UsdOption = None,
    budget_tokens: TokensOption = None,
    budget_minutes: MinutesOption = None,
    sandbox: Annotated[
        str | None, typer.Option("--sandbox", help="auto, docker, bubblewrap, landlock or process.", show_default=False)
    ] = None,
    accept_unsafe: Annotated[
        bool, typer.Option("--accept-unsafe", help="Allow a language model's programs in the process sandbox.")
    ] = False,
    prompts: PromptsDir = None,
    runs_dir: RunsDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Go on from an experiment in a new campaign that remembers what that experiment could see, and nothing later."""
    from move37 import forking, launch
    from move37.workspace import Workspace

    overrides: dict[str, Any] = {
        "name": name,
        "experiments": experiments,
        "seed": seed,
        "parallel": parallel,
        "model.name": model,
        "model.base_url": base_url,
        "budget.usd": budget_usd,
        "budget.tokens": budget_tokens,
        "budget.minutes": budget_minutes,
        "sandbox.backend": sandbox,
        "sandbox.accept_unsafe": True if accept_unsafe else None,
    }
    workspace = Workspace.find(runs_dir, store)
    with closing(workspace.open()) as memory:
        planned = forking.plan(memory, experiment, overrides, config)
        settings = launch.resolved(planned.config)
        launch.check_name(memory, settings.name)
        go(workspace, memory, settings, None, as_json, fork_of=planned.node, prompts=prompts)
