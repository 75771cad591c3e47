"""Chooses the sandbox of a campaign: the strongest that passes its self-test, and never a weaker one in silence."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from sandbox.errors import IsolationRequired, SandboxUnavailable
from sandbox.process import ProcessSandbox
from sandbox.protocol import Sandbox
from sandbox.selftest import Testable, self_test

Choice = Literal["auto", "docker", "bubblewrap", "landlock", "process"]
ISOLATING = ("docker", "bubblewrap", "landlock")  # strongest first

_STRONGEST = "the strongest that works here"

NO_ISOLATION = "the process sandbox isolates nothing: programs run with this user's rights"


@dataclass(frozen=True)
class Opened:
    """A sandbox that is ready, and what to tell the user about it."""

    sandbox: Sandbox
    chosen_because: str
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Equipment:
    """What a sandbox is to have besides workers. `gpus` None: those that the driver's tool names on this machine."""

    runtime: str = ""
    gpus: tuple[str, ...] | None = None


async def open_sandbox(
    choice: Choice, *, programs_trusted: bool, accept_unsafe: bool, equipment: Equipment = Equipment()
) -> Opened:
    """Opens the sandbox that `choice` names, or with "auto" the strongest that works here.

    `programs_trusted`: the programs come from our own grammar, not from a language model. `accept_unsafe`: the user
    said that other programs may run without isolation. A container runtime that is asked for (`equipment`) is a wish
    for docker: "auto" then takes docker or nothing.

    Raises:
        SandboxUnavailable: the sandbox asked for cannot be used here; the message says why and what to do.
        IsolationRequired: what is left does not isolate, and the programs are not trusted.
        ProtocolMismatch: a worker of another version started.
    """
    may_run_unisolated = programs_trusted or accept_unsafe
    if equipment.runtime:
        if choice not in ("auto", "docker"):
            why = f"it has no container runtime, and {equipment.runtime!r} was asked for"
            raise SandboxUnavailable(choice, why, "Leave out --runtime, or use --sandbox docker.")
        choice = "docker"
    if choice == "process" and not may_run_unisolated:
        raise IsolationRequired
    if choice != "auto":
        sandbox, why = await _OPENERS[choice](equipment)
        warnings = [] if sandbox.isolated else [NO_ISOLATION]
        return Opened(sandbox, why if choice == "docker" else "chosen by configuration", warnings)
    tried: list[SandboxUnavailable] = []
    for level in ISOLATING:
        try:
            sandbox, why = await _OPENERS[level](equipment)
        except SandboxUnavailable as unavailable:
            tried.append(unavailable)
        else:
            return Opened(sandbox, why, [str(unavailable) for unavailable in tried])
    if not may_run_unisolated:
        raise IsolationRequired(tried)
    sandbox, _ = await _process(equipment)
    who = "the programs come from the embedded grammar" if programs_trusted else "unsafe running was accepted"
    warnings = [*(str(unavailable) for unavailable in tried), NO_ISOLATION]
    return Opened(sandbox, f"nothing that isolates works here, and {who}", warnings)


async def _docker(equipment: Equipment) -> tuple[Sandbox, str]:
    from sandbox.containers import open_docker  # the Docker SDK is slow to import and not always needed

    sandbox = await asyncio.to_thread(lambda: open_docker(runtime=equipment.runtime, devices=equipment.gpus))
    await _tested(sandbox, python="python3")
    base = "made from this host's interpreter" if sandbox.provenance()["bootstrap"] else "pulled"
    return sandbox, f"a Docker engine answers and its image is current (base {base})"


async def _bubblewrap(equipment: Equipment) -> tuple[Sandbox, str]:
    from sandbox.bubblewrap import BubblewrapSandbox

    return await _tested(BubblewrapSandbox()), _STRONGEST


async def _landlock(equipment: Equipment) -> tuple[Sandbox, str]:
    from sandbox.landlock import LandlockSandbox

    return await _tested(LandlockSandbox()), _STRONGEST


async def _process(equipment: Equipment) -> tuple[Sandbox, str]:
    return await _tested(ProcessSandbox(devices=equipment.gpus)), _STRONGEST


_S = TypeVar("_S", bound=Testable)


async def _tested(sandbox: _S, *, python: str = sys.executable) -> _S:
    """`sandbox`, once it has shown that it holds. Closes it if it does not."""
    try:
        await self_test(sandbox, python=python)
    except BaseException:
        await sandbox.close()
        raise
    return sandbox


_OPENERS: dict[str, Callable[[Equipment], Awaitable[tuple[Sandbox, str]]]] = {
    "docker": _docker,
    "bubblewrap": _bubblewrap,
    "landlock": _landlock,
    "process": _process,
}
