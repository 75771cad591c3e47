"""Programs, the attempts that wrote them, what the gates said, and who holds which identity.

`..._at_once` is the function of that name in one statement (memory/at_once.py), or None where that does not do.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any, get_args

from sqlalchemy import Select, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as Transaction

from memory import at_once, rows
from memory.columns import finite, plain
from memory.database import TURN, Database
from memory.errors import Conflict, NotFound, ProgramUnstorable, ValueRefused
from memory.identity import l0, literal_hash
from memory.models import AttemptRow, ExperimentRow, IdentityRow, ProgramKeyRow, ProgramRow, VerdictRow, snapshot
from memory.records import (
    Attempt,
    AttemptOrigin,
    AttemptOutcome,
    GateVerdict,
    Identity,
    LevelCount,
    Program,
    ProgramKey,
    Reservation,
)

_VERDICT_FIELDS = frozenset({"gate", "passed", "reason", "message", "line", "detail"})

_PUT_PROGRAM = at_once.insert(ProgramRow)
_PUT_ATTEMPT = at_once.insert(AttemptRow, source=at_once.OPEN_EXPERIMENT)
_PUT_VERDICTS = f"""
WITH {TURN}
INSERT INTO verdicts (experiment_id, attempt, position, gate, passed, reason, message, line, detail)
SELECT attempts.experiment_id, attempts.number, position, gate, passed, reason, message, line, given.detail::json
FROM {at_once.OPEN_EXPERIMENT}
JOIN attempts ON attempts.experiment_id = experiment.id AND attempts.number = %(attempt)s::integer
CROSS JOIN unnest(
    %(position)s::integer[], %(gate)s::text[], %(passed)s::boolean[], %(reason)s::text[], %(message)s::text[],
    %(line)s::integer[], %(detail)s::text[]
) AS given(position, gate, passed, reason, message, line, detail)
WHERE NOT EXISTS (
    SELECT FROM verdicts AS other
    WHERE other.experiment_id = attempts.experiment_id AND other.attempt = attempts.number
)
RETURNING 1
"""  # noqa: S608 - constants
_RESERVE = at_once.insert(IdentityRow, source=f"{at_once.EXPERIMENT} AND experiment.campaign_id = %(campaign_id)s")


def put(session: Transaction, now: datetime, source: str) -> str:
    """Store a program under the hash of its bytes."""
    key = _hash(source)
    if session.get(ProgramRow, key) is None:
        _insert_unless_there(session, ProgramRow(**_program(now, source, key)))
    return key


def put_at_once(database: Database, now: datetime, source: str) -> str | None:
    """`put` of a new one."""
    key = _hash(source)
    stored = database.at_once(_PUT_PROGRAM, source, at_once.parameters(ProgramRow, _program(now, source, key)))
    return None if stored is None else key


def _program(now: datetime, source: str, key: str) -> dict[str, Any]:
    return {
        "sha256": key,
        "source": source,
        "n_lines": len(source.splitlines()),
        "l0": l0(source),
        "literal_hash": literal_hash(source),
        "created_at": now,
    }


def _hash(source: str) -> str:
    if "\x00" in source:
        raise ProgramUnstorable("the program", f"it holds NUL at character {source.index(chr(0))}")
    try:
        data = source.encode()
    except UnicodeEncodeError as error:
        raise ProgramUnstorable("the program", f"it holds a lone surrogate at character {error.start}") from error
    return sha256(data).hexdigest()


def find(session: Transaction, key: str) -> Program:
    """One program."""
    return snapshot(Program, rows.get(session, ProgramRow, "program", key))


def keys(session: Transaction, program_sha256: str) -> list[ProgramKey]:
    """What a program is known to be at each level, by level and scope."""
    query = select(ProgramKeyRow).where(ProgramKeyRow.program_sha256 == program_sha256)
    query = query.order_by(ProgramKeyRow.level, ProgramKeyRow.scope)
    return [snapshot(ProgramKey, row) for row in session.scalars(query)]


def put_key(session: Transaction, now: datetime, program_sha256: str, given: Mapping[str, Any]) -> ProgramKey:
    """Store what a program is at a level, once; what finding out cost is not compared when it is repeated."""
    rows.get(session, ProgramRow, "program", program_sha256)
    level, scope = rows.word(given["level"], "level"), given["scope"]
    if given["key"] is None and not given["reason"]:
        raise ValueRefused(f"{level} of program {program_sha256}", "where there is no key there is a reason")
    row = session.get(ProgramKeyRow, (program_sha256, level, scope))
    if row is not None:
        rows.must_agree("key of program", f"{program_sha256}/{level}", row, {"key": given["key"]})
        return snapshot(ProgramKey, row)
    cost_s = finite(given["cost_s"], f"cost of {level} of program {program_sha256}")
    row = ProgramKeyRow(program_sha256=program_sha256, created_at=now, **{**given, "cost_s": cost_s})
    session.add(row)
    session.flush()
    return snapshot(ProgramKey, row)


def recognised(session: Transaction, campaign_id: str) -> list[LevelCount]:
    """What each level of the identity ladder cost and caught in a campaign."""
    of_campaign = select(AttemptRow.program_sha256).join(ExperimentRow, AttemptRow.experiment_id == ExperimentRow.id)
    of_campaign = of_campaign.where(ExperimentRow.campaign_id == campaign_id, AttemptRow.program_sha256.is_not(None))
    query = select(ProgramKeyRow.level, func.count(), func.count(ProgramKeyRow.key), func.sum(ProgramKeyRow.cost_s))
    query = query.where(ProgramKeyRow.program_sha256.in_(of_campaign)).group_by(ProgramKeyRow.level)
    asked = {str(level): (int(n), int(keyed), float(cost)) for level, n, keyed, cost in session.execute(query)}
    repeats = select(AttemptRow.detail).join(ExperimentRow, AttemptRow.experiment_id == ExperimentRow.id)
    repeats = repeats.where(ExperimentRow.campaign_id == campaign_id, AttemptRow.outcome == "duplicate")
    caught = Counter(str(detail.get("level", "L0")) for detail in session.scalars(repeats))
    return [
        LevelCount(level, *asked.get(level, (0, 0, 0.0)), caught[level])
        for level in sorted(asked.keys() | caught.keys())
    ]


def attempts(session: Transaction, experiment_id: str) -> list[Attempt]:
    """The attempts of an experiment by number."""
    query = select(AttemptRow).where(AttemptRow.experiment_id == experiment_id).order_by(AttemptRow.number)
    return [snapshot(Attempt, row) for row in session.scalars(query)]


def put_attempt(
    session: Transaction, now: datetime, experiment_id: str, number: int, given: Mapping[str, Any]
) -> Attempt:
    """Store an attempt or fill its gaps."""
    experiment = rows.experiment(session, experiment_id)
    wanted = _stated(given)
    if wanted["program_sha256"] is not None:
        rows.get(session, ProgramRow, "program", wanted["program_sha256"])
    key = f"{experiment_id}/{number}"
    row = session.get(AttemptRow, (experiment_id, number))
    if row is None:
        rows.open_experiment(session, experiment.id, "another attempt")
        row = AttemptRow(**_attempt(now, experiment_id, number, wanted))
        session.add(row)
    else:
        gaps = {name for name in ("hypothesis", "program_sha256") if getattr(row, name) is None}
        if row.outcome is not None and any(wanted[name] is not None for name in gaps):
            raise Conflict("attempt", key, f"it is closed ({row.outcome}) and takes no {', '.join(sorted(gaps))}")
        stated = {name: value for name, value in wanted.items() if value is not None and name not in gaps}
        rows.must_agree("attempt", key, row, stated)
        for name in gaps:
            if wanted[name] is not None:
                setattr(row, name, wanted[name])
    session.flush()
    return snapshot(Attempt, row)


def put_attempt_at_once(
    database: Database, now: datetime, experiment_id: str, number: int, given: Mapping[str, Any]
) -> Attempt | None:
    """`put_attempt` of a new one."""
    values = _attempt(now, experiment_id, number, _stated(given))
    stored = database.at_once(_PUT_ATTEMPT, experiment_id, at_once.parameters(AttemptRow, values))
    return None if stored is None else at_once.record(Attempt, values)


def _stated(given: Mapping[str, Any]) -> dict[str, Any]:
    if given["origin"] not in get_args(AttemptOrigin):
        raise ValueRefused(f"attempt origin {given['origin']!r}", f"it is not one of {get_args(AttemptOrigin)}")
    wanted = dict(given)
    if wanted["hypothesis"] is not None:
        wanted["hypothesis"] = plain(wanted["hypothesis"], "hypothesis")
    return wanted


def _attempt(now: datetime, experiment_id: str, number: int, stated: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "experiment_id": experiment_id,
        "number": number,
        "outcome": None,
        "detail": {},
        "created_at": now,
        "closed_at": None,
        **stated,
    }


def close_attempt(
    session: Transaction,
    now: datetime,
    experiment_id: str,
    number: int,
    *,
    outcome: AttemptOutcome,
    detail: Mapping[str, Any],
) -> Attempt:
    """Give an attempt its outcome."""
    row = rows.get(session, AttemptRow, "attempt", (experiment_id, number))
    if outcome not in get_args(AttemptOutcome):
        raise ValueRefused(f"attempt outcome {outcome!r}", f"it is not one of {get_args(AttemptOutcome)}")
    wanted = {"outcome": outcome, "detail": plain(detail, "attempt detail")}
    if row.outcome is not None:
        rows.must_agree("attempt", f"{experiment_id}/{number}", row, wanted)
        return snapshot(Attempt, row)
    row.outcome, row.detail, row.closed_at = outcome, wanted["detail"], now
    session.flush()
    return snapshot(Attempt, row)


def verdicts(session: Transaction, experiment_id: str, attempt: int | None) -> list[GateVerdict]:
    """Verdicts in the order of the ladder."""
    return [snapshot(GateVerdict, row) for row in session.scalars(_verdicts_of(experiment_id, attempt))]


def _verdicts_of(experiment_id: str, attempt: int | None) -> Select[Any]:
    query = select(VerdictRow).where(VerdictRow.experiment_id == experiment_id)
    if attempt is not None:
        query = query.where(VerdictRow.attempt == attempt)
    return query.order_by(VerdictRow.attempt, VerdictRow.position)


def put_verdicts(
    session: Transaction,
    experiment_id: str,
    attempt: int,
    given: Sequence[Mapping[str, Any]],
    first_position: int,
) -> list[GateVerdict]:
    """Store verdicts at their positions."""
    rows.get(session, AttemptRow, "attempt", (experiment_id, attempt))
    there = {row.position: row for row in session.scalars(_verdicts_of(experiment_id, attempt))}
    wanted = {position: _verdict(verdict) for position, verdict in enumerate(given, start=first_position)}
    for position in sorted(wanted.keys() & there.keys()):
        rows.must_agree("verdict", f"{experiment_id}/{attempt}/{position}", there[position], wanted[position])
    missing = sorted(wanted.keys() - there.keys())
    if missing:
        rows.open_experiment(session, experiment_id, "another verdict")
    for position in missing:
        there[position] = VerdictRow(
            experiment_id=experiment_id, attempt=attempt, position=position, **wanted[position]
        )
        session.add(there[position])
    session.flush()
    return [snapshot(GateVerdict, there[position]) for position in sorted(there)]


def put_verdicts_at_once(
    database: Database,
    _now: datetime,
    experiment_id: str,
    attempt: int,
    given: Sequence[Mapping[str, Any]],
    first_position: int,
) -> list[GateVerdict] | None:
    """`put_verdicts` of an attempt's first ones."""
    wanted = [_verdict(verdict) for verdict in given]
    encoded = [at_once.parameters(VerdictRow, one) for one in wanted]
    if not wanted:
        return None
    positions = [*range(first_position, first_position + len(wanted))]
    columns = {name: [one[name] for one in encoded] for name in encoded[0]}
    place = {"experiment_id": experiment_id, "attempt": attempt, "position": positions}
    if database.at_once(_PUT_VERDICTS, experiment_id, {**columns, **place}) is None:
        return None
    return [
        GateVerdict(experiment_id, attempt, position, **one) for position, one in zip(positions, wanted, strict=True)
    ]


def _verdict(given: Mapping[str, Any]) -> dict[str, Any]:
    if set(given) - _VERDICT_FIELDS or not {"gate", "passed", "reason"} <= set(given):
        raise ValueRefused(
            f"a verdict with {sorted(given)}", "it has gate, passed, reason and optionally message, line, detail"
        )
    return {
        "gate": rows.word(given["gate"], "gate"),
        "passed": bool(given["passed"]),
        "reason": rows.word(given["reason"], "reason"),
        "message": given.get("message") or "",
        "line": given.get("line"),
        "detail": plain(dict(given.get("detail") or {}), "verdict detail"),
    }


def identity(session: Transaction, campaign_id: str, level: str, key: str) -> Identity | None:
    """Who holds a key."""
    row = session.get(IdentityRow, (campaign_id, level, key))
    return None if row is None else snapshot(Identity, row)


def identities(session: Transaction, experiment_id: str) -> list[Identity]:
    """The keys that an experiment holds."""
    query = select(IdentityRow).where(IdentityRow.experiment_id == experiment_id)
    return [snapshot(Identity, row) for row in session.scalars(query.order_by(IdentityRow.level, IdentityRow.key))]


def reserve(
    session: Transaction, now: datetime, experiment_id: str, *, campaign_id: str, level: str, key: str
) -> Reservation:
    """Claim a key: the first experiment keeps it."""
    experiment = rows.experiment(session, experiment_id)
    if experiment.campaign_id != campaign_id:
        raise Conflict("experiment", experiment_id, f"it belongs to campaign {experiment.campaign_id}")
    held = session.get(IdentityRow, (campaign_id, level, key))
    if held is None:
        row = IdentityRow(**_identity(now, experiment_id, campaign_id, level, key))
        _insert_unless_there(session, row)
        held = session.get(IdentityRow, (campaign_id, level, key))
    if held is None:
        raise NotFound("identity", f"{campaign_id}/{level}/{key}")
    return Reservation(granted=held.experiment_id == experiment_id, owner=held.experiment_id)


def reserve_at_once(
    database: Database, now: datetime, experiment_id: str, *, campaign_id: str, level: str, key: str, subject: str
) -> Reservation | None:
    """`reserve` a key that nobody has."""
    values = _identity(now, experiment_id, campaign_id, level, key)
    stored = database.at_once(_RESERVE, subject, at_once.parameters(IdentityRow, values))
    return None if stored is None else Reservation(granted=True, owner=experiment_id)


def _identity(now: datetime, experiment_id: str, campaign_id: str, level: str, key: str) -> dict[str, Any]:
    return {
        "campaign_id": campaign_id,
        "level": rows.word(level, "identity level"),
        "key": rows.word(key, "identity key"),
        "experiment_id": experiment_id,
        "created_at": now,
    }


def _insert_unless_there(session: Transaction, row: ProgramRow | IdentityRow) -> None:
    # On SQLite the write lock makes the look-up before this conclusive; on PostgreSQL another transaction may have
    # committed the same key since, and the unique constraint tells.
    try:
        with session.begin_nested():
            session.add(row)
    except IntegrityError:
        session.expire_all()
