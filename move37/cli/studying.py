"""`study few-shot` and `study ablate`: arms at equal budget, over several seeds, with effect sizes and intervals."""

import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from move37.cli import options
from move37.cli.guard import fail, guarded, long_running

if TYPE_CHECKING:
    from memory.store import Store
    from move37.study import Arm, Outcome, Study
    from move37.workspace import Workspace

study_app = typer.Typer(
    help="Compare arms of the search at equal budget, over seeds, with intervals.", no_args_is_help=True
)

Config = Annotated[
    Path | None,
    typer.Argument(
        metavar="[CONFIG.toml]", help="What all arms have in common; flags override it.", show_default=False
    ),
]
Name = Annotated[
    str | None,
    typer.Option("--name", help="The study's name; the same name continues it.", show_default="few-shot or ablate"),
]
Seeds = Annotated[
    str, typer.Option("--seeds", help="How many seeds of the search (5: 0 to 4), or which, by commas or as 3..9.")
]


@study_app.command("few-shot")
@guarded
def few_shot(
    config: Config = None,
    n: Annotated[str, typer.Option("--n", help="Numbers of exemplars, as 0..6 or by commas.")] = "0..6",
    name: Name = None,
    seeds: Seeds = "5",
    experiments: options.Experiments = None,
    parallel: options.Parallel = None,
    tier: options.Tier = None,
    tasks: options.Tasks = None,
    trial_seeds: options.TrialSeeds = None,
    model: options.ModelName = None,
    base_url: options.BaseUrl = None,
    sandbox: options.SandboxBackend = None,
    accept_unsafe: options.AcceptUnsafe = False,
    runs_dir: options.RunsDir = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """What does the number of exemplars in the prompts change?"""
    from move37.study import few_shot as arms

    common = _common(experiments, parallel, tier, tasks, trial_seeds, model, base_url, sandbox, accept_unsafe)
    _study(name or "few-shot", lambda: arms(_range(n, "--n")), seeds, config, common, runs_dir, store, as_json)


@study_app.command("ablate")
@guarded
def ablate(
    config: Config = None,
    without: Annotated[
        str, typer.Option("--without", help="Parts, by commas: memory, exemplars, knowledge, analyst, dedup.")
    ] = "memory,exemplars,knowledge,analyst,dedup",
    name: Name = None,
    seeds: Seeds = "5",
    experiments: options.Experiments = None,
    parallel: options.Parallel = None,
    tier: options.Tier = None,
    tasks: options.Tasks = None,
    trial_seeds: options.TrialSeeds = None,
    model: options.ModelName = None,
    base_url: options.BaseUrl = None,
    sandbox: options.SandboxBackend = None,
    accept_unsafe: options.AcceptUnsafe = False,
    runs_dir: options.RunsDir = None,
    store: options.StoreUrl = None,
    as_json: options.AsJson = False,
) -> None:
    """What is each part of the system worth? The whole system against the system without it."""
    from move37.study import ablations

    common = _common(experiments, parallel, tier, tasks, trial_seeds, model, base_url, sandbox, accept_unsafe)
    _study(name or "ablate", lambda: ablations(_parts(without)), seeds, config, common, runs_dir, store, as_json)


def _common(
    experiments: int | None,
    parallel: int | None,
    tier: str | None,
    tasks: str | None,
    trial_seeds: str | None,
    model: str | None,
    base_url: str | None,
    sandbox: str | None,
    accept_unsafe: bool,
) -> dict[str, Any]:
    """The flags as overrides of the configuration, by dotted key."""
    from move37.cli.running import listed, numbers

    return {
        "experiments": experiments,
        "parallel": parallel,
        "objective.tier": tier,
        "objective.tasks": listed(tasks),
        "objective.seeds": numbers(trial_seeds),
        "model.name": model,
        "model.base_url": base_url,
        "sandbox.backend": sandbox,
        "sandbox.accept_unsafe": True if accept_unsafe else None,
    }


def _study(
    name: str,
    arms: "Callable[[], tuple[Arm, ...]]",
    seeds: str,
    config: Path | None,
    common: dict[str, Any],
    runs_dir: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    from move37 import launch
    from move37.cli.inspecting import write_json
    from move37.config import load
    from move37.keys import setting
    from move37.report.study import study_table
    from move37.study import effects, planned
    from move37.workspace import Workspace

    chosen = arms()
    named_outside = {"model.name": setting("MOVE37_MODEL"), "model.base_url": setting("MOVE37_BASE_URL")}
    settings = launch.resolved(load(config, common, defaults=named_outside))
    workspace = Workspace.find(runs_dir, store)
    with closing(workspace.open(create=True)) as memory:
        study = planned(memory, name, chosen, _seeds(seeds), settings)
        long_running()
        outcomes = _run_all(workspace, memory, study, as_json)
        found = effects(study, outcomes)
        if as_json:
            write_json(
                {
                    "name": study.name,
                    "reference": study.arms[0].name,
                    "seeds": list(study.seeds),
                    "arms": [asdict(one) for one in found],
                    "campaigns": {arm: [asdict(one) for one in rows] for arm, rows in outcomes.items()},
                }
            )
        else:
            sys.stdout.write(study_table(study, found) + "\n")


def _run_all(workspace: "Workspace", memory: "Store", study: "Study", quiet: bool) -> "dict[str, list[Outcome]]":
    """Runs what is missing. A campaign that spends its budget is complete: the budget is a part of the comparison."""
    from move37.errors import BudgetExhausted
    from move37.launch import execute
    from move37.report.live import Live
    from move37.study import outcome

    outcomes: dict[str, list[Outcome]] = {arm.name: [] for arm in study.arms}
    total = len(study.arms) * len(study.seeds)
    for number, (arm, seed, config) in enumerate(study.campaigns(), start=1):
        campaign = next((c for c in memory.campaigns() if c.name == config.name), None)
        if campaign is None or campaign.state != "finished":
            _say(f"campaign {number} of {total}: {arm.name}, seed {seed} ({config.name})")
            with Live(memory, config, quiet=True) as live:
                launched = execute(
                    workspace,
                    memory,
                    config,
                    campaign,
                    notify=live.notify,
                    announce=_silent if quiet or number > 1 else _say,
                    on_campaign=live.begin,
                )
            campaign, error = launched.campaign, launched.ending.error
            if error is not None and not isinstance(error, BudgetExhausted):
                fail(f"{error}\nThe same command continues the study where it stopped.", error.exit_code)
        done = outcome(memory, campaign)
        _say(f"  {arm.name}, seed {seed}: best {done.best if done.best is None else format(done.best, '.3f')}")
        outcomes[arm.name].append(done)
    return outcomes


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _silent(line: str) -> None:
    """For what the first campaign of a study has said already."""


def _seeds(text: str) -> list[int]:
    found = _range(text, "--seeds")
    return list(range(found[0])) if len(found) == 1 and "," not in text and ".." not in text else found


def _range(text: str, option: str) -> list[int]:
    """`3`, `0,2,4` or `0..6` (both ends included)."""
    from move37.errors import ConfigError

    try:
        first, dots, last = text.partition("..")
        if dots:
            return list(range(int(first), int(last) + 1))
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigError(f"{option} takes whole numbers, as 0..6 or by commas, not {text!r}") from error


def _parts(text: str) -> list[Any]:
    from move37.errors import ConfigError
    from move37.leaving_out import PARTS

    parts = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ConfigError(f"there is no part {', '.join(map(repr, unknown))}. There are: {', '.join(PARTS)}.")
    return parts
