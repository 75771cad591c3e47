"""`replay`: an experiment re-trained and compared, or a campaign re-driven from what is stored. See docs/replay.md."""

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from move37.cli.guard import fail, guarded, long_running
from move37.cli.options import AsJson, PromptsDir, RunsDir, StoreUrl, Trust

if TYPE_CHECKING:
    from memory.records import Campaign, Experiment
    from memory.store import Store
    from move37.retraining import ExperimentReplay
    from move37.workspace import Workspace

_DIVERGED = 1


@guarded
def replay(
    what: Annotated[
        str, typer.Argument(metavar="EXPERIMENT|CAMPAIGN", help="An experiment's id or a campaign's name.")
    ],
    sandbox: Annotated[
        str | None,
        typer.Option(
            "--sandbox", help="Where to train an experiment again (default: as the campaign's configuration says)."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            min=0.0,
            help="In another environment, how far scores, accuracies and losses of an experiment may lie off.",
            show_default="as docs/replay.md states",
        ),
    ] = None,
    prompts: PromptsDir = None,
    cassette: Annotated[
        Path | None,
        typer.Option(
            "--cassette",
            help="Take a campaign's completions from this cassette, not from the memory.",
            show_default=False,
        ),
    ] = None,
    trust: Trust = False,
    runs_dir: RunsDir = None,
    store: StoreUrl = None,
    as_json: AsJson = False,
) -> None:
    """Reproduce what is stored. Exit code 0: it came out identical, or, for an experiment that is trained again in
    another environment, within the tolerance; 1: it did not."""
    from move37.errors import ConfigError, NotThere
    from move37.views import find_campaign, find_experiment
    from move37.workspace import Workspace

    long_running()
    workspace = Workspace.find(runs_dir, store)
    with closing(workspace.open()) as memory:
        experiment = find_experiment(memory, what)
        if experiment is not None:
            if cassette is not None or prompts is not None:
                raise ConfigError(
                    f"{what} is an experiment: it is trained again, and no model is asked. --cassette and --prompts "
                    "are for campaigns."
                )
            if trust:
                workspace.trust(experiment.campaign_id)
            _experiment(workspace, memory, experiment, sandbox, tolerance, as_json)
            return
        try:
            campaign = find_campaign(memory, what)
        except NotThere as error:
            raise NotThere(
                f"there is no experiment '{what}', and {error} `move37 lineage CAMPAIGN` lists ids."
            ) from None
        _campaign(memory, campaign, prompts, cassette, as_json)


def _campaign(
    memory: "Store", campaign: "Campaign", prompts: Path | None, cassette: Path | None, as_json: bool
) -> None:
    from move37.cli.inspecting import write_json
    from move37.errors import ReplayDiverged
    from move37.replaying import CampaignReplay, replay_campaign

    try:
        result = replay_campaign(memory, campaign, prompts, cassette)
    except ReplayDiverged as diverged:
        if not as_json:
            raise
        result = CampaignReplay(campaign.name, len(memory.experiments(campaign.id)), 0, [], 0, [str(diverged)])
    if as_json:
        write_json(
            {
                "campaign": result.campaign,
                "identical": result.identical,
                "stored": result.stored,
                "experiments": result.experiments,
                "programs": result.programs,
                "calls_answered": result.calls_answered,
                "differences": result.differences,
            }
        )
    else:
        origin = "stored" if cassette is None else "recorded"
        sys.stdout.write(
            f"replayed {result.experiments} of {result.stored} experiments of '{result.campaign}' from "
            f"{result.calls_answered} {origin} completions: no model, no network\n"
        )
        for difference in result.differences:
            sys.stdout.write(f"  {difference}\n")
    if not result.identical:
        fail(f"{len(result.differences)} differences", _DIVERGED)
    if not as_json:
        sys.stdout.write("same programs, same order, same verdicts, same scores\n")


def _experiment(
    workspace: "Workspace",
    memory: "Store",
    experiment: "Experiment",
    sandbox: str | None,
    tolerance: float | None,
    as_json: bool,
) -> None:
    import asyncio

    from move37.cli.inspecting import write_json

    result = asyncio.run(_retrain(workspace, memory, experiment, sandbox, tolerance, quiet=as_json))
    if as_json:
        write_json(_as_json(result))
    else:
        from move37.report.terminal import print_replay

        print_replay(result)
    if not result.reproduced:
        where = ", more than the tolerance for another environment" if result.decisive else ""
        fail(f"metrics differ by up to {result.largest_difference:.3g}{where}", _DIVERGED)


async def _retrain(
    workspace: "Workspace",
    memory: "Store",
    experiment: "Experiment",
    sandbox: str | None,
    tolerance: float | None,
    *,
    quiet: bool,
) -> "ExperimentReplay":
    from move37 import brought
    from move37.errors import ConfigError
    from move37.keys import withdraw
    from move37.laboratory import SandboxLaboratory, require_accelerator
    from move37.launch import stored_config
    from move37.models import key_variables
    from move37.retraining import replay_experiment, require_retrainable
    from sandbox.selection import Equipment, open_sandbox

    campaign = memory.campaign(experiment.campaign_id)
    config = stored_config(campaign)
    require_retrainable(memory, experiment)
    require_accelerator(experiment.track, experiment.tier)
    settings = config.sandbox
    foreign = workspace.is_brought(campaign.id)  # an archive does not say that its programs need no isolation
    stored_backend = "auto" if foreign and settings.backend == "process" else settings.backend
    backend = _backend(sandbox) if sandbox else stored_backend
    if foreign and backend == "process":
        raise ConfigError(
            f"'{campaign.name}' was imported: its programs run in isolation unless --trust vouches for them"
        )
    withdraw(key_variables(config.model))
    opened = await open_sandbox(
        backend,
        programs_trusted=brought.vouched_for(workspace, campaign),
        accept_unsafe=settings.accept_unsafe and not foreign,
        equipment=Equipment(settings.runtime if backend in ("auto", "docker") else "", settings.gpus),
    )

    def report(progress: dict[str, Any]) -> None:
        if not quiet and "step" not in progress:
            sys.stderr.write(f"training {progress['task']}, seed {progress['seed']}\n")

    try:
        laboratory = SandboxLaboratory(opened.sandbox, memory_gib=settings.memory_gib, cpus=settings.cpus, warm=1)
        return await replay_experiment(memory, experiment, laboratory, on_progress=report, tolerance=tolerance)
    finally:
        await opened.sandbox.close()


def _backend(name: str) -> Any:
    from move37.errors import ConfigError

    known = ("auto", "docker", "bubblewrap", "landlock", "process")
    if name not in known:
        raise ConfigError(f"there is no sandbox '{name}'. There are: {', '.join(known)}.")
    return name


def _as_json(result: "ExperimentReplay") -> dict[str, Any]:
    return {
        "experiment": result.experiment,
        "reproduced": result.reproduced,
        "identical": result.identical,
        "same_environment": not result.decisive,
        "tolerance": result.tolerance,
        "metrics": [
            {
                "task": c.task,
                "seed": c.seed,
                "metric": c.metric,
                "stored": c.stored,
                "replayed": c.replayed,
                "compared": c.compared,
                "identical": c.identical,
                "tolerance": c.tolerance if c.compared else None,
                "within": c.within if c.compared and c.tolerance is not None else None,
            }
            for c in result.comparisons
        ],
        "environment_differences": {k: list(v) for k, v in result.environment_differences.items()},
        "decisive_differences": result.decisive,
    }
