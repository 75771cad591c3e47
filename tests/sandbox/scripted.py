"""Workers that say what a test tells them to, for the host's side of a job."""

import asyncio

from evaluator.phases import PROTOCOL_VERSION, Phase
from evaluator.wire import control, encode_frame

HELLO = {"type": "hello", "protocol": PROTOCOL_VERSION}
TRAIN = Phase("train", (control({"type": "job"}),), None, 0.3)


def message(content):
    return encode_frame(control(content))


def done(phase="train"):
    return message({"type": "done", "phase": phase, "parameters": 7})


class Scripted:
    """Says `opening` at once, then one entry of `answers` after each thing it is sent; then it ends as told.

    `ending` None: it stays alive and silent. An answer may be bytes, or an exception that breaks the connection.
    """

    def __init__(self, opening, answers=(), ending=None, log=b""):
        self._pieces = asyncio.Queue()
        self._answers = list(answers)
        self._ended = asyncio.Event()
        self._ending = ending
        self._log = log
        self._say(opening)

    def _say(self, item):
        self._pieces.put_nowait(item)
        if not self._answers and self._ending is not None:
            self._pieces.put_nowait(None)

    async def pump(self, on_output, on_log):
        on_log(self._log)
        while (piece := await self._pieces.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            on_output(piece)
        self._ended.set()

    async def send(self, data):
        if self._ended.is_set():
            raise BrokenPipeError
        if self._answers:
            self._say(self._answers.pop(0))

    async def ended(self):
        await self._ended.wait()
        return self._ending

    async def peak_memory(self):
        return 1000
