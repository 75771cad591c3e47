"""What a program is, at every level of the identity ladder: L0 and L1 from its text, L2 and L3 by running it.

L0 (`memory.identity`) and L1 (`memory.syntax`) are worked out here. L2 and L3 execute the program, so they are a job in
the sandbox (`SandboxLaboratory.identify`), and their keys are what it says: checked in form, and never believed for
more than "these two claim to be the same".
Not covered: storing keys and looking them up, which is the memory's part.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluator.identities import LEVELS as EXECUTED
from evaluator.identities import Identity
from evaluator.static_gate import MAX_PROGRAM_BYTES
from memory.identity import l0
from move37.errors import ConfigError
from move37.laboratory import SandboxLaboratory

TEXTUAL = ("l0", "l1")
LEVELS = (*TEXTUAL, *EXECUTED)


@dataclass(frozen=True)
class Identified:
    """One program's file and its identities by level."""

    file: str
    levels: Mapping[str, Identity]

    def as_dict(self) -> dict[str, Any]:
        """One element of the JSON of `move37 identity`."""
        keys = {level: self.levels[level].key for level in LEVELS}
        reasons = {level: self.levels[level].reason for level in LEVELS if self.levels[level].key is None}
        return {"file": self.file, **keys, "reasons": reasons}


def read_source(path: Path) -> str:
    """The text of a program's file.

    Raises:
        ConfigError: there is no such file, it cannot be read, is too large, or is no text that a program could be.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PROGRAM_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the program {path}: {error.strerror}. Name a readable Python file.") from error
    if len(data) > MAX_PROGRAM_BYTES:
        raise ConfigError(
            f"the program {path} is larger than {MAX_PROGRAM_BYTES} bytes, which is the most that is accepted. "
            f"Shorten it, or name another file."
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"the program {path} is not UTF-8 text (byte {error.start}). Save it as UTF-8, or name a Python file."
        ) from error
    if "\x00" in text:
        line = text[: text.index("\x00")].count("\n") + 1
        raise ConfigError(f"the program {path} has a NUL byte on line {line}. Remove it; Python would not load it.")
    return text


def textual(source: str) -> dict[str, Identity]:
    """L0 and L1, by level."""
    from memory.syntax import l1

    started = time.perf_counter()
    text = l0(source)
    between = time.perf_counter()
    syntax = l1(source)
    ended = time.perf_counter()
    return {
        "l0": Identity(text, "", between - started),
        "l1": Identity(syntax.key, "" if syntax.key is not None else syntax.reason, ended - between),
    }


async def executed(
    source: str, laboratory: SandboxLaboratory, *, track: str, tier: str, label: str = "identity"
) -> dict[str, Identity]:
    """L2 and L3, by level. What the program does wrong is a missing key with a reason.

    Raises:
        UnknownTrack, UnknownTier: a name that does not exist.
        CampaignPaused: the sandbox failed repeatedly; the program is not to blame.
    """
    found = await laboratory.identify(source, track=track, tier=tier, label=label)
    return {one.level.lower(): Identity(one.key, one.reason, one.cost_s) for one in found}


def missing(levels: Collection[str], reason: str) -> dict[str, Identity]:
    """No key at any of the levels, for one reason."""
    return {level: Identity(None, reason, 0.0) for level in LEVELS if level in levels}


def first_agreement(one: Mapping[str, Identity], other: Mapping[str, Identity]) -> str | None:
    """The first level at which both have a key and it is the same; None: there is none."""
    for level in LEVELS:
        if (key := one[level].key) is not None and key == other[level].key:
            return level
    return None


async def refused(source: str, track: str) -> str | None:
    """Why a program must not be run at all: what the static gates say; None: it may."""
    from move37.ladder import static

    failures = [verdict for verdict in await static(source, track=track) if not verdict.passed]
    return f"it was not run, since the {failures[0].gate} gate refuses it: {failures[0].message}" if failures else None


async def identify_files(
    sources: Sequence[tuple[str, str]], laboratory: SandboxLaboratory | None, *, track: str, tier: str
) -> list[Identified]:
    """Every level of each (file, source), one after the other; without a laboratory the textual levels only.

    Raises: as `executed`.
    """
    found = []
    for file, source in sources:
        levels = textual(source)
        if laboratory is None:
            levels |= missing(EXECUTED, "not asked for: only the levels of the text were")
        elif (why := await refused(source, track)) is not None:
            levels |= missing(EXECUTED, why)
        else:
            levels |= await executed(source, laboratory, track=track, tier=tier, label=f"identity/{file}")
        found.append(Identified(file, levels))
    return found
