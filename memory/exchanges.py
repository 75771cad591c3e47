"""Exchanges with language models, stored whole so that a replay needs no model."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from memory import ledger, rows
from memory.columns import finite, maybe_finite, plain
from memory.errors import ValueRefused
from memory.models import ExchangeRow, ExperimentRow
from memory.records import ChargeKind, Exchange


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
    experiment_id, role, attempt, turn = place
    rows.experiment(session, experiment_id)
    wanted = dict(content)
    for name in ("template_hashes", "request"):
        wanted[name] = plain(wanted[name], f"exchange {name}")
    if wanted["response"] is not None:
        wanted["response"] = plain(wanted["response"], "exchange response")
    key = _id(place)
    row = session.get(ExchangeRow, key)
    if row is not None:
        rows.must_agree("exchange", key, row, wanted)
        return row.record()
    if usage.prompt_tokens < 0 or usage.completion_tokens < 0:
        raise ValueRefused(f"usage of exchange {key}", "token counts are not negative")
    row = ExchangeRow(
        id=key,
        experiment_id=experiment_id,
        role=rows.word(role, "role"),
        attempt=attempt,
        turn=turn,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        usage_estimated=usage.estimated,
        cost_usd=maybe_finite(cost_usd, f"cost of exchange {key}"),
        latency_s=finite(latency_s, f"latency of exchange {key}"),
        created_at=now,
        **wanted,
    )
    session.add(row)
    charge(session, now, place, usage, row.cost_usd)
    session.flush()
    return row.record()


def charge(
    session: Transaction,
    now: datetime,
    place: tuple[str, str, int, int],
    usage: TokenUsage,
    cost_usd: float | None,
) -> None:
    """Enter what a call used into the ledger, whether an exchange came of it or not."""
    experiment, key = rows.experiment(session, place[0]), _id(place)
    used: dict[ChargeKind, float] = {
        "calls": 1,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }
    if cost_usd is not None:
        used["usd"] = finite(cost_usd, f"cost of exchange {key}")
    ledger.charge(session, now, experiment, key, used)


def _id(place: tuple[str, str, int, int]) -> str:
    return "/".join(map(str, place))
