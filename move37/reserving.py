"""Reserve, then train: the first experiment to reserve an identity is the only one that may train it.

Two climbs of the identity ladder. By text, before anything is executed: L0 (same text up to layout), L1 (same syntax
up to local names). By function, once the gates have passed, from what the sandbox finds out: L2 (same operations), L3
(same outputs and gradients). What is found out is stored with the program, under no campaign's name, and asked only
once.

A repeat says which level saw it and whom it repeats, never how that went: it may be in flight, and timing decides
nothing. Not covered: how the hashes are made (`memory.identity`, `memory.syntax`, `evaluator.tracing`).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from evaluator.verdict import Verdict
from memory.identity import l0
from memory.records import Attempt, Experiment, ProgramKey
from memory.syntax import l1
from move37.config import IdentityLevel
from move37.laboratory import FoundIdentity
from move37.loop import Loop

BY_TEXT: tuple[IdentityLevel, ...] = ("L0", "L1")
BY_FUNCTION: tuple[IdentityLevel, ...] = ("L2", "L3")
_SAME = {
    "L0": "the same text",
    "L1": "the same program under other names",
    "L2": "the same operations written otherwise",
    "L3": "the same function of its inputs and parameters",
}


@dataclass(frozen=True)
class Key:
    """An identity of a program at a level. `scope`: under what it holds (track and tier, where it was executed)."""

    level: IdentityLevel
    key: str


async def by_text(loop: Loop, experiment: Experiment, attempt: Attempt, source: str) -> Verdict:
    """Waits for every earlier experiment to settle, then reserves L0 and L1."""
    await loop.turnstile.wait(experiment.index)
    program = _program(attempt)
    keys = []
    for level in _asked(loop, BY_TEXT):
        found = _stored(loop, program, level, "")
        if found is None:
            began = time.perf_counter()
            key, reason = (l0(source), "") if level == "L0" else _syntax(source)
            took = time.perf_counter() - began
            found = loop.store.put_program_key(program, level, "", key=key, reason=reason, cost_s=took)
        if found.key is not None:
            keys.append(Key(level, found.key))
    if "dedup" in loop.config.search.without:
        return Verdict("identity", True, "ok", "not looked at: this campaign trains repeats too")
    return _reserve(loop, experiment, attempt, keys, gate="identity", reason="duplicate")


async def by_function(loop: Loop, experiment: Experiment, attempt: Attempt, found: Sequence[FoundIdentity]) -> Verdict:
    """Reserves L2 and L3, as `found` out in the sandbox. What an earlier campaign found out of the program stays."""
    levels = _asked(loop, BY_FUNCTION)
    program, scope = _program(attempt), scope_of(experiment.track, experiment.tier)
    for one in found:
        if _stored(loop, program, one.level, scope) is None:
            loop.store.put_program_key(program, one.level, scope, key=one.key, reason=one.reason, cost_s=one.cost_s)
    stored = [_stored(loop, program, level, scope) for level in levels]
    keys = [Key(level, one.key) for level, one in zip(levels, stored, strict=True) if one and one.key is not None]
    return _reserve(loop, experiment, attempt, keys, gate="equivalence", reason="equivalent")


def scope_of(track: str, tier: str) -> str:
    """What the executed levels depend on beside the program: it is built at the sizes of a tier."""
    return f"{track}/{tier}"


def same_program(keys: Sequence[ProgramKey], others: Sequence[ProgramKey], level: str) -> bool:
    """Whether two programs have the same key at a level."""
    mine = {one.key for one in keys if one.level == level and one.key is not None}
    return any(one.level == level and one.key in mine for one in others)


def _reserve(
    loop: Loop, experiment: Experiment, attempt: Attempt, keys: Sequence[Key], *, gate: str, reason: str
) -> Verdict:
    """The verdict on the first key that somebody else holds; all keys are reserved if nobody does."""

    def repeats(key: Key, owner: str) -> Verdict:
        detail = {"duplicate_of" if reason == "duplicate" else "equivalent_of": owner, "level": key.level}
        return Verdict(gate, False, reason, f"already tried in {owner}: {_SAME[key.level]}", detail=detail)

    for key in keys:  # all are looked up before one is reserved: a repeat must not own what its original lacks
        owner = _owner(loop, key)
        if owner == experiment.id:
            refused = _refused_before(loop, attempt, key.level)
            if refused is not None:
                return _again(gate, key.level, refused)
        elif owner is not None:
            return repeats(key, owner)
    for key in keys:
        reservation = loop.store.reserve(loop.campaign.id, key.level, key.key, experiment.id)
        if reservation.owner != experiment.id:
            return repeats(key, reservation.owner)  # another process was quicker
    return Verdict(gate, True, "ok", "not tried before in this campaign")


def _owner(loop: Loop, key: Key) -> str | None:
    """Who holds a key: in the campaigns that a fork goes on from, or in this one."""
    inherited = loop.visibility.tried(key.level, key.key)
    if inherited is not None:
        return inherited
    held = loop.store.identity(loop.campaign.id, key.level, key.key)
    return None if held is None else held.experiment_id


def _refused_before(loop: Loop, attempt: Attempt, level: str) -> Attempt | None:
    """The earlier attempt of the experiment with the same key; None if this one reserved it before a crash."""
    mine = loop.store.program_keys(_program(attempt))
    before = [a for a in loop.store.attempts(attempt.experiment_id) if a.number < attempt.number]
    earlier = [a for a in before if a.program_sha256]
    return next((a for a in earlier if same_program(mine, loop.store.program_keys(_program(a)), level)), None)


def _again(gate: str, level: str, refused: Attempt) -> Verdict:
    """On a program that this very experiment wrote before: a repeat stays one, what a gate refused stays refused."""
    said = refused.detail
    if refused.outcome == "duplicate":
        links: dict[str, Any] = {link: said[link] for link in ("duplicate_of", "equivalent_of") if link in said}
        detail = {**links, "level": said.get("level", level)}
        return Verdict(gate, False, str(said["reason"]), str(said["message"]), detail=detail)
    message = "this is the program that was just refused, unchanged"
    return Verdict(gate, False, "unchanged", message, detail={"level": level})


def executed_levels(loop: Loop) -> list[IdentityLevel]:
    """Those that the campaign asks the sandbox about."""
    return _asked(loop, BY_FUNCTION)


def _asked(loop: Loop, levels: Sequence[IdentityLevel]) -> list[IdentityLevel]:
    search = loop.config.search
    return [] if "dedup" in search.without else [level for level in levels if level in search.identity]


def _stored(loop: Loop, program: str, level: str, scope: str) -> ProgramKey | None:
    known = loop.store.program_keys(program)
    return next((one for one in known if (one.level, one.scope) == (level, scope)), None)


def _syntax(source: str) -> tuple[str | None, str]:
    found = l1(source)
    return found.key, found.reason


def _program(attempt: Attempt) -> str:
    if attempt.program_sha256 is None:
        raise AssertionError(f"attempt {attempt.number} of {attempt.experiment_id} has no program to recognise")
    return attempt.program_sha256
