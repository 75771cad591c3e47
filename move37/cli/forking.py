"""`fork`: a new campaign that goes on from an experiment."""

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from move37.cli import options
from move37.cli.guard import guarded
from move37.cli.running import go


@guarded
def fork(
    experiment: Annotated[str, typer.Argument(help="The finished experiment to go on from, by id.")],
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", help="TOML file over the origin's configuration; flags override it.", show_default=False
        ),
    ] = None,
    name: options.Name = None,
    experiments: options.Experiments = None,
    seed: options.Seed = None,
    parallel: options.Parallel = None,
    model: options.ModelName = None,
    base_url: options.BaseUrl = None,
    budget_usd: options.BudgetUsd = None,
    budget_tokens: options.BudgetTokens = None,
    budget_minutes: options.BudgetMinutes = None,
    sandbox: options.SandboxBackend = None,
    accept_unsafe: options.AcceptUnsafe = False,
    prompts: options.PromptsDir = None,
    cassette: options.CassetteFile = None,
    cassette_mode: options.CassetteModeOption = None,
    trust: options.Trust = False,
    runs_dir: options.RunsDir = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Go on from an experiment in a new campaign that remembers what that experiment could see, and nothing later. What
    no option changes stays as the origin's, the number of new experiments and the model included; the name becomes
    ORIGIN-fork-N; budgets begin at zero."""
    from move37 import brought, forking, launch
    from move37.models import CassetteChoice
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
        origin = memory.campaign(planned.node.campaign_id)
        brought.allow(workspace, origin, trust=trust, config=planned.config)
        chosen_cassette = CassetteChoice.wanted(cassette, cassette_mode)
        settings = launch.resolved(planned.config, chosen_cassette)
        launch.check_name(memory, settings.name)
        go(
            workspace,
            memory,
            settings,
            None,
            as_json,
            fork_of=planned.node,
            chosen_cassette=chosen_cassette,
            prompts=prompts,
        )
