"""`gates`, `evaluate`, `tasks`: one program on its own, and what it can be measured on."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from move37.cli.guard import guarded, long_running
from move37.cli.options import AsJson

if TYPE_CHECKING:
    from move37.evaluating import Evaluation, Question
    from move37.ladder import Climb
    from sandbox.selection import Opened

_REFUSED = 1

ProgramFile = Annotated[Path, typer.Argument(metavar="PROGRAM.py", help="An architecture program.")]
Track = Annotated[str, typer.Option("--track", help="What kind of architecture it is.")]
Tier = Annotated[str, typer.Option("--tier", help="How much compute: micro, smoke, standard or full.")]
MaxExponent = Annotated[
    float | None,
    typer.Option(
        "--max-exponent",
        min=1.0,
        max=4.0,
        help="Refuse work that grows faster with the sequence length L than L to this power.",
        show_default=False,
    ),
]
SandboxName = Annotated[str, typer.Option("--sandbox", help="auto, docker, bubblewrap, landlock or process.")]
Unsafe = Annotated[
    bool, typer.Option("--accept-unsafe", help="Run the program without isolation (your own program only).")
]


@guarded
def gates(
    program: ProgramFile,
    track: Track = "sequence",
    tier: Tier = "smoke",
    max_exponent: MaxExponent = None,
    sandbox: SandboxName = "auto",
    accept_unsafe: Unsafe = False,
    as_json: AsJson = False,
) -> None:
    """Say whether a program would be trained, and if not, why and what to do. Exit code 0 accepted, 1 rejected."""
    import asyncio

    from evaluator import tiers
    from move37.cli.inspecting import write_json
    from move37.evaluating import Question, read_program

    long_running()
    source = read_program(program)
    _check_names(track, tier)
    question = Question(track, tier, tiers.get(track, tier).ranking_tasks, (0,), max_exponent=max_exponent)
    climbed = asyncio.run(_gates(source, question, sandbox, accept_unsafe=accept_unsafe, quiet=as_json))
    if as_json:
        write_json(climbed.as_dict())
    else:
        from move37.report.evaluation import print_ladder

        print_ladder(climbed)
    if not climbed.accepted:
        raise typer.Exit(_REFUSED)


@guarded
def evaluate(
    program: ProgramFile,
    track: Track = "sequence",
    tier: Tier = "smoke",
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks", help="Tasks by commas, NAME or NAME:AXIS=VALUE (default: all that rank).", show_default=False
        ),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Training seeds, by commas.")] = "0,1,2",
    learning_rates: Annotated[
        str | None,
        typer.Option(
            "--learning-rates",
            help="Train at each of these rates (by commas) and score the one with the lowest training loss.",
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            help="References to train beside it, by commas, instead of the stored measurements.",
            show_default=False,
        ),
    ] = None,
    max_exponent: MaxExponent = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", min=1, max=64, help="Trials at once (default: one per core, at most 2).")
    ] = None,
    no_cost: Annotated[bool, typer.Option("--no-cost", help="Skip the measured cost profile.")] = False,
    sandbox: SandboxName = "auto",
    accept_unsafe: Unsafe = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate any program on its own: gates, cost, scores with intervals, the references beside it.

    Exit code 0 evaluated, 1 refused by a gate or failed in a trial. Nothing is stored.
    """
    import asyncio

    from move37 import evaluating
    from move37.cli.inspecting import write_json
    from move37.laboratory import require_accelerator

    long_running()
    source = evaluating.read_program(program)
    question = _question(
        track=track,
        tier=tier,
        tasks=tasks,
        seeds=seeds,
        learning_rates=learning_rates,
        against=against,
        max_exponent=max_exponent,
        parallel=parallel,
        with_cost=not no_cost,
    )
    require_accelerator(track, tier)
    result, level = asyncio.run(_evaluate(source, question, sandbox, accept_unsafe=accept_unsafe, quiet=as_json))
    if as_json:
        write_json(evaluating.as_json(result, file=str(program), sandbox=level))
    else:
        from move37.report.evaluation import print_evaluation

        print_evaluation(result)
    if not result.ok:
        raise typer.Exit(_REFUSED)


@guarded
def tasks(track: Track = "sequence", as_json: AsJson = False) -> None:
    """List what a program can be measured on: tasks, their sizes at every tier, and the axes that change them."""
    from move37.cli.inspecting import write_json
    from move37.evaluating import task_rows

    rows = task_rows(track)
    if as_json:
        write_json(rows)
    else:
        from move37.report.evaluation import print_tasks

        print_tasks(rows)


def _check_names(track: str, tier: str) -> None:
    from evaluator import tiers
    from evaluator.errors import UnknownNameError
    from move37.errors import ConfigError

    try:
        tiers.get(track, tier)
    except UnknownNameError as error:
        raise ConfigError(str(error)) from error


def _question(
    *,
    track: str,
    tier: str,
    tasks: str | None,
    seeds: str,
    learning_rates: str | None,
    against: str | None,
    parallel: int | None,
    **more: Any,
) -> "Question":
    """The options as a checked value.

    Raises:
        ConfigError: a name that does not exist, a size that cannot be made, a number that is none.
    """
    import secrets

    from evaluator import catalogue, tiers
    from evaluator.errors import EvaluatorError
    from evaluator.tasks import registry
    from move37.errors import ConfigError
    from move37.evaluating import Question, default_parallel

    _check_names(track, tier)
    chosen = tiers.get(track, tier)
    try:
        names = tuple(registry.canonical(task) for task in _listed(tasks)) if tasks else chosen.ranking_tasks
        for task in names:
            chosen.plan(task)
        others = tuple(_listed(against or ""))
        for name in others:
            catalogue.source(name)
    except EvaluatorError as error:
        raise ConfigError(str(error)) from error
    numbers = _numbers("--seeds", seeds, int)
    rates = _numbers("--learning-rates", learning_rates or "", float)
    if not names or not numbers:
        raise ConfigError("--tasks and --seeds need at least one value each")
    listed = (("--tasks", names), ("--seeds", numbers), ("--against", others), ("--learning-rates", rates))
    for option, values in listed:
        if len(set(values)) != len(values):
            raise ConfigError(f"{option} lists something twice: {', '.join(map(str, values))}")
    if any(seed < 0 for seed in numbers) or any(not 0 < rate <= 1 for rate in rates):
        raise ConfigError("--seeds takes whole numbers from 0, --learning-rates numbers above 0 and up to 1")
    salt = secrets.token_hex(16) if others else ""  # what is trained here side by side needs no stored twin
    parallel = parallel or default_parallel()
    return Question(track, tier, names, numbers, rates, salt, against=others, parallel=parallel, **more)


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(option: str, text: str, kind: type) -> tuple[Any, ...]:
    from move37.errors import ConfigError

    try:
        return tuple(kind(part) for part in _listed(text))
    except ValueError as error:
        raise ConfigError(f"{option} takes numbers separated by commas, not {text!r}") from error


async def _open(sandbox: str, *, accept_unsafe: bool, quiet: bool) -> "Opened":
    from move37.cli.replaying import _backend
    from move37.keys import withdraw
    from sandbox.selection import open_sandbox

    withdraw()
    opened = await open_sandbox(_backend(sandbox), programs_trusted=False, accept_unsafe=accept_unsafe)
    if not quiet:
        for line in (f"sandbox {opened.sandbox.level}: {opened.chosen_because}", *opened.warnings):
            sys.stderr.write(f"{line}\n")
    return opened


async def _gates(source: bytes, question: "Question", sandbox: str, *, accept_unsafe: bool, quiet: bool) -> "Climb":
    from move37.evaluating import climb_alone

    opened = await _open(sandbox, accept_unsafe=accept_unsafe, quiet=quiet)
    try:
        return await climb_alone(source, _laboratory(opened, warm=0), question)
    finally:
        await opened.sandbox.close()


async def _evaluate(
    source: bytes, question: "Question", sandbox: str, *, accept_unsafe: bool, quiet: bool
) -> "tuple[Evaluation, str]":
    from move37 import evaluating

    opened = await _open(sandbox, accept_unsafe=accept_unsafe, quiet=quiet)
    runs = len(question.tasks) * len(question.seeds) * (1 + len(question.against))
    done = 0

    def tell(kind: str, what: dict[str, Any]) -> None:
        nonlocal done
        if quiet:
            return
        if kind == "ladder":
            from move37.report.evaluation import print_ladder

            print_ladder(what["ladder"])
        elif kind == "profile":
            sys.stderr.write("measuring the cost...\n")
        elif kind == "scored":
            done += 1
            row = what["row"]
            outcome = row.outcome
            said = f"{outcome.score:.3f}" if outcome.score is not None else outcome.reason
            sys.stderr.write(f"[{done}/{runs}] {row.program}: {row.task}, seed {row.seed}: {said}\n")

    try:
        laboratory = _laboratory(opened, warm=question.parallel)
        return await evaluating.evaluate(source, laboratory, question, tell), opened.sandbox.level
    finally:
        await opened.sandbox.close()


def _laboratory(opened: "Opened", *, warm: int) -> Any:
    from move37.config import SandboxConfig
    from move37.laboratory import SandboxLaboratory

    limits = SandboxConfig()
    return SandboxLaboratory(opened.sandbox, memory_gib=limits.memory_gib, cpus=limits.cpus, warm=warm)
