"""Exchanges with language models, stored whole so that a replay needs no model.

`put_at_once` is `put` in one statement (memory/at_once.py), or None where that does not do.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from memory import at_once, ledger, rows
from memory.columns import finite, maybe_finite, plain
from memory.database import Database
from memory.errors import ValueRefused
from memory.models import ExchangeRow, ExperimentRow
from memory.records import ChargeKind, Exchange, Usage

_PUT = at_once.insert(ExchangeRow, source=at_once.EXPERIMENT, charging=True)


class TokenUsage(Protocol):
    """Anything with the attributes of `records.Usage`."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def completion_tokens(self) -> int: ...

    @property
    def estimated(self) -> bool: ...


def find(session: Transaction, experiment_id: str, role: str, attempt: int, turn: int) -> Exchange | None:
    """The exchange at this place, if any."""
    row = session.get(ExchangeRow, _id((experiment_id, role, attempt, turn)))
    return None if row is None else row.record()


def listed(session: Transaction, *, experiment_id: str | None, campaign_id: str | None) -> list[Exchange]:
    """Exchanges of one experiment or of a campaign, in the order they were stored."""
    if (experiment_id is None) == (campaign_id is None):
        raise ValueError("give either experiment_id or campaign_id")
    query = select(ExchangeRow).join(ExperimentRow, ExchangeRow.experiment_id == ExperimentRow.id)
    if experiment_id is not None:
        query = query.where(ExchangeRow.experiment_id == experiment_id)
    else:
        query = query.where(ExperimentRow.campaign_id == campaign_id)
    query = query.order_by(ExperimentRow.index, ExchangeRow.created_at, ExchangeRow.attempt, ExchangeRow.turn)
    return [row.record() for row in session.scalars(query)]


def put(
    session: Transaction,
    now: datetime,
    place: tuple[str, str, int, int],
    content: Mapping[str, Any],
    usage: TokenUsage,
    *,
    cost_usd: float | None,
    latency_s: float,
) -> Exchange:
    """Store a finished exchange; what was measured about it (time, cost) is not compared when it is repeated."""
    experiment = rows.experiment(session, place[0])
    wanted = _content(content)
    key = _id(place)
    row = session.get(ExchangeRow, key)
    if row is not None:
        rows.must_agree("exchange", key, row, wanted)
        return row.record()
    row = ExchangeRow(**_columns(now, place, wanted, usage, cost_usd=cost_usd, latency_s=latency_s))
    session.add(row)
    ledger.charge(session, now, experiment, key, _used(usage, row.cost_usd))
    session.flush()
    return row.record()


def put_at_once(
    database: Database,
    now: datetime,
    place: tuple[str, str, int, int],
    content: Mapping[str, Any],
    usage: TokenUsage,
    *,
    cost_usd: float | None,
    latency_s: float,
) -> Exchange | None:
    """`put` of a new one."""
    values = _columns(now, place, _content(content), usage, cost_usd=cost_usd, latency_s=latency_s)
    entries = ledger.entered(values["id"], _used(usage, values["cost_usd"]))
    given = at_once.parameters(ExchangeRow, values) | at_once.charges(entries, now, values["id"])
    if database.at_once(_PUT, place[0], given) is None:
        return None
    used = Usage(values["prompt_tokens"], values["completion_tokens"], values["usage_estimated"])
    return at_once.record(Exchange, values, usage=used)


def charge(
    session: Transaction,
    now: datetime,
    place: tuple[str, str, int, int],
    usage: TokenUsage,
    cost_usd: float | None,
) -> None:
    """Enter what a call used into the ledger, where no exchange came of it."""
    key = _id(place)
    ledger.charge(
        session,
        now,
        rows.experiment(session, place[0]),
        key,
        _used(usage, maybe_finite(cost_usd, f"cost of exchange {key}")),
    )


def _content(content: Mapping[str, Any]) -> dict[str, Any]:
    wanted = dict(content)
    for name in ("template_hashes", "request"):
        wanted[name] = plain(wanted[name], f"exchange {name}")
    if wanted["response"] is not None:
        wanted["response"] = plain(wanted["response"], "exchange response")
    return wanted


def _columns(
    now: datetime,
    place: tuple[str, str, int, int],
    content: Mapping[str, Any],
    usage: TokenUsage,
    *,
    cost_usd: float | None,
    latency_s: float,
) -> dict[str, Any]:
    key = _id(place)
    experiment_id, role, attempt, turn = place
    if usage.prompt_tokens < 0 or usage.completion_tokens < 0:
        raise ValueRefused(f"usage of exchange {key}", "token counts are not negative")
    return {
        "id": key,
        "experiment_id": experiment_id,
        "role": rows.word(role, "role"),
        "attempt": attempt,
        "turn": turn,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "usage_estimated": usage.estimated,
        "cost_usd": maybe_finite(cost_usd, f"cost of exchange {key}"),
        "latency_s": finite(latency_s, f"latency of exchange {key}"),
        "created_at": now,
        **content,
    }


def _used(usage: TokenUsage, cost_usd: float | None) -> dict[ChargeKind, float]:
    used: dict[ChargeKind, float] = {
        "calls": 1,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }
    if cost_usd is not None:
        used["usd"] = cost_usd
    return used


def _id(place: tuple[str, str, int, int]) -> str:
    return "/".join(map(str, place))
