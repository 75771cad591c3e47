"""What the evaluator's tests share: one torch thread, and a driver that plays phases against a worker over pipes."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluator.phases import Phase
from evaluator.wire import FrameKind, FrameReader, arrays_cap, encode_frame, read_arrays, read_control

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Played:
    """What a worker answered."""

    hello: dict[str, Any] = field(default_factory=dict)
    replies: list[Any] = field(default_factory=list)
    progress: list[dict[str, Any]] = field(default_factory=list)
    failed: dict[str, Any] | None = None
    exit_code: int | None = None
    log: str = ""

    @property
    def walls(self) -> list[float]:
        return [1.0] * len(self.replies)


def play_phases(phases: Sequence[Phase], cwd: Path = ROOT) -> Played:
    """Start `python -m evaluator` in `cwd` and play the phases, as a sandbox would."""
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "evaluator"],
        cwd=cwd,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    played = Played()
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    reader, waiting = FrameReader(arrays_cap=0), []

    def receive() -> Any:
        while not waiting:
            data = os.read(process.stdout.fileno(), 1 << 20)
            if not data:
                raise EOFError(process.stderr.read().decode())
            waiting.extend(reader.feed(data))
        return waiting.pop(0)

    try:
        played.hello = read_control(receive().payload)
        for phase in phases:
            reader.arrays_cap = arrays_cap(phase.reply or ())
            for frame in phase.send:
                process.stdin.write(encode_frame(frame))
            process.stdin.flush()
            while True:
                frame = receive()
                if frame.kind is FrameKind.ARRAYS:
                    played.replies.append(read_arrays(frame.payload, phase.reply or ()))
                    break
                message = read_control(frame.payload)
                if message["type"] == "progress":
                    played.progress.append(message)
                    continue
                if message["type"] == "failed":
                    played.failed = message
                    return played
                played.replies.append(message)
                break
    finally:
        process.stdin.close()
        played.exit_code = process.wait(timeout=20)
        played.log = process.stderr.read().decode()
        process.stdout.close()
        process.stderr.close()
    return played


@pytest.fixture(scope="session")
def play() -> Callable[..., Played]:
    return play_phases


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
