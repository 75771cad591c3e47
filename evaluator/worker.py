"""The worker: `python -m evaluator`. One job per process, then it ends. Inside the sandbox only.

Everything slow and safe happens before the `hello` frame (imports, one optimiser step), so that a pool can keep workers
warm. Then it answers the phases of one job; whatever a program does wrong becomes a `failed` frame.
"""

import os
import platform
import resource
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from evaluator import tiers
from evaluator.channel import Channel, HostGoneError
from evaluator.errors import EvaluatorError
from evaluator.objective import SCORER_VERSION
from evaluator.phases import MESSAGE_CAP, PROTOCOL_VERSION
from evaluator.program import Builder, CandidateError, Kind, describe, load
from evaluator.skeleton import LanguageModel, Sizes, build_model
from evaluator.tasks import streams
from evaluator.text import printable
from evaluator.tiers import Tier
from evaluator.trainer import Training, predict, train
from evaluator.warmup import one_step
from evaluator.wire import FrameKind, arrays

_ENDED, _FAILED, _ABANDONED = 0, 1, 2


def main() -> None:
    """Serve one job over stdin and stdout, and end the process."""
    channel = Channel.over_standard_streams()
    torch.set_num_threads(1)
    one_step()
    channel.send_control(hello())
    os._exit(serve(channel))


def hello() -> dict[str, Any]:
    return {
        "type": "hello",
        "protocol": PROTOCOL_VERSION,
        "scorer": SCORER_VERSION,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
    }


def serve(channel: Channel) -> int:
    """Answer one job; the exit status. `os._exit` follows: no exit handler of a program gets to run."""
    phase = "train"
    try:
        job = channel.receive_control()
        source = channel.receive(FrameKind.PROGRAM).decode("utf-8")
        if job["kind"] == "gates":
            phase = "gates"
            from evaluator.gates.ladder import run_gates

            channel.send_control({"type": "done", "phase": phase, **run_gates(source, job["track"], job["tier"])})
            return _ENDED
        trial = _Trial(source, job, channel)
        trial.train()
        phase = "blind"
        trial.predict()
        phase = "predict"
        trial.predict()
        phase = "audit"
        trial.audit()
    except HostGoneError:
        return _ABANDONED
    except EvaluatorError as error:  # a job we cannot read: no program is to blame, so no failed frame
        print(f"evaluator: {error}", file=sys.stderr, flush=True)
        return _ABANDONED
    except BaseException as error:  # noqa: BLE001  around candidate code, which may raise anything, SystemExit included
        failure = describe(error)
        channel.send_control(
            {
                "type": "failed",
                "phase": phase,
                "reason": failure.reason,
                "message": printable(failure.message)[:MESSAGE_CAP],
                "line": failure.line,
                "traceback": failure.trace,
            }
        )
        return _FAILED
    return _ENDED


class _Trial:
    """One program on one task: train, predict (twice, on inputs that look alike), audit."""

    def __init__(self, source: str, job: Mapping[str, Any], channel: Channel) -> None:
        self._source = source
        self._channel = channel
        self._tier: Tier = tiers.get(job["track"], job["tier"])
        self._task_name: str = job["task"]
        self._task = self._tier.task(self._task_name)
        self._streams = {role: tuple(words) for role, words in job["streams"].items()}
        self._training: Training | None = None

    def train(self) -> None:
        model, sizes = self._fresh_model()
        table = self._task.table(streams.generator(self._streams["table"]))
        self._training = train(model, self._tier, self._task_name, self._streams["train"], table, self._progress)
        self._channel.send_control(
            {
                "type": "done",
                "phase": "train",
                "parameters": sizes.total,
                "mixer_parameters": sizes.program,
                "mlp_hidden": min(sizes.mlp_hidden, default=0),
                "train_loss": self._training.loss,
                "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            }
        )

    def predict(self) -> None:
        tokens = self._receive_arrays()["tokens"]
        model, _ = self._fresh_model()
        logits = [self._logits(model, index, tokens) for index in range(len(self._snapshots))]
        self._channel.send(arrays({"logits": np.stack(logits)}))

    def audit(self) -> None:
        # A model built anew: what the one above may have remembered of the whole sequences is not there.
        model, _ = self._fresh_model()
        prefixes = self._receive_arrays()
        answers = {
            name.replace("prefix", "logits"): np.ascontiguousarray(self._logits(model, -1, tokens)[:, -1])
            for name, tokens in prefixes.items()
        }
        self._channel.send(arrays(answers))

    @property
    def _snapshots(self) -> tuple[dict[str, torch.Tensor], ...]:
        assert self._training is not None
        return self._training.snapshots

    def _fresh_model(self) -> tuple[LanguageModel, Sizes]:
        builder: Builder
        kind: Kind
        builder, kind = load(self._source)
        seed = int(streams.generator(self._streams["initialisation"]).integers(1 << 62))
        return build_model(builder, kind, self._tier, self._task.vocabulary, seed)

    def _logits(self, model: LanguageModel, snapshot: int, tokens: np.ndarray) -> np.ndarray:
        model.load_state_dict(self._snapshots[snapshot])
        logits = predict(model, torch.from_numpy(tokens.copy()))
        expected = (*tokens.shape, self._task.vocabulary)
        if tuple(logits.shape) != expected:
            raise CandidateError("wrong_shape", f"the logits have shape {tuple(logits.shape)}, expected {expected}")
        return logits.numpy()

    def _receive_arrays(self) -> dict[str, np.ndarray]:
        from safetensors.numpy import load as load_arrays

        return dict(load_arrays(self._channel.receive(FrameKind.ARRAYS)))

    def _progress(self, step: int, steps: int, loss: float) -> None:
        self._channel.send_control({"type": "progress", "phase": "train", "step": step, "steps": steps, "loss": loss})
