"""Chooses the sandbox of a campaign: the strongest that passes its self-test, and never a weaker one in silence."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from typing import Literal

from sandbox.errors import IsolationRequired, SandboxUnavailable
from sandbox.process import ProcessSandbox
from sandbox.protocol import Sandbox
from sandbox.selftest import self_test

Choice = Literal["auto", "docker", "bubblewrap", "process"]

NO_ISOLATION = "the process sandbox isolates nothing: programs run with this user's rights"


@dataclass(frozen=True)
class Opened:
    """A sandbox that is ready, and what to tell the user about it."""

    sandbox: Sandbox
    chosen_because: str
    warnings: list[str] = field(default_factory=list)


async def open_sandbox(choice: Choice, *, programs_trusted: bool, accept_unsafe: bool) -> Opened:
    """Opens the sandbox that `choice` names, or with "auto" the strongest that works here.

    `programs_trusted`: the programs come from our own grammar, not from a language model. `accept_unsafe`: the user
    said that other programs may run without isolation.

    Raises:
        SandboxUnavailable: the sandbox asked for cannot be used here; the message says why and what to do.
        IsolationRequired: what is left does not isolate, and the programs are not trusted.
        ProtocolMismatch: a worker of another version started.
    """
    may_run_unisolated = programs_trusted or accept_unsafe
    match choice:
        case "docker":
            return Opened(*await _docker(), [])
        case "bubblewrap":
            return Opened(await _bubblewrap(), "chosen by configuration")
        case "process":
            if not may_run_unisolated:
                raise IsolationRequired(())
            return Opened(await _process(), "chosen by configuration", [NO_ISOLATION])
    tried: list[SandboxUnavailable] = []
    try:
        return Opened(*await _docker(), [])
    except SandboxUnavailable as unavailable:
        tried.append(unavailable)
    try:
        return Opened(await _bubblewrap(), "the strongest that works here", [str(unavailable) for unavailable in tried])
    except SandboxUnavailable as unavailable:
        tried.append(unavailable)
    if not may_run_unisolated:
        raise IsolationRequired(tried)
    who = "the programs come from the embedded grammar" if programs_trusted else "unsafe running was accepted"
    warnings = [*(str(unavailable) for unavailable in tried), NO_ISOLATION]
    return Opened(await _process(), f"nothing that isolates works here, and {who}", warnings)


async def _docker() -> tuple[Sandbox, str]:
    from sandbox.containers import open_docker  # the Docker SDK is slow to import and not always needed

    sandbox = await asyncio.to_thread(open_docker)
    try:
        await self_test(sandbox, python="python3")
    except BaseException:
        await sandbox.close()
        raise
    base = "made from this host's interpreter" if sandbox.provenance()["bootstrap"] else "pulled"
    return sandbox, f"a Docker engine answers and its image is current (base {base})"


async def _bubblewrap() -> Sandbox:
    from sandbox.bubblewrap import BubblewrapSandbox

    sandbox = BubblewrapSandbox()
    await self_test(sandbox, python=sys.executable)
    return sandbox


async def _process() -> Sandbox:
    sandbox = ProcessSandbox()
    await self_test(sandbox, python=sys.executable)
    return sandbox
