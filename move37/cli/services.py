"""`sandbox build`, `model serve`, `doctor`: what surrounds a campaign."""

import sys
from typing import Annotated

import typer

from move37.cli.guard import fail, guarded, long_running
from move37.cli.options import AsJson, RunsDir, StoreUrl

sandbox_app = typer.Typer(help="The sandbox that programs run in.", no_args_is_help=True)
model_app = typer.Typer(help="The embedded model.", no_args_is_help=True)
_INFRASTRUCTURE = 4


@sandbox_app.command("build")
@guarded
def sandbox_build(
    base_image: Annotated[
        str | None,
        typer.Option("--base-image", help="Image to build on (default: python:3.11-slim).", show_default=False),
    ] = None,
    bootstrap: Annotated[
        bool,
        typer.Option("--bootstrap", help="Make the base from this machine's own Python: needs no registry."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build the docker sandbox's image from sandbox/Dockerfile."""
    from dataclasses import asdict

    from move37.cli.inspecting import write_json
    from sandbox.building import build_image

    info = build_image(base_image=base_image, bootstrap=bootstrap, on_line=_echo)
    if as_json:
        write_json(asdict(info))
    else:
        sys.stdout.write(f"built {info.tag} ({info.image_id})\n")


def _echo(line: str) -> None:
    sys.stderr.write(f"  {line}\n")


@model_app.command("serve")
@guarded
def model_serve(
    port: Annotated[int, typer.Option("--port", help="Port; 0 takes a free one.")] = 8037,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Serve the embedded grammar model over the OpenAI protocol. It is a grammar, not a language model."""
    from agents.embedded.server import serve

    long_running()
    serve(host=host, port=port)


@guarded
def doctor(runs_dir: RunsDir = None, store: StoreUrl = None, as_json: AsJson = False) -> None:
    """Say what is installed, reachable or missing, and what to do about it.

    Exit code 0 if a plain `move37 run` could work here, 4 if not.
    """
    from move37.checks import all_checks
    from move37.cli.inspecting import write_json
    from move37.workspace import Workspace

    checks = all_checks(Workspace.find(runs_dir, store))
    if as_json:
        write_json([check.as_dict() for check in checks])
    else:
        from move37.report.terminal import print_checks

        print_checks(checks)
    missing = [check for check in checks if check.status == "missing" and check.required]
    if missing:
        fail("; ".join(f"{each.name}: {each.detail} ({each.remedy})" for each in missing), _INFRASTRUCTURE)
