"""Embeddings, kept so that nothing is encoded twice. What is near to what is `memory/neighbours.py`'s business."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from memory import rows
from memory.errors import Conflict, ValueRefused
from memory.models import VectorRow, snapshot
from memory.records import Vector

_AT_ONCE = 500  # below the number of variables that a SQLite statement may have


def put(session: Transaction, now: datetime, kind: str, encoder: str, vectors: Mapping[str, bytes]) -> None:
    """Store vectors by key, once each."""
    rows.word(kind, "kind of vector")
    rows.word(encoder, "encoder")
    there = {one.key: one.data for one in listed(session, kind, encoder, keys=list(vectors))}
    for key, data in vectors.items():
        if not data:
            raise ValueRefused(f"vector {kind}/{key}", "it is empty")
        if key not in there:
            session.add(VectorRow(kind=kind, key=key, encoder=encoder, data=data, created_at=now))
        elif there[key] != data:
            raise Conflict("vector", f"{kind}/{key}", f"{encoder} made another one of it before")
    session.flush()


def listed(session: Transaction, kind: str, encoder: str, *, keys: Sequence[str] | None) -> list[Vector]:
    """Vectors of a kind by one encoder, those of `keys` only if given, in the order of their keys."""
    query = select(VectorRow).where(VectorRow.kind == kind, VectorRow.encoder == encoder).order_by(VectorRow.key)
    if keys is None:
        return [snapshot(Vector, row) for row in session.scalars(query)]
    found: list[Vector] = []
    for start in range(0, len(keys), _AT_ONCE):
        some = query.where(VectorRow.key.in_(keys[start : start + _AT_ONCE]))
        found += [snapshot(Vector, row) for row in session.scalars(some)]
    return sorted(found, key=lambda one: one.key)
