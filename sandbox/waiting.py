"""Waiting that a cancellation does not cut short, for endings that must be over before anything goes on.

`asyncio.shield` keeps a step alive when whoever waits for it is cancelled, and lets the waiter go on at once: a worker
is then still being ended while its device is already given to the next job. Here the waiter stays, and is cancelled
afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


async def ended(future: asyncio.Future[Any]) -> None:
    """Returns once `future` is done, however it ended. Cancelled meanwhile, it raises that afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait((future,))
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not future.cancelled():
            future.exception()  # the cancellation is told instead; unasked for, the event loop would print it
        raise cancelled


async def to_the_end(step: Coroutine[Any, Any, _T]) -> _T:
    """The result of `step`, which runs to its end even if the caller is cancelled."""
    task = asyncio.ensure_future(step)
    await ended(task)
    return task.result()
