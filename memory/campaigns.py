"""Campaigns and the sessions of the processes that drive them."""

import re
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from memory import rows
from memory.columns import plain
from memory.errors import Conflict, NotFound, ValueRefused
from memory.models import CampaignRow, SessionRow, snapshot
from memory.records import Campaign, CampaignState, Session

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_LOOKS_LIKE_ID = re.compile(r"c-[0-9a-f]{8}")


def find(session: Transaction, name_or_id: str) -> Campaign:
    """The campaign of this id or name."""
    row = (
        session.get(CampaignRow, name_or_id)
        or session.scalars(select(CampaignRow).where(CampaignRow.name == name_or_id)).one_or_none()
    )
    if row is None:
        raise NotFound("campaign", name_or_id, "`move37 status` lists the campaigns")
    return snapshot(Campaign, row)


def listed(session: Transaction) -> list[Campaign]:
    """All campaigns, oldest first."""
    query = select(CampaignRow).order_by(CampaignRow.created_at, CampaignRow.name)
    return [snapshot(Campaign, row) for row in session.scalars(query)]


def is_name(text: str) -> bool:
    """Whether a campaign may be called so; reports and exports are files of that name."""
    return _NAME.fullmatch(text) is not None and not is_id(text)


def is_id(text: str) -> bool:
    """Whether it is made like a campaign's id; locks and checkpoints are files of that name."""
    return _LOOKS_LIKE_ID.fullmatch(text) is not None


def create(session: Transaction, now: datetime, name: str, frozen: Mapping[str, Any]) -> Campaign:
    """A new running campaign."""
    if not is_name(name):
        raise ValueRefused(
            f"campaign name {name!r}",
            "it has to be 1 to 80 of letters, digits, '.', '_' and '-', begin with a letter or digit, "
            "and not look like an id (c-0123abcd)",
        )
    if session.scalars(select(CampaignRow.id).where(CampaignRow.name == name)).first() is not None:
        raise Conflict("campaign", name, "the name is taken; resume that campaign or choose another name")
    for origin in ("forked_from", "replay_of"):
        if frozen[origin] is not None:
            rows.campaign(session, frozen[origin])
    if frozen["forked_at"] is not None:
        _check_fork(session, frozen["forked_from"], frozen["forked_at"])
    row = CampaignRow(
        id=f"c-{secrets.token_hex(4)}",
        name=name,
        state="running",
        config=plain(frozen["config"], "config"),
        config_hash=frozen["config_hash"],
        objective=plain(frozen["objective"], "objective"),
        objective_hash=frozen["objective_hash"],
        seed=frozen["seed"],
        announcements=plain(list(frozen["announcements"]), "announcements"),
        stopped_because=None,
        arms=[rows.word(arm, "arm") for arm in frozen["arms"]],
        forked_from=frozen["forked_from"],
        replay_of=frozen["replay_of"],
        forked_at=frozen["forked_at"],
        origin=None,
        read_only=False,
        created_at=now,
        finished_at=None,
    )
    session.add(row)
    session.flush()
    return snapshot(Campaign, row)


def _check_fork(session: Transaction, campaign_id: str | None, experiment_id: str) -> None:
    node = rows.experiment(session, experiment_id)
    if node.campaign_id != campaign_id:
        raise Conflict("experiment", experiment_id, f"it is not of the campaign {campaign_id}, which is to be forked")
    if node.status == "open":
        raise Conflict("experiment", experiment_id, "it is not finished, and nothing can be forked from it yet")


def set_state(
    session: Transaction,
    now: datetime,
    campaign_id: str,
    state: CampaignState,
    *,
    because: str | None,
    announcement: str | None,
) -> Campaign:
    """Change the state, unless it is final."""
    row = rows.campaign(session, campaign_id)
    if state not in get_args(CampaignState):
        raise ValueRefused(f"campaign state {state!r}", f"it is not one of {', '.join(get_args(CampaignState))}")
    if state == "running":
        because = None
    announcements = [*row.announcements, announcement] if announcement is not None else row.announcements
    if (row.state, row.stopped_because, row.announcements) == (state, because, announcements):
        return snapshot(Campaign, row)
    if row.state == "finished":
        raise Conflict("campaign", row.name, "it is finished, which is final; start another one, or fork it")
    row.state, row.stopped_because, row.announcements = state, because, plain(announcements, "announcements")
    row.finished_at = None if state == "running" else now
    session.flush()
    return snapshot(Campaign, row)


def begin_session(session: Transaction, now: datetime, campaign_id: str, owner: Mapping[str, Any]) -> Session:
    """A new session, last seen now."""
    rows.campaign(session, campaign_id)
    row = SessionRow(
        id=f"s-{secrets.token_hex(8)}",
        campaign_id=campaign_id,
        owner=plain(owner, "session owner"),
        started_at=now,
        last_seen_at=now,
        ended_at=None,
    )
    session.add(row)
    session.flush()
    return snapshot(Session, row)


def touch_session(session: Transaction, now: datetime, session_id: str, *, end: bool) -> Session:
    """Move `last_seen_at` forward, and end the session if asked."""
    row = rows.get(session, SessionRow, "session", session_id)
    if row.ended_at is not None:
        if end:
            return snapshot(Session, row)
        raise Conflict("session", session_id, "it has ended; begin another")
    row.last_seen_at = max(now, row.last_seen_at)  # a clock that was set back must not make time negative
    if end:
        row.ended_at = row.last_seen_at
    session.flush()
    return snapshot(Session, row)


def sessions(session: Transaction, campaign_id: str) -> list[Session]:
    """The sessions of a campaign, oldest first."""
    query = select(SessionRow).where(SessionRow.campaign_id == campaign_id)
    return [snapshot(Session, row) for row in session.scalars(query.order_by(SessionRow.started_at, SessionRow.id))]
