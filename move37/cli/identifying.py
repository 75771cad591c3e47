"""`identity`: what a program is, from its text to its function, and where two are the same."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from move37.cli.examining import SandboxName, Tier, Track, Unsafe
from move37.cli.guard import guarded, long_running
from move37.cli.options import AsJson

if TYPE_CHECKING:
    from move37.identifying import Identified

_MEANINGS = {
    "l0": "text without comments and layout",
    "l1": "syntax without names and annotations",
    "l2": "operations",
    "l3": "function",
}


@guarded
def identity(
    programs: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Architecture programs.")],
    track: Track = "sequence",
    tier: Tier = "smoke",
    sandbox: SandboxName = "auto",
    accept_unsafe: Unsafe = False,
    text_only: Annotated[
        bool, typer.Option("--text-only", help="Only the levels of the text (l0, l1): nothing is run.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print each program's hash at the four levels of identity; for two, the first level at which they agree."""
    import asyncio

    from move37.cli.examining import _check_names
    from move37.cli.inspecting import write_json
    from move37.identifying import read_source

    long_running()
    _check_names(track, tier)
    sources = [(str(path), read_source(path)) for path in programs]
    found = asyncio.run(
        _identified(
            sources,
            track,
            tier,
            sandbox=None if text_only else sandbox,
            accept_unsafe=accept_unsafe,
            quiet=as_json,
        )
    )
    if as_json:
        write_json([one.as_dict() for one in found])
    else:
        sys.stdout.write(_shown(found))


async def _identified(
    sources: list[tuple[str, str]], track: str, tier: str, *, sandbox: str | None, accept_unsafe: bool, quiet: bool
) -> "list[Identified]":
    from move37.cli.examining import _laboratory, _open
    from move37.identifying import identify_files

    if sandbox is None:
        return await identify_files(sources, None, track=track, tier=tier)
    opened = await _open(sandbox, accept_unsafe=accept_unsafe, quiet=quiet)
    try:
        return await identify_files(sources, _laboratory(opened, warm=0), track=track, tier=tier)
    finally:
        await opened.sandbox.close()


def _shown(found: "list[Identified]") -> str:
    from move37.identifying import first_agreement

    lines = []
    for one in found:
        lines.append(one.file)
        for level, what in one.levels.items():
            said = what.key if what.key is not None else f"none: {what.reason}"
            lines.append(f"  {level}  {said}")
    if len(found) == 2:
        agreed = first_agreement(found[0].levels, found[1].levels)
        lines.append(
            "they agree at no level" if agreed is None else f"first agreement at {agreed}: the same {_MEANINGS[agreed]}"
        )
    return "\n".join(lines) + "\n"
