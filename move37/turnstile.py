"""Order among experiments that run at the same time.

Which of two equal programs is the duplicate must not depend on which worker was faster, or a campaign could not be
replayed. So identities are reserved in index order: an experiment waits here until every earlier one has settled
(its program is accepted, or it ended). Trials, where the time goes, still overlap.
"""

import asyncio
from collections.abc import Iterable


class Turnstile:
    """Lets experiment `i` pass when all of `0 .. i-1` have settled."""

    def __init__(self, settled: Iterable[int] = ()) -> None:
        self._settled = set(settled)
        self._changed = asyncio.Condition()

    async def wait(self, index: int) -> None:
        """Returns when every earlier experiment has settled."""
        async with self._changed:
            await self._changed.wait_for(lambda: all(earlier in self._settled for earlier in range(index)))

    async def settle(self, index: int) -> None:
        """Says that this experiment will reserve nothing more. Safe to call again."""
        async with self._changed:
            self._settled.add(index)
            self._changed.notify_all()
