"""`move37`: the commands, in groups."""

import gc
import os
import sys
from typing import Annotated

import typer

from move37 import __version__
from move37.cli import (
    comparing,
    examining,
    exchanging,
    forking,
    identifying,
    inspecting,
    knowing,
    replaying,
    running,
    services,
    studying,
)

app = typer.Typer(
    name="move37",
    help="Discovers neural-network architectures: proposes, writes, trains, measures, remembers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_CAMPAIGNS = "Campaigns"
_PROGRAMS = "One program"
_READING = "Reading the memory"
_SETUP = "Set-up"

app.command("run", rich_help_panel=_CAMPAIGNS)(running.run)
app.command("resume", rich_help_panel=_CAMPAIGNS)(running.resume)
app.command("replay", rich_help_panel=_CAMPAIGNS)(replaying.replay)
app.command("fork", rich_help_panel=_CAMPAIGNS)(forking.fork)
app.add_typer(studying.study_app, name="study", rich_help_panel=_CAMPAIGNS)
app.command("gates", rich_help_panel=_PROGRAMS)(examining.gates)
app.command("evaluate", rich_help_panel=_PROGRAMS)(examining.evaluate)
app.command("identity", rich_help_panel=_PROGRAMS)(identifying.identity)
app.command("tasks", rich_help_panel=_PROGRAMS)(examining.tasks)
app.command("status", rich_help_panel=_READING)(inspecting.status)
app.command("lineage", rich_help_panel=_READING)(inspecting.lineage)
app.command("show", rich_help_panel=_READING)(inspecting.show)
app.command("diff", rich_help_panel=_READING)(comparing.diff)
app.command("knowledge", rich_help_panel=_READING)(knowing.knowledge)
app.command("export", rich_help_panel=_READING)(exchanging.export)
app.add_typer(exchanging.import_app, name="import", rich_help_panel=_READING)
app.command("doctor", rich_help_panel=_SETUP)(services.doctor)
app.add_typer(services.sandbox_app, name="sandbox", rich_help_panel=_SETUP)
app.add_typer(services.model_app, name="model", rich_help_panel=_SETUP)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"move37 {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def run_cli() -> None:
    """The entry point.

    A short command makes no garbage worth collecting, and leaves without taking the interpreter apart: together a third
    of the time in which `status` answers. Commands that last say so (`guard.long_running`) and leave as usual.
    """
    gc.disable()
    code: str | int | None = 0
    try:
        app()
    except SystemExit as leaving:
        code = leaving.code
    if gc.isenabled() or isinstance(code, str):
        sys.exit(code)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # `move37 ... | head`: whoever read has had enough
        code = 0
    os._exit(code or 0)


if __name__ == "__main__":
    run_cli()
