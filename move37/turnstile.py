"""The order of reservations.

Which of two equal programs is the duplicate must not depend on which worker was faster, or a campaign could not be
replayed. So identities are reserved in index order: an experiment waits here until every earlier one has settled
(its program is accepted, or it ended). Trials, where the time goes, still overlap.
"""

import asyncio

from move37.errors import CampaignPaused


class Turnstile:
    """Lets experiment `i` pass when all of `first .. i-1` have settled (a fork's indices do not begin at 0)."""

    def __init__(self, first: int = 0) -> None:
        self._next = first  # everything below has settled
        self._settled: set[int] = set()  # of those above
        self._closed = False
        self._changed = asyncio.Condition()

    async def wait(self, index: int) -> None:
        """Returns when every earlier experiment has settled.

        Raises:
            CampaignPaused: the campaign stops, so that one of them never will.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or self._next >= index)
            if self._next < index:
                raise CampaignPaused("an earlier experiment stopped the campaign")

    async def settle(self, index: int) -> None:
        """Says that this experiment will reserve nothing more. Safe to call again."""
        async with self._changed:
            self._settled.add(index)
            while self._next in self._settled:
                self._settled.remove(self._next)
                self._next += 1
            self._changed.notify_all()

    async def close(self) -> None:
        """Says that the campaign stops: nobody waits any longer."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()
