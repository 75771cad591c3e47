"""Order among experiments that run at the same time.

Which of two equal programs is the duplicate must not depend on which worker was faster, or a campaign could not be
replayed. So identities are reserved in index order: an experiment waits here until every earlier one has settled
(its program is accepted, or it ended). Trials, where the time goes, still overlap.
"""

import asyncio
from collections.abc import Iterable

from move37.errors import CampaignPaused


class Turnstile:
    """Lets experiment `i` pass when all of `0 .. i-1` have settled."""

    def __init__(self, settled: Iterable[int] = ()) -> None:
        self._settled = set(settled)
        self._closed = False
        self._changed = asyncio.Condition()

    async def wait(self, index: int) -> None:
        """Returns when every earlier experiment has settled.

        Raises:
            CampaignPaused: the campaign stops, so that one of them never will.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._all_before(index))
            if not self._all_before(index):
                raise CampaignPaused("an earlier experiment stopped the campaign")

    def _all_before(self, index: int) -> bool:
        return all(earlier in self._settled for earlier in range(index))

    async def settle(self, index: int) -> None:
        """Says that this experiment will reserve nothing more. Safe to call again."""
        async with self._changed:
            self._settled.add(index)
            self._changed.notify_all()

    async def close(self) -> None:
        """Says that the campaign stops: nobody waits any longer."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
