"""`run` and `resume`."""

import shlex
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from move37.cli import options
from move37.cli.guard import fail, guarded, long_running

if TYPE_CHECKING:
    from memory.records import Campaign, Experiment
    from memory.store import Store
    from move37.config import CampaignConfig
    from move37.models import CassetteChoice
    from move37.workspace import Workspace


@guarded
def run(
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG.toml]", help="Configuration; flags override it.", show_default=False),
    ] = None,
    name: options.Name = None,
    experiments: options.Experiments = None,
    budget_usd: options.BudgetUsd = None,
    budget_tokens: options.BudgetTokens = None,
    budget_minutes: options.BudgetMinutes = None,
    parallel: options.Parallel = None,
    seed: options.Seed = None,
    track: options.Track = None,
    tier: options.Tier = None,
    tasks: options.Tasks = None,
    trial_seeds: options.TrialSeeds = None,
    starters: options.Starters = None,
    model: options.ModelName = None,
    base_url: options.BaseUrl = None,
    sandbox: options.SandboxBackend = None,
    runtime: options.Runtime = None,
    gpus: options.Gpus = None,
    accept_unsafe: options.AcceptUnsafe = False,
    prompts: options.PromptsDir = None,
    cassette: options.CassetteFile = None,
    cassette_mode: options.CassetteModeOption = None,
    runs_dir: options.RunsDir = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Launch a campaign: propose, write, gate, train, score, explain, remember. Without --model and --base-url the
    embedded grammar answers: no key, no network."""
    from move37 import launch
    from move37.config import load
    from move37.keys import setting
    from move37.models import CassetteChoice
    from move37.workspace import Workspace

    overrides: dict[str, Any] = {
        "name": name,
        "experiments": experiments,
        "parallel": parallel,
        "seed": seed,
        "objective.track": track,
        "objective.tier": tier,
        "objective.tasks": listed(tasks),
        "objective.seeds": numbers(trial_seeds),
        "search.starters": listed(starters),
        "model.name": model,
        "model.base_url": base_url,
        "budget.usd": budget_usd,
        "budget.tokens": budget_tokens,
        "budget.minutes": budget_minutes,
        "sandbox.backend": sandbox,
        "sandbox.runtime": runtime,
        "sandbox.gpus": listed(gpus),
        "sandbox.accept_unsafe": True if accept_unsafe else None,
    }
    named_outside = {"model.name": setting("MOVE37_MODEL"), "model.base_url": setting("MOVE37_BASE_URL")}
    settings = load(config, overrides, defaults=named_outside)
    workspace = Workspace.find(runs_dir, store)
    with closing(workspace.open(create=True)) as memory:
        if config is None and name is None:
            settings = settings.model_copy(update={"name": _free_name(memory, settings.name)})
        chosen_cassette = CassetteChoice.wanted(cassette, cassette_mode)
        settings = launch.resolved(settings, chosen_cassette)
        launch.check_name(memory, settings.name)
        go(workspace, memory, settings, None, as_json, chosen_cassette=chosen_cassette, prompts=prompts)


@guarded
def resume(
    campaign: options.CampaignName = None,
    experiments: options.Experiments = None,
    budget_usd: options.BudgetUsd = None,
    budget_tokens: options.BudgetTokens = None,
    budget_minutes: options.BudgetMinutes = None,
    prompts: options.PromptsDir = None,
    cassette: options.CassetteFile = None,
    cassette_mode: options.CassetteModeOption = None,
    trust: options.Trust = False,
    runs_dir: options.RunsDir = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """Continue a campaign that was stopped, killed or interrupted; flags raise its budgets."""
    from move37 import brought, launch
    from move37.errors import ConfigError
    from move37.models import CassetteChoice
    from move37.views import find_campaign
    from move37.workspace import Workspace

    workspace = Workspace.find(runs_dir, store)
    more = {"experiments": experiments, "usd": budget_usd, "tokens": budget_tokens, "minutes": budget_minutes}
    with closing(workspace.open()) as memory:
        chosen = find_campaign(memory, campaign, unfinished=True)
        if chosen.state == "finished":
            raise ConfigError(f"campaign '{chosen.name}' is finished ({chosen.stopped_because}): nothing to resume")
        launch.stored_config(chosen)  # says so, if there is none
        brought.allow(workspace, chosen, trust=trust)
        with workspace.hold(chosen.id, chosen.name):
            settings = launch.extended(memory, chosen, more)
        chosen_cassette = CassetteChoice.wanted(cassette, cassette_mode)
        go(workspace, memory, settings, chosen, as_json, chosen_cassette=chosen_cassette, prompts=prompts)


def go(
    workspace: "Workspace",
    memory: "Store",
    settings: "CampaignConfig",
    campaign: "Campaign | None",
    as_json: bool,
    *,
    fork_of: "Experiment | None" = None,
    chosen_cassette: "CassetteChoice | None" = None,
    prompts: Path | None = None,
) -> None:
    """Runs a campaign (a new one, a stored one, or a fork) in front of the user, and says how it ended."""
    from move37.cli.inspecting import write_json
    from move37.errors import BudgetExhausted
    from move37.launch import execute
    from move37.report.live import Live
    from move37.views import status

    long_running()
    with Live(memory, settings, quiet=as_json) as live:
        launched = execute(
            workspace,
            memory,
            settings,
            campaign,
            notify=live.notify,
            announce=live.announce,
            on_campaign=live.begin,
            fork_of=fork_of,
            chosen_cassette=chosen_cassette,
            prompts_directory=prompts,
        )
    row = status(workspace, memory, launched.campaign)
    if as_json:
        write_json(row)
    else:
        _summary(workspace, memory, launched.campaign)
    error = launched.ending.error
    if error is not None:
        more = f" --budget-{error.kind} MORE" if isinstance(error, BudgetExhausted) else ""
        command = f"move37 resume {launched.campaign.name}{more} {_places(workspace)}"
        fail(f"{error}\nContinue with: {command}", error.exit_code)


def _places(workspace: "Workspace") -> str:
    return f"--runs-dir {shlex.quote(str(workspace.runs))} --store {shlex.quote(workspace.store_url)}"


def _summary(workspace: "Workspace", memory: "Store", campaign: "Campaign") -> None:
    """The end of a run: the best lineage, its gain with values per seed, and where the lineage lies."""
    from move37.report.html import lineage_html
    from move37.report.terminal import print_best

    path = workspace.runs / "reports" / f"{campaign.name}.html"
    where = str(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(lineage_html(memory, campaign), encoding="utf-8")
    except OSError as error:  # the page can be made again at any time; the campaign's end matters more
        where = f"{path} could not be written ({error.strerror}); `move37 lineage --format html --out FILE` makes it"
    print_best(memory, campaign)
    sys.stdout.write(
        f"\nlineage: {where}\nlook closer: move37 lineage {campaign.name} | move37 show EXPERIMENT --code --diff | "
        f"move37 replay {campaign.name}\n"
    )


def _free_name(memory: "Store", wanted: str) -> str:
    taken = {c.name for c in memory.campaigns()}
    number = 1
    while (name := f"{wanted}-{number}") in taken:
        number += 1
    return name


def listed(text: str | None) -> list[str] | None:
    """What an option lists by commas."""
    return [part.strip() for part in text.split(",") if part.strip()] if text is not None else None


def numbers(text: str | None) -> list[int] | None:
    """Whole numbers that an option lists by commas.

    Raises:
        ConfigError: something else.
    """
    from move37.errors import ConfigError

    parts = listed(text)
    try:
        return [int(part) for part in parts] if parts is not None else None
    except ValueError as error:
        raise ConfigError(f"--trial-seeds takes whole numbers separated by commas, not {text!r}") from error
