"""A limit on the wall time of one step of a program, so that it ends in a verdict. Inside the sandbox only.

The timer's signal reaches the main thread only, and a program may take it away: the host's deadline is the true limit.
This one exists to say which line slept and what to do, long before that deadline.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STEP_LIMIT_S = 15.0  # honest steps take milliseconds, a first one at most a second; a shared machine is up to 8x slower


class Overran(BaseException):
    """The time is up. Not an `Exception`, lest a program's own `except Exception` swallow it."""


@contextmanager
def wall_limit(seconds: float) -> Iterator[None]:
    """Raises `Overran` inside the block once `seconds` have passed. A timer that ran before goes on afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGALRM, _ring)
    remaining, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, handler)
        if remaining:
            signal.setitimer(signal.ITIMER_REAL, remaining, interval)


def _ring(_number: int, _frame: FrameType | None) -> None:
    raise Overran
